"""The segment and stitch stages on the driver: shards out, records in."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from segengine import asked
from segengine.dispatch.pool import Outcome, Pool, Work
from segengine.instances.join import join
from segengine.instances.pieces import kept_pieces
from segengine.job import FaultsSpec
from segengine.planning.plan import Plan
from segengine.progress import FailedFrame, Progress
from segengine.stages.outcomes import outcomes
from segengine.stages.quarantine import Quarantine
from segengine.store.blobs import Objects
from segengine.store.keys import INSTANCES, MAPS, draft_key, rows_key, single_key, work_folder
from segengine.store.kinds import DraftRecord, FrameFailure, LabelRecord, MaskRecord, given_up
from segengine.store.layouts import Layout
from segengine.store.records import RecordLog, from_json
from segengine.types import Place
from segengine.worker.drafts import read_summary
from segengine.worker.segment import compute_shard, finish_shard
from segengine.worker.tasks import FinishTask, Hint, JoinedObjects, LinkedPieces, ShardTask


@dataclass(slots=True)
class Counts:
    """What a run has worked on."""

    computed: int = 0
    pixels: int = 0


def segment(
    plan: Plan, pool: Pool, faults: FaultsSpec, quarantine: Quarantine, counts: Counts
) -> Iterator[Progress]:
    """Work on every shard left to do; what a later stage decides is only drafted."""
    works = _segment_works(plan, pool.workers)
    total = sum(
        int(np.count_nonzero(_rows_pending(plan, layout) & ~plan.states[layout.scene].drafted))
        if plan.drafts(layout)
        else plan.states[layout.scene].pending
        for layout in plan.layouts.values()
    )
    for done, outcome in enumerate(outcomes(pool, works, faults), 1):
        task: ShardTask = outcome.work.task
        record = _record(plan, task, outcome)
        note_failures(plan, record, quarantine)
        state = plan.states[task.scene]
        state.singles = True
        if isinstance(record, DraftRecord):
            state.drafted[task.place] = True
        else:
            state.done[task.place] = True
            counts.computed += 1
            counts.pixels += record.pixels
        yield Progress("segment", done, total, len(quarantine), counts.pixels)


def _segment_works(plan: Plan, workers: int) -> Iterator[Work]:
    for layout in plan.layouts.values():
        drafts = plan.drafts(layout)
        if drafts:
            todo = np.argwhere(_rows_pending(plan, layout) & ~plan.states[layout.scene].drafted)
            places: Iterator[Place] = ((int(f), int(y), int(x)) for f, y, x in todo)
        else:
            places = plan.pending_places(layout)
        overlaps = plan.overlaps(layout)
        for place, later in _with_later(places, workers if overlaps else 0):
            task = plan.task(layout, place, draft=drafts, hint=_hint(layout, later))
            yield Work(f"{layout.scene}/{place}", compute_shard, task, solo=overlaps)


def _with_later(places: Iterator[Place], ahead: int) -> Iterator[tuple[Place, Place | None]]:
    """Each place, and the one `ahead` of it: workers in step get every `ahead`-th."""
    if not ahead:
        yield from ((place, None) for place in places)
        return
    queue: deque[Place] = deque(islice(places, ahead))
    while queue:
        later = next(places, None)
        if later is not None:
            queue.append(later)
        yield queue.popleft(), later


def _hint(layout: Layout, place: Place | None) -> Hint | None:
    if place is None:
        return None
    window = layout.window(place)
    return Hint(window, layout.frames(window.start[0], window.stop[0]))


def _rows_pending(plan: Plan, layout: Layout) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    """All shards of the frames of which any shard is left to do."""
    pending = (~plan.states[layout.scene].done).any(axis=(1, 2), keepdims=True)
    return np.broadcast_to(pending, layout.grid)


def _record(plan: Plan, task: ShardTask, outcome: Outcome) -> MaskRecord | DraftRecord:
    """The shard's record: the worker's own, or that of a shard given up."""
    if outcome.status == "done":
        found: MaskRecord | DraftRecord = outcome.value
        return found
    log = RecordLog(plan.objects)
    log.drop(MaskRecord.KIND, task.scene, task.place, packed=task.had == "packed")
    for spec in task.arrays.arrays:
        if spec.path in MAPS:
            plan.objects.delete(spec.shard_key(task.scene, task.place))
    if INSTANCES in task.arrays:
        plan.objects.delete(rows_key(task.scene, task.place))
    reason = f"{outcome.status}: {outcome.reason}"
    base = MaskRecord(
        scene=task.scene,
        shard=task.place,
        box=(*task.window.start, *task.window.stop),
        inputs=task.inputs,
        job=task.job,
        weights=task.weights,
        fit=task.segmenter.digest,
        version=task.version,
        failures=tuple(
            FrameFailure(f.index, outcome.status, f"{f.name}: {outcome.reason}")
            for f in task.frames
            if not f.gone
        ),
    )
    record = given_up(base, outcome.status, reason, outcome.attempts)
    log.write(record)
    return record


def note_failures(plan: Plan, record: LabelRecord, quarantine: Quarantine) -> None:
    """Quarantine the frames a record says are void."""
    layout = plan.layouts[record.scene]
    for failure in record.failures:
        name = layout.frame_name(failure.frame)
        if layout.frame(failure.frame).gone:
            continue
        reason = failure.reason.removeprefix(f"{name}: ")
        quarantine.add(FailedFrame(name, record.scene, failure.frame, failure.kind, reason))


def stitch(
    plan: Plan, pool: Pool, faults: FaultsSpec, quarantine: Quarantine, counts: Counts
) -> Iterator[Progress]:
    """Link drafted shards across their borders and write the final masks."""
    rows = [
        (layout, f)
        for layout in plan.layouts.values()
        if plan.drafts(layout)
        for f in range(layout.grid[0])
        if not plan.states[layout.scene].done[f].all()
    ]
    total = sum(int(np.count_nonzero(~plan.states[la.scene].done[f])) for la, f in rows)
    works = (work for layout, f in rows for work in _finish_works(plan, layout, f))
    for done, outcome in enumerate(outcomes(pool, works, faults), 1):
        task: ShardTask = outcome.work.task.shard
        record = _record(plan, task, outcome)
        note_failures(plan, record, quarantine)
        plan.states[task.scene].done[task.place] = True
        counts.computed += 1
        counts.pixels += record.pixels if isinstance(record, MaskRecord) else 0
        yield Progress("stitch", done, total, len(quarantine), counts.pixels)


def _finish_works(plan: Plan, layout: Layout, f: int) -> Iterator[Work]:
    """One piece of work for each shard of a frame that has no mask yet."""
    for task in finish_tasks(plan, layout, f, plan.objects, False):
        yield Work(f"{layout.scene}/{task.shard.place}", finish_shard, task)


def finish_tasks(
    plan: Plan, layout: Layout, f: int, drafts: Objects, again: bool
) -> Iterator[FinishTask]:
    """Link one frame's drafts, which lie in `drafts`; `again`: shards with a mask too."""
    windows: dict[tuple[int, int], Any] = {}
    failures: dict[Place, tuple[FrameFailure, ...]] = {}
    for place in layout.frame_shards(f):
        data = drafts.get(single_key(DraftRecord.KIND, layout.scene, place))
        if data is not None:
            draft = from_json(data)
            if not isinstance(draft, DraftRecord):
                continue
            failures[place] = draft.failures
            if draft.summary:
                windows[place[1:]] = read_summary(draft)
    decided = _decided(plan, windows)
    for place in layout.frame_shards(f):
        if place in failures and (again or not plan.states[layout.scene].done[place]):
            shard = plan.task(layout, place)
            yield FinishTask(shard, decided(place[1:]), failures[place])


