"""The records of a scene packed: one parquet file, and a table of it in memory."""

from __future__ import annotations

import io
import json
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import groupby
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from segengine.store.columns import arrow_column, arrow_table, numbers_of, taken
from segengine.store.kinds import (
    FrameFailure,
    Record,
    StoredObject,
    VoidRecord,
    stored_fields,
    type_of,
)
from segengine.store.parquet import read_parquet
from segengine.store.singles import frozen, stored
from segengine.types import Place

R = TypeVar("R", bound=Record)
_NESTED = ("objects", "failures", "areas", "colors", "inertia", "ground", "confidence", "sampled")
SCHEMA = pa.schema(
    [
        ("kind", pa.dictionary(pa.int8(), pa.string())),
        ("scene", pa.dictionary(pa.int32(), pa.string())),
        ("f", pa.int32()),
        ("y", pa.int32()),
        ("x", pa.int32()),
        ("box", pa.list_(pa.int64(), 6)),
        ("status", pa.dictionary(pa.int8(), pa.string())),
        ("inputs", pa.string()),
        ("job", pa.dictionary(pa.int32(), pa.string())),
        ("weights", pa.dictionary(pa.int32(), pa.string())),
        ("fit", pa.dictionary(pa.int32(), pa.string())),
        ("reason", pa.string()),
        *((name, pa.string()) for name in _NESTED),
        ("attempts", pa.int32()),
        ("seconds", pa.float64()),
        ("finished", pa.float64()),
        ("pixels", pa.int64()),
        ("version", pa.int32()),
        ("provenance", pa.dictionary(pa.int32(), pa.string())),
        ("payload", pa.string()),
    ]
)
"""Packed records; nested fields as JSON text."""
_EMPTY_TEXT = "[]"
_DEFAULTS: dict[str, Any] = {
    **dict.fromkeys(("weights", "fit", "reason", "payload"), ""),
    **dict.fromkeys(_NESTED, _EMPTY_TEXT),
    **dict.fromkeys(("f", "y", "x"), 0),
    **dict.fromkeys(("attempts", "version"), 1),
}
"""Columns that a small pack leaves out where they hold nothing else."""
TOGETHER = 512
"""Records read at once: of more the garbage collector would look through each again and again."""
GROUP = 1 << 16
"""Rows of a group of a large pack, which is what is in memory of it at a time."""
SMALL = 64
"""Records up to which a pack is written for size: most of a file of one row would be about columns."""


def to_table(records: Iterable[Record]) -> pa.Table:
    """Packed form of records, in (kind, shard) order."""
    return arrow_table(_columns(records), SCHEMA)


def _columns(records: Iterable[Record]) -> dict[str, list[Any]]:
    rows = [stored(record) for record in sorted(records, key=lambda r: (r.kind, r.shard))]
    places = dict(zip("fyx", zip(*(row["shard"] for row in rows), strict=True), strict=False))
    found: dict[str, list[Any]] = {}
    for name in SCHEMA.names:
        if name in _NESTED:
            found[name] = [_as_text(row[name]) for row in rows]
        else:
            found[name] = list(places.get(name, ())) if name in "fyx" else [r[name] for r in rows]
    return found


def _as_text(value: tuple[Any, ...]) -> str:
    return json.dumps(value, separators=(",", ":")) if value else _EMPTY_TEXT


class Pack:
    """Packed records, of which as many rows are in memory at a time as lie in one group of the file."""

    def __init__(
        self, counts: Sequence[int], group: Callable[[int, Sequence[str]], pa.Table]
    ) -> None:
        """`counts`: rows of each group; `group`: some columns of one."""
        self.counts, self._group = counts, group

    @classmethod
    def of(cls, data: bytes) -> Pack | None:
        """From the bytes of its file; None: they are no table of records."""
        try:
            file = pq.ParquetFile(pa.BufferReader(data))
            groups = range(file.metadata.num_row_groups)
            counts = [file.metadata.row_group(i).num_rows for i in groups]
            there = frozenset(file.schema_arrow.names)

            def group(number: int, names: Sequence[str]) -> pa.Table:
                stored = [name for name in names if name in there]
                return completed(file.read_row_group(number, stored, use_threads=False), names)

            tables = (group(number, SCHEMA.names) for number in groups)
            if len(counts) == 1:
                (table,) = tables
                return cls(counts, lambda _, names: table.select(names))
            deque(tables, maxlen=0)  # what is damaged is so from the start
        except (ValueError, OSError, NotImplementedError):  # pyarrow's
            return None
        return cls(counts, group)

    def tables(self, names: Sequence[str] = tuple(SCHEMA.names)) -> Iterator[pa.Table]:
        """Group by group; `names`: of columns."""
        return (self._group(number, names) for number in range(len(self.counts)))

    def taken(self, rows: NDArray[np.int64]) -> Iterator[pa.Table]:
        """Some rows, ascending, a table a group."""
        stops = np.cumsum(self.counts)
        for number, (stop, count) in enumerate(zip(stops.tolist(), self.counts, strict=True)):
            own = rows[np.searchsorted(rows, stop - count) : np.searchsorted(rows, stop)]
            if len(own):
                yield taken(self._group(number, SCHEMA.names), own - (stop - count))


