"""Commit records: the only truth about what is done.

One JSON object a shard while a scene is worked on, packed into one parquet file a scene when it is
finished; of a scene of very many shards also while it is worked on, so that a run which is killed
near its end does not leave them all to be read one by one. A single record always stands above a
packed one; a single `void` record says that the packed one no longer holds.
"""

from __future__ import annotations

import io
import json
import os
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import Any, TypeVar, overload

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash
from numpy.typing import NDArray

from segengine.ahead import each_of, requested
from segengine.store.blobs import Objects
from segengine.store.columns import arrow_column, arrow_table, numbers_of, taken
from segengine.store.keys import (
    MASK,
    PACKED,
    RECORDS,
    SCENES,
    array_folder,
    pack_key,
    records_folder,
    shards_folder,
    single_key,
    single_of,
)
from segengine.store.kinds import (
    DraftRecord,
    FrameFailure,
    Record,
    StoredObject,
    VoidRecord,
    stored_fields,
    type_of,
)
from segengine.store.parquet import read_parquet
from segengine.types import Place
from segengine.urls import public

R = TypeVar("R", bound=Record)
COLUMNS: dict[str, Any] = {
    **dict.fromkeys(("kind", "scene"), ""),
    **dict.fromkeys(("shard", "box"), ()),
    "status": "done",
    **dict.fromkeys(("inputs", "job", "weights", "fit"), ""),
    "objects": (),
    "reason": "",
    **dict.fromkeys(("failures", "areas", "colors", "inertia", "ground"), ()),
    "attempts": 1,
    **dict.fromkeys(("seconds", "finished"), 0.0),
    "pixels": 0,
    "version": 1,
    **dict.fromkeys(("provenance", "payload"), ""),
}
"""What is stored of a record of any kind, in this order, and what stands where it has no such field."""
_OLDEST = frozenset(COLUMNS) - {
    "weights", "fit", "reason", "ground", "attempts", "seconds", "finished", "pixels", "version",
    "provenance", "payload",
}  # fmt: skip
"""Those without which it is no record of any release."""


def stored(record: Record) -> dict[str, Any]:
    """A record in the columns that all kinds share; what people read in it shows no credentials."""
    row = {**COLUMNS, "kind": record.kind}
    for name, column, store, _ in stored_fields(type(record)):
        value = getattr(record, name)
        row[column] = value if store is None else store(value)
    if row["reason"] or row["failures"]:
        row["reason"] = public(row["reason"])
        row["failures"] = tuple(f._replace(reason=public(f.reason)) for f in row["failures"])
    return row


def to_json(record: Record) -> bytes:
    """A record as the JSON object that is stored."""
    row = stored(record)
    for name in ("objects", "failures"):
        row[name] = [part._asdict() for part in row[name]]
    body = json.dumps(row, separators=(",", ":")).encode()[:-1]
    return body + b',"sum":"%s"}' % xxhash.xxh3_128_hexdigest(body).encode()


def from_json(data: bytes) -> Record:
    """The record behind a stored JSON object. Raises ValueError on anything else.

    Its last key is the checksum of all before it; records of earlier versions have none.
    """
    body, mark, end = data.rpartition(b',"sum":"')
    if mark:
        if end != xxhash.xxh3_128_hexdigest(body).encode() + b'"}':
            raise ValueError("not a record: its bytes are not those that were stored")
        data = body + b"}"
    try:
        return _build(json.loads(data))
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a record: {error}") from error


def _build(raw: dict[str, Any]) -> Record:
    if not _OLDEST <= raw.keys() <= COLUMNS.keys():
        raise ValueError("not a record: it has other keys")
    row = {**COLUMNS, **raw}
    kind = type_of(row["kind"], row["status"])
    if kind is None:
        raise ValueError(f"not a record: {row['kind']!r} is no kind of them")
    row["objects"] = tuple(StoredObject(**o) for o in row["objects"])
    row["failures"] = tuple(FrameFailure(**f) for f in row["failures"])
    for name in ("shard", "box", "areas", "colors", "inertia", "ground"):
        row[name] = _frozen(row[name])
    return kind(
        **{
            f.name: row[f.column] if f.load is None else f.load(row[f.column])
            for f in stored_fields(kind)
        }
    )


_NESTED = ("objects", "failures", "areas", "colors", "inertia", "ground")
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