def _decided(
    plan: Plan, windows: dict[tuple[int, int], Any]
) -> Callable[[tuple[int, int]], LinkedPieces | JoinedObjects]:
    """What the windows of one frame, seen together, make of each one's draft."""
    keep = asked.keep(plan.plugin)
    if keep is not None:
        kept = kept_pieces(windows, keep)
        return lambda cell: LinkedPieces(kept[cell], keep)
    overlap = not plan.components and asked.band(plan.plugin) > 0
    joined = join(windows, overlap=overlap)
    label = np.concatenate([np.zeros(1, np.uint16), joined.label])
    score = np.concatenate([np.zeros(1, np.float32), joined.score])
    parts = np.concatenate([np.zeros(1, np.int32), joined.parts]) > 1
    cut = np.concatenate([np.zeros(1, np.bool_), joined.cut])
    nothing = np.zeros(1, np.uint32)

    def of(cell: tuple[int, int]) -> JoinedObjects:
        ids = joined.ids.get(cell, nothing)
        return JoinedObjects(ids, label[ids], score[ids], parts[ids], cut[ids])

    return of


def clear_drafts(plan: Plan, layout: Layout) -> None:
    """Delete a finished scene's provisional maps and their records."""
    log = RecordLog(plan.objects)
    for kind, place in log.singles(layout.scene):
        if kind == DraftRecord.KIND:
            log.drop(kind, layout.scene, place, packed=False)
            plan.objects.delete(draft_key(layout.scene, place))
    plan.objects.delete_tree(work_folder(layout.scene))