def pack_records(records: Iterable[Record], packed: Pack | None = None) -> bytes:
    """Packed records as the parquet file that is stored.

    packed: those that are packed already; of them hold only those that `records` do not replace.
    """
    records = list(records)
    final = [record for record in records if not isinstance(record, VoidRecord)]
    old, keys = _kept(packed, {(r.kind, r.shard) for r in records})
    if len(final) + len(old) > SMALL:
        return _large(packed, old, keys, to_table(final))
    tables = () if packed is None else packed.taken(old)
    return _small(_columns([*final, *(r for table in tables for r in from_table(table, Record))]))


_Keys = tuple[list[str], NDArray[np.int64]]
"""Kinds of some rows, and (3, row) their places."""


def _kept(
    packed: Pack | None, known: Collection[tuple[str, Place]]
) -> tuple[NDArray[np.int64], _Keys]:
    """Which packed rows are of other records than the known ones, and their keys."""
    rows, kinds, places, first = [], [], [np.zeros((3, 0), np.int64)], 0
    for table in () if packed is None else packed.tables(("kind", *"fyx")):
        own, at = _keys(table)
        shards = zip(*at.tolist(), strict=True)
        here = [i for i, key in enumerate(zip(own, shards, strict=True)) if key not in known]
        rows.append(first + np.array(here, np.int64))
        kinds += [own[i] for i in here]
        places.append(at[:, here])
        first += table.num_rows
    return np.concatenate([np.zeros(0, np.int64), *rows]), (kinds, np.concatenate(places, axis=1))


def _keys(table: pa.Table) -> _Keys:
    axes = [numbers_of(table.column(axis).combine_chunks()).astype(np.int64) for axis in "fyx"]
    return table.column("kind").to_pylist(), np.array(axes, np.int64)


def _large(packed: Pack | None, old: NDArray[np.int64], keys: _Keys, new: pa.Table) -> bytes:
    """Packed rows and new ones in (kind, shard) order, a group at a time."""
    kinds, places = _keys(new)
    names = [*keys[0], *kinds]
    ranks = {name: i for i, name in enumerate(sorted({*names}))}
    rank = np.fromiter((ranks[name] for name in names), np.int64, len(names))
    order = np.lexsort([*np.concatenate([keys[1], places], axis=1)[::-1], rank])
    sink = io.BytesIO()
    with pq.ParquetWriter(sink, SCHEMA, compression="zstd") as writer:
        for start in range(0, len(order), GROUP):
            own = order[start : start + GROUP]
            before = np.sort(own[own < len(old)])
            after = np.sort(own[own >= len(old)])
            parts = [] if packed is None else [*packed.taken(old[before])]
            parts = [_alike(part) for part in (*parts, taken(new, after - len(old)))]
            table = pa.concat_tables(parts).unify_dictionaries().combine_chunks()
            place = np.argsort(np.argsort(own))  # of each among those that are there, ascending
            writer.write_table(table if (np.diff(place) > 0).all() else taken(table, place))
    return sink.getvalue()


def _alike(table: pa.Table) -> pa.Table:
    """With the types of today: a small pack, or one of an earlier release, has plain texts."""
    columns = {field.name: table.column(field.name) for field in SCHEMA}
    for field in SCHEMA:
        if columns[field.name].type != field.type:
            columns[field.name] = arrow_column(columns[field.name].to_pylist(), field.type)
    return pa.Table.from_arrays(list(columns.values()), schema=SCHEMA)


def _small(columns: Mapping[str, list[Any]]) -> bytes:
    sink = io.BytesIO()
    names = tuple(
        name
        for name, column in columns.items()
        if name not in _DEFAULTS or any(value != _DEFAULTS[name] for value in column)
    )
    schema = _small_schema(names)
    pq.write_table(
        arrow_table(columns, schema),
        sink,
        compression="none",
        use_dictionary=False,
        write_statistics=False,
        store_schema=False,
    )
    return sink.getvalue()


