"""What every deep segmenter is: an engine, what it is fed, and how its windows become one mask.

The pixels are cut into windows, scaled, batched and run; each window's probabilities are added into
a strip as high as one row of windows, and rows that no later window reaches become labels. So the
memory of a shard grows with its width, not with its area, where only labels are asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from segengine import asked
from segengine.ahead import one_ahead
from segengine.engines import Engine, paying
from segengine.networks.crf import Crf, refine
from segengine.networks.scale import Scale
from segengine.networks.temperature import Temperature
from segengine.segmenters import _blend
from segengine.segmenters._blend import Stretch
from segengine.types import Bool, Color, Pixels, Prediction, Site, Trained

Floats = NDArray[np.float32]
Activation = Literal["none", "sigmoid", "softmax"]
Layout = Literal["nhwc", "nchw"]


@dataclass(frozen=True, slots=True)
class Exact:
    """A network that sees `context` pixels around each; windows are cut where both sides see all."""

    context: int
    """Pixels on each side."""
    stride: int
    """Grid of the network's own downsampling, in pixels."""
    limit: int
    """Greatest side of a window, in pixels."""

    @property
    def halo(self) -> int:
        return self.context

    def places(self, length: int) -> tuple[int, tuple[Stretch, ...]]:
        """Side of the windows along an axis, and the windows."""
        side = _blend.exact_window(length, self.limit, self.context, self.stride)
        return side, _blend.exact(length, side, self.context, self.stride)


@dataclass(frozen=True, slots=True)
class Blended:
    """A network that sees all of its window: windows overlap and fade into one another."""

    window: int
    """Side of a window, in pixels."""
    stride: int
    """From one window to the next, in pixels."""
    fixed: bool
    """The network takes no smaller window."""

    @property
    def halo(self) -> int:
        return _blend.halo_of(self.window, self.stride)

    def places(self, length: int) -> tuple[int, tuple[Stretch, ...]]:
        """Side of the windows along an axis, and the windows."""
        side = self.window if self.fixed else min(self.window, length)
        return side, _blend.blended(length, side, self.stride)


@dataclass(frozen=True, slots=True, eq=False)
class Anchored:
    """Overlapping windows on a grid that begins outside the frame, where pixels are mirrored."""

    taper: NDArray[np.float64]
    """Weight of a pixel along a window's side."""
    stride: int
    """From one window to the next, in pixels."""
    before: int
    """Pixels of the first window that lie outside."""

    @property
    def halo(self) -> int:
        return len(self.taper) - 1

    def places(self, length: int) -> tuple[int, tuple[Stretch, ...]]:
        """Side of the windows along an axis, and the windows."""
        return len(self.taper), _blend.anchored(length, self.stride, self.before, self.taper)


@dataclass(frozen=True, slots=True)
class Valid:
    """A network of valid convolutions, whose output lacks a margin of its window: outputs abut."""

    window: int
    """Side of a window, in pixels."""
    margin: int
    """Pixels on each side that the output lacks."""

    @property
    def stride(self) -> int:
        """Side of the output, in pixels: from one window to the next."""
        return self.window - 2 * self.margin

    @property
    def halo(self) -> int:
        """A pixel's window lies in what is read."""
        return self.window - self.margin

    def places(self, length: int) -> tuple[int, tuple[Stretch, ...]]:
        """Side of the windows along an axis, and the windows."""
        return self.window, _blend.abutting(length, self.stride, self.margin)


@dataclass(frozen=True, slots=True)
class Resized:
    """A network that sees the whole frame, resized: what was trained on resized photos."""

    size: tuple[int, int]
    """(height, width) it is resized to, in pixels."""

    halo: ClassVar[None] = None
    stride: ClassVar[int] = 1


