"""Edges: where the gray changes sharply, or the closed regions between such places.

    sobel, prewitt, scharr, roberts   magnitude of the gradient (kernels in `_gradient`)
    log                               zero crossings of the Laplacian of a Gaussian (`_crossings`)
    canny                             thin, linked ridges of the gradient (`_canny`)

How a magnitude becomes an edge: it is measured in the height of a straight step, along a row or a
column, that has it, and a pixel is an edge where that height is above `threshold`, a fraction of
the contrast. With the default 0.1 an edge in an 8-bit photo is a step of more than 25.5 gray values
between neighbours. The contrast is the full range of the pixels' dtype (its greatest value; 1 for
floats), the same for every image; or, with a `scope`, what the frame, scene or run really spans,
from the 1st to the 99th percentile of its gray, which suits 11-bit scenes in 16-bit files and
floats in any unit. Squares of integers are compared exactly, without a root. Borders are reflected.

A widespread tutorial shows the signed responses of both Sobel kernels: `response` returns them, signed
as SciPy's `sobel` and scikit-image's. The tutorial's own vertical one has the other sign: it convolves,
which turns its kernel (-1, 0, 1) around, and so is positive where it gets brighter to the left.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from segengine.segmenters import _canny, _gray
from segengine.segmenters._crossings import Crossings
from segengine.segmenters._gradient import Direction, Gradient
from segengine.segmenters._gradient import Operator as Kernel
from segengine.segmenters._histogram import Histogram
from segengine.segmenters._regions import COLORS as REGION_COLORS
from segengine.segmenters._regions import of_frames, regions
from segengine.types import (
    Bool,
    Color,
    Linker,
    Pixels,
    Prediction,
    Scope,
    Segmenter,
    Surveyor,
)

Operator = Literal[Kernel, "canny", "log"]
Output = Literal["edges", "regions"]
_COLORS: tuple[Color, ...] = ((24, 26, 34), (255, 214, 92))
_SIGMA = {"canny": 1.4, "log": 2.0}


def create(
    operator: Operator = "sobel",
    direction: Direction = "both",
    output: Output = "edges",
    threshold: float | None = None,
    low: float | None = None,
    high: float | None = None,
    sigma: float | None = None,
    scope: Scope | Literal["dtype"] = "dtype",
    min_size: int = 16,
) -> Segmenter | Surveyor[Histogram]:
    """An edge segmenter, or with a `scope` other than `dtype` the surveyor that finds the contrast.

    - `operator`: what a step is measured with; `canny` thins and links, `log` takes zero crossings.
    - `output`: lines, or the flat regions between them, each with an id.
    - `direction`: `horizontal` edges run along rows, `vertical` ones along columns.
    - `threshold`: height of a step above which it is an edge, as a fraction of the contrast;
      default 0.1 (`regions`: 0.05, what is not above it is flat).
    - `low`, `high`: the same for the weak and the strong edges of `canny`, default 0.03 and 0.08;
      weak ones count where they hang together with a strong one. `regions` of `canny` take `low`.
    - `sigma`: Gaussian smoothing before, in pixels; default 1.4 for `canny`, 2 for `log`, else 0.
    - `scope`: what the contrast is taken from.
    - `min_size`: pixels a flat piece must have to grow into a region.
    """
    _check("operator", operator, (*get_args(Kernel), "canny", "log"))
    _check("direction", direction, get_args(Direction))
    _check("output", output, get_args(Output))
    _check("scope", scope, ("dtype", *get_args(Scope)))
    if operator == "canny":
        if threshold is not None:
            raise ValueError("threshold: canny has two; set low and high")
    elif low is not None or high is not None:
        raise ValueError("low, high: only canny has two thresholds; set threshold")
    smoothing = _number("sigma", _SIGMA.get(operator, 0.0) if sigma is None else sigma)
    if not 0.5 <= smoothing <= 100 and (smoothing or operator == "log"):
        raise ValueError(f"sigma: {sigma} pixels; take 0.5 to 100, or 0 for none (not with log)")
    if not _whole(min_size) or min_size < 1:
        raise ValueError(f"min_size: {min_size} is not a whole number, 1 or more")
    kernel: Kernel = "sobel" if operator == "canny" or operator == "log" else operator
    gradient = Gradient(kernel, direction, smoothing, None)
    segmenter: Edges | Canny | Regions
    weak = _number("low", 0.03 if low is None else low)
    strong = _number("high", max(0.08, weak) if high is None else high)
    if weak > strong:
        raise ValueError(f"low: {weak} is above high, {strong}")
    usual = 0.05 if output == "regions" else 0.1
    step = _number("threshold", usual if threshold is None else threshold)
    if output == "regions":
        segmenter = Regions(gradient, weak if operator == "canny" else step, min_size)
    elif operator == "canny":
        segmenter = Canny(gradient, weak, strong)
    elif operator == "log":
        segmenter = Edges(Crossings(direction, smoothing, None), step)
    else:
        segmenter = Edges(gradient, step)
    return segmenter if scope == "dtype" else Contrast(segmenter, scope)


@dataclass(frozen=True, slots=True)
class Edges:
    """1 where a step is higher than `threshold`, each pixel for itself."""

    measure: Gradient | Crossings
    threshold: float
    """Fraction of the contrast."""
    version: ClassVar[int] = 1
    outputs: ClassVar[tuple[str, ...]] = ("labels",)
    colors: ClassVar[tuple[Color, ...]] = _COLORS

    @property
    def classes(self) -> tuple[str, ...]:
        return ("background", "edge")

    @property
    def halo(self) -> int:
        return self.measure.radius

    @property
    def stride(self) -> int:
        return 1

    def segment(self, pixels: Pixels) -> Prediction:
        """Label pixels (n, y, x, band): 1 edge."""
        labels = np.empty(pixels.shape[:-1], np.uint8)
        with np.errstate(invalid="ignore", over="ignore"):
            for frame, out in zip(pixels, labels, strict=True):
                out[:] = self.measure.exceeds(frame, self.threshold)
        return Prediction(labels)

    def response(self, pixels: Pixels) -> NDArray[np.float64]:
        """(n, y, x, 2) signed responses of pixels (n, y, x, band), in gray values.

        The first is that of horizontal edges, across rows. `log`: the two second derivatives.
        """
        return _response(self.measure, pixels)


@dataclass(frozen=True, slots=True)
class Canny:
    """1 on thin ridges of the gradient that hang together with a strong one: a `Linker`."""

    gradient: Gradient
    low: float
    """Fraction of the contrast above which a ridge is weak."""
    high: float
    """Fraction of the contrast above which it is strong."""
    version: ClassVar[int] = 1
    outputs: ClassVar[tuple[str, ...]] = ("labels",)
    colors: ClassVar[tuple[Color, ...]] = _COLORS

    @property
    def classes(self) -> tuple[str, ...]:
        return ("background", "edge")

    @property
    def halo(self) -> int:
        return self.gradient.radius + 1  # suppression compares the neighbours' magnitudes

    @property
    def stride(self) -> int:
        return 1

    @property
    def keep(self) -> int:
        return 2

    def draft(self, pixels: Pixels) -> NDArray[np.uint8]:
        """(n, y, x, band) -> (n, y, x): 0 no edge, 1 weak, 2 strong."""
        out = np.empty(pixels.shape[:-1], np.uint8)
        with np.errstate(invalid="ignore", over="ignore"):
            for frame, drafted in zip(pixels, out, strict=True):
                low, high = (self.gradient.bound(f, frame) for f in (self.low, self.high))
                drafted[:] = _canny.draft(self.gradient, frame, low, high)
        return out

    def segment(self, pixels: Pixels) -> Prediction:
        """Label whole frames (n, y, x, band): 1 edge."""
        labels = self.draft(pixels)
        for frame in labels:
            frame[:] = _canny.keep(frame)
        return Prediction(labels)

    def response(self, pixels: Pixels) -> NDArray[np.float64]:
        """(n, y, x, 2) signed Sobel responses of pixels (n, y, x, band), smoothed, in gray."""
        return _response(self.gradient, pixels)


@dataclass(frozen=True, slots=True)
class Regions:
    """Closed regions of whole frames: 1 in a region, 0 on the line between; ids in `instances`."""

    gradient: Gradient
    threshold: float
    """Fraction of the contrast up to which the ground is flat."""
    min_size: int
    """Pixels a flat piece must have to grow into a region."""
    version: ClassVar[int] = 2
    """2: the water rises in steps."""
    outputs: ClassVar[tuple[str, ...]] = ("labels", "instances")
    colors: ClassVar[tuple[Color, ...]] = REGION_COLORS

    @property
    def classes(self) -> tuple[str, ...]:
        return ("line", "region")

    @property
    def halo(self) -> None:
        return None

    @property
    def stride(self) -> int:
        return 1

    def segment(self, pixels: Pixels) -> Prediction:
        """Label whole frames (n, y, x, band); ids from 1 in each, by first pixel in raster."""
        with np.errstate(invalid="ignore", over="ignore"):
            return of_frames(pixels, self._ids)

    def _ids(self, frame: Pixels) -> NDArray[np.uint32]:
        bound = self.gradient.bound(self.threshold, frame)
        return regions(self.gradient.power(frame), bound, self.min_size)

    def response(self, pixels: Pixels) -> NDArray[np.float64]:
        """(n, y, x, 2) signed responses of pixels (n, y, x, band), in gray values."""
        return _response(self.gradient, pixels)


@dataclass(frozen=True, slots=True)
class Contrast:
    """Finds the gray range of a frame, a scene or the run; thresholds are fractions of it."""

    segmenter: Edges | Canny | Regions
    """What to fit; its own contrast is not set."""
    scope: Scope

    @property
    def version(self) -> int:
        return self.segmenter.version

    @property
    def classes(self) -> tuple[str, ...]:
        return self.segmenter.classes

    @property
    def colors(self) -> tuple[Color, ...]:
        return self.segmenter.colors

    @property
    def outputs(self) -> tuple[str, ...]:
        return self.segmenter.outputs

    def survey(self, pixels: Pixels, valid: Bool) -> Histogram:
        """Histogram of the gray of pixels (n, y, x, band) where valid (n, y, x)."""
        return Histogram.of(pixels, valid)

    def merge(self, a: Histogram, b: Histogram) -> Histogram:
        """The histogram of both: exact, in any order."""
        return a + b

    def fit(self, state: Histogram) -> Edges | Canny | Regions:
        """The segmenter for the contrast: 1st to 99th percentile; 0 without a valid pixel."""
        contrast = 0.0
        if total := state.total():
            bins = state.occupied()
            below = np.cumsum(bins.counts)
            first, last = np.searchsorted(below, [math.ceil(total / 100), math.ceil(total * 0.99)])
            contrast = float(bins.means[last] - bins.means[first])
        if isinstance(self.segmenter, Edges):
            measure = replace(self.segmenter.measure, contrast=contrast)
            return replace(self.segmenter, measure=measure)
        gradient = replace(self.segmenter.gradient, contrast=contrast)
        return replace(self.segmenter, gradient=gradient)


def _response(measure: Gradient | Crossings, pixels: Pixels) -> NDArray[np.float64]:
    """(n, y, x, 2) responses in gray values."""
    dtype, bands = pixels.dtype, pixels.shape[-1]
    scale = _gray.scale(bands) if _gray.is_exact(dtype, bands) else 1
    out = np.empty((*pixels.shape[:-1], 2))
    with np.errstate(invalid="ignore", over="ignore"):
        for frame, part in zip(pixels, out, strict=True):
            np.divide(np.moveaxis(measure.field(frame), 1, 2), scale, out=part)
    return out


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise ValueError(f"{name}: {value!r} is not a finite number, 0 or more")
    return float(value)


def _whole(value: object) -> bool:
    """True for an int that is no bool: options come from a file, whatever their annotation."""
    return isinstance(value, int) and not isinstance(value, bool)


def _check(name: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise ValueError(f"{name}: {value!r} is not one of {', '.join(allowed)}")


_surveyor: type[Surveyor[Histogram]] = Contrast
_linker: type[Linker] = Canny
_segmenters: tuple[type[Segmenter], ...] = (Edges, Canny, Regions)
