"""Objects that a network finds on whole frames, or in windows of large ones.

        |------ window ------|           Windows stand on one grid for the whole frame, wherever it is
        |   core    |                    cut. Of an object that several see, the one counts in whose
                    |   core    |        core the middle of its box lies: no object up to the overlap
              |------ window ------|     in size is cut off there.

Near the border of two cores both may claim an object, or a network may place it otherwise in each: cores
reach a little into one another, and of two boxes of a class from two windows that are nearly the same the
better one stays. Both rules look no further than a window, so the objects of a part of the frame follow
from the windows around it, and a shard computes no others.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import ClassVar, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from segengine import asked
from segengine.instances.join import BAND
from segengine.segmenters._found import Found, predicted
from segengine.segmenters._network import check_bands
from segengine.segmenters._overlaps import ious
from segengine.segmenters._windows import InWindows
from segengine.types import Cell, Color, Frames, Pixels, Prediction, Segmenter, Site, Trained

SAME = 0.5
"""IoU of boxes above which two windows mean one object. Its middle then lies in the other's box."""
_SLACK = 8
"""Cores reach into one another by the overlap over this, so that no object falls between them."""


class Head(Protocol):
    """What makes objects of a network's outputs: one file a kind."""

    @property
    def provenance(self) -> str:
        """The engine's version and instruction set."""
        ...

    def find(self, window: Pixels) -> list[Found]:
        """The objects of a window (y, x, band) of chosen bands, the best first."""
        ...


@runtime_checkable
class Prompted(Protocol):
    """A head that is asked for certain objects, which each frame has its own of."""

    @property
    def by_name(self) -> bool:
        """Whether it is the frame's name that tells which."""
        ...

    def of_frame(self, frames: Frames | None, frame: int, size: Cell) -> Prompted:
        """It, for one frame of a call, of a size; None: of pictures that are no frames of a run."""
        ...

    def at(self, corner: Cell) -> Head:
        """It, for the window with that first pixel in the frame."""
        ...

    def remarks(self, sites: Iterable[Site]) -> Iterator[str]:
        """What may not be meant, of all scenes that it is asked of."""
        ...


@dataclass(frozen=True, slots=True)
class Grid:
    """Windows of a side every so many pixels; the last along an axis is moved inwards."""

    window: int
    step: int

    @property
    def halo(self) -> int:
        """Of a pixel: the windows that hold it, and those whose objects may take the place of theirs."""
        return 2 * self.window

    def starts(self, length: int) -> list[int]:
        """First pixels of the windows along an axis."""
        last = max(0, length - self.window)
        return [*range(0, last, self.step), last]

    def cores(self, length: int) -> list[tuple[float, float]]:
        """Where along an axis the middle of a window's objects lies, with what it shares."""
        starts = self.starts(length)
        between = [(b + a + self.window) / 2 for a, b in pairwise(starts)]
        more = (self.window - self.step) / _SLACK
        lows = [-np.inf, *(cut - more for cut in between)]
        return list(zip(lows, [*(cut + more for cut in between), np.inf], strict=True))


@dataclass(frozen=True, slots=True, eq=False)
class Finder(InWindows):
    """Finds objects with a head; where they overlap, the map shows the better score."""

    head: Head
    classes: tuple[str, ...]
    """Background first."""
    bands: tuple[int, ...] | int
    """1-based numbers of the raster's bands the network takes, in its order; or how many it has."""
    weights: str
    """Digest of the model's files."""
    grid: Grid | None = None
    """None: whole frames."""
    trained: Trained | None = None
    """What its model says of the images that it learned from."""
    colors: tuple[Color, ...] = ()
    dtypes: tuple[str, ...] = ()
    """That it takes alone; empty: any."""
    frames: Frames | None = None
    """Which they are, as far as it matters; None: of pictures that are no frames of a run."""

    slow: ClassVar[bool] = True
    stride: ClassVar[int] = 1
    outputs: ClassVar[tuple[str, ...]] = ("labels", "instances", "objects")

    @property
    def version(self) -> int:
        """Of this and of its head, where that has one."""
        return asked.version(self.head)

    @property
    def halo(self) -> int | None:
        return None if self.grid is None else self.grid.halo

    @property
    def provenance(self) -> str:
        """The engine's version and instruction set."""
        return self.head.provenance

    def check_pixels(self, bands: int, dtype: str) -> None:
        """Raise ValueError where pixels of so many bands cannot be labelled."""
        check_bands(self.bands, bands, dtype)
        if self.dtypes and dtype not in self.dtypes:
            raise ValueError(f"the model takes pixels of {', '.join(self.dtypes)}, not of {dtype}")

    @property
    def by_name(self) -> bool:
        """Whether it is asked for other objects in frames of other names."""
        return isinstance(self.head, Prompted) and self.head.by_name

    def of_frames(self, frames: Frames) -> Self:
        """It, for a call with these frames."""
        return replace(self, frames=frames) if isinstance(self.head, Prompted) else self

    def remarks(self, sites: Iterable[Site]) -> Iterator[str]:
        """What may not be meant, of all scenes that it is to label."""
        if isinstance(self.head, Prompted):
            yield from self.head.remarks(sites)

    def segment(self, pixels: Pixels) -> Prediction:
        """Labels and instances (n, y, x) of pixels (n, y, x, band), and one row an object.

        Right where the halo around is given too. `objects` of more than one frame has a further
        column, `frame`, from 0 on.
        """
        self.check_pixels(pixels.shape[-1], str(pixels.dtype))
        size = pixels.shape[1], pixels.shape[2]
        found = [self._find(self._chosen(frame), i, size) for i, frame in enumerate(pixels)]
        return predicted(found, size, len(self.classes))

    def _chosen(self, frame: Pixels) -> Pixels:
        if isinstance(self.bands, int):
            return frame
        return frame[..., [band - 1 for band in self.bands]]

    def _find(self, frame: Pixels, number: int, size: Cell) -> list[Found]:
        corner, whole = (self.corner, self.size) if self.size is not None else ((0, 0), size)
        head: Head | Prompted = self.head
        if isinstance(head, Prompted):
            head = head.of_frame(self.frames, number, whole)
        if self.grid is None:
            return _at(head, corner).find(frame)
        return _Windows(head, self.grid, frame, corner, whole).objects()


