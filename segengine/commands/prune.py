"""Frames deleted for good: their masks, and everything in a store that tells of them.

    choose    by names, or of those that are gone by age or by the runs that have seen them
    void      their masks and records, scene by scene; a scene of its own goes with its name
    clear     fits, surveys, lists of inputs, corrections, the job: what else names them
    publish   pyramids, tables, figures and the report anew, of what is left
    forget    second copies of what was

Whatever is killed, the same call goes on. What is left has the bytes that it had.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

from segengine import asked
from segengine.ahead import each_of
from segengine.commands._named import read_names
from segengine.commands._prunable import (
    Frame,
    Going,
    Prunable,
    Wanted,
    prunable,
    seconds_of_age,
)
from segengine.commands._traces import SEALED, clear_traces, groups_of
from segengine.commands._voided import Voiding, drop_levels, drop_shards
from segengine.dispatch import clusters
from segengine.dispatch.pool import InProcess, Pool
from segengine.errors import SegengineError
from segengine.guards.trust import named_by_store, trusting
from segengine.job import Job
from segengine.planning.mosaic import without_members
from segengine.planning.plan import Plan, stored_plan
from segengine.planning.stored import StandIn, standing_in, stored_job
from segengine.reader import Store, open_store
from segengine.report import build
from segengine.stages import publish, solids, tables, tracks
from segengine.stages.aggregate import Measurer, measurer
from segengine.stages.pyramid import Pyramid, build_pyramids
from segengine.store.blobs import Writer
from segengine.store.keys import (
    INSTANCE_ROWS,
    INSTANCES,
    MASK,
    PRUNED,
    REPORT,
    fit_key,
    layout_key,
    pack_key,
    scene_folder,
    work_folder,
)
from segengine.store.kinds import DraftRecord, MaskRecord
from segengine.store.layouts import commit_layout
from segengine.store.lock import run_lock
from segengine.store.records import RecordLog, SceneRecords
from segengine.store.root import read_attributes
from segengine.store.seals import SealedObjects, damage_notices
from segengine.store.tombstones import Tombstones
from segengine.types import Place

__all__ = ["PruneReport", "Wanted", "prune", "read_names", "seconds_of_age"]

FEW = 16
"""Shards to measure below which local workers are not worth their start."""


@dataclass(frozen=True, slots=True)
class PruneReport:
    """What went, or would go."""

    store: str
    frames: tuple[Frame, ...]
    scenes: tuple[str, ...]
    """Scenes that go with all there is of them."""
    unknown: tuple[str, ...]
    """Names that nothing was stored of, and that were not pruned before."""
    undated: int
    """Frames that are gone, of which no run has noted since when."""
    applied: bool
    unmatched: bool = False
    """All names are such: a mistake, and nothing was done for them."""
    unfinished: bool = False
    """An earlier prune was killed, and is finished by this one."""
    notices: tuple[str, ...] = ()

    @property
    def bytes(self) -> int:
        """Of all masks that go, about."""
        return sum(frame.bytes for frame in self.frames)

    @property
    def exit_code(self) -> int:
        """0; 2 where all names are of nothing: who deletes by law must not take that for done."""
        return 2 if self.unmatched else 0

    @property
    def misses(self) -> tuple[str, ...]:
        """A line for each name that nothing is stored of; on stderr, whatever is printed."""
        return tuple(f"--frames: {name}: nothing is stored of it" for name in self.unknown)

    def as_json(self) -> dict[str, Any]:
        """What `--json` prints."""
        return {
            "store": self.store,
            "applied": self.applied,
            "frames": [frame._asdict() for frame in self.frames],
            "scenes": list(self.scenes),
            "bytes": self.bytes,
            "unknown": list(self.unknown),
            "undated": self.undated,
            "unfinished": self.unfinished,
            "notices": list(self.notices),
        }

    def lines(self) -> tuple[str, ...]:
        """Text for a terminal."""
        count = len(self.frames)
        frames = "1 frame" if count == 1 else f"{count:,} frames"
        verb = "pruned" if self.applied else "would go"
        found = [f"{self.store}: {frames} of about {self.bytes:,} bytes of masks {verb}"]
        if self.unmatched:
            found = [f"{self.store}: holds nothing of these names; nothing is deleted"]
        for frame in self.frames:
            where = frame.scene or "without a place"
            at = "" if frame.frame is None else f" {frame.frame}"
            found.append(f"  {frame.name}: {where}{at}, {frame.bytes:,} bytes")
        found += [f"  scene {scene}, with all that is stored of it" for scene in self.scenes]
        if self.undated:
            found.append(
                f"of {self.undated:,} frames that are gone no run has noted since when; the next one does"
            )
        if self.unfinished and not self.applied:
            found.append("an earlier prune was not finished; --yes finishes it too")
        if not self.applied and not self.unmatched and (self.frames or self.unfinished):
            found.append("nothing is deleted without --yes")
        return (*found, *self.notices)


def prune(path: str, wanted: Wanted, *, yes: bool = False) -> PruneReport:
    """Delete frames from a store, or (without `yes`) say what would go.

    Takes the store's lock, and gives the names that were asked for tombstones: no later run brings
    them back. Killed anywhere, the same call goes on. Raises JobError, StoreLockedError,
    DamagedStoreError where what is to be changed is not what was committed.
    """
    store = open_store(path, trust=False)
    if not yes:
        found = prunable(store.objects, wanted)
        before = Tombstones.read(store.objects)
        return _report(store, found, applied=False, unfinished=not before.complete)
    fsync = store.job.get("faults", {}).get("fsync") is not False
    with (
        trusting(False),
        named_by_store(),
        run_lock(store.objects.base.by(Writer(fsync))) as lock,
    ):
        return _pruned(store, SealedObjects(lock.objects, heals=True), wanted)


def _report(store: Store, found: Prunable, **about: Any) -> PruneReport:
    own = tuple(going.layout.scene for going in found.scenes if going.whole)
    return PruneReport(
        store=store.path,
        frames=found.frames,
        scenes=own,
        unknown=found.unknown,
        undated=found.undated,
        unmatched=found.unmatched,
        **about,
    )


def _pruned(store: Store, objects: SealedObjects, wanted: Wanted) -> PruneReport:
    found = prunable(objects, wanted)
    before = Tombstones.read(objects)
    unfinished = not before.complete
    kept_out = {*(wanted.names or ()), *(found.names if wanted.names else ())}
    now = replace(before.beside(() if found.unmatched else kept_out), complete=True)
    if not (found.scenes or found.unplaced or unfinished or now != before):
        return _report(store, found, applied=True)
    replace(now, complete=False).write(objects)
    objects.commit()
    _open(objects, found)
    for going in found.scenes:
        _void(objects, going, store)
    clear_traces(objects, found)
    for going in found.scenes:
        _lay_out(objects, going)
    objects.commit()
    left_to_do = _publish(objects)
    objects.forget_copies()
    objects.open([PRUNED])
    now.write(objects)
    objects.commit()
    notices = (*left_to_do, *damage_notices(objects))
    return _report(store, found, applied=True, unfinished=unfinished, notices=notices)


def _open(objects: SealedObjects, found: Prunable) -> None:
    """Break the seals of all that is about to be changed, in one write."""
    scenes = [going.layout.scene for going in found.scenes]
    layouts = [*map(layout_key, scenes), *map(pack_key, scenes)]
    fits = [fit_key(group) for going in found.scenes for group in groups_of(going)]
    objects.open([*layouts, *fits, *SEALED, *publish.OBJECTS])


# ----------------------------------------------------------------------------------------- scenes


def _void(objects: SealedObjects, going: Going, store: Store) -> None:
    """What goes of a scene's masks and records."""
    scene = going.layout.scene
    if going.whole:
        RecordLog(objects).forget(scene)
        for folder in (f"{INSTANCE_ROWS}/{scene}", work_folder(scene), scene_folder(scene)):
            objects.delete_tree(folder)
    elif going.members:
        _drop_members(objects, going, store)
    else:
        Voiding(objects, going.layout, going.places).run()


