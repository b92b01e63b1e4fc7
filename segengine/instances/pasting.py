"""Small masks to pixels of a frame: bilinear samples between the centres of a mask's values."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
THRESHOLD = 0.5
"""Of a soft mask: at and above it is the object."""


def steps(old: int, new: int, start: int, stop: int) -> Floats:
    """Where the pixels [start, stop) of `old` values resized to `new` lie among the old ones."""
    return ((np.arange(start, stop) + 0.5) * (old / new) - 0.5).astype(np.float32)


def resized(image: Floats, y: Floats, x: Floats) -> Floats:
    """Bilinear samples of (y, x) at the crossings of rows y and columns x, both inside the image."""
    return _lerp(_lerp(image, y).T, x).T


def held(image: Floats, y: Floats, x: Floats) -> Floats:
    """The same; beyond the centres of the outermost values these go on."""
    return resized(image, np.clip(y, 0, len(image) - 1), np.clip(x, 0, image.shape[1] - 1))


def paste(
    mask: Floats, box: NDArray[np.float32], size: tuple[int, int]
) -> tuple[tuple[int, int], NDArray[np.bool_]]:
    """Corner and mask, in pixels, of a box's soft mask (m, m) on a frame of a size.

    box: y1, x1, y2, x2 in pixels of the frame. As torchvision's `paste_masks_in_image` does it: the mask
    gets a border of zeros, the box grows alike and is cut to whole pixels; 0.5 and above is the object.
    """
    padded = np.pad(mask, 1)
    scale = np.float32(len(padded) / len(mask))
    half = (box[2:] - box[:2]) * np.float32(0.5) * scale
    centre = (box[2:] + box[:2]) * np.float32(0.5)
    y1, x1 = (centre - half).astype(np.int64).tolist()  # cut towards 0, as published
    y2, x2 = (centre + half).astype(np.int64).tolist()
    rows = slice(max(y1, 0), max(y1, 0, min(y2 + 1, size[0])))
    cols = slice(max(x1, 0), max(x1, 0, min(x2 + 1, size[1])))
    y, x = (
        steps(len(padded), max(last - first + 1, 1), part.start - first, part.stop - first)
        for first, last, part in ((y1, y2, rows), (x1, x2, cols))
    )
    return (rows.start, cols.start), held(padded, y, x) >= THRESHOLD


def _lerp(image: Floats, at: Floats) -> Floats:
    low = np.clip(at.astype(np.int64), 0, max(len(image) - 2, 0))
    weight = (at - low)[:, None].astype(np.float32)
    return image[low] * (1 - weight) + image[np.minimum(low + 1, len(image) - 1)] * weight
