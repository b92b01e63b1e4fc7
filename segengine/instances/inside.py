"""Objects cut at the border of what counts of a frame: an area of interest."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from segengine.instances.rle import decode_crop, encode_rle
from segengine.types import Bool


def objects_inside(objects: pa.Table, inside: Bool) -> pa.Table:
    """Rows of `objects` with the pixels of a frame (y, x) that count alone; those of none are left out.

    What has a box and no outline stays as it is where its centre counts.
    """
    rows = []
    for row in objects.to_pylist():
        if not row["rle"]:
            if _centre_counts(row["bbox"], inside):
                rows.append(row)
            continue
        mask, (y, x) = decode_crop(row["rle"], inside.shape[0])
        height, width = mask.shape
        own = mask & inside[y : y + height, x : x + width]
        area = int(own.sum())
        if not area:
            continue
        if area < int(mask.sum()):
            ys, xs = np.flatnonzero(own.any(axis=1)), np.flatnonzero(own.any(axis=0))
            box = [x + xs[0], y + ys[0], xs[-1] + 1 - xs[0], ys[-1] + 1 - ys[0]]
            rle = encode_rle(own, (y, x), (inside.shape[0], inside.shape[1]))
            row = row | {"bbox": [float(v) for v in box], "area": area, "rle": rle}
        rows.append(row)
    return pa.Table.from_pylist(rows, schema=objects.schema)


def _centre_counts(box: list[float], inside: Bool) -> bool:
    x, y, width, height = box
    row, column = int(y + height / 2), int(x + width / 2)
    within = 0 <= row < inside.shape[0] and 0 <= column < inside.shape[1]
    return within and bool(inside[row, column])
