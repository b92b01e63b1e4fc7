"""Box, area and run lengths of objects as plain values, which a worker finds without pyarrow."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from segengine.instances.rle import encode_rle, encode_rles


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


def objects_in(
    ids: NDArray[np.int32], corner: tuple[int, int], size: tuple[int, int]
) -> dict[int, dict[str, Any]]:
    """Box, area and run lengths of each object of a map (y, x) at `corner` of a frame of `size`, by id."""
    from scipy.ndimage import find_objects

    boxes = find_objects(ids)
    areas = np.bincount(ids.reshape(-1), minlength=len(boxes) + 1).tolist()
    texts = encode_rles(ids, len(boxes), corner, size)
    found = {}
    for number, box in enumerate(boxes, 1):
        if box is not None:  # that number is not in the map
            y, x = box
            bbox = [x.start + corner[1], y.start + corner[0], x.stop - x.start, y.stop - y.start]
            found[number] = {"bbox": bbox, "area": areas[number], "rle": texts[number - 1]}
    return found
