"""Instance ids to the rows of `objects`: class, score, box, area and COCO's compressed run lengths."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from segengine.errors import DamagedStoreError
from segengine.instances.join import first_pixels, renumber
from segengine.store.blobs import Objects
from segengine.store.keys import rows_key
from segengine.store.parquet import read_parquet
from segengine.store.seals import CHANGED, MISSING, closed, opened
from segengine.types import Place

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
FRAME = pa.field("frame", pa.int64())
"""Of the objects of a prediction of several frames: which one, from 0 on."""
PART = pa.field("part", pa.bool_())
"""True: a part of an object that lies in other shards too."""
CUT = pa.field("cut", pa.bool_())
"""True: it goes on beyond its pixels, in a shard whose window disagrees."""
_PLACED = pa.schema([("scene", pa.string()), ("frame", pa.int64()), *SCHEMA])
TABLE_SCHEMA = _PLACED.append(pa.field("x", pa.float64())).append(pa.field("y", pa.float64()))
"""Columns of `tables/instances.parquet`; x, y: the centroid in the scene's CRS, null without one."""
ROWS_SCHEMA = _PLACED.append(PART).append(CUT)
"""Columns of a shard's own rows."""
ROWS = "rows"
"""What a record calls a shard's rows among its stored objects."""


def compress_runs(runs: NDArray[np.int64]) -> str:
    """COCO's compressed counts of alternating run lengths, zeros first.

    From the third run on the difference to the run two before is written, in groups of five bits,
    lowest first, with a continuation bit; each group is a character from code 48 on (the format of
    cocodataset/cocoapi, `rleToString`).
    """
    return _compressed(runs, np.array([len(runs)]))[0]


def _compressed(runs: NDArray[np.int64], lengths: NDArray[np.int64]) -> list[str]:
    """The counts of several masks, whose runs lie one after the other, `lengths` of them each."""
    stops = np.cumsum(lengths)
    values = runs.astype(np.int64)
    inside = np.arange(len(runs)) - np.repeat(stops - lengths, lengths)
    later = np.flatnonzero(inside > 2)
    values[later] -= runs[later - 2]
    # the last group's highest bit is the sign: n groups hold -2^(5n - 1) .. 2^(5n - 1) - 1
    magnitude = values ^ (values >> 63)
    groups = np.ones(len(values), np.int64)
    least = 1 << 4
    while (more := magnitude >= least).any():
        groups += more
        least <<= 5
    place = np.arange(groups.max(initial=0))
    chars = (values[:, None] >> 5 * place & 0x1F) + (place < groups[:, None] - 1) * 0x20 + 48
    text = chars[place < groups[:, None]].astype(np.uint8).tobytes().decode("ascii")
    ends = np.concatenate([[0], np.cumsum(groups)])[stops].tolist()
    return [text[start:stop] for start, stop in zip([0, *ends], ends, strict=False)]


def encode_rles(
    ids: NDArray[Any], count: int, origin: tuple[int, int], size: tuple[int, int]
) -> list[str]:
    """Compressed counts of the objects 1 .. `count` of a map (y, x), at `origin` of a frame of `size`.

    All at once: sorted by object, the runs down the columns of the map are those of the masks.
    """
    tall, height = ids.shape[0], size[0]
    flat = ids.T.reshape(-1)
    begins = np.concatenate([np.ones(min(1, flat.size), np.bool_), flat[1:] != flat[:-1]])
    if tall < height:  # else a run may go on in the next column
        begins[::tall] = True
    starts = np.flatnonzero(begins)
    stops = np.append(starts, flat.size)[1:]
    owner = flat[starts].astype(np.int64)
    shown = np.flatnonzero(owner)
    shown = shown[np.argsort(owner[shown], kind="stable")]
    column, row = np.divmod(starts[shown], max(1, tall))
    begin = (column + origin[1]) * height + row + origin[0]
    edges = np.stack([begin, begin + stops[shown] - starts[shown]], axis=1).reshape(-1)
    each = 2 * np.bincount(owner[shown], minlength=count + 1)[1:]
    # after its last run each object has what is left of the frame
    ends = np.cumsum(each)
    edges = np.insert(edges, ends, size[0] * size[1])
    first = ends - each + np.arange(count)
    runs = np.diff(edges, prepend=0)
    runs[first] = edges[first]
    last = first + each
    full = (runs[last] == 0) & (each > 0)
    return _compressed(np.delete(runs, last[full]), each + 1 - full)


def encode_rle(mask: NDArray[Any], origin: tuple[int, int], size: tuple[int, int]) -> str:
    """Compressed counts, column by column, of a mask (y, x) whose corner lies at `origin` of `size`."""
    return encode_rles(mask != 0, 1, origin, size)[0]


def decompress_runs(text: str) -> NDArray[np.int64]:
    """The alternating run lengths, zeros first, behind COCO's compressed counts."""
    groups = np.frombuffer(text.encode("ascii"), np.uint8).astype(np.int64) - 48
    last = groups & 0x20 == 0
    if not last.any():
        return np.zeros(0, np.int64)
    stops = np.flatnonzero(last)
    starts = np.concatenate([[0], stops[:-1] + 1])
    bits = 5 * (np.arange(stops[-1] + 1) - np.repeat(starts, stops - starts + 1))
    runs = np.add.reduceat((groups[: len(bits)] & 0x1F) << bits, starts)
    negative = groups[stops] & 0x10 > 0
    runs[negative] -= 1 << bits[stops[negative]] + 5
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    return runs


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


