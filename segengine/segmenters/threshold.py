"""Threshold: object and background by brightness.

Gray (see `_gray`) is compared with one level or several; a pixel equal to one is not above it.

    mean        the mean of the image
    otsu        least variance within the two classes (Otsu 1979)
    multiotsu   the same for `classes` classes
    triangle    farthest from the line between peak and tail of the histogram (Zack et al. 1977)
    li          least cross entropy (Li and Lee 1993, Li and Tam 1998)
    local       the mean, or Gaussian mean, around each pixel (adaptive)
    fixed       `levels` as given

`mean` follows the text of a widespread tutorial on image segmentation in Python: pixels above the
mean of the gray image are background, the others object (`object: dark` here). The loop it prints
has an erratum: it asks for the mean again at every pixel while it overwrites the same image with 0
and 1, so the level falls as it goes, and 3 to 15 % of the pixels of ordinary photos come out
differently. Here the mean is taken once, as an exact fraction, and compared exactly.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import Any, ClassVar, Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray

from segengine.segmenters import _boxmean, _gray, _kernels, _levels, _nearly
from segengine.segmenters._histogram import Histogram, Sums
from segengine.segmenters._worth import compiled_pays
from segengine.types import Bool, Color, Pixels, Prediction, Scope, Segmenter, Surveyor

Statistic = Literal["mean", "otsu", "multiotsu", "triangle", "li"]
Method = Literal[Statistic, "local", "fixed"]
Object = Literal["dark", "bright"]
Weighting = Literal["mean", "gaussian"]
State = Sums | Histogram
_BINS = 256
"""Bins of the triangle's histogram of float images, as in scikit-image."""
_FEW, _MANY = 1 << 17, 1 << 20
"""Pixels compared with their means at a time: intermediates fit the cache, or margins are small."""
_MUCH = 1 << 26
"""Pixels of which comparing them in a compiled loop saves what its loading takes."""


def create(
    method: Method = "mean",
    offset: float = 0,
    classes: int = 3,
    levels: float | Sequence[float] | None = None,
    object: Object = "bright",  # the option's name in the job file
    scope: Scope = "frame",
    window: int = 35,
    weighting: Weighting = "gaussian",
) -> Segmenter | Surveyor[State]:
    """A threshold segmenter (`fixed`, `local`) or the surveyor that finds its level (the others).

    - `method`: how the level is found; see the table above.
    - `offset`: added to every level, in gray values of the image.
    - `classes`: number of classes of `multiotsu`; 2 or more.
    - `levels`: one number or several of `fixed`, in gray values of the image.
    - `object`: which side of the level is label 1; several levels always count 0, 1, ... from the
      darkest.
    - `scope`: what the statistic is taken over.
    - `window`, `weighting`: odd width of the neighbourhood of `local`, and how it is weighed;
      `gaussian` has sigma (window - 1) / 6 and is cut at 4 sigma, as in scikit-image.
    """
    _check("method", method, (*get_args(Statistic), "local", "fixed"))
    _check("object", object, get_args(Object))
    _check("scope", scope, get_args(Scope))
    _check("weighting", weighting, get_args(Weighting))
    if not _number(offset) or not math.isfinite(offset):
        raise ValueError(f"offset: {offset} is not a finite number")
    if (levels is None) == (method == "fixed"):
        raise ValueError(
            "levels: give one number or several with method: fixed, and with no other method"
        )
    if method == "fixed":
        given = cast("float | Sequence[float]", levels)
        return Fixed(_checked_levels(given), float(offset), object)
    if method == "local":
        if not _whole(window) or window < 3 or window % 2 == 0:
            raise ValueError(f"window: {window} is not an odd number of pixels, 3 or more")
        return Local(window, weighting, float(offset), object)
    if not _whole(classes) or not 2 <= classes <= 255:
        raise ValueError(f"classes: {classes} is not a whole number from 2 to 255")
    return Threshold(method, float(offset), classes, object, scope)


