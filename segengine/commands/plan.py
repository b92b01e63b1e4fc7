"""The dry run: what a job would do, what is already done, and what it would take.

One real shard is worked on, into a folder that is thrown away, and its time and size stand for all.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field, replace
from heapq import nlargest
from importlib.metadata import version
from typing import Any

from segengine import asked
from segengine.cores import cores
from segengine.job import Job
from segengine.planning.plan import Plan, make_plan
from segengine.planning.redo import Redo, release_notice
from segengine.progress import FailedFrame
from segengine.stages.aggregate import measurer
from segengine.stages.alerts import not_yet
from segengine.stages.changes import require_library
from segengine.stages.cost import around
from segengine.stages.tables import unplaced_failures
from segengine.store.blobs import open_objects
from segengine.store.kinds import LabelRecord
from segengine.store.layouts import Layout
from segengine.store.root import check_place, require_writable
from segengine.store.runs import History
from segengine.store.seals import SealedObjects, damage_notices
from segengine.types import Place
from segengine.worker.fits import as_surveyor, store_fit
from segengine.worker.segment import segment_shard
from segengine.worker.survey import survey_batch
from segengine.worker.tasks import Retry, ShardTask, SurveyTask

MOST_SCENES = 20
TRIALS = 3
"""Shards that are worked on at most, until one tells what the rest takes."""


@dataclass(frozen=True, slots=True)
class PlanReport:
    """What `plan` found."""

    job: Job
    scenes: tuple[tuple[str, tuple[int, int, int], str, int, int], ...]
    """(scene, shape, dtype and bands, shards, shards done)"""
    shards: int
    pending: int
    notices: tuple[str, ...]
    failed: tuple[FailedFrame, ...]
    seconds: float | None
    """Estimated time of what is left, on the job's workers, with all that comes beside labelling."""
    bytes: int | None
    """Estimated size of the masks of what is left."""
    pixels: int
    """Pixels of what is left."""
    workers: int
    trial: str
    """What the estimate rests on, or why there is none."""
    skipped: Mapping[str, int] = field(default_factory=dict)
    """Files among the inputs that are none by their suffix, counted by it."""
    waiting: tuple[str, ...] = ()
    """Names of inputs that are still being written."""
    redo: tuple[Redo, ...] = ()
    """What is done and will be done again, and why."""
    beside: float | None = None
    """What of `seconds` is start, planning, measuring and publishing, by the runs before; None: no run
    has measured these, and planning alone is counted."""

    @property
    def exit_code(self) -> int:
        """0, or 3 where inputs cannot be read."""
        return 3 if self.failed else 0

    def as_json(self) -> dict[str, Any]:
        """What `--json` prints; `estimate`: of what is left, both null where there is none."""
        return {
            "name": self.job.name,
            "store": self.job.store.path,
            "scenes": len(self.scenes),
            "frames": sum(shape[0] for _, shape, _, _, _ in self.scenes),
            "shards": self.shards,
            "pending": self.pending,
            "pixels": self.pixels,
            "skipped": dict(self.skipped),
            "quarantined": [{"name": f.name, "reason": f.reason} for f in self.failed],
            "waiting": list(self.waiting),
            "redo": [redo._asdict() for redo in self.redo],
            "estimate": self._estimate(),
            "workers": self.workers,
            "notices": list(self.notices),
        }

    def _estimate(self) -> dict[str, float | None]:
        if not self.pending:
            return {"seconds": 0.0, "bytes": 0}
        return {"seconds": self.seconds, "bytes": self.bytes}

    def _beside(self) -> str:
        if self.beside is None:
            return "without publishing, which no run has measured yet"
        return f"{_duration(self.beside)} of it to start and publish, by the runs before"

    def lines(self) -> tuple[str, ...]:
        """Text for a terminal."""
        spec = self.job.segmenter
        options = ", ".join(f"{k}: {v}" for k, v in spec.options.items())
        found = [f"job {self.job.name}: {spec.kind}{f' ({options})' if options else ''}"]
        found += [f"  {line}" for line in asked.description(self.job.plugin)]
        found.append(f"store {self.job.store.path}")
        for scene, shape, what, shards, done in self.scenes[:MOST_SCENES]:
            f, y, x = shape
            frames = f"{f} frame{'s' if f != 1 else ''} of {y} x {x}"
            found.append(f"  {scene}: {frames}, {what}; {shards} shards, {done} done")
        if len(self.scenes) > MOST_SCENES:
            found.append(f"  ... and {len(self.scenes) - MOST_SCENES} more scenes")
        found.append(
            f"{self.shards} shards, {self.shards - self.pending} done, {self.pending} left"
        )
        found += self.notices
        found += [f"cannot be read: {f.name}: {f.reason}" for f in self.failed]
        if self.pending and self.seconds is not None and self.bytes is not None:
            found.append(
                f"estimate for what is left: {_duration(self.seconds)} on {self.workers} "
                f"worker{'s' if self.workers != 1 else ''}, {_size(self.bytes)} of masks "
                f"({self.pixels / 1e6:,.1f} Mpx; from {self.trial}; {self._beside()})"
            )
        elif self.pending:
            found.append(f"no estimate: {self.trial}")
        return tuple(found)


