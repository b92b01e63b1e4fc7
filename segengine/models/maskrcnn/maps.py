"""Instances of a frame to its maps and to the rows of `objects`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from segengine.instances.join import first_pixels
from segengine.instances.rle import encode_rle
from segengine.instances.rows import SCHEMA
from segengine.models.maskrcnn.postprocess import Instance

if TYPE_CHECKING:
    import pyarrow as pa


def draw(
    found: Sequence[Instance], shape: tuple[int, int], classes: int
) -> tuple[NDArray[Any], NDArray[np.uint32], pa.Table]:
    """Labels (y, x), ids (y, x) and objects of a frame's instances, which come best first.

    An instance without a pixel is dropped.
    """
    import pyarrow as pa

    kept = [(one, area) for one in found if (area := int(np.count_nonzero(one.cutout.mask)))]
    labels = np.zeros(shape, np.uint8 if classes < 256 else np.uint16)
    ranks = np.zeros(shape, np.int32)
    for rank in range(len(kept), 0, -1):
        one = kept[rank - 1][0]
        height, width = one.cutout.mask.shape
        at = np.s_[one.cutout.y : one.cutout.y + height, one.cutout.x : one.cutout.x + width]
        labels[at][one.cutout.mask] = one.label
        ranks[at][one.cutout.mask] = rank
    first = first_pixels(ranks, len(kept))[1:]
    # those that others hide wholly come last
    order = 1 + np.argsort(np.where(first < 0, ranks.size, first), kind="stable")
    ids = np.zeros(len(kept) + 1, np.uint32)
    ids[order] = np.arange(1, len(kept) + 1)
    rows: list[dict[str, Any]] = []
    for number, rank in enumerate(order.tolist(), start=1):
        one, area = kept[rank - 1]
        y1, x1, y2, x2 = one.box
        values = (
            number,
            one.label,
            one.score,
            [x1, y1, x2 - x1, y2 - y1],
            area,
            encode_rle(one.cutout.mask, (one.cutout.y, one.cutout.x), shape),
        )
        rows.append(dict(zip(SCHEMA.names, values, strict=True)))
    return labels, ids[ranks], pa.Table.from_pylist(rows, schema=SCHEMA)