@dataclass(frozen=True, slots=True)
class Threshold:
    """Finds the level, or levels, of a frame, a scene or the run from merged exact histograms.

    Histograms count `_gray.rounded` (8 and 16 bit) or float32, and a pixel belongs to the class of
    its bin. The mean of integers is that of the unrounded gray, as an exact fraction. Without one
    valid pixel the level is 0: such a frame is void anyway.
    """

    method: Statistic
    offset: float
    number: int
    """Of classes of multiotsu."""
    object: Object
    scope: Scope
    outputs: ClassVar[tuple[str, ...]] = ("labels",)

    @property
    def version(self) -> int:
        """2: the triangle of wide integers counts equally many of them in each bin."""
        return 2 if self.method == "triangle" else 1

    @property
    def classes(self) -> tuple[str, ...]:
        return _classes(self._cuts)

    @property
    def colors(self) -> tuple[Color, ...]:
        return _colors(self._cuts)

    @property
    def _cuts(self) -> int:
        return self.number - 1 if self.method == "multiotsu" else 1

    def survey(self, pixels: Pixels, valid: Bool) -> State:
        """Sums (mean of integers) or a histogram of pixels (n, y, x, band) where valid."""
        if self.method == "mean" and _gray.is_exact(pixels.dtype, pixels.shape[-1]):
            return Sums.of(pixels, valid)
        return Histogram.of(pixels, valid)

    def merge(self, a: State, b: State) -> State:
        """The statistic of both: exact, in any order."""
        if isinstance(a, Sums) and isinstance(b, Sums):
            return a + b
        if isinstance(a, Histogram) and isinstance(b, Histogram):
            return a + b
        raise TypeError("cannot merge statistics of integer and of float pixels")

    def fit(self, state: State) -> Cuts:
        """The segmenter of pixels of the surveyed dtype and band count."""
        offset = _decimal(self.offset)
        if isinstance(state, Sums):
            scale = _gray.scale(len(state.totals))
            cut: float = math.floor(state.mean() + offset * scale)
            return Cuts((cut,), self.object, exact=True)
        if not state.total():
            return Cuts((0,) * self._cuts, self.object, exact=state.base is not None)
        if self.method == "mean":
            cut = _float32_floor(state.mean() + offset)
            return Cuts((cut,), self.object, exact=False)
        found = [Fraction(level) + offset for level in self._find(state)]
        if state.base is None:
            return Cuts(tuple(map(_float32_floor, found)), self.object, exact=False)
        return self._of_rounded(list(map(math.floor, found)), state.scale)

    def _of_rounded(self, levels: Sequence[int], scale: int) -> Cuts:
        """What is above each level of the rounded gray, as is seen by the exact gray."""
        cuts = tuple(_unrounded(level, scale) for level in levels)
        return Cuts(cuts, self.object, exact=True)

    def label_frame(self, pixels: Pixels, valid: Bool) -> tuple[Cuts, Prediction]:
        """Fit and labels of one frame (1, y, x, band), whose rounded gray is worked out once."""
        if self.method != "mean" and _gray.is_countable(pixels.dtype):
            gray = _gray.rounded(pixels)
            state = Histogram.of_rounded(gray, valid, pixels.shape[-1])
            if state.total():
                offset = _decimal(self.offset)
                levels = [math.floor(Fraction(level) + offset) for level in self._find(state)]
                labels = _compared(gray, levels, self.object)
                return self._of_rounded(levels, state.scale), Prediction(labels)
        found = self.fit(self.survey(pixels, valid))
        return found, found.segment(pixels)

    def _find(self, state: Histogram) -> list[float]:
        """The levels: the greatest gray on each one's darker side."""
        bins = state.occupied()
        integer = state.base is not None
        if self.method == "li":
            gap = float(np.diff(bins.means).min()) if len(bins.means) > 1 else 0.0
            return [_levels.li(bins.counts, bins.means, 0.5 if integer else gap / 2)]
        if self.method == "triangle" and integer:
            return [bins.means[0] + _levels.triangle(_levels.dense(bins.counts, bins.means))]
        if self.method == "triangle":
            spread = _levels.spread_whole if state.whole else _levels.spread
            counts, tops = spread(bins.counts, bins.lows, bins.tops, _BINS)
            return [float(tops[_levels.triangle(counts)])]
        found = _levels.multiotsu(bins.counts, bins.means, self._cuts + 1)
        return [float(bins.tops[i]) for i in found]