@dataclass(frozen=True, slots=True)
class _Claim:
    """An object that a window claims as its own."""

    rank: tuple[float, int, int, int]
    """The best first: score, window, place in it."""
    box: NDArray[np.float64]
    """x1, y1, x2, y2 in pixels of the frame."""
    found: Found
    """In pixels of the frame."""


@dataclass(slots=True)
class _Windows:
    """The windows of a frame of which a part was read; each is seen once, when it is asked for."""

    head: Head | Prompted
    grid: Grid
    pixels: Pixels
    """(y, x, band) of what was read."""
    corner: Cell
    """Its first pixel in the frame."""
    size: Cell
    """(height, width) of the frame."""
    seen: dict[Cell, list[_Claim]] = field(default_factory=dict)

    def objects(self) -> list[Found]:
        """All that may have a pixel where labels count, the best first, in pixels of what was read."""
        inner = [self._inner(axis) for axis in (0, 1)]
        claims = [
            claim
            for place in self._places(inner)
            for claim in self._claims(place)
            if _touches(claim.found, inner) and not self._is_beaten(claim)
        ]
        y, x = self.corner
        return [_moved(c.found, -y, -x) for c in sorted(claims, key=lambda c: c.rank)]

    def _inner(self, axis: int) -> tuple[int, int]:
        """Where labels count along an axis: all that was read but the halo, and the band for joining."""
        start = self.corner[axis]
        end = min(start + self.pixels.shape[axis], self.size[axis])
        context = self.grid.halo - BAND
        low = start + context if start > 0 else 0
        return low, end - context if end < self.size[axis] else end

    def _places(self, within: list[tuple[int, int]]) -> Iterator[Cell]:
        """The windows that have a pixel in [low, high) of both axes."""
        rows, cols = (
            [
                i
                for i, start in enumerate(self.grid.starts(length))
                if start < high and start + self.grid.window > low
            ]
            for (low, high), length in zip(within, self.size, strict=True)
        )
        return ((row, col) for row in rows for col in cols)

    def _claims(self, place: Cell) -> list[_Claim]:
        if place not in self.seen:
            self.seen[place] = list(self._look(place))
        return self.seen[place]

    def _look(self, place: Cell) -> Iterator[_Claim]:
        (y, x), cores = self._start(place), self._core(place)
        at = tuple(
            slice(start - begin, start - begin + self.grid.window)
            for start, begin in zip((y, x), self.corner, strict=True)
        )
        window = self.pixels[at][: self.size[0] - y, : self.size[1] - x]
        for i, found in enumerate(_at(self.head, (y, x)).find(window)):
            moved = _moved(found, y, x)
            left, top, width, height = moved.box
            middle = top + height / 2, left + width / 2
            if all(low <= m < high for m, (low, high) in zip(middle, cores, strict=True)):
                box = np.array([left, top, left + width, top + height])
                yield _Claim((-found.score, *place, i), box, moved)

    def _start(self, place: Cell) -> Cell:
        y, x = (self.grid.starts(length)[i] for i, length in zip(place, self.size, strict=True))
        return y, x

    def _core(self, place: Cell) -> list[tuple[float, float]]:
        return [self.grid.cores(n)[i] for i, n in zip(place, self.size, strict=True)]

    def _is_beaten(self, claim: _Claim) -> bool:
        """Whether another window claims nearly the same box with a better score."""
        x1, y1, x2, y2 = claim.box
        own = claim.rank[1:3]
        rivals = [
            [i for i, (low, high) in enumerate(self.grid.cores(n)) if low <= b and a < high]
            for n, a, b in zip(self.size, (y1, x1), (y2, x2), strict=True)
        ]
        for place in ((row, col) for row in rivals[0] for col in rivals[1]):
            if place == own:
                continue
            better = [
                c.box
                for c in self._claims(place)
                if c.rank < claim.rank and c.found.label == claim.found.label
            ]
            if better and (ious(claim.box, np.stack(better)) > SAME).any():
                return True
        return False


def _at(head: Head | Prompted, corner: Cell) -> Head:
    """A head for the window with that first pixel in its frame."""
    return head.at(corner) if isinstance(head, Prompted) else head


def _touches(found: Found, inner: list[tuple[int, int]]) -> bool:
    """Whether a mask may have a pixel in [low, high) of both axes."""
    return all(
        start < high and start + length > low
        for start, length, (low, high) in zip(found.corner, found.mask.shape, inner, strict=True)
    )


def _moved(found: Found, y: int, x: int) -> Found:
    left, top, width, height = found.box
    return replace(
        found,
        box=(left + x, top + y, width, height),
        corner=(found.corner[0] + y, found.corner[1] + x),
    )


_: type[Segmenter] = Finder