def _lay_out(objects: SealedObjects, going: Going) -> None:
    """The layout of what is left of a scene: the last that tells a killed call what is to go."""
    if going.whole:
        objects.delete(layout_key(going.layout.scene))
    elif going.members:
        commit_layout(objects, without_members(going.layout, going.members))
    else:
        commit_layout(objects, going.layout.without(going.places))


def _drop_members(objects: SealedObjects, going: Going, store: Store) -> None:
    """Scenes of a map: where one lay, the map is void until the next run makes it of the others."""
    scene, log = going.layout.scene, RecordLog(objects)
    singles, pack = log.singles(scene), log.pack(scene)
    records = SceneRecords(singles, pack, pack is not None)
    touched = _touched(going, records, store)
    drop_levels(objects, records, touched)
    drop_shards(objects, records, touched)
    objects.delete_tree(work_folder(scene))


def _touched(going: Going, records: SceneRecords, store: Store) -> frozenset[Place]:
    """Shards that what goes reaches into; all of them where they are decided together."""
    layout = going.layout
    places = [place for f in range(layout.grid[0]) for place in layout.frame_shards(f)]
    linked = any(o.array == INSTANCES for r in records.of(MaskRecord) for o in r.objects)
    if linked or (layout.cut and _links(store)):
        return frozenset(places)
    found = []
    for place in places:
        _, rows, columns = layout.window(place).slices
        mosaic = layout.mosaic and layout.mosaic.touching(rows, columns)
        if mosaic and any(member.name in going.members for member in mosaic.members):
            found.append(place)
    return frozenset(found)