@dataclass(frozen=True, slots=True)
class Cuts:
    """Labels by fitted levels, of pixels of the dtype and band count they were fitted to."""

    cuts: tuple[float, ...]
    """Ascending; integers in units of `_gray.exact`, or float32 values."""
    object: Object
    exact: bool
    """Compare `_gray.exact`; else `_gray.single`."""
    version: ClassVar[int] = 1
    outputs: ClassVar[tuple[str, ...]] = ("labels",)

    @property
    def classes(self) -> tuple[str, ...]:
        return _classes(len(self.cuts))

    @property
    def colors(self) -> tuple[Color, ...]:
        return _colors(len(self.cuts))

    @property
    def halo(self) -> int:
        return 0

    @property
    def stride(self) -> int:
        return 1

    def segment(self, pixels: Pixels) -> Prediction:
        """Label pixels (n, y, x, band) of the fitted dtype."""
        return _label(pixels, self.cuts, self.object, self.exact)


@dataclass(frozen=True, slots=True)
class Fixed:
    """Labels by given levels, in gray values: nothing to survey, any dtype."""

    levels: tuple[float, ...]
    """Ascending."""
    offset: float
    object: Object
    version: ClassVar[int] = 1
    outputs: ClassVar[tuple[str, ...]] = ("labels",)

    @property
    def classes(self) -> tuple[str, ...]:
        return _classes(len(self.levels))

    @property
    def colors(self) -> tuple[Color, ...]:
        return _colors(len(self.levels))

    @property
    def halo(self) -> int:
        return 0

    @property
    def stride(self) -> int:
        return 1

    def segment(self, pixels: Pixels) -> Prediction:
        """Label pixels (n, y, x, band), any dtype.

        Integers are compared with the level as written; floats, as float32, with its nearest
        float32, so that a pixel of 0.1 is not above the level 0.1.
        """
        bands = pixels.shape[-1]
        exact = _gray.is_exact(pixels.dtype, bands)
        levels = [_decimal(level) + _decimal(self.offset) for level in self.levels]
        cuts: list[float] = (
            [math.floor(level * _gray.scale(bands)) for level in levels]
            if exact
            else [float(np.float32(float(level))) for level in levels]
        )
        return _label(pixels, cuts, self.object, exact)


