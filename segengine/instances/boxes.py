"""Box, area and run lengths of objects as plain values, which a worker finds without pyarrow."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from segengine.instances.rle import encode_rle, encode_stretches, stretches_in


def row_of(
    number: int,
    kind: int,
    score: float,
    mask: NDArray[Any],
    corner: tuple[int, int],
    size: tuple[int, int],
) -> dict[str, Any]:
    """A row of `objects`: a mask (y, x) whose first pixel is `corner` of a frame of `size`."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    y, x = int(rows[0]) + corner[0], int(columns[0]) + corner[1]
    return {
        "id": number,
        "class": kind,
        "score": score,
        "bbox": [x, y, int(columns[-1] - columns[0]) + 1, int(rows[-1] - rows[0]) + 1],
        "area": int(np.count_nonzero(mask)),
        "rle": encode_rle(mask, corner, size),
    }


class Shown(NamedTuple):
    """Objects of a map, in order of their numbers."""

    numbers: NDArray[np.int64]
    boxes: NDArray[np.int64]
    """(object, 4) x, y, width, height in the frame."""
    areas: NDArray[np.int64]
    rles: list[str]


def shown_in(ids: NDArray[Any], corner: tuple[int, int], size: tuple[int, int]) -> Shown:
    """The objects of a map (y, x) at `corner` of a frame of `size`; all of each follows from its runs."""
    found = stretches_in(ids)
    first = np.flatnonzero(np.diff(found.owner, prepend=0))
    each = np.diff(first, append=len(found.owner))
    if not len(first):
        return Shown(first, np.zeros((0, 4), np.int64), first, [])
    x, stop = found.column[first], found.column[first + each - 1] + 1
    y = np.minimum.reduceat(found.top, first)
    bottom = np.maximum.reduceat(found.top + found.length, first)
    return Shown(
        numbers=found.owner[first],
        boxes=np.stack([x + corner[1], y + corner[0], stop - x, bottom - y], axis=1),
        areas=np.add.reduceat(found.length, first),
        rles=encode_stretches(found, each, len(ids), corner, size),
    )


def objects_in(
    ids: NDArray[Any], corner: tuple[int, int], size: tuple[int, int]
) -> dict[int, dict[str, Any]]:
    """Box, area and run lengths of each object of a map (y, x) at `corner` of a frame of `size`, by id."""
    shown = shown_in(ids, corner, size)
    columns = (shown.numbers.tolist(), shown.boxes.tolist(), shown.areas.tolist(), shown.rles)
    return {
        number: {"bbox": box, "area": area, "rle": rle}
        for number, box, area, rle in zip(*columns, strict=True)
    }
