"""Masks of vanished inputs, carried over when a shard they share is written again.

What is carried is saved below `work/` before the shard's record is dropped: a kill in between loses
nothing. Damaged bytes are not carried.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from segengine.store.access import store_access
from segengine.store.arrays import ArraySpec
from segengine.store.blobs import Objects
from segengine.store.keys import MASK, PROBABILITIES, array_folder, kept_key, rows_key, single_key
from segengine.store.kinds import LOST, FrameFailure, MaskRecord, StoredObject
from segengine.store.layouts import NOTHING
from segengine.store.records import RecordLog
from segengine.store.shardcodec import without_frames
from segengine.store.shards import checksum, open_array
from segengine.store.singles import from_json
from segengine.store.values import decode, encode
from segengine.types import Color

if TYPE_CHECKING:
    from segengine.worker.tasks import ShardTask

NOT_AGAIN = (
    "its mask was damaged, and cannot be made again without its input, which has vanished; "
    "put the input back and run again"
)
Colors = tuple[Color, ...]


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
    lost: tuple[int, ...] = ()
    """Frames that are void because their mask was damaged."""


def carried(task: ShardTask, objects: Objects) -> Kept | None:
    """What a shard's vanished frames keep; None where nothing usable is stored."""
    key = kept_key(task.scene, task.place)
    saved = objects.get(key)
    with suppress(ValueError):  # damaged itself: as if it were not there
        kept: Kept | None = None if saved is None else decode(saved)
        if kept is not None:
            return kept
    kept = _stored(task, objects)
    if kept is not None:
        objects.put(key, encode(kept))
    return kept


def lost(task: ShardTask, objects: Objects) -> tuple[FrameFailure, ...]:
    """Vanished frames of a shard whose stored masks nothing vouches for; they will be void."""
    record, spec = _record(task, objects), task.arrays[MASK]
    had = objects.exists(spec.shard_key(task.scene, task.place))
    if not had and (record is None or not record.objects):
        return ()
    void = () if record is None else [f.frame for f in record.failures if f.kind != LOST]
    gone = [r.index for r in task.frames if r.gone and not r.pruned]
    return _failures(task, [index for index in gone if index not in void])


def still_lost(task: ShardTask, kept: Kept) -> tuple[FrameFailure, ...]:
    """Those that were lost before, and have not come back."""
    return _failures(task, kept.lost)


def _failures(task: ShardTask, frames: Collection[int]) -> tuple[FrameFailure, ...]:
    return tuple(
        FrameFailure(ref.index, LOST, f"{ref.name}: {NOT_AGAIN}")
        for ref in task.frames
        if ref.index in frames
    )


def forget(task: ShardTask, objects: Objects) -> None:
    """Delete what was saved, once the shard is committed."""
    objects.delete(kept_key(task.scene, task.place))


def _stored(task: ShardTask, objects: Objects) -> Kept | None:
    record = _record(task, objects)
    if record is None or record.status != "done" or not _is_whole(task, objects, record):
        return None
    made = (record.job, record.weights, record.fit)
    first, gone = record.box[0], [r.index for r in task.frames if r.gone]
    maps = {}
    for path in (o.array for o in record.objects):
        same = path != PROBABILITIES or record.job == task.job  # their shape is the job's
        if path in task.arrays and same:
            _, rows, columns = task.window.slices
            with store_access(f"{task.store}/{array_folder(task.scene, path)}"):
                array = open_array(task.store, task.scene, task.arrays[path])
                maps[path] = {i: np.asarray(array[i, ..., rows, columns]) for i in gone}
    failed = {f.frame for f in record.failures}
    return Kept(
        made=made,
        maps=maps,
        colors={i: record.colors[i - first] for i in gone if record.colors},
        inertia={i: record.inertia[i - first] for i in gone if record.inertia},
        failed=tuple(i for i in gone if i in failed),
        rows=_rows(task, objects, gone),
        lost=tuple(f.frame for f in record.failures if f.kind == LOST and f.frame in gone),
    )


def _record(task: ShardTask, objects: Objects) -> MaskRecord | None:
    single = objects.get(single_key(MaskRecord.KIND, task.scene, task.place))
    if single is not None:
        record = from_json(single)
        return record if isinstance(record, MaskRecord) else None
    found = RecordLog(objects).read(task.scene, MaskRecord) if task.had else ()
    return next((r for r in found if r.shard == task.place), None)


def _is_whole(task: ShardTask, objects: Objects, record: MaskRecord) -> bool:
    for stored in record.objects:
        if stored.array in task.arrays:
            spec = task.arrays[stored.array]
            data = objects.get(spec.shard_key(task.scene, task.place))
            if data is None or not _is_of(record, stored, spec, data):
                return False
    return True


def _is_of(record: MaskRecord, stored: StoredObject, spec: ArraySpec, data: bytes) -> bool:
    """Whether bytes are what a record vouches for, or were before a prune that was killed between the
    two: then they are, without the frames that the record has no input of."""
    if checksum(data) == stored.checksum:
        return True
    voided = [i for i, mark in enumerate(record.inputs.split(" ")) if mark == NOTHING]
    with suppress(ValueError, IndexError):
        left = without_frames(data, spec.shard, spec.chunk, voided)
        return bool(voided) and checksum(left) == stored.checksum
    return False


def _rows(task: ShardTask, objects: Objects, gone: list[int]) -> bytes:
    data = objects.get(rows_key(task.scene, task.place))
    if data is None:
        return b""
    from segengine.instances.rows import read_rows, to_bytes

    try:
        table = read_rows(data)
    except ValueError:  # damaged bytes are not carried
        return b""
    return to_bytes(table.filter(np.isin(table.column("frame").to_numpy(), gone)))
