"""The space in which distances between colours are measured.

`rgb` and `bands` take the values as they are. `hsv` and `lab` take 8 or 16 bit sRGB colours:

- hsv: (S cos H, S sin H, V), each of S and V in 0..1 as in Smith, "Color gamut transform pairs"
  (1978). The hue H is an angle, so reds on both sides of 0 degrees are neighbours, and grays, which
  have no hue (S = 0), lie together whatever H is.
- lab: CIE 1976 L*a*b* of sRGB (IEC 61966-2-1), white point D65, 2 degree observer.

Every value is computed from its own pixel alone, in float64, on contiguous arrays.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Space = Literal["rgb", "hsv", "lab", "bands"]
PLAIN: tuple[Space, ...] = ("rgb", "bands")
"""Spaces that take the values as they are."""
Floats = NDArray[np.float64]

# Linear sRGB to XYZ, and the white point, IEC 61966-2-1 and CIE 15.
XYZ = (
    (0.412453, 0.357580, 0.180423),
    (0.212671, 0.715160, 0.072169),
    (0.019334, 0.119193, 0.950227),
)
WHITE = (0.95047, 1.0, 1.08883)


def check_bands(space: Space, bands: int, dtype: np.dtype[Any]) -> None:
    """Raise ValueError where the space has no meaning for such pixels."""
    if dtype.kind not in "buif":
        raise ValueError(f"space: kmeans needs real numbers, the pixels are {dtype}")
    if space == "rgb" and bands not in (1, 3):
        raise ValueError(
            f"space: rgb needs 1 or 3 bands, the pixels have {bands}; use space: bands"
        )
    if space in ("hsv", "lab") and (bands != 3 or dtype not in (np.uint8, np.uint16)):
        raise ValueError(
            f"space: {space} needs 3 bands of uint8 or uint16,"
            f" the pixels have {bands} of {dtype}; use space: bands"
        )


def embedded(values: NDArray[Any], space: Space, dtype: np.dtype[Any]) -> Floats:
    """(dimension, m) float64 of colours values (m, band), in the range of dtype, in the space."""
    if space == "lab" and values.dtype == dtype:
        return _lab(linear_of(dtype.name).take(values.T))
    axes = values.T.astype(np.float64, order="C")
    if space in PLAIN:
        return axes
    axes /= np.iinfo(dtype).max
    return _hsv(axes) if space == "hsv" else _lab(_linear(axes))


def brightness(values: Floats) -> Floats:
    """(m,) gray value of colours (m, 3); the mean of any other number of bands."""
    gray: Floats = values.mean(axis=1)
    if values.shape[1] == 3:
        gray = values[:, 0] * 0.2125 + values[:, 1] * 0.7154 + values[:, 2] * 0.0721
    return gray


def _hsv(rgb: Floats) -> Floats:
    """(S cos H, S sin H, V) of rgb (3, m) in 0..1."""
    r, g, b = rgb
    value = np.maximum(np.maximum(r, g), b)
    chroma = value - np.minimum(np.minimum(r, g), b)
    safe = np.where(chroma > 0, chroma, 1)
    sixth = np.where(
        value == r,
        (g - b) / safe,
        np.where(value == g, 2 + (b - r) / safe, 4 + (r - g) / safe),
    )
    angle = sixth * (np.pi / 3)
    saturation = chroma / np.where(value > 0, value, 1)
    return np.stack([saturation * np.cos(angle), saturation * np.sin(angle), value])


def _linear(rgb: Floats) -> Floats:
    """Linear values of sRGB ones in 0..1."""
    return np.where(rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92)


@lru_cache(maxsize=2)
def linear_of(dtype: str) -> Floats:
    """Linear value of every value of an unsigned dtype."""
    top = np.iinfo(dtype).max
    table = _linear(np.arange(top + 1.0) / top)
    table.flags.writeable = False
    return table


def _lab(linear: Floats) -> Floats:
    """(L*, a*, b*) of linear sRGB (3, m)."""
    x, y, z = roots(linear)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def roots(linear: Floats) -> Floats:
    """(3, m) cube roots of X, Y and Z of linear sRGB (3, m), as parts of the white; linear when dark."""
    f = []
    for row, white in zip(XYZ, WHITE, strict=True):
        t = (linear[0] * row[0] + linear[1] * row[1] + linear[2] * row[2]) / white
        f.append(np.where(t > 216 / 24389, np.cbrt(t), (24389 / 27 * t + 16) / 116))
    return np.stack(f)