def _links(store: Store) -> bool:
    """Whether the segmenter decides a frame's shards together; also where that is not known."""
    try:
        plugin = stored_job(store.attributes).job.plugin
    except SegengineError:
        return True
    return isinstance(plugin, StandIn) or asked.links(plugin)


# ---------------------------------------------------------------------------------------- publish


def _plan(objects: SealedObjects, attributes: Mapping[str, Any]) -> Plan:
    """The store as it stands. Masks go also where the segmenter's own files are not here any more."""
    job = stored_job(attributes).job
    try:
        return stored_plan(job, objects)
    except SegengineError:
        return stored_plan(standing_in(job, attributes), objects)


def _publish(objects: SealedObjects) -> list[str]:
    """Make anew what is of all scenes; what of it is left to do, and why."""
    log = RecordLog(objects)
    plan = _plan(objects, read_attributes(objects) or {})
    before = tracks.Before.of(objects)
    objects.open(publish.OBJECTS)
    measures, left_to_do = _measures(plan)
    figures: dict[str, tables.SceneFigures] = {}
    for batch in log.together(plan.counts):
        _build_pyramids(plan, batch)
        for scene, records in batch.items():
            figures[scene] = tables.scene_figures(plan, scene, records)
    tables.write_tables(plan, figures)
    tables.write_instances(plan, figures)
    tracks.write_tracks(plan, figures, before)
    solids.write_solids(plan, figures)
    publish.write_metrics(plan, figures, measures)
    _pack(plan, log)
    build(objects.root, objects.writer, **publish.unshown(plan, measures))
    objects.adopt(REPORT)
    objects.commit()
    return left_to_do


def _measures(plan: Plan) -> tuple[Measurer | None, list[str]]:
    """What measures the masks that are left; where that fails, why, and the next run does it."""
    found = None
    try:
        found = measurer(plan.job, plan.objects, plan.layouts, plan.arrays, plan.plugin)
        stale = [] if found is None else found.stale()
        if found is not None and stale:
            with _pool(plan.job, len(stale)) as pool:
                for _ in found.measure(pool, plan.job.faults, stale):
                    pass
    except SegengineError as error:
        return found, [f"not all is measured anew: {error}; the next run, or evaluate, does it"]
    return found, []


def _pool(job: Job, tasks: int) -> AbstractContextManager[Pool]:
    if tasks < FEW and job.cluster.kind == "local":
        return nullcontext(InProcess())
    return clusters.open_pool(job.cluster, tasks)


def _build_pyramids(plan: Plan, batch: Mapping[str, SceneRecords]) -> None:
    pyramids = [
        Pyramid(scene, arrays[MASK], arrays.levels, records)
        for scene, records in batch.items()
        if (arrays := plan.arrays[scene]).levels and records.singles
    ]
    for _ in build_pyramids(plan.objects, pyramids, InProcess(), plan.job.faults):
        pass


def _pack(plan: Plan, log: RecordLog) -> None:
    """Put single records into the packs, and seal all; drafts that a later run decides stay."""
    objects, singles = plan.objects, sorted(log.scenes()[0] & plan.layouts.keys())
    objects.open(map(pack_key, singles))
    packed = {scene: list(log.singles(scene).values()) for scene in singles}
    each_of(singles, log.write_pack, objects.root)
    objects.commit()
    for records in packed.values():
        done = [record for record in records if not isinstance(record, DraftRecord)]
        objects.delete_many([record.key for record in done])
