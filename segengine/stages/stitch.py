"""The stitch stage on the driver: what spans shards is decided, and the drafts become masks."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import replace
from itertools import chain
from typing import Any

import numpy as np

from segengine import asked
from segengine.dispatch.pool import Outcome, Pool, Work
from segengine.instances.join import join
from segengine.instances.merging import Merged, merge
from segengine.instances.pieces import kept_pieces
from segengine.job import FaultsSpec
from segengine.planning.plan import Plan
from segengine.progress import Progress
from segengine.stages.aggregate import Measurer
from segengine.stages.budget import Budget
from segengine.stages.parts import decided_parts, split_tasks
from segengine.stages.quarantine import Quarantine
from segengine.stages.segment import Counts, ended, measuring, note_failures, recorded_mask
from segengine.store.blobs import Objects
from segengine.store.keys import draft_key, single_key, work_folder
from segengine.store.kinds import DraftRecord, MaskRecord
from segengine.store.layouts import Layout
from segengine.store.records import RecordLog
from segengine.store.singles import from_json
from segengine.types import Cell, Place
from segengine.worker.drafts import read_summary
from segengine.worker.segment import finish_shard
from segengine.worker.splits import split_components
from segengine.worker.tasks import (
    FinishTask,
    JoinedObjects,
    LinkedParts,
    LinkedPieces,
    MergedRegions,
    ShardTask,
    SplitComponents,
    SplitTask,
)

_Frame = tuple[str, int]
"""Scene and frame."""
_Splits = Mapping[Place, SplitComponents]
"""What each of a frame's tasks has found, by its place."""


def stitch(
    plan: Plan,
    pool: Pool,
    faults: FaultsSpec,
    quarantine: Quarantine,
    counts: Counts,
    measurer: Measurer | None = None,
    budget: Budget | None = None,
) -> Iterator[Progress]:
    """Link drafted shards across their borders and write the final masks.

    measurer: what measures each mask as soon as it is stored. budget: what keeps the run's hours. A
    frame of which a draft is missing waits for it.
    """
    budget = budget or Budget()
    rows = [
        (layout, f)
        for layout in plan.layouts.values()
        if plan.drafts(layout)
        for f in range(layout.grid[0])
        if not plan.states[layout.scene].done[f].all() and not _lacks_drafts(plan, layout, f)
    ]
    total = sum(int(np.count_nonzero(~plan.states[la.scene].done[f])) for la, f in rows)
    splits, failed = yield from _split(plan, rows, pool, faults, budget, total)
    frames = [(layout, f) for layout, f in rows if (layout.scene, f) in splits]
    works = (
        work
        for layout, f in frames
        for work in _finish_works(plan, layout, f, measurer, splits[layout.scene, f])
    )
    lost = (
        replace(failed[layout.scene, f], work=Work("", finish_shard, task))
        for layout, f in rows
        if (layout.scene, f) in failed
        for task in finish_tasks(plan, layout, f, plan.objects, False, None)
    )
    for done, outcome in enumerate(chain(budget.outcomes("stitch", pool, works, faults), lost), 1):
        task: ShardTask = outcome.work.task.shard
        record = recorded_mask(plan, task, outcome)
        note_failures(plan, record, quarantine)
        plan.states[task.scene].done[task.place] = True
        counts.computed += 1
        counts.pixels += record.pixels if isinstance(record, MaskRecord) else 0
        piece = ended(record, outcome)
        yield Progress("stitch", done, total, len(quarantine), counts.pixels, piece=piece)


def _lacks_drafts(plan: Plan, layout: Layout, f: int) -> bool:
    """Whether shards of a frame are left to a later run."""
    left = plan.undrafted.get(layout.scene)
    return left is not None and bool(left[f].any())


def _split(
    plan: Plan,
    rows: list[tuple[Layout, int]],
    pool: Pool,
    faults: FaultsSpec,
    budget: Budget,
    total: int,
) -> Generator[Progress, None, tuple[Mapping[_Frame, _Splits], Mapping[_Frame, Outcome]]]:
    """What components over several shards were split into, of each frame that has all of it.

    And frames where that failed; those in neither are left to a later run.
    """
    found: dict[_Frame, dict[Place, SplitComponents]] = {}
    failed: dict[_Frame, Outcome] = {}
    given: dict[_Frame, int] = {}

    def works() -> Iterator[Work]:
        for layout, f in rows:
            tasks = list(splits_of(plan, layout, f, plan.objects))
            given[layout.scene, f] = len(tasks)
            for task in tasks:
                yield Work(f"{task.scene}/{task.place}/split", split_components, task)

    for outcome in budget.outcomes("split", pool, works(), faults):
        task: SplitTask = outcome.work.task
        frame = task.scene, task.place[0]
        if outcome.status != "done":
            failed[frame] = outcome
        else:
            found.setdefault(frame, {})[task.place] = outcome.value
        yield Progress("stitch", 0, total, message="splitting objects that cross shards")
    whole = {frame: found.get(frame, {}) for frame in given if frame not in failed}
    return {f: done for f, done in whole.items() if len(done) == given[f]}, failed


