"""Masks of vanished inputs, carried over when a shard they share is written again.

What is carried is saved below `work/` before the shard's record is dropped: a kill in between loses
nothing. Damaged bytes are not carried.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from segengine.instances import read_rows, rows_key, to_bytes
from segengine.objects import Objects, store_access
from segengine.records import Record, RecordLog, from_json, single_key
from segengine.store import checksum, open_array, shard_place
from segengine.values import decode, encode

if TYPE_CHECKING:
    from segengine.work import ShardTask

Colors = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, slots=True)
class Kept:
    """What is stored of a shard's vanished frames."""

    made: tuple[str, str, str]
    """Fingerprints of what labelled them: job, weights, fit."""
    maps: dict[str, dict[int, NDArray[Any]]]
    """Array path to frame to (y, x), or (class, y, x) of probabilities."""
    colors: dict[int, Colors]
    inertia: dict[int, float]
    failed: tuple[int, ...]
    """Frames that are void."""
    rows: bytes
    """Their rows of `tables/instances.parquet`, as parquet; empty: none."""


def carried(task: ShardTask, objects: Objects) -> Kept | None:
    """What a shard's vanished frames keep; None where nothing usable is stored."""
    key = _key(task)
    saved = objects.get(key)
    if saved is None:
        found = _stored(task, objects)
        if found is None:
            return None
        saved = encode(found)
        objects.put(key, saved)
    kept: Kept = decode(saved)
    return kept


def forget(task: ShardTask, objects: Objects) -> None:
    """Delete what was saved, once the shard is committed."""
    objects.delete(_key(task))


def _key(task: ShardTask) -> str:
    return f"work/{task.scene}/gone/{'.'.join(map(str, task.place))}"


def _stored(task: ShardTask, objects: Objects) -> Kept | None:
    record = _record(task, objects)
    if record is None or record.status != "done" or not _is_whole(task, objects, record):
        return None
    made = (record.job, record.weights, record.fit)
    first, gone = record.box[0], [r.index for r in task.frames if r.gone]
    maps = {}
    for path in (o.array for o in record.objects):
        same = path != "probabilities/0" or record.job == task.job  # their shape is the job's
        if path in task.arrays and same:
            _, rows, columns = task.window.slices
            with store_access(f"{task.store}/scenes/{task.scene}/{path}"):
                array = open_array(task.store, task.scene, task.arrays[path])
                maps[path] = {i: np.asarray(array[i, ..., rows, columns]) for i in gone}
    failed = {f.frame for f in record.failures}
    return Kept(
        made,
        maps,
        {i: record.colors[i - first] for i in gone if record.colors},
        {i: record.inertia[i - first] for i in gone if record.inertia},
        tuple(i for i in gone if i in failed),
        _rows(task, objects, gone),
    )


def _record(task: ShardTask, objects: Objects) -> Record | None:
    single = objects.get(single_key("mask", task.scene, task.place))
    if single is not None:
        return from_json(single)
    found = RecordLog(objects).read(task.scene, "mask") if task.had else ()
    return next((r for r in found if r.shard == task.place), None)


def _is_whole(task: ShardTask, objects: Objects, record: Record) -> bool:
    for stored in record.objects:
        if stored.array in task.arrays:
            spec = task.arrays[stored.array]
            data = objects.get(spec.shard_key(task.scene, shard_place(spec, task.place)))
            if data is None or checksum(data) != stored.checksum:
                return False
    return True


def _rows(task: ShardTask, objects: Objects, gone: list[int]) -> bytes:
    data = objects.get(rows_key(task.scene, task.place))
    if data is None:
        return b""
    try:
        table = read_rows(data)
    except ValueError:  # damaged bytes are not carried
        return b""
    return to_bytes(table.filter(np.isin(table.column("frame").to_numpy(), gone)))
