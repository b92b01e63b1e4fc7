"""Instance ids to the rows of `objects`: class, score, box, area and COCO's compressed run lengths."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

SCHEMA = pa.schema(
    [
        ("id", pa.uint32()),
        ("class", pa.uint16()),
        ("score", pa.float32()),
        ("bbox", pa.list_(pa.float32(), 4)),
        ("area", pa.int64()),
        ("rle", pa.string()),
    ]
)
"""Columns of `objects`; bbox is COCO's x, y, width, height in pixels."""
TABLE_SCHEMA = pa.schema([("scene", pa.string()), ("frame", pa.int64()), *SCHEMA])
"""Columns of `tables/instances.parquet`."""
KEY = "records/+instances"


def compress_runs(runs: NDArray[np.int64]) -> str:
    """COCO's compressed counts of alternating run lengths, zeros first.

    From the third run on the difference to the run two before is written, in groups of five bits,
    lowest first, with a continuation bit; each group is a character from code 48 on (the format of
    cocodataset/cocoapi, `rleToString`).
    """
    values = runs.copy()
    values[3:] -= runs[1:-2]
    text = bytearray()
    for value in values.tolist():
        while True:
            group = value & 0x1F
            value >>= 5
            more = value != (-1 if group & 0x10 else 0)
            text.append(48 + (group | 0x20 if more else group))
            if not more:
                break
    return text.decode("ascii")


def encode_rle(mask: NDArray[Any], origin: tuple[int, int], size: tuple[int, int]) -> str:
    """Compressed counts, column by column, of a mask (y, x) whose corner lies at `origin` of `size`."""
    height = size[0]
    columns, rows = np.nonzero(mask.T)
    flat = (columns.astype(np.int64) + origin[1]) * height + rows + origin[0]
    starts = flat[np.r_[True, np.diff(flat) != 1]] if flat.size else flat
    stops = flat[np.r_[np.diff(flat) != 1, True]] + 1 if flat.size else flat
    edges = np.stack([starts, stops], axis=1).reshape(-1)
    runs = np.diff(np.r_[0, edges, size[0] * size[1]])
    if edges.size and edges[-1] == size[0] * size[1]:
        runs = runs[:-1]
    return compress_runs(runs)


def objects_of(instances: NDArray[np.uint32], labels: NDArray[Any]) -> pa.Table:
    """One row for each id of a frame (y, x), in order of the ids; its class is its first pixel's label."""
    from scipy.ndimage import find_objects

    size = instances.shape
    ids, first, dense = np.unique(instances, return_index=True, return_inverse=True)
    dense = dense.reshape(size)
    keep = ids > 0
    boxes = find_objects(dense + 1) if ids.size else []
    rows: dict[str, list[Any]] = {name: [] for name in SCHEMA.names}
    areas = np.bincount(dense.reshape(-1), minlength=len(ids))
    for index in np.flatnonzero(keep):
        ys, xs = boxes[index]
        mask = dense[ys, xs] == index
        rows["id"].append(int(ids[index]))
        rows["class"].append(int(labels.reshape(-1)[first[index]]))
        rows["score"].append(1.0)
        rows["bbox"].append([xs.start, ys.start, xs.stop - xs.start, ys.stop - ys.start])
        rows["area"].append(int(areas[index]))
        rows["rle"].append(encode_rle(mask, (ys.start, xs.start), (size[0], size[1])))
    return pa.table(rows, schema=SCHEMA)


def rows_key(scene: str, place: tuple[int, ...]) -> str:
    """Where a shard's rows lie until they are published."""
    return f"{KEY}/{scene}/{'.'.join(map(str, place))}"


def to_bytes(table: pa.Table) -> bytes:
    """A table as parquet."""
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def with_frame(objects: pa.Table, scene: str, frame: int) -> pa.Table:
    """Rows of one frame as rows of `tables/instances.parquet`."""
    count = objects.num_rows
    columns = [pa.array([scene] * count, pa.string()), pa.array([frame] * count, pa.int64())]
    columns += [objects.column(name).cast(SCHEMA.field(name).type) for name in SCHEMA.names]
    return pa.table(columns, schema=TABLE_SCHEMA)
