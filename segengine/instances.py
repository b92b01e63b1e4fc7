"""Instance ids to the rows of `objects`: class, score, box, area and COCO's compressed run lengths."""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from segengine.objects import Objects

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
PART = pa.field("part", pa.bool_())
"""True: a part of an object that lies in other shards too."""
TABLE_SCHEMA = pa.schema([("scene", pa.string()), ("frame", pa.int64()), *SCHEMA])
"""Columns of `tables/instances.parquet`."""
ROWS_SCHEMA = TABLE_SCHEMA.append(PART)
"""Columns of a shard's own rows."""
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


def decompress_runs(text: str) -> NDArray[np.int64]:
    """The alternating run lengths, zeros first, behind COCO's compressed counts."""
    runs: list[int] = []
    value = shift = 0
    for code in text.encode("ascii"):
        group = code - 48
        value |= (group & 0x1F) << shift
        shift += 5
        if not group & 0x20:
            if group & 0x10:
                value -= 1 << shift
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    return np.asarray(runs, np.int64)


def decode_rle(text: str, size: tuple[int, int]) -> NDArray[np.bool_]:
    """The mask (y, x) behind compressed counts. Raises ValueError where they are of another size."""
    runs = decompress_runs(text)
    if runs.sum() != size[0] * size[1]:
        raise ValueError(f"rle: is of {runs.sum()} pixels, not of {size[0]} x {size[1]}")
    flat = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    mask: NDArray[np.bool_] = flat.reshape(size[1], size[0]).T
    return mask


def _intervals(text: str) -> NDArray[np.int64]:
    """(n, 2) start and stop of the runs of ones, down the columns."""
    ends = np.cumsum(decompress_runs(text))
    return np.stack([ends[0:-1:2], ends[1::2]], axis=1) if len(ends) > 1 else np.zeros((0, 2), int)


def union_rle(texts: list[str], size: tuple[int, int]) -> str:
    """Compressed counts of masks that share no pixel, as one."""
    found = np.concatenate([_intervals(text) for text in texts])
    found = found[found[:, 1] > found[:, 0]]
    found = found[np.argsort(found[:, 0])]
    apart = found[1:, 0] != found[:-1, 1]
    starts, stops = found[np.r_[True, apart], 0], found[np.r_[apart, True], 1]
    edges = np.stack([starts, stops], axis=1).reshape(-1)
    runs = np.diff(np.r_[0, edges, size[0] * size[1]])
    return compress_runs(runs[:-1] if runs[-1] == 0 else runs)


def renumbered_objects(objects: pa.Table, new: dict[int, int]) -> pa.Table:
    """The table with new ids, in their order; objects that no pixel shows come last."""
    given = objects.column("id").to_pylist()
    hidden = (i for i in given if i not in new)
    last = max(new.values(), default=0)
    ids = new | {old: last + 1 + k for k, old in enumerate(hidden)}
    column = pa.array([ids[i] for i in given], pa.uint32())
    place = objects.schema.get_field_index("id")
    return objects.set_column(place, "id", column).sort_by("id")


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


def merged(rows: pa.Table, size: tuple[int, int]) -> pa.Table:
    """A frame's rows from all its shards, the parts of an object made one, in order of the ids."""
    import pyarrow.compute as pc

    whole = rows.filter(pc.invert(rows.column("part"))).drop_columns("part")
    parts: dict[int, list[dict[str, Any]]] = {}
    for row in rows.filter(rows.column("part")).to_pylist():
        parts.setdefault(row["id"], []).append(row)
    joined = []
    for group in parts.values():
        boxes = np.array([row["bbox"] for row in group])
        corner, far = boxes[:, :2].min(axis=0), (boxes[:, :2] + boxes[:, 2:]).max(axis=0)
        one = {
            "bbox": [*corner.tolist(), *(far - corner).tolist()],
            "area": sum(row["area"] for row in group),
            "rle": union_rle([row["rle"] for row in group], size),
        }
        joined.append({k: v for k, v in group[0].items() if k != "part"} | one)
    more = pa.Table.from_pylist(joined, schema=whole.schema)
    return pa.concat_tables([whole, more]).sort_by("id")


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


def shard_rows(objects: Objects, scene: str, places: Iterable[tuple[int, ...]]) -> pa.Table:
    """The rows of shards, one after the other; a shard without any has none."""
    found = [ROWS_SCHEMA.empty_table()]
    for place in places:
        data = objects.get(rows_key(scene, place))
        if data is not None:
            found.append(pq.read_table(io.BytesIO(data)))
    return pa.concat_tables(found)


def to_bytes(table: pa.Table) -> bytes:
    """A table as parquet."""
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def with_frame(objects: pa.Table, scene: str, frame: int, part: Any = None) -> pa.Table:
    """Objects of one frame as rows of a shard; `part` (row,): which of them are only a part."""
    count = objects.num_rows
    columns = [pa.array([scene] * count, pa.string()), pa.array([frame] * count, pa.int64())]
    columns += [objects.column(name).cast(SCHEMA.field(name).type) for name in SCHEMA.names]
    columns.append(pa.array([False] * count if part is None else part, pa.bool_()))
    return pa.table(columns, schema=ROWS_SCHEMA)