@lru_cache(maxsize=64)
def _small_schema(names: tuple[str, ...]) -> pa.Schema:
    """Of these columns, none of them null or by dictionary."""
    fields = [SCHEMA.field(name) for name in names]
    types = [f.type.value_type if pa.types.is_dictionary(f.type) else f.type for f in fields]
    return pa.schema(
        [pa.field(n, kind, nullable=False) for n, kind in zip(names, types, strict=True)]
    )


def completed(table: pa.Table, names: Sequence[str]) -> pa.Table:
    """A stored table with the columns that its pack left out, in the order of `names`."""
    for name in names:
        if name not in table.column_names:
            kind = SCHEMA.field(name).type
            kind = kind.value_type if pa.types.is_dictionary(kind) else kind
            table = table.append_column(
                name, arrow_column([_DEFAULTS[name]] * table.num_rows, kind)
            )
    return table.select(names)


def from_pack(pack: Pack, only: type[R]) -> Iterator[R]:
    """Packed records that are of a type, one at a time."""
    for table in pack.tables():
        yield from from_table(table, only)


def from_table(table: pa.Table, only: type[R]) -> Iterator[R]:
    """Those of a table."""
    for batch in table.to_batches(max_chunksize=TOGETHER):
        rows, start = _Rows(batch), 0
        for name, run in groupby(rows.column("kind")):
            stop = start + sum(1 for _ in run)
            kind = type_of(name)
            if kind is not None and issubclass(kind, only):
                yield from rows.records(kind, slice(start, stop))
            start = stop


class _Rows:
    """Some rows of a packed table, whose columns are read when they are asked for."""

    def __init__(self, batch: pa.RecordBatch) -> None:
        self.batch = batch
        self.read: dict[str, list[Any]] = {}

    def column(self, name: str) -> list[Any]:
        """A column as a record has it."""
        if name not in self.read:
            self.read[name] = self._column(name)
        return self.read[name]

    def _column(self, name: str) -> list[Any]:
        if name == "shard":
            return list(zip(*(_plain(self.batch.column(axis)) for axis in "fyx"), strict=True))
        found = _plain(self.batch.column(name))
        if name == "box":
            return list(map(tuple, found))
        return _parsed(found, _PARTS.get(name)) if name in _NESTED else found

    def records(self, kind: type[R], rows: slice) -> list[R]:
        """Some of them, all of one type; field by field, which takes a third of `kind(...)` each."""
        count = len(range(*rows.indices(self.batch.num_rows)))
        found = [object.__new__(kind) for _ in range(count)]
        for known in stored_fields(kind):
            values = self.column(known.column)[rows]
            if known.load is not None:
                values = list(map(known.load, values))
            deque(map(getattr(kind, known.name).__set__, found, values), maxlen=0)
        return found


_PARTS: dict[str, Any] = {"objects": StoredObject, "failures": FrameFailure}


def _parsed(texts: list[str], kind: Any) -> list[tuple[Any, ...]]:
    """A column of JSON texts; parsed all at once, which is many times as fast as one by one."""
    if texts.count(_EMPTY_TEXT) == len(texts):
        return [()] * len(texts)
    found = json.loads(f"[{','.join(texts)}]")
    if kind is None:
        return [frozen(parts) if parts else () for parts in found]
    return [tuple(map(kind._make, parts)) for parts in found]


def _plain(column: pa.Array) -> list[Any]:
    """A column as Python values; several times as fast as `to_pylist` where it can be."""
    if pa.types.is_dictionary(column.type):
        words = column.dictionary.to_pylist()
        return [words[i] for i in numbers_of(column.indices).tolist()]
    found: list[Any]
    if pa.types.is_fixed_size_list(column.type):
        found = numbers_of(column.flatten()).reshape(-1, column.type.list_size).tolist()
    elif pa.types.is_primitive(column.type):
        found = numbers_of(column).tolist()
    else:
        found = column.to_pylist()
    return found


def read_pack(data: bytes, columns: list[str] | None = None) -> pa.Table | None:
    """Packed records from the bytes of their file; None: they are no table of records."""
    try:
        found = read_parquet(data, columns)
    except (ValueError, OSError, NotImplementedError):  # pyarrow's, of bytes that are no table
        return None
    return completed(found, columns or SCHEMA.names)
