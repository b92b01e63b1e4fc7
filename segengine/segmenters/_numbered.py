"""Rows of small integers as one number each, their bands side by side."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def packed(rows: NDArray[Any], width: int, base: int = 0) -> NDArray[Any]:
    """(m,) the values less base of rows (m, band), side by side in `width` bits; 53 in all."""
    import cv2

    weights = np.ldexp(1.0, width * np.arange(rows.shape[1])[::-1])
    # Integers of so many bits are exact in whatever order they are added.
    narrow = ((1 << width) + 2 * abs(base)) * weights.sum() < 1 << 24
    floats: NDArray[np.floating[Any]]
    floats = np.ascontiguousarray(rows, np.float32 if narrow else np.float64)
    matrix = np.append(weights, -base * weights.sum())[None].astype(floats.dtype)
    codes: NDArray[Any] = cv2.transform(floats[:, None], matrix)
    return codes.reshape(-1)


def color_codes(pixels: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """r << 16 | g << 8 | b of colours (y, x, 3)."""
    import cv2

    bgra = cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_RGB2BGRA)
    code: NDArray[np.uint32] = bgra.view("<u4")[..., 0] & np.uint32(0xFFFFFF)
    return code


def colors_of(codes: NDArray[np.intp]) -> NDArray[np.intp]:
    """(m, 3) colours of such codes (m,)."""
    return np.stack([codes >> 16, codes >> 8 & 255, codes & 255], axis=1)