@dataclass(frozen=True, slots=True, eq=False)
class Network:
    """Labels pixels with a network that gives each class a value at each pixel."""

    engine: Engine
    output: str
    """Which of the engine's outputs counts."""
    classes: tuple[str, ...]
    """One a channel; of a single channel, what lies at or below the threshold, and what above."""
    bands: tuple[int, ...] | int
    """1-based numbers of the raster's bands the network takes, in its order; or how many it has."""
    scale: Scale
    cut: Exact | Blended | Anchored | Valid | Resized
    weights: str
    """Digest of the model's files."""
    activation: Activation = "none"
    """What makes probabilities of the network's values."""
    layout: Layout = "nhwc"
    """Order of the network's axes."""
    batch: int | None = None
    """Most windows run at once; None: as many as pay for their size."""
    threshold: float = 0.5
    """Of a single channel."""
    single: bool = False
    """Two classes share one channel."""
    colors: tuple[Color, ...] = ()
    crf: Crf | None = None
    """Makes the probabilities of whole frames follow their colours."""
    temperature: Temperature | None = None
    """Of what makes probabilities as sure as they are right; None: they are left as they are."""
    labels: bool = False
    """The network gives each pixel the number of its class; windows that overlap vote."""
    trained: Trained | None = None
    """What its model says of the images that it learned from."""
    unread: tuple[str, ...] = ()
    """Further outputs of the engine, where the job does not say which counts."""

    version: ClassVar[int] = 2
    slow: ClassVar[bool] = True
    """The next shard is read while this one is labelled."""

    @property
    def outputs(self) -> tuple[str, ...]:
        """What it gives: numbers of classes are no probabilities."""
        return ("labels",) if self.labels else ("labels", "probabilities")

    @property
    def halo(self) -> int | None:
        return None if self.crf is not None else self.cut.halo

    @property
    def stride(self) -> int:
        return self.cut.stride

    @property
    def seams(self) -> int | None:
        """Pixels from one window to the next where they fade into one another; None: no seams."""
        return self.cut.stride if isinstance(self.cut, Blended) else None

    @property
    def provenance(self) -> str:
        """The engine's version and instruction set."""
        return self.engine.provenance

    def remarks(self, sites: Iterable[Site]) -> Iterator[str]:
        """That there are outputs which are not read: objects may be what it finds."""
        if self.unread:
            yield (
                f"head: of the model's outputs {self.output} alone is read, as labels of pixels, and not "
                f"{', '.join(self.unread)}; where it finds objects, say how (cellpose, stardist ...), else "
                "name the one that counts in `outputs`"
            )

    def check_pixels(self, bands: int, dtype: str) -> None:
        """Raise ValueError where pixels of so many bands cannot be labelled."""
        check_bands(self.bands, bands, dtype)

    def segment(self, pixels: Pixels) -> Prediction:
        """Labels (n, y, x) and probabilities (n, y, x, class) of pixels (n, y, x, band)."""
        return self._predict(pixels, probabilities=not self.labels)

    def label(self, pixels: Pixels) -> Prediction:
        """Labels alone: nothing of the size (n, y, x, class) is ever held."""
        return self._predict(pixels, probabilities=False)

    def label_confidently(self, pixels: Pixels) -> Prediction:
        """Labels, and the confidence of each; of probabilities only some rows are ever held."""
        return self._predict(pixels, probabilities=False, confidence=not self.labels)

    def _predict(self, pixels: Pixels, probabilities: bool, confidence: bool = False) -> Prediction:
        self.check_pixels(pixels.shape[-1], str(pixels.dtype))
        shape = pixels.shape[:3]
        labels = np.empty(shape, np.uint8 if len(self.classes) <= 256 else np.uint16)
        sure = np.empty(shape, np.uint8) if confidence else None
        kept = probabilities or self.crf is not None
        found = np.empty((*shape, len(self.classes)), np.float32) if kept else None
        channels = 0
        parts = self._resized(pixels) if isinstance(self.cut, Resized) else self._tiled(pixels)
        for frame, rows, values in parts:
            channels = values.shape[-1]
            if channels == 1 or self.crf is not None:
                values = asked.as_probabilities(values)
            labels[frame, rows] = self._decide(values)
            if self.crf is None and (found is not None or sure is not None):
                values = self._calibrated(values if channels > 1 else _both(values))
                if sure is not None:
                    sure[frame, rows] = asked.confidence(labels[frame, rows], values)
            if found is not None:
                found[frame, rows] = values if values.shape[-1] > 1 else _both(values)
        if self.crf is not None and found is not None:
            found = refine(found, self._chosen(pixels), self.crf)
            labels[...] = self._decide(found if channels > 1 else found[..., 1:])
            found = self._calibrated(found)
            if sure is not None:
                sure[...] = asked.confidence(labels, found)
        return Prediction(labels, found if probabilities else None, confidence=sure)

    def _calibrated(self, values: Floats) -> Floats:
        """Probabilities (..., class) as sure as they are right; which is the greatest stays."""
        return values if self.temperature is None else self.temperature.apply(values)

    def _decide(self, values: Floats) -> NDArray[Any]:
        """Labels (...) of probabilities (..., channel); the lowest class on ties."""
        if values.shape[-1] == 1:
            return values[..., 0] > self.threshold
        return argmax(values)

    def _tiled(self, pixels: Pixels) -> Iterator[tuple[int, slice, Floats]]:
        """(frame, rows, values (y, x, channel)) from top to bottom, each row of pixels once."""
        assert not isinstance(self.cut, Resized)
        frames, height, width, _ = pixels.shape
        side_y, ys = self.cut.places(height)
        side_x, xs = self.cut.places(width)
        places = [(f, y, x) for f in range(frames) for y in ys for x in xs]
        windows = (_window(pixels[f], y, x, (side_y, side_x)) for f, y, x in places)
        results = zip(places, self._run(windows), strict=True)
        for frame in range(frames):
            strip = np.zeros((0, width, 0), np.float32)
            top = 0
            for i, y in enumerate(ys):
                for _ in xs:
                    (_, _, x), values = next(results)
                    if strip.shape[-1] == 0:
                        strip = np.zeros((min(side_y, height), width, values.shape[-1]), np.float32)
                    weights = y.weights[:, None] * x.weights[None, :]
                    rows = slice(y.outside.start - top, y.outside.stop - top)
                    strip[rows, x.outside] += values[y.inside, x.inside] * weights[..., None]
                end = ys[i + 1].outside.start if i + 1 < len(ys) else height
                yield frame, slice(top, end), strip[: end - top]
                strip = np.concatenate([strip[end - top :], np.zeros_like(strip[: end - top])])
                top = end
        # the generator behind it must come to its end
        assert next(results, None) is None

    def _resized(self, pixels: Pixels) -> Iterator[tuple[int, slice, Floats]]:
        """Whole frames by way of the network's size, bilinear there and back."""
        assert isinstance(self.cut, Resized)
        height, width = pixels.shape[1:3]
        small = (_resize(self._scaled(frame), self.cut.size) for frame in pixels)
        for frame, values in enumerate(self._run(small, scaled=True)):
            yield frame, slice(0, height), _resize(values, (height, width))

    def _run(self, windows: Iterable[Pixels], scaled: bool = False) -> Iterator[Floats]:
        """Probabilities (y, x, channel) of each window (y, x, band)."""
        fixed = self.engine.input_shape[0]

        def prepared(group: list[Pixels]) -> tuple[int, Floats]:
            batch = np.stack([w if scaled else self._scaled(w) for w in group])
            if fixed is not None and len(group) < fixed:
                batch = np.concatenate([batch, np.repeat(batch[-1:], fixed - len(group), axis=0)])
            return len(group), batch

        groups = _batched(windows, fixed or self.batch)
        for count, batch in one_ahead(map(prepared, groups)):
            classes = len(self.classes) if self.labels else 0
            margin = self.cut.margin if isinstance(self.cut, Valid) else 0
            found = run(
                self.engine, self.output, self.layout, batch, self.activation, classes, margin
            )
            yield from found[:count]

    def _scaled(self, window: Pixels) -> Floats:
        return self.scale.apply(self._chosen(window))

    def _chosen(self, pixels: Pixels) -> Pixels:
        """The bands that the network takes, in its order."""
        bands = self.bands
        if isinstance(bands, int) or bands == tuple(range(1, pixels.shape[-1] + 1)):
            return pixels
        return pixels[..., [band - 1 for band in bands]]


