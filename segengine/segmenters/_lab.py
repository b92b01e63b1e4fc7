"""CIE L*a*b* of whole frames of sRGB, fast: the cube roots come from a table, right to 0.003.

`_colorspace` has the definition, and all digits.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segengine.compiled import compiled
from segengine.segmenters._colorspace import WHITE, XYZ, linear_of
from segengine.types import Pixels

Array = NDArray[Any]
_STEPS = 4096
"""Of the table, from 0 to 1: what a white pixel has of X, Y and Z."""


def lab(frame: Pixels, top: float | None = None) -> NDArray[np.float32]:
    """(3, y, x) L*, a* and b* of a frame (y, x, 3) of sRGB, uint8 or uint16; `top`: what is white."""
    out = np.empty((3, *frame.shape[:2]), np.float32)
    white = (np.array(XYZ) / np.array(WHITE)[:, None]).astype(np.float32)
    linear = linear_of(frame.dtype.name).astype(np.float32)
    if top is not None:
        most = len(linear) - 1
        linear = linear[
            np.minimum(np.rint(np.arange(most + 1) * (most / top)), most).astype(np.intp)
        ]
    _convert(frame, linear, white, _roots(), out)
    return out


@lru_cache(maxsize=1)
def _roots() -> NDArray[np.float32]:
    """(step,) cube roots, straight below the sixth part of 6/29 as CIE has them; and one beyond 1."""
    t = np.arange(_STEPS + 2) / _STEPS
    table = np.where(t > 216 / 24389, np.cbrt(t), (24389 / 27 * t + 16) / 116).astype(np.float32)
    table.flags.writeable = False
    return table


@compiled
def _convert(frame: Array, linear: Array, white: Array, roots: Array, out: Array) -> None:
    """Fill out (3, y, x) with L*, a* and b*."""
    height, width = frame.shape[:2]
    parts = np.empty(3, np.float32)
    for y in range(height):
        for x in range(width):
            red, green, blue = (
                linear[frame[y, x, 0]],
                linear[frame[y, x, 1]],
                linear[frame[y, x, 2]],
            )
            for k in range(3):
                t = red * white[k, 0] + green * white[k, 1] + blue * white[k, 2]
                at = min(max(t, np.float32(0)), np.float32(1)) * np.float32(_STEPS)
                step = int(at)
                share = at - np.float32(step)
                parts[k] = roots[step] + (roots[step + 1] - roots[step]) * share
            out[0, y, x] = np.float32(116) * parts[1] - np.float32(16)
            out[1, y, x] = np.float32(500) * (parts[0] - parts[1])
            out[2, y, x] = np.float32(200) * (parts[1] - parts[2])
