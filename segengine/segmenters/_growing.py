"""Regions that grow over an image pixel by pixel, all at once, while colours are near theirs.

In a round each pixel that no region has and that has one beside it goes to the region, of those beside it
before the round, whose colour is nearest to its own; on ties to the one of the least number. It never
changes hands, so each region is one 4-connected piece, and after n rounds what a pixel belongs to
follows from the pixels within n steps of it.

Colours are float32, and distances sums over the bands in a fixed order.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from segengine.compiled import compiled
from segengine.types import Pixels

Array = NDArray[Any]
_FURTHEST = np.float32(1e9)
"""What greater values count as: their squares can be added up."""
UNBOUNDED = 1 << 40
"""Rounds that end when nothing grows any more."""


def top_of(dtype: np.dtype[Any]) -> int:
    """What a dtype's range ends with: its greatest value; 1 of floats."""
    return int(np.iinfo(dtype).max) if dtype.kind in "iu" else 1


def planes(frame: Pixels, scale: float = 1) -> NDArray[np.float32]:
    """(band, y, x) of a frame (y, x, band), times `scale`."""
    out = np.empty((frame.shape[2], *frame.shape[:2]), np.float32)
    with np.errstate(over="ignore"):
        np.multiply(np.moveaxis(frame, -1, 0), np.float32(scale), out=out, casting="unsafe")
    if frame.dtype.kind == "f" or scale > 1:
        np.clip(out, -_FURTHEST, _FURTHEST, out=out)
    return out


def grow(
    values: NDArray[np.float32],
    ids: NDArray[np.int32],
    colors: NDArray[np.float32],
    limit: float,
    rounds: int,
) -> None:
    """Let the ids (y, x), from 1 on, take what is 0 in so many rounds; below 0 is nobody's.

    `values` (band, y, x), `colors` (id, band), `limit`: greatest squared distance from one to the other.
    """
    bands = values.shape[0]
    room = int(np.count_nonzero(ids == 0))
    if not room:
        return
    dtype = np.int32 if ids.size < 1 << 31 else np.int64
    shore, later = np.empty(ids.size, dtype), np.empty(room, dtype)
    count = _shore(ids, shore)
    _grow(
        values.reshape(bands, -1), ids.reshape(-1), ids.shape[1], colors, limit, rounds,
        shore, count, later,
    )  # fmt: skip


@compiled
def _shore(ids: Array, out: Array) -> int:
    """Places of the ids (y, x) that have a pixel of nobody beside them, and how many these are."""
    height, width = ids.shape
    count = 0
    for y in range(height):
        for x in range(width):
            if ids[y, x] > 0 and (
                (y > 0 and ids[y - 1, x] == 0)
                or (y + 1 < height and ids[y + 1, x] == 0)
                or (x > 0 and ids[y, x - 1] == 0)
                or (x + 1 < width and ids[y, x + 1] == 0)
            ):
                out[count] = y * width + x
                count += 1
    return count


@compiled
def _grow(
    values: Array, ids: Array, width: int, colors: Array, limit: float, rounds: int,
    shore: Array, size: int, later: Array,
) -> None:  # fmt: skip
    """Grow ids (place,) from the first `size` places of the shore; `later` holds as many as are free."""
    bands, places = values.shape
    bound = np.float32(limit)
    wanted = np.zeros(places, np.int32)  # who is to have a pixel at the end of the round
    near = np.empty(places, np.float32)
    for _ in range(rounds):
        count = 0
        for at in range(size):
            place = shore[at]
            region = ids[place]
            column = place % width
            for side in range(4):
                if side == 0:
                    if place < width:
                        continue
                    other = place - width
                elif side == 1:
                    if column == 0:
                        continue
                    other = place - 1
                elif side == 2:
                    if column == width - 1:
                        continue
                    other = place + 1
                else:
                    other = place + width
                    if other >= places:
                        continue
                if ids[other] != 0:
                    continue
                far = np.float32(0)
                for band in range(bands):
                    off = values[band, other] - colors[region, band]
                    far += off * off
                if not far <= bound:  # NaN as well
                    continue
                before = wanted[other]
                if before == 0:
                    later[count] = other
                    count += 1
                if before == 0 or far < near[other] or (far == near[other] and region < before):
                    wanted[other] = region
                    near[other] = far
        if count == 0:
            break
        for at in range(count):
            place = later[at]
            ids[place] = wanted[place]
            shore[at] = place
        size = count