def is_count(value: object) -> bool:
    """True for a whole number from 1 on: options come from a file, whatever their annotation."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def require_bands(bands: object) -> None:
    """Raise ValueError for what is neither a list of 1-based band numbers nor their count."""
    listed = isinstance(bands, Sequence) and not isinstance(bands, str | bytes)
    numbers: Sequence[object] = bands if listed else [bands]  # type: ignore[assignment]
    if not numbers or not all(is_count(number) for number in numbers):
        raise ValueError(f"bands: must be band numbers from 1 on, or their count, not {bands!r}")


def check_bands(wanted: tuple[int, ...] | int, present: int, dtype: str) -> None:
    """Raise ValueError, naming both, where pixels lack what a model takes."""
    if dtype.startswith("complex"):
        raise ValueError(f"bands: the pixels are {dtype}; a network takes real numbers")
    if isinstance(wanted, int):
        if wanted != present:
            raise ValueError(
                f"bands: the model takes {wanted} and the pixels have {present}; name the "
                f"{wanted} it wants, as in `bands: {list(range(1, wanted + 1))}`"
            )
    elif max(wanted) > present:
        raise ValueError(f"bands: {max(wanted)} is asked for and the pixels have {present}")


def run(
    engine: Engine,
    output: str,
    layout: Layout,
    batch: Floats,
    activation: Activation = "none",
    classes: int = 0,
    margin: int = 0,
) -> Floats:
    """Probabilities (n, y, x, channel) of a batch (n, y, x, band) of scaled windows.

    classes: above 0, the network gives labels of so many; each is a vote of 1 for its class.
    margin: pixels on each side that the network gives nothing for; zeros stand there.

    Raises ValueError where the network does not give one value a class for each pixel.
    """
    fed = np.ascontiguousarray(batch.transpose(0, 3, 1, 2)) if layout == "nchw" else batch
    values = engine.run(cast(fed, engine.dtype))[output]
    if layout == "nchw" and values.ndim == 4:
        values = values.transpose(0, 2, 3, 1)
    if values.ndim == 3:  # one channel, or class numbers, without an axis of its own
        values = values[..., None]
    size = batch.shape[1] - 2 * margin, batch.shape[2] - 2 * margin
    if values.shape[:-1] != (len(batch), *size):
        raise ValueError(
            f"the model gives {values.shape[1:]} for windows of {batch.shape[1:]}; it must give "
            "one value a class for each pixel"
        )
    if classes:
        found = _votes(values[..., 0], classes)
    else:
        found = activate(values.astype(np.float32, copy=False), activation)
    lacking = (margin, margin)
    return np.pad(found, ((0, 0), lacking, lacking, (0, 0))) if margin else found


def _votes(labels: NDArray[Any], classes: int) -> Floats:
    """(..., class) 1 for each pixel's label, 0 for the others. Raises ValueError for no label."""
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise ValueError(
            f"classes: the model gives label {low if low < 0 else high}, and {classes} classes are "
            "named"
        )
    return np.eye(classes, dtype=np.float32)[labels.astype(np.intp)]


