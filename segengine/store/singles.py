"""One commit record as the JSON object that is stored, with the checksum of its bytes."""

from __future__ import annotations

import json
from typing import Any

import xxhash

from segengine.store.kinds import FrameFailure, Record, StoredObject, stored_fields, type_of
from segengine.urls import public

COLUMNS: dict[str, Any] = {
    **dict.fromkeys(("kind", "scene"), ""),
    **dict.fromkeys(("shard", "box"), ()),
    "status": "done",
    **dict.fromkeys(("inputs", "job", "weights", "fit"), ""),
    "objects": (),
    "reason": "",
    **dict.fromkeys(
        ("failures", "areas", "colors", "inertia", "ground", "confidence", "sampled"), ()
    ),
    "attempts": 1,
    **dict.fromkeys(("seconds", "finished"), 0.0),
    "pixels": 0,
    "version": 1,
    **dict.fromkeys(("provenance", "payload"), ""),
}
"""What is stored of a record of any kind, in this order, and what stands where it has no such field."""
_OLDEST = frozenset(COLUMNS) - {
    "weights", "fit", "reason", "ground", "confidence", "sampled", "attempts", "seconds", "finished",
    "pixels", "version", "provenance", "payload",
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
    for name in ("confidence", "sampled"):  # as releases that did not know it stored a record
        if not row[name]:
            del row[name]
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
    for name in ("shard", "box", "areas", "colors", "inertia", "ground", "confidence", "sampled"):
        row[name] = frozen(row[name])
    return kind(
        **{
            f.name: row[f.column] if f.load is None else f.load(row[f.column])
            for f in stored_fields(kind)
        }
    )


def frozen(value: Any) -> Any:
    """A value of JSON with its lists, and those in them, as tuples."""
    return tuple(map(frozen, value)) if isinstance(value, list) else value
