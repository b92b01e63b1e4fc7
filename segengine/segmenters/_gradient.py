"""The gradient of a gray image, by the published 3 x 3 and 2 x 2 kernels.

    sobel     (1, 2, 1) x (-1, 0, 1)      Sobel and Feldman (1968)
    prewitt   (1, 1, 1) x (-1, 0, 1)      Prewitt (1970)
    scharr    (3, 10, 3) x (-1, 0, 1)     Scharr (2000)
    roberts   a - d and b - c of a b      Roberts (1963)
                                 c d

Roberts' kernels look along the diagonals. Here they are turned by 45 degrees to c + d - a - b and
b + d - a - c, whose squares add up to twice theirs, so that every operator answers across rows and
across columns; a is the pixel itself, as in scikit-image. Positive is brighter downwards and to
the right, as in SciPy. Integers stay exact; all else is float64, fixed for each pixel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from segengine.segmenters import _gray, _kernels, _nearly, _rows
from segengine.types import Pixels

Operator = Literal["sobel", "prewitt", "roberts", "scharr"]
Direction = Literal["horizontal", "vertical", "both"]

_SIDES = {"sobel": (1, 2), "prewitt": (1, 1), "scharr": (3, 10)}
"""Weights of the outer and of the middle row, or column."""
_STEP = {"sobel": 4, "prewitt": 3, "scharr": 16, "roberts": 2}
"""Response to a step of height 1 along a row or a column."""

_STRIP = 1 << 18
"""Pixels whose magnitude is compared at a time."""


@dataclass(frozen=True, slots=True)
class Gradient:
    """How the gradient of a frame is measured, and from what magnitude on it counts."""

    operator: Operator
    direction: Direction
    """`horizontal`: edges that run along rows, by the difference across; `vertical`: columns."""
    sigma: float
    """Gaussian smoothing before, in pixels; 0: none."""
    contrast: float | None
    """Gray range that thresholds are a fraction of; None: the full range of the dtype."""

    @property
    def radius(self) -> int:
        """Pixels on each side that a response needs."""
        return _kernels.gaussian_radius(self.sigma) + 1

    @property
    def sides(self) -> NDArray[np.float64]:
        """(2,) weights of the outer and of the middle row, or column, as `_rows` takes them."""
        return np.array(_SIDES.get(self.operator, (0, 0)), np.float64)

    @property
    def asked(self) -> NDArray[np.bool_]:
        """(2,) whether the responses across rows and across columns count."""
        return np.array([self.direction != "vertical", self.direction != "horizontal"])

    def field(self, frame: Pixels) -> NDArray[Any]:
        """(y, 2, x) signed responses of a frame (y, x, band), across rows and across columns.

        In units of `_gray.comparable`, weights as published.
        """
        padded = self._padded(frame)
        out = np.empty((frame.shape[0], 2, frame.shape[1]), padded.dtype)
        _kernels.by_strips(padded, 1, lambda s: np.stack(self._both(s), axis=1), out)
        return out

    def power(self, frame: Pixels) -> NDArray[Any]:
        """(y, x) squared magnitude of a frame (y, x, band), in the direction asked for."""
        padded = self._padded(frame)
        out = np.empty(frame.shape[:2], padded.dtype)
        _kernels.by_strips(padded, 1, self._power, out)
        return out

    def exceeds(self, frame: Pixels, fraction: float) -> NDArray[np.bool_]:
        """(y, x) where the magnitude is above a fraction of the contrast."""
        bound = self.bound(fraction, frame)
        out = np.empty(frame.shape[:2], np.bool_)
        if _rows.taken(frame):
            self._exceeding_rows(frame, bound, out.view(np.uint8))
            return out
        padded = _kernels.pad(_gray.comparable(frame), self.radius)
        _kernels.by_strips(padded, self.radius, lambda s: self._exceeding(s, bound), out, _STRIP)
        return out

    def _exceeding_rows(self, frame: Pixels, bound: float, out: NDArray[np.uint8]) -> None:
        """`_exceeding` of a frame (y, x, band), compiled."""
        given = _rows.Given.of(frame)
        steepest = _STEP[self.operator] * given.span if not self.sigma else math.inf
        if steepest < 2**31:
            wide = 2 * steepest**2 >= 2**31
            _rows.exceeds_whole(*given, self.sides, self.asked, bound, wide, out)
        else:
            weights = np.array(_kernels.gaussian(self.sigma) if self.sigma else (), np.float64)
            _rows.exceeds(*given, weights, self.sides, self.asked, bound, out)

    def _exceeding(self, gray: NDArray[Any], bound: float) -> NDArray[np.bool_]:
        """(y, x) of gray with `radius` around it: nearly, and exactly where that is in doubt."""
        gy, gx, error = self.near(gray)
        if 100 * error * error < bound:
            power = self._square(gy, gx)
            whole = not self.sigma and gray.dtype.itemsize == 1
            if whole and 2 * (_STEP[self.operator] * 255) ** 2 < 2**24:  # float32 holds all exactly
                return np.asarray(power > bound)
            margin = 2 * float(slack(bound, error))
            found: NDArray[np.bool_] = power > bound + margin
            doubtful = np.flatnonzero(found != (power > bound - margin))
            if len(doubtful) * 2 * self.radius < found.size:  # less work than all of them
                for part in _nearly.blocks(doubtful, 2 * self.radius + 1):
                    y, x = np.divmod(part, found.shape[1])
                    found[y, x] = self._square(*self.at(gray, y, x, 1))[0, :, 0] > bound
                return found
        if _nearly.is_flat(gray):
            return np.zeros([length - 2 * self.radius for length in gray.shape], np.bool_)
        return np.asarray(self._power(self._smoothed(gray)) > bound)

    def bound(self, fraction: float, frame: Pixels) -> float:
        """The squared magnitude that a step of a fraction of the contrast has in this frame."""
        step = _STEP[self.operator] * height(fraction, self.contrast, frame)
        square = step * step
        # Powers of integers compare alike with the integer below, which float64 holds exactly.
        exact = _gray.is_exact(frame.dtype, frame.shape[-1]) and not self.sigma
        return float(math.floor(square)) if exact else float(square)

    def masked(self, gy: NDArray[Any], gx: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """The responses with the one that was not asked for set to 0."""
        if self.direction == "horizontal":
            return gy, np.zeros_like(gx)
        if self.direction == "vertical":
            return np.zeros_like(gy), gx
        return gy, gx

    def near(self, image: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any], float]:
        """Responses (y, x) to gray with `radius` around it, nearly, and by how much they may be wrong.

        That is infinite where it is not known.
        """
        near = _nearly.Near.of(image)
        if near is None:
            return np.empty(0), np.empty(0), math.inf
        mean = _nearly.taps(_kernels.gaussian(self.sigma), 1) if self.sigma else np.ones(1)
        flat, steep = (np.convolve(mean, weights) for weights in _taps(self.operator))
        gy, error_y = near.filtered(steep, flat)
        gx, error_x = near.filtered(flat, steep)
        return *self.masked(gy, gx), max(error_y, error_x)

    def at(
        self, image: NDArray[Any], rows: NDArray[np.intp], columns: NDArray[np.intp], side: int
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Responses (side, m, side) around places, bit for bit as `field` has them.

        `image`: gray with as much around it as these need; a place is that of a window's first pixel.
        """
        size = side + 2 * self.radius
        smoothed = _nearly.windows(image, rows, columns, size)
        if self.sigma:
            weights = _kernels.gaussian(self.sigma)
            down = _nearly.across(_kernels.smooth(smoothed, weights, 0), size)
            smoothed = _kernels.smooth(down, weights, 1).reshape(side + 2, -1)
        # Side by side they are one image; what spans two of them is cut off.
        gy, gx = (
            np.pad(part, ((0, 0), (0, 2))).reshape(side, len(rows), side + 2)[..., :side]
            for part in self._both(smoothed)
        )
        return self.masked(gy, gx)

    def responses(self, gray: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Responses (y, x) across rows and across columns, to gray with `radius` around it."""
        return self.masked(*self._both(self._smoothed(gray)))

    def _smoothed(self, gray: NDArray[Any]) -> NDArray[Any]:
        """(y + 2, x + 2) of gray with `radius` around (y, x), in a dtype that holds every square."""
        if not self.sigma:
            return gray.astype(np.int32 if gray.dtype.itemsize == 1 else np.float64)
        return _kernels.blurred(gray.astype(np.float64), _kernels.gaussian(self.sigma))

    def _padded(self, frame: Pixels) -> NDArray[Any]:
        """Gray (y + 2, x + 2) of a frame (y, x, band), smoothed: with one pixel around it."""
        return self._smoothed(_kernels.pad(_gray.comparable(frame), self.radius))

    def _both(self, padded: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Responses (y, x) across rows and across columns, from (y + 2, x + 2)."""
        if self.operator == "roberts":
            upper, lower = padded[1:-1, 1:], padded[2:, 1:]
            down, total = lower - upper, lower + upper
            return down[:, :-1] + down[:, 1:], total[:, 1:] - total[:, :-1]
        side, middle = _SIDES[self.operator]
        down = padded[2:] - padded[:-2]
        right = padded[:, 2:] - padded[:, :-2]
        return (
            side * (down[:, :-2] + down[:, 2:]) + middle * down[:, 1:-1],
            side * (right[:-2] + right[2:]) + middle * right[1:-1],
        )

    def _power(self, padded: NDArray[Any]) -> NDArray[Any]:
        return self._square(*self._both(padded))

    def _square(self, gy: NDArray[Any], gx: NDArray[Any]) -> NDArray[Any]:
        out: NDArray[Any]
        if self.direction == "horizontal":
            out = gy * gy
        elif self.direction == "vertical":
            out = gx * gx
        else:
            out = gy * gy
            out += gx * gx
        return out


def _taps(operator: Operator) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Weights along an edge and across it, of the kernels above."""
    if operator == "roberts":
        return (0, 1, 1), (0, -1, 1)
    side, middle = _SIDES[operator]
    return (side, middle, side), (-1, 0, 1)


def slack(power: Any, error: float) -> Any:
    """By how much a float32 sum of two squares may be wrong, of numbers that are so by `error`."""
    return 2.83 * error * np.sqrt(power) + 2 * error * error + power * 2.0**-22


def height(fraction: float, contrast: float | None, frame: Pixels) -> Fraction:
    """A fraction of the contrast in units of `_gray.comparable`: 0.1 is taken as a tenth."""
    dtype, bands = frame.dtype, frame.shape[-1]
    scale = _gray.scale(bands) if _gray.is_exact(dtype, bands) else 1
    span = _gray.span(dtype) if contrast is None else Fraction(contrast)
    return Fraction(repr(float(fraction))) * span * scale