def cast(batch: Floats, dtype: np.dtype[Any]) -> NDArray[Any]:
    """A batch in the dtype that a network takes; for integers rounded and clipped."""
    if dtype.kind == "f":
        return batch.astype(dtype, copy=False)
    info = np.iinfo(dtype)
    return np.clip(np.rint(batch), info.min, info.max).astype(dtype)


def activate(values: Floats, activation: Activation) -> Floats:
    """Probabilities from a network's values (..., channel)."""
    if activation == "sigmoid":
        negative = np.exp(-np.abs(values))  # never overflows
        return np.asarray(np.where(values >= 0, 1, negative) / (1 + negative), np.float32)
    if activation == "softmax":
        exponents = np.exp(values - values.max(axis=-1, keepdims=True))
        return np.asarray(exponents / exponents.sum(axis=-1, keepdims=True), np.float32)
    return values


def argmax(values: Floats) -> NDArray[Any]:
    """Place of the greatest along the last axis, the first on ties.

    Class by class: NumPy's own is ten times slower along an axis so short.
    """
    count = values.shape[-1]
    if count > 64:
        return np.asarray(values.argmax(axis=-1), np.uint16)
    best = values[..., 0].copy()
    found = np.zeros(best.shape, np.uint8)
    for label in range(1, count):
        channel = values[..., label]
        better: Bool = channel > best
        found[better] = label
        np.maximum(best, channel, out=best)
    return found


def _both(values: Floats) -> Floats:
    return np.concatenate([1 - values, values], axis=-1)


def _window(frame: Pixels, y: Stretch, x: Stretch, size: tuple[int, int]) -> Pixels:
    """The pixels of one window; what lies outside the frame is mirrored at its border."""
    inside: list[slice] = []
    pad = [(0, 0)]
    for axis, place in ((1, x), (0, y)):
        stop = place.start + size[axis]
        inside.insert(0, slice(max(0, place.start), min(stop, frame.shape[axis])))
        pad.insert(0, (max(0, -place.start), max(0, stop - frame.shape[axis])))
    part = frame[inside[0], inside[1]]
    return np.pad(part, pad, mode="symmetric") if any(map(any, pad)) else part


def _resize(image: Floats, size: tuple[int, int]) -> Floats:
    import cv2

    height, width = size
    found = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(found, np.float32).reshape(height, width, image.shape[-1])


def _batched(windows: Iterable[Pixels], size: int | None) -> Iterator[list[Pixels]]:
    group: list[Pixels] = []
    for window in windows:
        group.append(window)
        if len(group) >= (size or _paying(window.shape[0] * window.shape[1])):
            yield group
            group = []
    if group:
        yield group


def _paying(pixels: int) -> int:
    """Windows of so many pixels that are run at once: more gain nothing and cost memory."""
    return max(1, min(paying() >> 16, paying() // pixels))
