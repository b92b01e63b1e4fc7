"""What of a store is not what was committed: objects, layouts and packs, held against their records."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from segengine.ahead import is_far
from segengine.store.blobs import Objects
from segengine.store.keys import (
    FOLDERS,
    LAYOUTS,
    LOCK,
    ROWS,
    layout_key,
    pack_key,
    rows_key,
    shard_key,
)
from segengine.store.kinds import Record
from segengine.store.layouts import load_layout
from segengine.store.records import RecordLog
from segengine.store.sealbook import CHANGED, MISSING, digest
from segengine.store.seals import SealedObjects
from segengine.types import Place


def object_key(record: Record, array: str) -> str:
    """Key of a record's stored object."""
    if array == ROWS:
        return rows_key(record.scene, record.shard)
    return shard_key(record.scene, array, record.shard)


def stored_records(objects: Objects) -> Iterator[Record]:
    """Every record that stands for stored bytes."""
    log = RecordLog(objects)
    singles, packed = log.scenes()
    for scene in sorted(singles | packed):
        for record in log.read(scene):
            if record.objects:
                yield record


def differences(objects: Objects) -> Iterator[tuple[Record, str, str]]:
    """(record, array, what is wrong) for every stored object that is not what was committed."""

    def check(item: tuple[Record, Any]) -> tuple[Record, str, str] | None:
        record, stored = item
        key = object_key(record, stored.array)
        data = objects.get(key)
        if data is None:
            return record, stored.array, objects.obstacle(key) or MISSING
        return None if digest(data) == stored.checksum else (record, stored.array, CHANGED)

    pairs = ((record, stored) for record in stored_records(objects) for stored in record.objects)
    remote = is_far(objects.root)
    with ThreadPoolExecutor(16 if remote else 2) as pool:
        for batch in _chunks(pairs, 256):
            yield from (found for found in pool.map(check, batch) if found is not None)


def misplaced(objects: Objects) -> Iterator[str]:
    """Keys below folders of the store that are files, and the lock's where that is a folder."""
    for key in (*(f"{folder}/*" for folder in FOLDERS), LOCK):
        if objects.obstacle(key):
            yield key


def _chunks(items: Iterator[Any], size: int) -> Iterator[list[Any]]:
    batch: list[Any] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def broken_objects(objects: Objects) -> frozenset[tuple[str, str, Place]]:
    """(scene, array, shard) of every stored object that is not what was committed."""
    return frozenset((r.scene, array, r.shard) for r, array, _ in differences(objects))


def unreadable(objects: SealedObjects, known: Collection[str] = ()) -> Iterator[tuple[str, str]]:
    """(scene, key) of what no seal vouches for (a run was killed, the store is of an earlier version,
    or a stranger put it there) and cannot be read."""
    for scene in objects.children(LAYOUTS)[1]:
        key = layout_key(scene)
        if key not in known and load_layout(objects, scene) is None:
            yield scene, key
    log = RecordLog(objects)
    for scene in sorted(log.scenes()[1]):
        if pack_key(scene) not in known and log.table(scene, ["kind"]) is None:
            yield scene, pack_key(scene)
