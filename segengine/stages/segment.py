"""The segment stage on the driver: shards out, records in."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np

from segengine.ahead import FEW, is_far
from segengine.dispatch.pool import Outcome, Pool, Work
from segengine.job import FaultsSpec
from segengine.planning.plan import Plan
from segengine.progress import FailedFrame, Piece, Progress
from segengine.stages.aggregate import Measurer
from segengine.stages.blank import blank_shards
from segengine.stages.budget import Budget
from segengine.stages.order import Rows, in_order
from segengine.stages.quarantine import Quarantine
from segengine.store.keys import INSTANCES, MAPS, rows_key
from segengine.store.kinds import DraftRecord, FrameFailure, LabelRecord, MaskRecord, given_up
from segengine.store.layouts import Layout
from segengine.store.records import RecordLog
from segengine.types import Place
from segengine.worker.segment import compute_shard
from segengine.worker.tasks import Hint, Measuring, ShardTask

PACKED_TOGETHER = 1 << 15
"""Records of a scene that are packed while it is worked on; of fewer the last stage takes care."""
FAR_TOGETHER = 1 << 12
"""The same where each is a request of the run that goes on after this one was killed."""


@dataclass(slots=True)
class Counts:
    """What a run has worked on."""

    computed: int = 0
    pixels: int = 0


def segment(
    plan: Plan,
    pool: Pool,
    faults: FaultsSpec,
    quarantine: Quarantine,
    counts: Counts,
    measurer: Measurer | None = None,
    budget: Budget | None = None,
) -> Iterator[Progress]:
    """Work on every shard left to do; what a later stage decides is only drafted.

    measurer: what measures each mask as soon as it is stored. budget: what keeps the run's hours; of
    what it keeps from beginning `plan.undrafted` tells, and the plan's states.
    """
    budget = budget or Budget()
    plan.undrafted = {
        scene: _rows_pending(plan, layout) & ~plan.states[scene].drafted
        for scene, layout in plan.layouts.items()
        if plan.drafts(layout)
    }
    total = sum(
        int(np.count_nonzero(plan.undrafted[scene]))
        if scene in plan.undrafted
        else int(np.count_nonzero(plan.states[scene].todo))
        for scene in plan.layouts
    )
    blank = 0
    for made in blank_shards(plan):
        blank += 1
        plan.states[made.scene].done[made.shard] = True
        counts.computed += 1
        piece = _committed(made)
        yield Progress("segment", blank, total, len(quarantine), counts.pixels, piece=piece)
    works = _segment_works(plan, pool.workers, measurer)
    unpacked = _Unpacked(plan)
    ended_by = budget.outcomes("segment", pool, works, faults)
    for done, outcome in enumerate(ended_by, blank + 1):
        task: ShardTask = outcome.work.task
        found = recorded_mask(plan, task, outcome)
        note_failures(plan, found, quarantine)
        state = plan.states[task.scene]
        state.singles = True
        if task.scene in plan.undrafted:
            plan.undrafted[task.scene][task.place] = False
        if isinstance(found, DraftRecord):
            state.drafted[task.place] = True
        else:
            state.done[task.place] = True
            unpacked.add(found)
            counts.computed += 1
            counts.pixels += found.pixels
        piece = ended(found, outcome)
        yield Progress("segment", done, total, len(quarantine), counts.pixels, piece=piece)


class _Unpacked:
    """Records of this run that lie by themselves, packed where many are to be read one by one: of a
    scene of very many, and of any that is done where each of them is a request."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.log = plan, RecordLog(plan.objects)
        self.far = is_far(plan.objects.root)
        self.least = min(PACKED_TOGETHER, FAR_TOGETHER) if self.far else PACKED_TOGETHER
        self.left = {
            scene: pending
            for scene, state in plan.states.items()
            if (pending := state.pending) >= (FEW if self.far else PACKED_TOGETHER)
        }
        """Shards that are still to come, of scenes that have so many."""
        self.found: dict[str, list[MaskRecord]] = {}
        self.packed: Counter[str] = Counter()

    def add(self, record: MaskRecord) -> None:
        """Note a record that is final: its shard is not written again in this run."""
        scene = record.scene
        if scene not in self.left:
            return
        self.left[scene] -= 1
        found = self.found.setdefault(scene, [])
        found.append(record)
        if not self.left[scene]:
            if self.far:
                self._pack(scene, found[:-1])  # the last says that the scene is not yet published
            del self.left[scene], self.found[scene]  # the last stage packs what is left
        # What is packed is read and written again with it: less often, the more there is; yet what is
        # held until then must not be much.
        elif len(found) >= min(max(self.least, self.packed[scene] // 4), 2 * PACKED_TOGETHER):
            self._pack(scene, found)
            self.packed[scene] += len(found)
            found.clear()

    def _pack(self, scene: str, records: list[MaskRecord]) -> None:
        self.log.move_to_pack(scene, records)
        self.plan.objects.commit()


def _segment_works(plan: Plan, workers: int, measurer: Measurer | None) -> Iterator[Work]:
    groups_of: dict[str, _KeyFrames] = {}
    for layout, rows in _pending_rows(plan):
        drafts = plan.drafts(layout)
        overlaps = plan.overlaps(layout)
        if layout.seeks is not None and layout.scene not in groups_of:
            groups_of[layout.scene] = _KeyFrames(plan, layout, workers)
        groups = groups_of.get(layout.scene)
        places = (place for place in _places(plan, layout, rows) if _is_fitted(plan, layout, place))
        for place, later in _with_later(places, workers if overlaps else 0):
            task = plan.task(
                layout,
                place,
                draft=drafts,
                hint=_hint(plan, layout, later),
                measuring=None if drafts else measuring(measurer, layout, place),
            )
            follow = _foreseeing if overlaps else None
            together = None if groups is None else groups.of(task)
            yield Work(f"{layout.scene}/{place}", compute_shard, task, follow, together)


def _pending_rows(plan: Plan) -> Iterator[tuple[Layout, Rows]]:
    """Scenes in the order they are worked on, and of each the rows of its shard grid; None: all."""
    if plan.job.budget is not None:
        yield from in_order(plan.layouts.values(), plan.job.budget.order)
        return
    # The largest first, so that no worker ends long after the rest: list scheduling by falling size
    # (Graham, 1969, "Bounds on multiprocessing timing anomalies"). Inside a scene they are much alike,
    # and neighbours share what is decoded.
    for layout in sorted(plan.layouts.values(), key=_largest_shard, reverse=True):
        yield layout, None


def _places(plan: Plan, layout: Layout, rows: Rows) -> Iterator[Place]:
    """Shards left to do, or to draft, of some rows."""
    if plan.drafts(layout):
        todo = _rows_pending(plan, layout) & ~plan.states[layout.scene].drafted
    else:
        todo = plan.states[layout.scene].todo
    if rows is not None:
        held = todo[rows]
        found = np.argwhere(held)
        found[:, 0] = rows[found[:, 0]]
    else:
        found = np.argwhere(todo)
    for f, y, x in found:
        yield int(f), int(y), int(x)


def _is_fitted(plan: Plan, layout: Layout, place: Place) -> bool:
    """False where the survey was ended before it had come to the fit that labels a shard."""
    return not plan.unsurveyed or plan.group(layout, place[0]) not in plan.unsurveyed


class _KeyFrames:
    """Shards of a video between two key frames: in one worker's hands no frame is decoded twice."""

    def __init__(self, plan: Plan, layout: Layout, workers: int) -> None:
        self.scene = layout.scene
        self.most = math.ceil(plan.states[layout.scene].pending / max(1, workers))
        """So that there is some for each worker, though they then decode what lies between."""
        self.end: tuple[int, int] | None = None
        """First frame's time after which the last shard's frames are decoded, and that shard's last."""
        self.count = self.number = 0

    def of(self, task: ShardTask) -> tuple[str, int]:
        """What shards have in common that are to be worked on one after another."""
        first, last = task.frames[0], task.frames[-1]
        goes_on = (
            self.end is not None
            and first.seek is not None
            and self.end == (first.seek[0], first.index - 1)
        )
        self.count += 1
        if not goes_on or self.count >= self.most:
            self.number, self.count = self.number + 1, 0
        self.end = None if last.seek is None else (last.seek[0], last.index)
        return self.scene, self.number


def _largest_shard(layout: Layout) -> int:
    """Pixels."""
    return math.prod(map(min, layout.shard, layout.shape))


def measuring(measurer: Measurer | None, layout: Layout, place: Place) -> Measuring | None:
    """How a shard's mask is measured as soon as it is stored, where it is."""
    return None if measurer is None else measurer.measuring(layout, layout.window(place))


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


def _hint(plan: Plan, layout: Layout, place: Place | None) -> Hint | None:
    if place is None:
        return None
    window, reads = layout.window(place), plan.reads(layout, place)
    return Hint(window, layout.frames(window.start[0], window.stop[0], reads))


def _foreseeing(task: ShardTask, then: ShardTask | None) -> ShardTask:
    """With the hint of what comes next, where it is known."""
    known = then is not None and then.scene == task.scene
    return replace(task, hint=Hint(then.window, then.frames) if then and known else None)


def _rows_pending(plan: Plan, layout: Layout) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    """All shards of the frames of which any shard is left to do."""
    pending = plan.states[layout.scene].todo.any(axis=(1, 2), keepdims=True)
    return np.broadcast_to(pending, layout.grid)


def recorded_mask(plan: Plan, task: ShardTask, outcome: Outcome) -> MaskRecord | DraftRecord:
    """The shard's record: the worker's own, or that of a shard given up."""
    if outcome.status == "done":
        found: MaskRecord | DraftRecord = outcome.value
        return found
    assert outcome.status != "late"  # what the budget ends is left to do, and comes to nobody
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


def ended(record: LabelRecord, outcome: Outcome) -> Piece:
    """How a shard ended, for who follows the run."""
    failures = record.failures
    return Piece(
        scene=record.scene,
        shard=record.shard,
        status=outcome.status,
        attempts=outcome.attempts,
        seconds=record.seconds,
        bytes=sum(stored.bytes for stored in record.objects),
        failed=len(failures),
        reason=failures[0].reason if failures else outcome.reason,
        final=not isinstance(record, DraftRecord),
    )


def _committed(record: MaskRecord) -> Piece:
    """The same of a shard that no worker had to do with."""
    size = sum(stored.bytes for stored in record.objects)
    return Piece(record.scene, record.shard, seconds=record.seconds, bytes=size)


def note_failures(plan: Plan, record: LabelRecord, quarantine: Quarantine) -> None:
    """Quarantine the frames a record says are void."""
    layout = plan.layouts[record.scene]
    for failure in record.failures:
        name = layout.frame_name(failure.frame)
        if layout.frame(failure.frame).gone:
            continue
        reason = failure.reason.removeprefix(f"{name}: ")
        quarantine.add(FailedFrame(name, record.scene, failure.frame, failure.kind, reason))
