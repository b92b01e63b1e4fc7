"""OpenCV's float32 filters where they decide, and the arithmetic of `_kernels` where they do not.

A mask asks of a filtered image only on which side of a bound it is. float32 answers that for nearly
all pixels, whatever the order, the machine and the place of a cut round away: how much that may be
is known. Those few that are in doubt are worked out from their own windows by `_kernels`, so that
the mask is the one that its arithmetic makes of every pixel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

_ROUNDING = {np.dtype(np.float32): 2.0**-24 * 1.01, np.dtype(np.float64): 2.0**-53 * 1.01}
"""Relative error of an operation, and a little for the products of errors."""
_LEAST, _MOST = 1e-25, 1e30
"""Between these nothing underflows or overflows."""
_BLOCK = 1 << 18
"""Values of windows worked out at a time."""


@dataclass(frozen=True, slots=True)
class Near:
    """An image less a number from its middle, so that more digits are left for what it shows."""

    image: Array
    """float32, or float64 where that leaves too many in doubt."""
    top: float
    """Greatest magnitude in it."""
    greatest: float
    """The same before the number was taken off."""

    @classmethod
    def of(cls, image: Array, dtype: type[np.float32 | np.float64] = np.float32) -> Near | None:
        """None of values that are not finite, too great or all too alike."""
        low, high = float(image.min()), float(image.max())
        greatest, span = max(-low, high), high - low
        if not (greatest < _MOST and span > _LEAST):  # NaN as well
            return None
        near = np.subtract(image, dtype(low + span / 2), dtype=dtype, casting="same_kind")
        return cls(near, max(-float(near.min()), float(near.max())), greatest)

    @property
    def rounding(self) -> float:
        """Relative error of an operation."""
        return _ROUNDING[self.image.dtype]

    def filtered(self, down: Array, right: Array) -> tuple[Array, float]:
        """Weighted sums along y and along x, "valid" size, and by how much each may be wrong.

        Wrong: other than `_kernels` finds for the image itself, less the number.
        """
        import cv2

        along_x, along_y = (weights.astype(self.image.dtype) for weights in (right, down))
        full = np.asarray(cv2.sepFilter2D(self.image, -1, along_x, along_y))
        y, x = len(down) // 2, len(right) // 2
        height, width = full.shape
        gain = float(np.abs(down).sum() * np.abs(right).sum())
        # Each term is rounded as often as there are terms, and so are its weights and itself.
        terms = len(down) + len(right) + 5
        error = terms * self.rounding * self.top + self.rounding * self.greatest
        # `_kernels` adds differences to twice and four times the greatest, in float64.
        error += 16 * terms * _ROUNDING[np.dtype(np.float64)] * self.greatest
        return full[y : height - y, x : width - x], gain * error


def flat(image: Array, size: int) -> NDArray[np.bool_]:
    """(y, x) of (y + size - 1, x + size - 1): where all of the size x size pixels are equal."""
    import cv2

    unlike = np.zeros(image.shape, np.uint8)
    unlike[:, :-1] = image[:, 1:] != image[:, :-1]
    unlike[:-1] |= image[1:] != image[:-1]
    # Its last row and column are compared beyond a window: all but its last pixel is known without.
    count = cv2.boxFilter(unlike, cv2.CV_32S, (size - 1, size - 1), None, (0, 0), False)
    height, width = (length - size + 1 for length in image.shape)
    last = image[size - 1 :, size - 1 :] == image[size - 2 : -1, size - 1 :]
    return np.asarray((np.asarray(count)[:height, :width] == 0) & last)


def is_flat(image: Array) -> bool:
    """All pixels are equal, and finite."""
    low, high = float(image.min()), float(image.max())
    return low == high and abs(high) < np.inf


def taps(weights: tuple[float, ...], total: float) -> Array:
    """All weights of a symmetric filter that sum to `total`, from those at distance 1, 2, ..."""
    side = np.array(weights)
    return np.concatenate([side[::-1], [total - 2 * side.sum()], side])


def blocks(places: NDArray[np.intp], size: int) -> list[NDArray[np.intp]]:
    """Cut places so that their windows of `size` x `size`, some at a time, fit the cache."""
    step = max(1, _BLOCK // size**2)
    return [places[start : start + step] for start in range(0, len(places), step)]


def windows(image: Array, rows: NDArray[np.intp], columns: NDArray[np.intp], size: int) -> Array:
    """(size, m x size) float64: the windows whose first pixels are those, side by side."""
    runs = np.lib.stride_tricks.sliding_window_view(image, size, axis=1)
    below = np.arange(size)[:, None]
    return np.asarray(runs[rows + below, columns], np.float64).reshape(size, -1)


def across(sums: Array, size: int) -> Array:
    """(rows x m, size) for a step along x, of what a step along y has made of `windows`."""
    return sums.reshape(-1, size)
