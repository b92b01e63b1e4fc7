"""Instance ids to the rows of `objects`: class, score, box, area and run lengths."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from segengine.errors import DamagedStoreError
from segengine.instances.boxes import Shown, shown_in
from segengine.instances.join import first_pixels, renumber
from segengine.instances.rle import centroids, union_rles
from segengine.placing import Placing
from segengine.store.blobs import Objects
from segengine.store.columns import arrow_column, arrow_table, numbers_of, taken
from segengine.store.keys import rows_key
from segengine.store.parquet import read_parquet
from segengine.store.sealbook import CHANGED, MISSING, closed, opened
from segengine.types import CERTAIN, Place

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
SURE = pa.field("sure", pa.int64())
"""Confidence added up over its pixels in the shard; null where none is stored."""
_PLACED = pa.schema([("scene", pa.string()), ("frame", pa.int64()), *SCHEMA])
TABLE_SCHEMA = _PLACED.append(pa.field("x", pa.float64())).append(pa.field("y", pa.float64()))
"""Columns of `tables/instances.parquet`; x, y: the centroid in the scene's CRS, null without one."""
ROWS_SCHEMA = _PLACED.append(PART).append(CUT).append(SURE)
"""Columns of a shard's own rows."""
TOGETHER = 1 << 10
"""Rows whose run lengths are values of Python at a time."""


def with_centroids(rows: pa.Table, height: int, placing: Placing) -> pa.Table:
    """A frame's rows with x and y in the CRS of its scene; null where it has none."""
    x: Any = [None] * rows.num_rows
    y = x
    if placing.georeferenced and rows.num_rows:
        texts = rows.column("rle")
        found = [
            centroids(texts.slice(start, TOGETHER).to_pylist(), height)
            for start in range(0, rows.num_rows, TOGETHER)
        ]
        x, y = placing.at(*np.concatenate(found).T)
    for name, values in (("x", x), ("y", y)):
        rows = rows.append_column(name, arrow_column(values, pa.float64()))
    return rows


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


def table_of(rows: Sequence[dict[str, Any]]) -> pa.Table:
    """Rows of `objects` as their table."""
    return _table(rows, SCHEMA)


