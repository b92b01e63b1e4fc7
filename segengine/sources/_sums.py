"""Sums of deflated blocks of a TIFF (Adler-32, RFC 1950), taken of pixels that are decoded already."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segengine.sources import _tiff

SIZE = 4
"""Bytes of a sum, the last of a block."""


def as_stored(page: _tiff.Blocks, pixels: NDArray[Any]) -> NDArray[Any] | None:
    """Pixels (y, x, sample) as they were before they were deflated; None: that is not known.

    `pixels`: that begin where a block does. Rows and columns are those of the pixels, whatever the bytes
    of a predicted float mean; of blocks that are cut on the right these are none.
    """
    size = pixels.dtype.itemsize
    if size * 8 != page.bits or page.turned or page.predictor > 3:
        return None
    if page.predictor == 3:
        return _apart(page, pixels) if pixels.dtype.kind == "f" else None
    native = pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
    whole = native.view(f"u{size}")
    if page.predictor == 2:
        stored = np.empty_like(whole)
        np.subtract(whole[:, 1:], whole[:, :-1], out=stored[:, 1:])
        stored[:, :: page.cols] = whole[:, :: page.cols]  # each block begins anew
        whole = stored
    order: Any = page.order
    return whole.astype(whole.dtype.newbyteorder(order), copy=False)


def _apart(page: _tiff.Blocks, pixels: NDArray[Any]) -> NDArray[Any]:
    """Of each row of a block the highest bytes of all values, then the next ones, as differences.

    Adobe Photoshop TIFF Technical Note 3 (2005).
    """
    rows, width, samples = pixels.shape
    size, cols = pixels.dtype.itemsize, min(page.cols, width)
    blocks = width // cols
    values = np.ascontiguousarray(pixels[:, : blocks * cols], pixels.dtype.newbyteorder(">"))
    split = values.view(np.uint8).reshape(rows, blocks, cols * samples, size)
    planes = np.ascontiguousarray(split.swapaxes(2, 3)).reshape(rows, blocks, -1)
    stored = np.empty_like(planes)
    np.subtract(planes[..., samples:], planes[..., :-samples], out=stored[..., samples:])
    stored[..., :samples] = planes[..., :samples]
    whole = stored.reshape(rows, blocks * cols, samples * size)
    if blocks * cols == width:
        return whole
    found = np.zeros((rows, width, samples * size), np.uint8)
    found[:, : blocks * cols] = whole
    return found


def is_summed(stored: NDArray[Any], end: bytes) -> bool:
    """Whether a block of such pixels ends as its sum does."""
    plain: Any = np.ascontiguousarray(stored)
    return zlib.adler32(plain) == int.from_bytes(end, "big")
