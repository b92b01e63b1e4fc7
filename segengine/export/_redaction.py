"""Redaction: what a picture shows of some pixels is taken out of it, before it is encoded.

    region        grown by a margin, each connected part by itself
    part's box    at most 4 x 4 means, none of fewer than 16 pixels a side, in steps of 32 grey levels
    picture       those means, blended into one another, in the place of the part's pixels

So much, or little, is left of an object in a frame: 16 colours of 9 bits, whatever its size. A blur of
fixed width or a mosaic of fixed cells can be undone for large objects, and over many frames.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from segengine.types import Bool

CELLS = 4
"""Means along each side of an object's box, at most."""
CELL = 16
"""Least side of what one mean is of, in pixels."""
_STEP = 32
"""Grey levels that become one."""


def margin_of(height: int, width: int) -> int:
    """By how many pixels a region grows in a picture: outlines are not exact, and codecs bleed."""
    return max(4, round(min(height, width) / 100))


def redact(picture: NDArray[np.uint8], region: Bool) -> None:
    """Replace the pixels of a region (y, x) and its margin in a picture (y, x, 3), in place."""
    import cv2

    if not region.any():
        return
    side = 2 * margin_of(*region.shape) + 1
    grown = cv2.dilate(region.view(np.uint8), np.ones((side, side), np.uint8))
    _, parts, boxes, _ = cv2.connectedComponentsWithStats(grown, connectivity=8)
    whole = picture.copy()  # a part's means are of the picture as it was
    for number, (x, y, wide, high, _) in enumerate(boxes.tolist()):
        if number == 0:
            continue
        box = slice(y, y + high), slice(x, x + wide)
        cells = tuple(min(CELLS, max(1, length // CELL)) for length in (wide, high))
        means = cv2.resize(whole[box], cells, interpolation=cv2.INTER_AREA)
        means = means // _STEP * _STEP + _STEP // 2
        blurred = cv2.resize(means, (wide, high), interpolation=cv2.INTER_LINEAR)
        own = parts[box] == number
        picture[box][own] = blurred[own]