def _finish_works(
    plan: Plan, layout: Layout, f: int, measurer: Measurer | None, splits: _Splits
) -> Iterator[Work]:
    """One piece of work for each shard of a frame that has no mask yet."""
    for task in finish_tasks(plan, layout, f, plan.objects, False, splits):
        how = measuring(measurer, layout, task.shard.place)
        task = replace(task, shard=replace(task.shard, measuring=how))
        yield Work(f"{layout.scene}/{task.shard.place}", finish_shard, task)


def read_drafts(
    layout: Layout, f: int, drafts: Objects
) -> tuple[dict[Cell, Any], dict[Place, DraftRecord]]:
    """The summaries of one frame's drafts by cell, and the records of all that were drafted."""
    windows: dict[Cell, Any] = {}
    drafted: dict[Place, DraftRecord] = {}
    for place in layout.frame_shards(f):
        data = drafts.get(single_key(DraftRecord.KIND, layout.scene, place))
        if data is not None:
            draft = from_json(data)
            if not isinstance(draft, DraftRecord):
                continue
            drafted[place] = draft
            if draft.summary:
                windows[place[1:]] = read_summary(draft)
    return windows, drafted


def splits_of(
    plan: Plan, layout: Layout, f: int, drafts: Objects, target: str = ""
) -> Iterator[SplitTask]:
    """What must be split of a frame before its shards are finished; `target`: the store of its `drafts`."""
    if plan.cleaning is None or not plan.cleaning.split:
        return
    windows, _ = read_drafts(layout, f, drafts)
    store, ref = target or plan.objects.root, layout.frame(f)
    yield from split_tasks(windows, plan.cleaning, layout.scene, ref, store, plan.objects.writer)


def finish_tasks(
    plan: Plan, layout: Layout, f: int, drafts: Objects, again: bool, splits: _Splits | None
) -> Iterator[FinishTask]:
    """Link one frame's drafts, which lie in `drafts`; `again`: shards with a mask too.

    `splits`: what components over several shards were split into; None: that failed, and the frame's
    shards are given up.
    """
    windows, drafted = read_drafts(layout, f, drafts)
    if splits is None:
        windows, splits = {}, {}
    decided = _decided(plan, layout, f, windows, splits)
    for place in layout.frame_shards(f):
        if place in drafted and (again or not plan.states[layout.scene].done[place]):
            shard = plan.task(layout, place)
            draft = drafted[place]
            yield FinishTask(shard, decided(place[1:]), draft.failures, draft.sampled)


def _decided(
    plan: Plan, layout: Layout, f: int, windows: dict[Cell, Any], splits: _Splits
) -> Callable[[Cell], LinkedPieces | JoinedObjects | LinkedParts | MergedRegions]:
    """What the windows of one frame, seen together, make of each one's draft."""
    keep = asked.keep(plan.plugin)
    if keep is not None:
        kept = kept_pieces(windows, keep)
        return lambda cell: LinkedPieces(kept[cell], keep)
    if plan.cleaning is not None:
        return decided_parts(layout.scene, f, windows, plan.cleaning, splits)
    merger = asked.merger(asked.labeller(plan.plugin))
    if merger is not None:
        regions = merge(windows, merger.least, merger.drops)
        none = Merged(np.zeros(1, np.uint32), np.zeros(1, np.bool_))
        return lambda cell: MergedRegions(*regions.get(cell, none))
    overlap = not plan.components and asked.band(plan.plugin) > 0
    joined = join(windows, overlap=overlap, agreed=asked.agrees(plan.plugin))
    label = np.concatenate([np.zeros(1, np.uint16), joined.label])
    score = np.concatenate([np.zeros(1, np.float32), joined.score])
    parts = np.concatenate([np.zeros(1, np.int32), joined.parts]) > 1
    cut = np.concatenate([np.zeros(1, np.bool_), joined.cut])
    nothing = np.zeros(1, np.uint32)

    def of(cell: Cell) -> JoinedObjects:
        ids = joined.ids.get(cell, nothing)
        return JoinedObjects(ids, label[ids], score[ids], parts[ids], cut[ids])

    return of


def clear_drafts(plan: Plan, layout: Layout) -> None:
    """Delete a finished scene's provisional maps and their records."""
    drafted = [
        record
        for record in RecordLog(plan.objects).singles(layout.scene).values()
        if record.kind == DraftRecord.KIND
    ]
    plan.objects.delete_many([record.key for record in drafted])
    plan.objects.delete_many([draft_key(layout.scene, record.shard) for record in drafted])
    plan.objects.delete_tree(work_folder(layout.scene))
