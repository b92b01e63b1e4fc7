"""Test-time augmentation: a network sees each frame turned, and its probabilities are averaged.

    flips    as it is, left-right, up-down, both: 4 times the work
    d4       these, and the same of the transposed frame: 8 times the work

Each turn is that of the whole frame, also where only a window of it is at hand: the network's grid of
windows begins at the turned frame's corner. The mean does not depend on the order of its terms. So the
mask of a flipped frame is the flipped mask, bit for bit (d4: of a turned one too), as far as the engine
gives the same values for the same windows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from segengine.networks.temperature import Temperature
from segengine.segmenters import _part
from segengine.segmenters._network import Network, Resized, argmax
from segengine.segmenters._part import Cell, Floats, Mean
from segengine.segmenters._windows import InWindows
from segengine.types import Color, Pixels, Prediction, Site, Trained

Augment = Literal["flips", "d4"]
HELD = 1 << 28
"""Bytes of a map of sums above which frames are worked on one by one."""


class Turn(NamedTuple):
    """One of the eight symmetries of a square: transposed or not, then flipped along y and x."""

    transposed: bool
    y: bool
    x: bool

    def of(self, values: NDArray[Any]) -> NDArray[Any]:
        """(n, y, x, ...) turned; a view."""
        turned = values.swapaxes(1, 2) if self.transposed else values
        return turned[:, :: -1 if self.y else 1, :: -1 if self.x else 1]

    def back(self, values: NDArray[Any]) -> NDArray[Any]:
        """(n, y, x, ...) as before it was turned; a view."""
        flipped = values[:, :: -1 if self.y else 1, :: -1 if self.x else 1]
        return flipped.swapaxes(1, 2) if self.transposed else flipped

    def place(self, corner: Cell, shape: Cell, size: Cell) -> tuple[Cell, Cell]:
        """Corner of a turned window of `shape` in the turned frame, and the frame's size then."""
        if self.transposed:
            corner, shape, size = corner[::-1], shape[::-1], size[::-1]
        y, x = (
            whole - start - length if flipped else start
            for start, length, whole, flipped in zip(corner, shape, size, self[1:], strict=True)
        )
        return (y, x), size


_FLIPS = tuple(Turn(False, y, x) for y in (False, True) for x in (False, True))
TURNS: dict[str, tuple[Turn, ...]] = {
    "flips": _FLIPS,
    "d4": (*_FLIPS, *(turn._replace(transposed=True) for turn in _FLIPS)),
}


@dataclass(frozen=True, slots=True, eq=False)
class Augmented(InWindows):
    """A network that sees each frame turned."""

    network: Network
    augment: Augment
    temperature: Temperature | None = None
    """Of the mean; the network itself has none."""

    version: ClassVar[int] = 1
    slow: ClassVar[bool] = True
    stride: ClassVar[int] = 1
    outputs: ClassVar[tuple[str, ...]] = ("labels", "probabilities")

    @property
    def classes(self) -> tuple[str, ...]:
        return self.network.classes

    @property
    def colors(self) -> tuple[Color, ...]:
        return self.network.colors

    @property
    def halo(self) -> int | None:
        return _part.halo(self.network)

    @property
    def trained(self) -> Trained | None:
        """What the network's file says of its training."""
        return self.network.trained

    @property
    def weights(self) -> str:
        """Digest of the network's files."""
        return self.network.weights

    @property
    def provenance(self) -> str:
        """The engine's version and instruction set."""
        return self.network.provenance

    def check_pixels(self, bands: int, dtype: str) -> None:
        """Raise ValueError where pixels of so many bands cannot be labelled."""
        self.network.check_pixels(bands, dtype)

    def remarks(self, sites: Iterable[Site]) -> Iterator[str]:
        """What the network says."""
        yield from self.network.remarks(sites)

    def describe(self) -> tuple[str, ...]:
        """What it costs."""
        turns = len(TURNS[self.augment])
        return (f"augment: {self.augment}: the network sees each frame {turns} times",)

    def segment(self, pixels: Pixels) -> Prediction:
        """Labels (n, y, x) and mean probabilities (n, y, x, class) of pixels (n, y, x, band)."""
        classes = len(self.classes)
        probabilities = np.empty((*pixels.shape[:3], classes), np.float32)
        step = max(1, HELD // max(1, 4 * classes * pixels[0, ..., 0].size))
        for start in range(0, len(pixels), step):
            probabilities[start : start + step] = self._mean(pixels[start : start + step])
        if self.network.single:
            labels = (probabilities[..., 1] > self.network.threshold).astype(np.uint8)
        else:
            labels = argmax(probabilities)
        if self.temperature is not None:
            probabilities = self.temperature.apply(probabilities)
        return Prediction(labels, probabilities)

    def _mean(self, pixels: Pixels) -> Floats:
        size = self.size or (pixels.shape[1], pixels.shape[2])
        inside = _part.within(pixels, self.corner, size)
        shape = inside.shape[1], inside.shape[2]
        turns = TURNS[self.augment]
        mean = Mean((*pixels.shape[:3], len(self.classes)), len(turns))
        total = mean.total[:, : shape[0], : shape[1]]
        for turn in turns:
            corner, whole = turn.place(self.corner, shape, size)
            window = np.ascontiguousarray(turn.of(inside))
            found, at = _part.predicted(self.network, window, corner, whole)
            mean.add(_part.shares(found, len(self.classes)), turn.of(total)[:, *at])
        return mean.get()


def augmented(network: Network, augment: Augment | None) -> Network | Augmented:
    """A network, or what sees each frame turned. Raises ValueError where it cannot be turned."""
    if augment is None:
        return network
    if augment not in TURNS:
        raise ValueError(f"augment: must be one of {', '.join(TURNS)}, not {augment!r}")
    cut = network.cut
    if augment == "d4" and isinstance(cut, Resized) and cut.size[0] != cut.size[1]:
        height, width = cut.size
        raise ValueError(
            f"augment: d4 transposes frames, and the model sees them as {height} x {width}; use flips"
        )
    return Augmented(replace(network, temperature=None), augment, network.temperature)
