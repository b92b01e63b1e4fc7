"""Colour and gray, the same for every source that decodes pictures."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Color = Literal["gray", "rgb"]
WEIGHTS = (2125, 7154, 721)
"""Of R, G, B in gray, in 1/10,000: scikit-image's `rgb2gray` (ITU-R BT.709 luma of CRT colours)."""


def require_color(color: object) -> None:
    """Raise ValueError for what is not a value of the option `color`."""
    if color not in (None, "gray", "rgb"):
        raise ValueError(f"color: is {color!r}; it must be gray or rgb")


def bands_of(bands: int, color: Color | None) -> int:
    """Number of bands after `recolor`."""
    return {None: bands, "gray": 1, "rgb": 3}[color]


def recolor(pixels: NDArray[Any], color: Color | None) -> NDArray[Any]:
    """(y, x, 1 or 3) -> the colour asked for, in the same dtype."""
    if color == "gray" and pixels.shape[-1] == 3:
        return gray(pixels)
    if color == "rgb" and pixels.shape[-1] == 1:
        return np.repeat(pixels, 3, axis=-1)
    return pixels


def gray(pixels: NDArray[Any]) -> NDArray[Any]:
    """(y, x, 3) -> (y, x, 1) in the same dtype: the weighted sum of R, G, B.

    Integers: exact, then rounded to the nearest, half to even as `round` does. Floats: float64
    arithmetic, element by element, so that no pixel depends on its neighbours or the array's shape.

    >>> gray(np.array([[[255, 0, 0], [7, 7, 7]]], np.uint8)).tolist()
    [[[54], [7]]]
    """
    red, green, blue = (pixels[..., i : i + 1] for i in range(3))
    r, g, b = WEIGHTS
    if pixels.dtype.kind == "f":
        total = red.astype(np.float64) * r + green.astype(np.float64) * g
        return ((total + blue.astype(np.float64) * b) / 10_000).astype(pixels.dtype)
    # 16-bit sums reach 655 million: they fit 32 bits.
    wide = np.int32 if pixels.dtype.itemsize <= 2 else np.int64
    sums: NDArray[Any] = red.astype(wide) * r
    sums += green.astype(wide) * g
    sums += blue.astype(wide) * b
    low, rest = np.divmod(sums, 10_000)
    low += (rest > 5000) | ((rest == 5000) & (low % 2 == 1))
    return low.astype(pixels.dtype)
