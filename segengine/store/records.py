"""Commit records: the only truth about what is done.

One JSON object a shard while a scene is worked on, packed into one parquet file a scene when it is
finished. A single record always stands above a packed one; a single `void` record says that the
packed one no longer holds.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from segengine.store.blobs import Objects
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
from segengine.store.parquet import read_parquet
from segengine.types import Color, Place
from segengine.urls import public

Kind = Literal["mask", "draft", "level", "measure", "frame", "precision"]
Status = Literal["done", "error", "crash", "hang", "void"]
LOST = "lost"
"""Kind of failure of a vanished input whose mask was damaged: only the input's return mends it."""


class FrameFailure(NamedTuple):
    """A frame of a shard that is void, and why."""

    frame: int
    """Place in the scene."""
    kind: str
    reason: str


class StoredObject(NamedTuple):
    """One stored object of a shard."""

    array: str
    """Path of the array below the scene, for example `mask/0`."""
    checksum: str
    """XXH3-128 of the stored bytes, 32 hex digits."""
    bytes: int


@dataclass(frozen=True, slots=True)
class Record:
    """What is known of one shard after its work was stored (or given up)."""

    kind: Kind
    scene: str
    shard: Place
    """Place in the shard grid (frame, y, x)."""
    box: tuple[int, int, int, int, int, int]
    """Start then stop along (frame, y, x), in pixels of the scene."""
    status: Status
    inputs: str
    """Fingerprints of the shard's frames, joined by blanks."""
    job: str
    """Fingerprint of the job's parts that can change the mask, and of the segmenter's version."""
    weights: str = ""
    fit: str = ""
    """Digest of the committed fit that labelled it; empty where the shard fitted itself."""
    objects: tuple[StoredObject, ...] = ()
    reason: str = ""
    failures: tuple[FrameFailure, ...] = ()
    areas: tuple[tuple[int, ...], ...] = ()
    """Pixels of each class, then of void, one row a frame."""
    colors: tuple[tuple[Color, ...], ...] = ()
    """Colours of the classes, one row a frame, where the shard fitted itself."""
    inertia: tuple[float, ...] = ()
    """Inertia of the frames' own fits."""
    ground: tuple[int, ...] = ()
    """Ground area of each class, then of void, in the scene's own unit, where it is placed."""
    attempts: int = 1
    seconds: float = 0.0
    finished: float = 0.0
    """Unix time."""
    pixels: int = 0
    """Pixels labelled, void not counted."""
    version: int = 1
    """The segmenter's algorithm version."""
    provenance: str = ""
    """Host, processor and versions, as JSON; never compared."""
    payload: str = ""
    """JSON of the record's kind: border summaries, measure keys and states."""

    @property
    def key(self) -> str:
        """Key of the single record."""
        return single_key(self.kind, self.scene, self.shard)

    @property
    def checksum(self) -> str:
        """Checksums of all stored objects, joined by blanks."""
        return " ".join(o.checksum for o in self.objects)


def to_json(record: Record) -> bytes:
    """A record as the JSON object that is stored."""
    raw = {name: getattr(record, name) for name in _FIELDS}
    raw["reason"], raw["failures"] = public(record.reason), _public(record.failures)
    for name in ("objects", "failures"):
        raw[name] = _jsonable(raw[name])
    body = json.dumps(raw, separators=(",", ":")).encode()[:-1]
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
    raw["shard"] = tuple(raw["shard"])
    raw["box"] = tuple(raw["box"])
    raw["objects"] = tuple(StoredObject(**o) for o in raw["objects"])
    raw["failures"] = tuple(FrameFailure(**f) for f in raw["failures"])
    raw["areas"] = tuple(tuple(row) for row in raw["areas"])
    raw["colors"] = tuple(tuple(tuple(c) for c in row) for row in raw["colors"])
    raw["inertia"] = tuple(raw["inertia"])
    raw["ground"] = tuple(raw.get("ground", ()))
    return Record(**raw)


_FIELDS = tuple(f.name for f in fields(Record))
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
SMALL = 64
"""Records up to which a pack is written for size: most of a file of one row would be about columns."""


def to_table(records: Iterable[Record]) -> pa.Table:
    """Packed form of records, in (kind, shard) order."""
    return pa.table(_columns(records), schema=SCHEMA)


def _columns(records: Iterable[Record]) -> dict[str, list[Any]]:
    rows: dict[str, list[Any]] = {name: [] for name in SCHEMA.names}
    plain = [(n, rows[n]) for n in SCHEMA.names if n not in (*_NESTED, "f", "y", "x")]
    for record in sorted(records, key=lambda r: (r.kind, r.shard)):
        for name, column in plain:
            column.append(getattr(record, name))
        if record.reason or record.failures:  # of a release that kept credentials
            rows["reason"][-1] = public(record.reason)
            record = replace(record, failures=_public(record.failures))
        for name, index in zip("fyx", record.shard, strict=True):
            rows[name].append(index)
        for name in _NESTED:
            value = getattr(record, name)
            rows[name].append(json.dumps(value, separators=(",", ":")) if value else _EMPTY_TEXT)
    return rows