def _stretches(text: str, height: int) -> tuple[NDArray[np.int64], ...]:
    """Column, first row and last row + 1 of each run of ones; one that goes on below is several."""
    intervals = _intervals(text)
    starts, stops = intervals[intervals[:, 1] > intervals[:, 0]].T
    first = starts // height
    count = (stops - 1) // height - first + 1
    column = np.repeat(first - np.cumsum(count) + count, count) + np.arange(count.sum())
    top = np.maximum(np.repeat(starts, count) - column * height, 0)
    bottom = np.minimum(np.repeat(stops, count) - column * height, height)
    return column, top, bottom


def decode_crop(text: str, height: int) -> tuple[NDArray[np.bool_], tuple[int, int]]:
    """The mask (y, x) within its box, and the box's first pixel; its frame is `height` tall.

    Takes memory for the box only, whatever the frame's size.
    """
    column, top, bottom = _stretches(text, height)
    if not len(column):
        return np.zeros((0, 0), np.bool_), (0, 0)
    y, x = int(top.min()), int(column[0])
    steps = np.zeros((int(column[-1]) - x + 1, int(bottom.max()) - y + 1), np.int8)
    # two runs of a column never meet, so each place is written once
    steps[column - x, top - y] = 1
    steps[column - x, bottom - y] = -1
    mask: NDArray[np.bool_] = np.cumsum(steps, axis=1, dtype=np.int8)[:, :-1].T.astype(np.bool_)
    return mask, (y, x)


def centroid(text: str, height: int) -> tuple[float, float]:
    """(x, y) mean of the pixels' centres, in pixels from the frame's corner; NaN of an empty mask."""
    column, top, bottom = _stretches(text, height)
    pixels = bottom - top
    count = int(pixels.sum())
    if not count:
        return float("nan"), float("nan")
    twice_y = int(((top + bottom) * pixels).sum())
    return int((column * pixels).sum()) / count + 0.5, twice_y / (2 * count)


def with_centroids(rows: pa.Table, height: int, attributes: Mapping[str, Any]) -> pa.Table:
    """A frame's rows with x and y, by the `transform` of its scene; null where it has no CRS."""
    transform = attributes.get("transform") if attributes.get("crs_wkt") else None
    x: Any = [None] * rows.num_rows
    y = x
    if transform and rows.num_rows:
        a, b, c, d, e, f = transform[:6]
        found = [centroid(text, height) for text in rows.column("rle").to_pylist()]
        u, v = np.array(found).T
        x, y = a * u + b * v + c, d * u + e * v + f
    for name, values in (("x", x), ("y", y)):
        rows = rows.append_column(name, pa.array(values, pa.float64()))
    return rows


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


def of_frames(tables: Sequence[pa.Table]) -> pa.Table:
    """Objects of a prediction from those of each frame: of more than one with a column `frame`."""
    if len(tables) == 1:
        return tables[0]
    return pa.concat_tables(
        table.append_column(FRAME, pa.array([i] * table.num_rows, FRAME.type))
        for i, table in enumerate(tables)
    )


def of_frame(objects: pa.Table | None, i: int, frames: int) -> pa.Table | None:
    """The objects of frame i of a prediction of so many; None where the table cannot say which."""
    if objects is None or FRAME.name not in objects.column_names:
        return objects if frames == 1 else None
    rows = np.asarray(objects.column(FRAME.name)) == i
    return objects.filter(pa.array(rows)).drop_columns(FRAME.name)


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
    dense, values = renumber(instances)
    first = first_pixels(dense, len(values) - 1)[1:]
    rows = list(objects_in(dense, (0, 0), dense.shape).values())
    columns = {
        "id": values[1:],
        "class": labels.reshape(-1)[first],
        "score": np.ones(len(rows)),
        **{name: [row[name] for row in rows] for name in ("bbox", "area", "rle")},
    }
    arrays = [pa.array(columns[field.name], field.type) for field in SCHEMA]
    return pa.table(arrays, schema=SCHEMA)


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


def shard_rows(objects: Objects, scene: str, places: Iterable[Place]) -> pa.Table:
    """The rows of shards that hold instances, one after the other. Raises DamagedStoreError."""
    found = [ROWS_SCHEMA.empty_table()]
    for place in places:
        key = rows_key(scene, place)
        data = objects.get(key)
        if data is None:
            raise DamagedStoreError(key, MISSING)
        try:
            found.append(read_rows(data))
        except ValueError as error:
            raise DamagedStoreError(key, CHANGED) from error
    return pa.concat_tables(found)


def read_rows(data: bytes) -> pa.Table:
    """A shard's stored rows; a column that they were stored without is null.

    Raises ValueError where the bytes are not those that were stored.
    """
    stored = read_parquet(data if data.startswith(b"PAR1") else opened(data))  # PAR1: before 0.2
    return pa.concat_tables([ROWS_SCHEMA.empty_table(), stored], promote_options="default")


def to_bytes(table: pa.Table) -> bytes:
    """A shard's rows as they are stored: parquet that carries its own checksum."""
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return closed(sink.getvalue())


def with_frame(
    objects: pa.Table, scene: str, frame: int, part: Any = None, cut: Any = None
) -> pa.Table:
    """Objects of one frame as rows of a shard; (row,) bool: which are a `part` only, which `cut`."""
    count = objects.num_rows
    columns = [pa.array([scene] * count, pa.string()), pa.array([frame] * count, pa.int64())]
    columns += [objects.column(name).cast(SCHEMA.field(name).type) for name in SCHEMA.names]
    for flags in (part, cut):
        columns.append(pa.array([False] * count if flags is None else flags, pa.bool_()))
    return pa.table(columns, schema=ROWS_SCHEMA)