def pack_records(records: Iterable[Record], packed: pa.Table | None = None) -> bytes:
    """Packed records as the parquet file that is stored.

    packed: those that are packed already; of them hold only those that `records` do not replace.
    """
    records = list(records)
    final = [record for record in records if not isinstance(record, VoidRecord)]
    kept = []
    if packed is not None:
        kept.append(taken(packed, _rows_but(packed, {(r.kind, r.shard) for r in records})))
    if len(final) + sum(table.num_rows for table in kept) > SMALL:
        return _large([*kept, to_table(final)])
    return _small(_columns([*final, *(r for table in kept for r in from_table(table, Record))]))


def _rows_but(packed: pa.Table, known: Collection[tuple[str, Place]]) -> NDArray[np.int64]:
    """Where other records than the known ones lie."""
    kinds = packed.column("kind").to_pylist()
    places = zip(*(_plain(packed.column(axis).combine_chunks()) for axis in "fyx"), strict=True)
    keys = zip(kinds, places, strict=True)
    return np.array([row for row, key in enumerate(keys) if key not in known], np.int64)


def _large(tables: Sequence[pa.Table]) -> bytes:
    """Those of tables, in (kind, shard) order."""
    table = pa.concat_tables(map(_alike, tables)).unify_dictionaries().combine_chunks()
    kinds = table.column("kind").combine_chunks()
    ranks = np.argsort(np.argsort(np.array(kinds.dictionary.to_pylist())))
    axes = [numbers_of(table.column(axis).combine_chunks()) for axis in "xyf"]
    order = np.lexsort([*axes, ranks[numbers_of(kinds.indices)]])
    if (order[1:] < order[:-1]).any():
        table = taken(table, order)
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
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


def _completed(table: pa.Table, names: Sequence[str]) -> pa.Table:
    """A stored table with the columns that its pack left out, in the order of `names`."""
    for name in names:
        if name not in table.column_names:
            kind = SCHEMA.field(name).type
            kind = kind.value_type if pa.types.is_dictionary(kind) else kind
            table = table.append_column(
                name, arrow_column([_DEFAULTS[name]] * table.num_rows, kind)
            )
    return table.select(names)


def from_table(table: pa.Table, only: type[R]) -> Iterator[R]:
    """Records of a packed table that are of a type, one at a time."""
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
        return [_frozen(parts) if parts else () for parts in found]
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


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


ASKED_TOGETHER = 1 << 14
"""Shards of scenes whose records are asked for, and held, at a time; of one scene there may be more."""


@dataclass(frozen=True, slots=True)
class SceneRecords:
    """A scene's records as they were when they were read."""

    singles: Mapping[tuple[str, Place], Record]
    table: pa.Table | None
    packed: bool
    """Whether there is a pack, be it damaged."""

    def of(self, only: type[R]) -> Iterator[R]:
        """Those of a type: single ones first, then the packed ones they do not replace."""
        for record in self.singles.values():
            if isinstance(record, only) and not isinstance(record, VoidRecord):
                yield record
        if self.table is not None:
            for record in from_table(self.table, only):
                if (record.kind, record.shard) not in self.singles:
                    yield record


