"""Objects that a network found on a frame, to its maps and to the rows of `objects`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segengine.instances.join import first_pixels
from segengine.types import Prediction


@dataclass(frozen=True, slots=True)
class Found:
    """One object of a frame."""

    label: int
    """Index into the classes."""
    score: float
    box: tuple[float, float, float, float]
    """x, y, width, height in pixels."""
    corner: tuple[int, int]
    """Row and column of the mask's first pixel."""
    mask: NDArray[np.bool_]


def predicted(frames: Sequence[list[Found]], size: tuple[int, int], classes: int) -> Prediction:
    """Labels and instances (n, y, x) of the objects of frames of a size, and one row an object.

    The objects of a frame come best first. `objects` of more than one frame has a further column,
    `frame`, from 0 on.
    """
    from segengine.instances.rows import of_frames

    shape = len(frames), *size
    labels = np.zeros(shape, np.uint8 if classes <= 256 else np.uint16)
    instances = np.zeros(shape, np.uint32)
    tables = []
    for i, found in enumerate(frames):
        ids = draw(found, labels[i], instances[i])
        tables.append(_table(found, ids, size))
    return Prediction(labels, instances=instances, objects=of_frames(tables))


def draw(
    found: list[Found], labels: NDArray[Any], instances: NDArray[np.uint32]
) -> NDArray[np.int64]:
    """Draw the objects of a frame, the best on top; -> id of each, by first pixel in raster order.

    One that is wholly covered gets an id after those that are seen.
    """
    drawn = np.zeros(labels.shape, np.int32)
    for number, item in reversed(list(enumerate(found, 1))):
        y, x = item.corner
        at = slice(y, y + item.mask.shape[0]), slice(x, x + item.mask.shape[1])
        labels[at][item.mask] = item.label
        drawn[at][item.mask] = number
    first = first_pixels(drawn, len(found))[1:]
    ids = np.zeros(len(found) + 1, np.int64)
    order = np.argsort(np.where(first < 0, drawn.size, first), kind="stable")
    ids[1 + order] = np.arange(1, len(found) + 1)
    instances[...] = ids[drawn]
    return ids[1:]


def _table(found: list[Found], ids: NDArray[np.int64], size: tuple[int, int]) -> Any:
    import pyarrow as pa

    from segengine.instances.rle import encode_rle
    from segengine.instances.rows import SCHEMA

    rows = [
        {
            "id": int(ids[i]),
            "class": item.label,
            "score": item.score,
            "bbox": list(item.box),
            "area": int(item.mask.sum()),
            "rle": encode_rle(item.mask, item.corner, size),
        }
        for i, item in sorted(enumerate(found), key=lambda pair: int(ids[pair[0]]))
    ]
    return pa.Table.from_pylist(rows, schema=SCHEMA)
