"""Shards of which it is known without reading that no pixel is valid: stored many at once, on the driver.

Those that no polygon of `source.area` comes near, that hold nodata alone, or that no scene of a map
reaches, and what lies above them in the pyramid. Their bytes are all one, their records go to the
scene's pack at once; both are what a worker makes of each.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from segengine import asked
from segengine.ahead import requested
from segengine.errors import CorruptInputError, TransientInputError
from segengine.planning.plan import Plan
from segengine.planning.source import marked_options
from segengine.registry import reader
from segengine.store.arrays import ArraySpec
from segengine.store.blobs import open_objects
from segengine.store.kinds import LevelRecord, MaskRecord, Record, StoredObject
from segengine.store.layouts import Layout
from segengine.store.records import RecordLog
from segengine.store.seals import SealedObjects
from segengine.store.shardcodec import encode_shard
from segengine.store.shards import checksum
from segengine.tiling import shard_window
from segengine.types import Bool, Place, Source, Unreadable
from segengine.worker.attempts import timed_together
from segengine.worker.reading import read_frames
from segengine.worker.shard import Block

TOGETHER = 4096
"""Shards that are stored before their records are."""
FEW = 16
"""Shards up to which workers are as good."""


def blank_shards(plan: Plan) -> Iterator[MaskRecord]:
    """Store the shards left to do that are known to be void; yields their records."""
    for layout in plan.layouts.values():
        places = _places(plan, layout)
        # Some are left to the workers: by single records a later stage knows that the scene has changed.
        for start in range(0, len(places) - FEW, TOGETHER):
            yield from _stored(
                plan, layout, places[start : min(start + TOGETHER, len(places) - FEW)]
            )


def _places(plan: Plan, layout: Layout) -> list[Place]:
    """Shards without a record of a scene of one frame, that are known to have no valid pixel."""
    if not layout.cut or layout.shape[0] != 1 or layout.gone.any():
        return []
    if plan.drafts(layout) or plan.pending_of(layout) <= FEW:
        return []
    if not plan.states[layout.scene].todo.any():
        return []
    fitted = (
        not asked.surveys(plan.plugin) or plan.fits.get(plan.group(layout, 0) or "") is not None
    )
    skip = plan.job.source.skip
    if not fitted or not (skip is None or skip.empty):
        return []
    source = reader(layout.kind, marked_options(plan.job))
    void = _unreached(plan, layout) if layout.mosaic is not None else _void(source, layout)
    if void is None:
        return []
    state = plan.states[layout.scene]
    todo = np.argwhere(void[None] & ~state.done & (state.had == 0)).tolist()
    places = [(int(f), int(y), int(x)) for f, y, x in todo]
    if places:
        _, rows, cols = layout.window(places[0]).slices
        frames = layout.frames(0, 1, plan.reads(layout, places[0]))
        ((_, tile),) = read_frames(source, frames, rows, cols)
        if isinstance(tile, Unreadable) or tile.valid is None or tile.valid.any():
            return []
    return places


def _void(source: Source, layout: Layout) -> Bool | None:
    """(y, x) shards of which the source knows that none of their pixels counts."""
    try:
        found = asked.beyond(source, layout.frame(0), layout.shard[1])
    except (CorruptInputError, TransientInputError):
        return None  # a worker says so, in the record of each
    return found if found is not None and found.shape == layout.grid[1:] else None


def _unreached(plan: Plan, layout: Layout) -> Bool | None:
    """(y, x) shards of a map that no scene comes near: all of them are made of nothing."""
    assert layout.mosaic is not None
    found = np.zeros(layout.grid[1:], np.bool_)
    for y, x in np.ndindex(found.shape):
        reads = plan.reads(layout, (0, y, x))
        if reads is None:
            return None
        found[y, x] = not layout.mosaic.near(*reads).size
    return found


def _stored(plan: Plan, layout: Layout, places: Sequence[Place]) -> list[MaskRecord]:
    began = time.perf_counter()
    task = plan.task(layout, places[0])
    unflushed = open_objects(plan.objects.root, replace(task.writer, fsync=False))
    first = Block(task).write(unflushed, (), 0.0)
    assert isinstance(first, MaskRecord)
    data = {spec.path: _blank(spec) for spec in task.arrays.arrays if _is_stored(spec, first)}
    for _ in requested(
        [(task.arrays[path], place) for path in data for place in places],
        lambda at: unflushed.put(at[0].shard_key(layout.scene, at[1]), data[at[0].path]),
        plan.objects.root,
    ):
        pass
    if plan.objects.writer.fsync:
        unflushed.flush()
    records = []
    for place in places:
        window = layout.window(place)
        frames, height, width = window.shape
        areas = ((*(0,) * plan.classes, height * width),) * frames
        ground: tuple[int, ...] = ()
        if task.ground is not None:
            labels = np.broadcast_to(np.uint8(0), window.shape)
            corner = window.start[1], window.start[2]
            ground = task.ground.totals(labels, plan.classes, corner, areas) or ()
        box = (*window.start, *window.stop)
        records.append(replace(first, shard=place, box=box, areas=areas, ground=ground))
    records = timed_together(records, time.perf_counter() - began)
    _commit(plan.objects, layout.scene, records)
    return records


def _is_stored(spec: ArraySpec, record: MaskRecord) -> bool:
    return any(stored.array == spec.path for stored in record.objects)


def blank_levels(
    objects: SealedObjects,
    scene: str,
    level: int,
    spec: ArraySpec,
    above: Sequence[tuple[Place, str]],
) -> list[LevelRecord]:
    """Store shards of a level of a pyramid below which all is void; `above`: place and inputs of each."""
    began = time.perf_counter()
    data = _blank(spec)
    stored = StoredObject(spec.path, checksum(data), len(data))
    unflushed = open_objects(objects.root, replace(objects.writer, fsync=False))
    for _ in requested(
        above, lambda at: unflushed.put(spec.shard_key(scene, at[0]), data), objects.root
    ):
        pass
    if objects.writer.fsync:
        unflushed.flush()
    records = []
    for place, inputs in above:
        window = shard_window(place, spec.shape, spec.shard)  # type: ignore[arg-type]
        box = (*window.start, *window.stop)
        records.append(
            LevelRecord(
                level=level, scene=scene, shard=place, box=box, below=inputs, objects=(stored,)
            )
        )
    records = timed_together(records, time.perf_counter() - began)
    _commit(objects, scene, records)
    return records


def blank_checksum(spec: ArraySpec) -> str:
    """Of a stored shard that is void."""
    return checksum(_blank(spec))


def _blank(spec: ArraySpec) -> bytes:
    one = np.full((1,) * len(spec.shard), spec.fill, spec.dtype)
    return encode_shard(one, spec.shard, spec.chunk, spec.fill)


def _commit(objects: SealedObjects, scene: str, records: Sequence[Record]) -> None:
    RecordLog(objects).add_to_pack(scene, records)
    objects.commit()