@dataclass(frozen=True, slots=True)
class RecordLog:
    """Reads and writes the records of a store."""

    objects: Objects

    def write(self, record: Record) -> None:
        """Commit a record, atomically."""
        self.objects.put(record.key, to_json(record))

    def drop(self, kind: str, scene: str, shard: Place, *, packed: bool) -> None:
        """Take a record back before its shard is written again; `packed`: one may lie in the pack."""
        if packed:
            void = VoidRecord(of=kind, scene=scene, shard=shard)
            self.objects.put(void.key, to_json(void))
        else:
            self.objects.delete(single_key(kind, scene, shard))

    def scenes(self) -> tuple[set[str], set[str]]:
        """Names of scenes with (single, packed) records."""
        folders, files = self.objects.children(RECORDS)
        packed = {f.removesuffix(PACKED) for f in files if f.endswith(PACKED)}
        return {f for f in folders if not f.startswith("+")}, packed

    def unrecorded(self, known: Collection[str]) -> list[str]:
        """Scenes with stored masks, but for the `known` ones, of which there are records."""
        return [
            scene
            for scene in self.objects.children(SCENES)[0]
            if scene not in known
            and any(self.objects.keys(shards_folder(array_folder(scene, MASK))))
        ]

    def table(self, scene: str, columns: list[str] | None = None) -> pa.Table | None:
        """The packed records of a scene, or None where there are none, or only damaged ones."""
        data = self.objects.get(pack_key(scene))
        try:
            stored = None if data is None else read_parquet(data, columns)
        except (ValueError, OSError, NotImplementedError):  # pyarrow's, of bytes that are no table
            return None
        return None if stored is None else _completed(stored, columns or SCHEMA.names)

    def singles(self, scene: str) -> dict[tuple[str, Place], Record]:
        """The single records of a scene.

        Of a damaged one only its name counts: a `void` one, so that a packed one below it, which it
        may have taken back, does not hold.
        """
        found: dict[tuple[str, Place], Record] = {}
        keys = list(self.objects.keys(records_folder(scene)))
        read = requested(keys, self.objects.get, self.objects.root)
        for key, data in zip(keys, read, strict=True):
            if data is None:
                continue
            try:
                record = from_json(data)
            except ValueError:
                named = single_of(key)
                if named is None:
                    continue
                record = VoidRecord(of=named[0], scene=scene, shard=named[1])
            found[record.kind, record.shard] = record
        return found

    def damaged(self) -> Iterator[str]:
        """Keys of single records whose bytes are not those that were stored."""
        for scene in sorted(self.scenes()[0]):
            for key in sorted(self.objects.keys(records_folder(scene))):
                data = self.objects.get(key)
                try:
                    if data is not None:
                        from_json(data)
                except ValueError:
                    yield key

    @overload
    def read(self, scene: str) -> Iterator[Record]: ...
    @overload
    def read(self, scene: str, only: type[R]) -> Iterator[R]: ...
    def read(self, scene: str, only: type[Record] = Record) -> Iterator[Record]:
        """Records of a scene, all or of one type: as `SceneRecords.of`."""
        singles = self.singles(scene)  # first: a run that ends meanwhile moves them to the pack
        table = self.table(scene)
        yield from SceneRecords(singles, table, table is not None).of(only)

    def together(self, shards: Mapping[str, int]) -> Iterator[dict[str, SceneRecords]]:
        """The records of scenes, in their order, several scenes at a time; `shards`: of each scene.

        For who holds the lock: one listing tells of all scenes what there is. Where each object is a
        request, those of several scenes are on their way at once.
        """
        singles, packed = self.scenes()

        def read(scene: str) -> SceneRecords:
            return SceneRecords(
                self.singles(scene) if scene in singles else {},
                self.table(scene) if scene in packed else None,
                scene in packed,
            )

        for batch in batches(shards):
            yield dict(zip(batch, requested(batch, read, self.objects.root), strict=True))

    def write_pack(self, scene: str) -> None:
        """Put a finished scene's records into its parquet file, ahead of `clear`.

        Killed between the two, the singles still say the same as the pack.
        """
        singles = self.singles(scene).values()
        final = (record for record in singles if not isinstance(record, DraftRecord))
        self.objects.put(pack_key(scene), pack_records(final, self.table(scene)))

    def move_to_pack(self, scene: str, records: Collection[Record]) -> None:
        """Put some single records of a scene, which nobody writes any more, into its parquet file.

        Killed in between, the singles still say the same as the pack.
        """
        self.objects.put(pack_key(scene), pack_records(records, self.table(scene)))
        each_of(records, lambda record: self.objects.delete(record.key), self.objects.root)

    def clear(self, scene: str) -> None:
        """Delete the single records of a scene, once it is packed."""
        self.objects.delete_tree(records_folder(scene))

    def forget(self, scene: str) -> None:
        """Delete all records of a scene."""
        self.objects.delete(pack_key(scene))
        self.clear(scene)


def batches(shards: Mapping[str, int]) -> Iterator[list[str]]:
    """Scenes that have few shards together, or one that has many.

    >>> list(batches({"a": 3, "b": 1 << 14, "c": 4, "d": 1}))
    [['a'], ['b'], ['c', 'd']]
    """
    batch: list[str] = []
    held = 0
    for scene, count in shards.items():
        if batch and held + count > ASKED_TOGETHER:
            yield batch
            batch, held = [], 0
        batch.append(scene)
        held += count
    if batch:
        yield batch


@lru_cache(maxsize=8)
def provenance(engine: str = "") -> str:
    """Host, processor and versions, as one JSON text; `engine`: what ran a network."""
    import platform
    from importlib.metadata import version

    return json.dumps(
        {
            "host": platform.node(),
            "processor": _processor(),
            "python": platform.python_version(),
            **{p: version(p) for p in ("segengine", "numpy", "opencv-python-headless", "zarr")},
            **({"engine": engine} if engine else {}),
        },
        separators=(",", ":"),
    )


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return f"{line.partition(':')[2].strip()} ({os.uname().machine})"
    except OSError:
        pass
    import platform

    return platform.processor() or platform.machine()