def pack_records(records: Iterable[Record]) -> bytes:
    """Packed records as the parquet file that is stored."""
    columns, sink = _columns(records), io.BytesIO()
    if len(columns["kind"]) > SMALL:
        pq.write_table(pa.table(columns, schema=SCHEMA), sink, compression="zstd")
        return sink.getvalue()
    names = tuple(
        name
        for name, column in columns.items()
        if name not in _DEFAULTS or any(value != _DEFAULTS[name] for value in column)
    )
    schema = _small_schema(names)
    pq.write_table(
        pa.table({name: columns[name] for name in names}, schema=schema),
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
            default = pa.repeat(pa.scalar(_DEFAULTS[name], kind), table.num_rows)
            table = table.append_column(name, default)
    return table.select(names)


def _public(failures: tuple[FrameFailure, ...]) -> tuple[FrameFailure, ...]:
    return tuple(f._replace(reason=public(f.reason)) for f in failures)


def _jsonable(value: tuple[Any, ...]) -> Any:
    """Nested parts as JSON takes them: tuples stay, the two dataclasses become objects."""
    return [v._asdict() if hasattr(v, "_asdict") else v for v in value]


def from_table(table: pa.Table) -> Iterator[Record]:
    """Records of a packed table, one at a time."""
    for batch in table.to_batches(max_chunksize=8192):
        columns = {name: _plain(batch.column(name)) for name in SCHEMA.names}
        places = list(zip(*(columns.pop(axis) for axis in "fyx"), strict=True))
        columns["box"] = [tuple(box) for box in columns["box"]]
        columns["objects"] = _parsed(columns["objects"], StoredObject)
        columns["failures"] = _parsed(columns["failures"], FrameFailure)
        for name in ("areas", "colors", "inertia", "ground"):
            columns[name] = [
                () if text == _EMPTY_TEXT else _frozen(json.loads(text)) for text in columns[name]
            ]
        columns["shard"] = places
        yield from map(Record, *(columns[name] for name in _FIELDS))


def _plain(column: pa.Array) -> list[Any]:
    """A column as Python values; several times as fast as `to_pylist` where it can be."""
    if pa.types.is_dictionary(column.type):
        words = column.dictionary.to_pylist()
        return [words[i] for i in column.indices.to_numpy().tolist()]
    found: list[Any]
    if pa.types.is_fixed_size_list(column.type):
        found = column.flatten().to_numpy().reshape(-1, column.type.list_size).tolist()
    elif pa.types.is_primitive(column.type):
        found = column.to_numpy().tolist()
    else:
        found = column.to_pylist()
    return found


def _parsed(texts: list[str], kind: Any) -> list[tuple[Any, ...]]:
    return [
        () if text == _EMPTY_TEXT else tuple(kind(*row) for row in json.loads(text))
        for text in texts
    ]


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


@dataclass(frozen=True, slots=True)
class RecordLog:
    """Reads and writes the records of a store."""

    objects: Objects

    def write(self, record: Record) -> None:
        """Commit a record, atomically."""
        self.objects.put(record.key, to_json(record))

    def drop(self, kind: Kind, scene: str, shard: Place, *, packed: bool) -> None:
        """Take a record back before its shard is written again; `packed`: one may lie in the pack."""
        if packed:
            void = Record(kind, scene, shard, (0,) * 6, "void", "", "")
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
        for key in self.objects.keys(records_folder(scene)):
            data = self.objects.get(key)
            if data is None:
                continue
            try:
                record = from_json(data)
            except ValueError:
                named = single_of(key)
                if named is None:
                    continue
                record = Record(named[0], scene, named[1], (0,) * 6, "void", "", "")
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

    def read(self, scene: str, kind: str | None = None) -> Iterator[Record]:
        """Records of a scene: single ones first, then the packed ones they do not replace."""
        singles = self.singles(scene)
        for record in singles.values():
            if record.status != "void" and kind in (None, record.kind):
                yield record
        table = self.table(scene)
        if table is not None:
            for record in from_table(table):
                if (record.kind, record.shard) not in singles and kind in (None, record.kind):
                    yield record

    def write_pack(self, scene: str) -> None:
        """Put a finished scene's records into its parquet file, ahead of `clear`.

        Killed between the two, the singles still say the same as the pack.
        """
        packed = [record for record in self.read(scene) if record.kind != "draft"]
        self.objects.put(pack_key(scene), pack_records(packed))

    def clear(self, scene: str) -> None:
        """Delete the single records of a scene, once it is packed."""
        self.objects.delete_tree(records_folder(scene))

    def forget(self, scene: str) -> None:
        """Delete all records of a scene."""
        self.objects.delete(pack_key(scene))
        self.clear(scene)


def given_up(record: Record, status: Status, reason: str, attempts: int) -> Record:
    """The record of a shard whose work failed for good in this run."""
    return replace(
        record, status=status, reason=reason, attempts=attempts, objects=(), areas=(), pixels=0
    )


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