def _table(rows: Sequence[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    """`pyarrow.Table.from_pylist`, which loads pandas where that is installed."""
    return arrow_table({name: [row.get(name) for row in rows] for name in schema.names}, schema)


def table_of_shown(shown: Shown, ids: NDArray[Any], classes: NDArray[Any]) -> pa.Table:
    """Rows of the objects of a map, which are certain of themselves: the id and the class of each."""
    columns: dict[str, Any] = {
        "id": ids,
        "class": classes,
        "score": np.ones(len(ids)),
        "bbox": shown.boxes,
        "area": shown.areas,
        "rle": shown.rles,
    }
    return arrow_table(columns, SCHEMA)


def together(tables: Iterable[pa.Table]) -> pa.Table:
    """Rows of frames, one after the other, as a shard has them."""
    return pa.concat_tables([_table([], ROWS_SCHEMA), *tables])


def merged(rows: pa.Table, size: tuple[int, int]) -> pa.Table:
    """A frame's rows from all its shards, the parts of an object made one, in order of the ids."""
    import pyarrow.compute as pc

    parts = rows.filter(rows.column("part")).sort_by(
        "id"
    )  # which keeps the order of those of one id
    whole = rows.filter(pc.invert(rows.column("part"))).drop_columns("part")
    del rows  # where nobody else holds them, their memory is free for what is sorted
    pa.default_memory_pool().release_unused()
    tables = [whole]
    ids = numbers_of(parts.column("id").combine_chunks())
    starts = np.flatnonzero(np.diff(ids.astype(np.int64), prepend=-1))
    for at in range(0, len(starts), TOGETHER):
        stops = [*starts[at + 1 : at + 1 + TOGETHER].tolist(), len(ids)]
        first, last = int(starts[at]), stops[min(TOGETHER, len(starts) - at) - 1]
        some = parts.slice(first, last - first).combine_chunks()
        tables.append(_joined(some, starts[at : at + TOGETHER] - first, size))
    return pa.concat_tables(tables).sort_by("id")


def _joined(parts: pa.Table, begins: NDArray[np.int64], size: tuple[int, int]) -> pa.Table:
    """The rows of objects from those of their parts, of which those of each begin at `begins`."""
    each = np.diff(begins, append=parts.num_rows)
    boxes = numbers_of(parts.column("bbox").combine_chunks().flatten()).reshape(-1, 4)
    corners, fars = boxes[:, :2].astype(np.float64), boxes[:, :2].astype(np.float64) + boxes[:, 2:]
    corner = np.minimum.reduceat(corners, begins)
    far = np.maximum.reduceat(fars, begins)
    groups = np.repeat(np.arange(len(begins)), each)
    sure = parts.column("sure").to_pylist()
    bounds = pairwise([*begins.tolist(), len(sure)])
    columns: dict[str, Any] = {
        "bbox": np.concatenate([corner, far - corner], axis=1),
        "area": np.add.reduceat(numbers_of(parts.column("area").combine_chunks()), begins),
        "rle": union_rles(parts.column("rle").to_pylist(), groups, size),
        "sure": [_added(sure[start:stop]) for start, stop in bounds],
    }
    rows = taken(parts, begins).drop_columns("part")
    for name, values in columns.items():
        place = rows.schema.get_field_index(name)
        field = rows.schema.field(place)
        rows = rows.set_column(place, field, arrow_column(values, field.type))
    return rows


def _added(values: Sequence[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None


def scored(rows: pa.Table) -> pa.Table:
    """Rows of whole objects; where confidence is stored, the score is its mean over the object."""
    sure = rows.column("sure")
    if sure.null_count == rows.num_rows:
        return rows
    import pyarrow.compute as pc

    most = pc.multiply(rows.column("area"), CERTAIN).cast(pa.float64())
    mean = pc.divide(sure.cast(pa.float64()), most).cast(pa.float32())
    place = rows.schema.get_field_index("score")
    return rows.set_column(place, "score", pc.coalesce(mean, rows.column("score")))


def objects_of(
    instances: NDArray[np.uint32],
    labels: NDArray[Any] | None = None,
    *,
    classes: NDArray[np.uint16] | None = None,
) -> pa.Table:
    """One row for each id of a frame (y, x), in order of the ids.

    `classes` (id,) of each; without it that is the label (y, x) of its first pixel.
    """
    dense, values = renumber(instances)
    if classes is None:
        assert labels is not None  # one of them tells
        classes = labels.reshape(-1)[first_pixels(dense, len(values) - 1)[1:]]
    return table_of_shown(shown_in(dense, (0, 0), dense.shape), values[1:], classes)


def shard_rows(objects: Objects, scene: str, places: Iterable[Place]) -> pa.Table:
    """The rows of shards that hold instances, one after the other. Raises DamagedStoreError."""
    found = [_table([], ROWS_SCHEMA)]
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
    return pa.concat_tables([_table([], ROWS_SCHEMA), stored], promote_options="default")


def to_bytes(table: pa.Table) -> bytes:
    """A shard's rows as they are stored: parquet that carries its own checksum."""
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return closed(sink.getvalue())


def with_frame(
    objects: pa.Table,
    scene: str,
    frame: int,
    part: Any = None,
    cut: Any = None,
    sure: Sequence[int] | None = None,
) -> pa.Table:
    """Objects of one frame as rows of a shard; (row,) bool: which are a `part` only, which `cut`.

    sure: (row,) confidence over the object's pixels there, added up.
    """
    count = objects.num_rows
    no = np.zeros(count, np.bool_)
    about = {
        "scene": [scene] * count,
        "frame": np.full(count, frame),
        "part": no if part is None else part,
        "cut": no if cut is None else cut,
        "sure": [None] * count if sure is None else sure,
    }
    columns = []
    for field in ROWS_SCHEMA:
        if field.name in about:
            columns.append(arrow_column(about[field.name], field.type))
        else:
            given = objects.column(field.name)
            columns.append(given if given.type == field.type else given.cast(field.type))
    return pa.table(columns, schema=ROWS_SCHEMA)