@dataclass(frozen=True, slots=True)
class Local:
    """Labels by the mean around each pixel (adaptive threshold); borders reflected.

    Means of integers are exact, unless a window's sum exceeds 2**53. Around NaN the mean is NaN and
    nothing is above it.
    """

    window: int
    weighting: Weighting
    offset: float
    object: Object
    version: ClassVar[int] = 1
    outputs: ClassVar[tuple[str, ...]] = ("labels",)

    @property
    def classes(self) -> tuple[str, ...]:
        return _classes(1)

    @property
    def colors(self) -> tuple[Color, ...]:
        return _colors(1)

    @property
    def halo(self) -> int:
        return self.window // 2 if self.weighting == "mean" else len(self._weights)

    @property
    def stride(self) -> int:
        return 1

    @property
    def _weights(self) -> tuple[float, ...]:
        return _kernels.gaussian((self.window - 1) / 6)

    def segment(self, pixels: Pixels) -> Prediction:
        """Label pixels (n, y, x, band), any dtype."""
        bands = pixels.shape[-1]
        exact = _gray.is_exact(pixels.dtype, bands)
        unit = _gray.scale(bands) if exact else 1
        offset = _decimal(self.offset) * unit
        labels = np.zeros(pixels.shape[:-1], np.uint8)
        if self.weighting == "gaussian":
            above = partial(self._above_gaussian, shift=float(offset))
            self._by_strips(pixels, labels, _gray.comparable, above, _MANY)
            return Prediction(labels)
        shift = float(offset * self.window**2)
        quick = compiled_pays(labels.size, _MUCH)
        bits = 8 * pixels.dtype.itemsize + (unit * self.window**2).bit_length()
        if not exact or bits > 53:
            to_gray = _gray.comparable if exact or not quick else _gray.single_quickly
            above = partial(self._above_rounded, shift=shift, quick=quick)
            self._by_strips(pixels, labels, to_gray, above, _FEW)
        elif quick:
            sums = np.dtype(np.int32 if bits <= 31 else np.int64)
            for frame, out in zip(pixels, labels.view(np.bool_), strict=True):
                gray = _gray.exact_quickly(frame)
                _boxmean.exceeds(gray, self.window, math.floor(shift), sums, out)
            if self.object == "dark":
                np.logical_not(labels, out=labels.view(np.bool_))
        else:
            above = partial(self._above_exact, shift=math.floor(shift), bits=bits)
            self._by_strips(pixels, labels, _gray.comparable, above, _FEW)
        return Prediction(labels)

    def _by_strips(
        self,
        pixels: Pixels,
        labels: NDArray[np.uint8],
        to_gray: Callable[[Pixels], NDArray[Any]],
        above: Callable[[NDArray[Any]], NDArray[np.bool_]],
        size: int,
    ) -> None:
        with np.errstate(invalid="ignore", over="ignore"):
            for frame, out in zip(pixels, labels.view(np.bool_), strict=True):
                padded = _kernels.pad(to_gray(frame), self.halo)
                _kernels.by_strips(padded, self.halo, above, out, size)

    def _above_exact(self, strip: NDArray[Any], shift: int, bits: int) -> NDArray[np.bool_]:
        """Where gray x window² exceeds the sum of the window and the shift, both of integers.

        Sums of so many bits are exact in the fastest dtype that holds them.
        """
        name = "float64"
        if bits <= 31:
            name = "float32" if bits <= 24 and strip.dtype == np.uint8 else "int32"
        fitting = {"float32": "B", "int32": "BHh", "float64": "fd"}[name]
        if strip.dtype.char not in fitting:  # OpenCV sums these
            strip = strip.astype(name)
        return self._side(self._excess(strip, np.dtype(name)), shift)

    def _excess(self, strip: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
        """Gray x window² less the sum of the window."""
        centre = strip[self.halo : -self.halo, self.halo : -self.halo]
        excess: NDArray[Any] = np.multiply(centre, dtype.type(self.window**2), dtype=dtype)
        excess -= _kernels.box_sum(strip, self.window, dtype)
        return excess

    def _above_rounded(self, strip: NDArray[Any], shift: float, quick: bool) -> NDArray[np.bool_]:
        """The same of sums that may be rounded, exactly where they leave it in doubt."""
        size, double = self.window, np.dtype(np.float64)
        if strip.dtype.char not in "fd":
            strip = strip.astype(double)
        greatest = max(float(strip.max()), -float(strip.min()))
        # A running sum is rounded at most twice a pixel on its way along x and along y.
        error = 2.0**-50 * sum(strip.shape) * (size + 1) ** 2 * greatest + 2.0**-50 * abs(shift)
        if quick and strip.dtype == np.float32:
            above, open_ = _boxmean.sides(strip, size, shift + error, shift - error)
            found, doubtful = self._told(above, open_, error)
        else:
            found, doubtful = self._clear(self._excess(strip, double), shift, error)
        if strip.dtype == np.float32:  # k x c has no rounding
            doubtful = self._not_flat(strip, found, doubtful, shift, error)
        if len(doubtful) * size > found.size:  # as much work as all of them
            gray = strip.astype(double)
            if _kernels.adds_exactly(gray, size * size):
                return self._side(self._excess(gray, double), shift)
            total = _kernels.run_sum(_kernels.run_sum(gray, size, 0), size, 1)
            centre = gray[self.halo : -self.halo, self.halo : -self.halo]
            return self._side(centre * float(size**2) - total, shift)
        for part in _nearly.blocks(doubtful, size):
            y, x = np.divmod(part, found.shape[1])
            around = _nearly.windows(strip, y, x, size)
            down = _nearly.across(_kernels.run_sum(around, size, 0), size)
            total = _kernels.run_sum(down, size, 1)[:, 0]
            centre = strip[y + self.halo, x + self.halo].astype(np.float64)
            found[y, x] = self._side(centre * float(size**2) - total, shift)
        return found

    def _above_gaussian(self, strip: NDArray[Any], shift: float) -> NDArray[np.bool_]:
        """Where gray exceeds the mean around it and the shift: nearly, and exactly where in doubt."""
        weights, halo = self._weights, self.halo
        kernel = _nearly.taps(weights, 1)
        for dtype in (np.float32, np.float64):
            near = _nearly.Near.of(strip, dtype)
            if near is None:
                break
            mean, error = near.filtered(kernel, kernel)
            excess = np.subtract(near.image[halo:-halo, halo:-halo], mean, out=mean)
            error += near.rounding * (near.greatest + 4 * near.top + 3 * abs(shift))
            found, doubtful = self._clear(excess, shift, error)
            doubtful = self._not_flat(strip, found, doubtful, shift, error)
            if len(doubtful) * halo > excess.size:  # as much work as all of them
                continue
            for part in _nearly.blocks(doubtful, len(kernel)):
                y, x = np.divmod(part, excess.shape[1])
                around = _nearly.windows(strip, y, x, len(kernel))
                down = _nearly.across(_kernels.smooth(around, weights, 0), len(kernel))
                mean = _kernels.smooth(down, weights, 1)[:, 0]
                found[y, x] = self._side(strip[y + halo, x + halo] - mean, shift)
            return found
        centre = strip[halo:-halo, halo:-halo]
        if _nearly.is_flat(strip):
            return np.full(centre.shape, self._side(np.zeros(()), shift))
        return self._side(centre - _kernels.blurred(strip.astype(np.float64), weights), shift)

    def _clear(
        self, excess: NDArray[Any], shift: float, error: float
    ) -> tuple[NDArray[np.bool_], NDArray[np.intp]]:
        """`_side` of what may be wrong by so much, and the flattened places where it leaves that open."""
        above = excess > shift + error
        return self._told(above, above != (excess > shift - error), error)

    def _told(
        self, above: NDArray[np.bool_], open_: NDArray[np.bool_], error: float
    ) -> tuple[NDArray[np.bool_], NDArray[np.intp]]:
        found = above if self.object == "bright" else ~above
        if not math.isfinite(error):
            return found, np.arange(above.size)
        return found, np.flatnonzero(open_)

    def _not_flat(
        self,
        strip: NDArray[Any],
        found: NDArray[np.bool_],
        doubtful: NDArray[np.intp],
        shift: float,
        error: float,
    ) -> NDArray[np.intp]:
        """What is doubtful but where all around are equal, which is decided, where that is much."""
        if len(doubtful) * self.halo <= found.size or not math.isfinite(error):
            return doubtful
        flat = _nearly.flat(strip, 2 * self.halo + 1)
        found[flat] = self._side(np.zeros(()), shift)
        return doubtful[~flat.reshape(-1)[doubtful]]

    def _side(self, excess: NDArray[Any], shift: float) -> NDArray[np.bool_]:
        return excess > shift if self.object == "bright" else excess <= shift


def _label(pixels: Pixels, cuts: Sequence[float], side: Object, exact: bool) -> Prediction:
    """Labels (n, y, x) uint8: how many cuts a gray exceeds; of one cut, which side it is on."""
    if exact and pixels.shape[-1] == 1:  # compared in place
        return Prediction(_compared(_gray.exact(pixels), cuts, side))
    labels = np.empty(pixels.shape[:-1], np.uint8)
    for frame, rows in _gray.strips(pixels.shape, 1 << 16):
        part = pixels[frame, rows]
        gray = _gray.exact(part) if exact else _gray.single(part)
        labels[frame, rows] = _compared(gray, cuts, side)
    return Prediction(labels)


def _compared(gray: NDArray[Any], cuts: Sequence[float], side: Object) -> NDArray[np.uint8]:
    """How many cuts a gray (...) exceeds; of one cut, which side it is on."""
    if len(cuts) == 1:
        compare = np.less_equal if side == "dark" else np.greater
        found: NDArray[np.bool_] = compare(gray, _bounded(cuts[0], gray.dtype))
        return found.view(np.uint8)
    labels = np.zeros(gray.shape, np.uint8)
    for cut in cuts:
        labels += gray > _bounded(cut, gray.dtype)
    return labels


def _bounded(cut: float, dtype: np.dtype[Any]) -> Any:
    """The cut in the dtype of the gray, in which it is exact; outside of its range, as it is."""
    if dtype.kind == "f" and abs(cut) <= np.finfo(dtype).max:
        return dtype.type(cut)
    return cut


def _unrounded(level: int, scale: int) -> int:
    """Greatest exact gray that rounds, halves to even, to at most `level`."""
    twice = (2 * level + 1) * scale
    tied_upwards = twice % 2 == 0 and level % 2 == 1
    return twice // 2 - tied_upwards


def _float32_floor(level: Fraction) -> float:
    """Greatest float32 not above an exact level: no float32 lies between the two."""
    limit = float(np.finfo(np.float32).max)
    if not -limit < level < limit:
        return math.copysign(limit, level)
    near = np.float32(float(level))
    return float(near if Fraction(float(near)) <= level else np.nextafter(near, np.float32(-limit)))


def _decimal(value: float) -> Fraction:
    """A number as it is written: 0.1 is a tenth."""
    return Fraction(repr(float(value)))


def _classes(cuts: int) -> tuple[str, ...]:
    if cuts == 1:
        return ("background", "object")
    return tuple(f"level {i}" for i in range(cuts + 1))


def _colors(cuts: int) -> tuple[Color, ...]:
    """Dark and orange for two classes; a ramp from dark blue to yellow for more."""
    if cuts == 1:
        return ((38, 43, 68), (245, 166, 35))
    stops = ((38, 43, 68), (45, 116, 142), (69, 184, 130), (253, 231, 76))
    ramp = []
    for level in range(cuts + 1):
        place = level * (len(stops) - 1) / cuts
        left = min(int(place), len(stops) - 2)
        r, g, b = (
            round(a + (z - a) * (place - left))
            for a, z in zip(stops[left], stops[left + 1], strict=True)
        )
        ramp.append((r, g, b))
    return tuple(ramp)


def _checked_levels(levels: float | Sequence[float]) -> tuple[float, ...]:
    numbers = [levels] if isinstance(levels, int | float) else list(levels)
    if not 1 <= len(numbers) <= 254 or not all(_number(n) and math.isfinite(n) for n in numbers):
        raise ValueError(f"levels: {levels!r} is not one finite number or a list of them")
    if any(a >= b for a, b in itertools.pairwise(numbers)):
        raise ValueError(
            f"levels: {levels!r} do not ascend; list them from dark to bright, each once"
        )
    return tuple(map(float, numbers))


def _whole(value: object) -> bool:
    """True for an int that is no bool: options come from a file, whatever their annotation."""
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value: object) -> bool:
    return _whole(value) or isinstance(value, float)


def _check(name: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise ValueError(f"{name}: {value!r} is not one of {', '.join(allowed)}")


_surveyor: type[Surveyor[State]] = Threshold
_segmenters: tuple[type[Segmenter], ...] = (Cuts, Fixed, Local)