def plan(job: Job) -> PlanReport:
    """Plan a job without writing to its store. Raises SegengineError."""
    objects = SealedObjects(open_objects(job.store.path))
    check_place(objects.base)
    require_writable(objects.base)
    begun = time.perf_counter()
    require_library(job.alerts or ())
    found = make_plan(job, objects)
    planned = time.perf_counter() - begun
    measurer(job, objects, found.layouts, found.arrays, found.plugin)  # its metrics are checked
    workers = job.cluster.most(cores())
    pending = [(la, p) for la in found.layouts.values() for p in found.pending_places(la)]
    pixels = sum(_pixels(layout, place) for layout, place in pending)
    history = History.read(objects)
    seconds = size = beside = None
    trial = "nothing is left to do"
    if pending:
        for layout, place in nlargest(TRIALS, pending[:256], key=lambda item: _pixels(*item)):
            seconds, size, trial = _trial(found, layout, place, pixels)
            if seconds is not None:
                break
        beside = around(history, found.shards)
    if seconds is not None:
        seconds /= max(1, min(workers, len(pending)))
        seconds += planned if beside is None else beside
    return PlanReport(
        job=job,
        scenes=tuple(
            (
                name,
                layout.shape,
                f"{layout.bands} band{'s' if layout.bands != 1 else ''} {layout.dtype}",
                layout.shards,
                layout.shards - found.states[name].pending,
            )
            for name, layout in found.layouts.items()
        ),
        shards=found.shards,
        pending=found.pending,
        notices=(
            *found.notices,
            *_other_release(found, history),
            *damage_notices(objects),
            *not_yet(job.alerts or (), history, found.plugin.classes),
        ),
        failed=tuple(unplaced_failures(found)),
        seconds=seconds,
        bytes=size,
        pixels=pixels,
        workers=workers,
        trial=trial,
        skipped=found.scan.skipped,
        waiting=tuple(each.name for each in found.scan.waiting),
        redo=found.redo,
        beside=beside,
    )


def _other_release(plan: Plan, history: History) -> Iterator[str]:
    for row in history.last[-1:]:
        yield from release_notice(plan.redo, version("segengine"), row["version"])


def _pixels(layout: Layout, place: Place, without: Container[int] = ()) -> int:
    """Of the frames of a shard, `without` some."""
    window = layout.window(place)
    (_, y0, x0), (_, y1, x1) = window.start, window.stop
    total = 0
    for ref in layout.frames(window.start[0], window.stop[0]):
        if ref.index in without:
            continue
        total += max(0, min(y1, ref.height) - y0) * max(0, min(x1, ref.width) - x0)
    return total


def _trial(
    plan: Plan, layout: Layout, place: Place, pixels: int
) -> tuple[float | None, int | None, str]:
    """Time and size of all that is left, from one shard really worked on."""
    with tempfile.TemporaryDirectory(prefix="segengine-plan-") as folder:
        task = plan.task(layout, place, last=True)
        # Not cut: what is linked across shards is decided for this one alone.
        task = replace(task, store=folder, had="", lost=(), cut=False)
        started = time.perf_counter()
        result = _work(plan, task, folder)
        seconds = time.perf_counter() - started
    if isinstance(result, Retry):
        return None, None, f"the trial shard of {layout.scene} failed: {result.reason}"
    worked = _pixels(layout, place, {failure.frame for failure in result.failures})
    if not worked:
        return None, None, f"in the trial shard, {result.failures[0].reason}"
    share = pixels / worked
    size = sum(o.bytes for o in result.objects)
    trial = f"shard {'.'.join(map(str, place))} of {layout.scene} in {seconds:.2f} s"
    if result.failures:
        trial += f", not counting what cannot be read of it: {result.failures[0].reason}"
    return seconds * share, round(size * share), trial


def _work(plan: Plan, task: ShardTask, folder: str) -> LabelRecord | Retry:
    """Survey and fit on the shard alone where a fit is needed, then segment it."""
    if asked.scope(plan.plugin) is not None and plan.group_of(task) is not None:
        surveyed = survey_batch(SurveyTask((task,), "trial-state", last=True))
        if isinstance(surveyed, Retry):
            return surveyed
        from segengine.store.values import decode

        objects = open_objects(folder)
        trusted = (type(plan.plugin).__module__.partition(".")[0],)
        state: Any = decode(objects.get("trial-state") or b"", trusted)["state"]
        if state is None:
            return Retry("none of its frames can be read")
        digest = store_fit(objects, "trial-fit", as_surveyor(plan.plugin), state, {"inputs": {}})
        task = replace(task, segmenter=replace(task.segmenter, fit="trial-fit", digest=digest))
    return segment_shard(task)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.1f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"


def _size(count: int) -> str:
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"
