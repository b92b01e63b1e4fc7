"""One execution of a job, stage by stage: plan, survey, segment, stitch, aggregate, publish.

from segengine.runs import Run
with Run(job) as run:
    for name in Run.STAGES:
        for progress in run.stage(name):
            print(progress)
print(run.summary())
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from functools import partial
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

from segengine import asked, engines
from segengine.ahead import each_of
from segengine.dispatch import clusters
from segengine.dispatch.dask import DaskPool
from segengine.dispatch.forked import Child, ForkedPool
from segengine.dispatch.patience import ending_told_by
from segengine.dispatch.pool import InProcess, Pool
from segengine.errors import SegengineError
from segengine.job import FaultsSpec, Job, parse_job
from segengine.planning.damage import broken_objects, misplaced, unreadable
from segengine.planning.notices import broken_off
from segengine.planning.plan import Plan, planning
from segengine.planning.redo import release_notice
from segengine.progress import Alert, FailedFrame, Progress, Summary
from segengine.report import build as build_report
from segengine.stages import precision, publish, solids, tables, tracks
from segengine.stages.aggregate import Measurer, measurer
from segengine.stages.alerts import judged, unknown_figures
from segengine.stages.budget import Budget
from segengine.stages.changes import require_library
from segengine.stages.cost import cost
from segengine.stages.history import closing_seconds, paces
from segengine.stages.hours import Clock, Hours
from segengine.stages.pyramid import Pyramid, build_pyramids
from segengine.stages.quarantine import Quarantine
from segengine.stages.segment import Counts, note_failures, segment
from segengine.stages.stitch import clear_drafts, stitch
from segengine.stages.survey import survey
from segengine.store.arrays import holds
from segengine.store.blobs import NOBODY, Writer, open_objects
from segengine.store.keys import (
    ASIDE,
    MAPS,
    MASK,
    METADATA,
    METRICS,
    RELAYING,
    REPORT,
    ROOT,
    ROWS,
    RUNS,
    TABLES,
    TMP,
    UNSEEN,
    WORK,
    layout_key,
    metadata_key,
    scene_folder,
)
from segengine.store.kinds import LevelRecord
from segengine.store.layouts import commit_layout, load_layout
from segengine.store.local import LocalObjects, aside
from segengine.store.lock import HeldLock, run_lock
from segengine.store.records import RecordLog, SceneRecords
from segengine.store.root import (
    attributes_or_lost,
    check_place,
    is_said,
    root_documents,
    write_scene,
)
from segengine.store.runs import History
from segengine.store.sealbook import CHANGED
from segengine.store.seals import SealedObjects, damage_notices, named
from segengine.store.unseen import Notes, Unseen, noted, read_unseen, write_unseen
from segengine.types import Place
from segengine.urls import public
from segengine.worker.libraries import GROUND, LIBRARIES, prepare


class Run:
    """A run: holds the store's lock, owns the workers it starts."""

    STAGES: ClassVar = ("plan", "survey", "segment", "stitch", "aggregate", "publish")

    def __init__(
        self,
        job: Job,
        *,
        repair: bool = False,
        refit: bool = False,
        client: Any = None,
        in_process: bool = False,
        child: Child | None = None,
        stop: threading.Event | None = None,
        clock: Clock | None = None,
    ) -> None:
        """`client`: a Dask client to use; `in_process`: no cluster at all; else `job.cluster`, for
        which `child` stands in where one worker does for a moment.

        `stop`: set by another thread, it ends the wait for workers with StoppedError.
        `clock`: by which the job's budget and the run's seconds are told.
        """
        require_library(job.alerts or ())
        self.job, self.repair, self.refit = job, repair, refit
        self.client, self.in_process, self.child = client, in_process, child
        base = open_objects(job.store.path, Writer(job.faults.fsync, clears=repair))
        self.objects = SealedObjects(base, heals=True)
        self.log = RecordLog(self.objects)
        self.clock = clock or Clock()
        self.started, self.began = self.clock.monotonic(), self.clock.unix()
        self.budget = Budget(Hours.of(job.budget, self.clock) if job.budget else None)
        self.counts = Counts()
        self._lock: HeldLock | None = None
        self._stop = stop or threading.Event()
        self._leaving = threading.Event()
        self._stack = ExitStack()
        self._locked = ExitStack()
        self._opening: Future[Pool] | None = None
        self._plan: Plan | None = None
        self._measurer: Measurer | None = None
        self._broken: frozenset[tuple[str, str, Place]] = frozenset()
        self._skipped = 0
        self._figures: dict[str, tables.SceneFigures] = {}
        self._metrics: dict[str, Any] = {}
        self._quarantine: Quarantine | None = None
        self._history: History | None = None
        self._alerts: tuple[Alert, ...] = ()
        self._unknown: list[str] = []
        self._upgrade: tuple[str, ...] = ()
        self._seconds: dict[str, float] = {}
        """By stage."""

    def __enter__(self) -> Self:
        check_place(self.objects.base)
        self._lock = self._locked.enter_context(run_lock(self.objects.base))
        self.objects = SealedObjects(self._lock.objects, heals=True)
        self.log = RecordLog(self.objects)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if self._opening is not None and not self._opening.cancel():
                # Workers that are just starting are not waited for, and must be ended too.
                self._leaving.set()
                self._opening.exception()
            self._stack.close()
        finally:
            self._locked.close()
        self.objects = self.objects.by(NOBODY)
        self._forget_empty()

    def stage(self, name: str) -> Iterator[Progress]:
        """Run one stage; each once, in order. Raises SegengineError to stop the run."""
        begun = self.clock.monotonic()
        self._begun = name, begun
        try:
            for progress in getattr(self, f"_stage_{name}")():
                if self._lock is not None:
                    self._lock.check()
                yield progress
            self._seconds[name] = self.clock.monotonic() - begun
        except OSError as error:  # not the store's, nor a source's or segmenter's: they say so
            raise SegengineError(
                f"{name}: {type(error).__name__}: {error}; mend it, then run the same command again"
            ) from error

    def notices(self) -> tuple[str, ...]:
        """What the plan has to say before work starts: what is stale, gone or damaged, and why; and what
        doing it again takes."""
        return (*self._messages(), *self._upgrade)

    def _messages(self) -> tuple[str, ...]:
        """The same without what is of no use to anyone afterwards."""
        aside = sorted(self.objects.base.keys(ASIDE)) if self.repair else ()
        moved = f"what lay in the place of stored objects was moved aside: {named(aside)}"
        notices = (*self.plan.notices, *damage_notices(self.objects), *self._dashboard())
        return (*notices, moved) if aside else notices

    def _told_of_redoing(self, plan: Plan, history: History) -> Iterator[str]:
        """Where masks are done again, or the last run was of another release: what that means."""
        for row in history.last[-1:]:
            yield from release_notice(plan.redo, version("segengine"), row["version"])
        if line := cost(plan, history):
            yield line

    @property
    def id(self) -> str:
        """The run's own, as its lock has it; empty before the run is entered."""
        return self._lock.run if self._lock is not None else ""

    @property
    def plan(self) -> Plan:
        """The plan, after its stage."""
        if self._plan is None:
            raise SegengineError("the plan stage has not run")
        return self._plan

    @property
    def quarantine(self) -> Quarantine:
        """Failed frames so far, after the plan stage."""
        if self._quarantine is None:
            raise SegengineError("the plan stage has not run")
        return self._quarantine

    def summary(self) -> Summary:
        """What was done, after the last stage."""
        plan = self.plan
        return Summary(
            name=self.job.name,
            store=public(self.objects.root),
            report=public(f"{self.objects.root}/{REPORT}"),
            scenes=len(plan.layouts),
            frames=plan.scan.frames,
            shards=plan.shards,
            computed=self.counts.computed,
            skipped=self._skipped,
            pixels=self.counts.pixels,
            seconds=round(self.clock.monotonic() - self.started, 3),
            failed=tuple(self.failed()),
            metrics=self._metrics,
            messages=self._messages(),
            left=plan.pending,
            budget=self.budget.words,
            alerts=self._alerts,
            remarks=(
                *self.budget.remarks,
                *unknown_figures(self._unknown),
                *broken_off(plan),  # as `plan` says at the beginning, of which `--json` has nothing
            ),
        )

    def failed(self) -> Iterator[FailedFrame]:
        """Quarantined frames, after the last stage."""
        unplaced = tables.unplaced_failures(self.plan)
        yield from unplaced
        told = {frame.name for frame in unplaced}
        for figures in self._figures.values():
            yield from (frame for frame in figures.failed() if frame.name not in told)

    # ------------------------------------------------------------------------------------- stages

    def _stage_plan(self) -> Iterator[Progress]:
        self.objects.delete_tree(TMP)
        if attributes_or_lost(self.objects) is None:
            self.objects.begin()
        if self.repair:
            self._mend()
        repair = frozenset((scene, place) for scene, path, place in self._broken if _is_mask(path))
        plan = yield from planning(self.job, self.objects, refit=self.refit, repair=repair)
        self._plan = plan
        self._skipped = plan.shards - plan.pending
        self._quarantine = Quarantine(plan.scan.frames, self.job.faults.max_quarantined)
        self._measurer = measurer(self.job, self.objects, plan.layouts, plan.arrays, plan.plugin)
        self._history = History.read(self.objects)
        self._upgrade = tuple(self._told_of_redoing(plan, self._history))
        self.budget.take(paces(self._history), self._closing)
        if plan.pending:
            self._open_pool(plan.pending)
            self._prepare(plan)
        for frame in tables.unplaced_failures(plan):
            self.quarantine.add(frame)
        self._commit_plan(plan)
        if self.repair:
            self._clear_strays(plan)
        yield Progress("plan", plan.shards - plan.pending, plan.shards, len(self.quarantine))

    def _mend(self) -> None:
        """Bring back from their copies what is sealed and damaged; find out which shards are."""
        for key in misplaced(self.objects.base):
            self.objects.base.clear_way(key)
        if self.objects.mend():
            self.objects.open(())  # what has no copy is made again by publishing
            self.objects.commit()
        for key in self.log.damaged():
            self.objects.damaged[key] = CHANGED
        self._broken = broken_objects(self.objects)

    def _clear_strays(self, plan: Plan) -> None:
        """Move aside what cannot be read, and is of no scene: nothing would ever write it again."""
        for scene, key in list(unreadable(self.objects)):
            if scene not in plan.layouts:
                target = aside(key, self.objects.exists)
                self.objects.put(target, self.objects.base.get(key) or b"")
                self.objects.delete(key)
                self.objects.damaged.pop(key, None)

    def _commit_plan(self, plan: Plan) -> None:
        """Write layouts, the root and every scene's metadata, before any shard of a scene.

        The root comes after the layouts: it says which source options they were made with.
        """
        if plan.scan.dropped or plan.scan.unsettled:
            self.objects.put(RELAYING, b"")
        if plan.scan.dropped:
            away = {*map(scene_folder, plan.scan.dropped)}
            keys = map(layout_key, plan.scan.dropped)
            self.objects.open([*keys, *self.objects.sealed_in(away)])
        for scene in plan.scan.dropped:
            self.log.forget(scene)
            self.objects.delete_tree(scene_folder(scene))
            self.objects.delete(layout_key(scene))
        for scene in plan.unrecorded:
            if load_layout(self.objects, scene) is None:  # nothing tells what its masks are of
                self.objects.delete_tree(scene_folder(scene))
        before, now = attributes_or_lost(self.objects), plan.attributes
        root = root_documents(now)
        root = {key: data for key, data in root.items() if not is_said(self.objects, key, data)}
        told = ("fingerprints", "classes", "colors")  # what the metadata of scenes follow
        other = not before or any(before.get(key) != now[key] for key in told)
        # A kill from here on may leave metadata of two jobs: unpublished, all are looked at.
        unsure = other or not self.objects.published
        layouts = [layout_key(scene) for scene in plan.scan.changed]
        unseen, noted_before = self._unseen(plan)
        stale = [] if unseen == noted_before else [UNSEEN]
        # Other classes or colours are in each scene's metadata.
        every = self.objects.sealed_in({*map(scene_folder, plan.layouts)}) if other else ()
        maybe = [key for key in every if key.endswith(METADATA)]
        publishes = other or bool(layouts)
        self.objects.open([*root, *layouts, *stale], ahead=maybe, publish=publishes)
        written = [
            scene
            for scene in plan.layouts
            if unsure or plan.states[scene].pending or scene in plan.scan.changed
        ]
        with self.objects.together(4 * len(written)):
            at = self.objects.root
            changed = [plan.layouts[scene] for scene in plan.scan.changed]
            each_of(changed, partial(commit_layout, self.objects), at)
            for key, data in root.items():
                self.objects.put(key, data)
            if not plan.scan.unsettled:
                self.objects.delete(RELAYING)
            if stale:
                write_unseen(self.objects, unseen)
            each_of(written, partial(self._write_scene, plan), at)
        self.objects.commit()

    def _unseen(self, plan: Plan) -> tuple[Notes, Notes]:
        """Since when inputs have vanished, those that this run finds so first among them; and as it
        was noted before."""
        last = self._history.last[-1:] if self._history is not None else []
        seen = next((row["started"] for row in last), None)
        now = Unseen(self.began, self.began if seen is None else min(seen, self.began))
        before = read_unseen(self.objects)
        return noted(before, plan.layouts, plan.scan.dropped, now), before

    def _write_scene(self, plan: Plan, scene: str) -> None:
        layout, arrays = plan.layouts[scene], plan.arrays[scene]
        spec = arrays[MASK]
        key = metadata_key(scene, MASK)
        there = self.objects.get(key)
        if there is not None and not holds(spec, there):
            # Other classes need another dtype: what is stored can no longer be read as a mask.
            self.log.forget(scene)
            self.objects.delete_tree(scene_folder(scene))
            plan.refresh(scene)
        write_scene(self.objects, layout, arrays, plan.plugin.classes, asked.colors(plan.plugin))

    def _stage_survey(self) -> Iterator[Progress]:
        plan = self.plan
        if asked.scope(plan.plugin) is None or not plan.pending:
            return
        before = plan.pending
        yield from survey(plan, self._pool(), self.job.faults, self.budget)
        if plan.pending < before:
            self._skipped = plan.shards - plan.pending

    def _stage_segment(self) -> Iterator[Progress]:
        plan = self.plan
        for scene, layout in plan.layouts.items():
            state = plan.states[scene]
            for record in state.records.values():
                if state.done[record.shard]:
                    note_failures(plan, record, self.quarantine)
            del layout
        if plan.pending:
            yield from segment(plan, self._pool(), *self._about_labelling())

    def _about_labelling(self) -> tuple[FaultsSpec, Quarantine, Counts, Measurer | None, Budget]:
        return self.job.faults, self.quarantine, self.counts, self._measurer, self.budget

    def _closing(self) -> float | None:
        """Seconds that what comes after labelling takes, by the runs before."""
        done = self._skipped + self.counts.computed
        return None if self._history is None else closing_seconds(self._history, done)

    def _stage_stitch(self) -> Iterator[Progress]:
        plan = self.plan
        if any(plan.drafts(layout) for layout in plan.layouts.values()) and plan.pending:
            yield from stitch(plan, self._pool(), *self._about_labelling())
        singles, _ = self.log.scenes()
        for scene, layout in plan.layouts.items():
            if plan.drafts(layout) and scene in singles and not publish.has_drafts(plan, scene):
                clear_drafts(plan, layout)

    def _stage_aggregate(self) -> Iterator[Progress]:
        stale = [] if self._measurer is None else self._measurer.stale()
        if self._measurer is not None and stale:
            pool = self._pool(len(stale))
            yield from self._measurer.measure(pool, self.job.faults, stale)
        windows = precision.stale(self.plan)
        if windows:
            yield from precision.measure(self._pool(len(windows)), self.job.faults, windows)

    def _stage_publish(self) -> Iterator[Progress]:
        plan = self.plan
        steps = len(plan.layouts) + 3
        if self._is_published():
            self._metrics = self._stored_metrics()
            for batch in self.log.together(plan.counts):
                self._add_figures(batch)
            self.objects.delete_tree(WORK)
            self.objects.open([RUNS], publish=False)
            self._note_run().write(self.objects)
            self.objects.commit()
            yield Progress("publish", steps, steps, message="nothing has changed")
            return
        before = tracks.Before.of(self.objects)
        self.objects.open(publish.OBJECTS)
        for batch in self.log.together(plan.counts):
            done = len(self._figures)
            for made in self._build_pyramids(batch):
                yield Progress("publish", done, steps, message=f"pyramid of {made.scene}")
            self._add_figures(batch)
        publish.write_colors(plan, self._figures)
        tables.write_tables(plan, self._figures)
        tables.write_instances(plan, self._figures)
        tracks.write_tracks(plan, self._figures, before)
        solids.write_solids(plan, self._figures)
        yield Progress("publish", steps - 2, steps, message="tables")
        self._metrics = publish.write_metrics(plan, self._figures, self._measurer)
        self.objects.commit()  # the report reads what is published, as any reader does
        build_report(
            self.objects.root,
            self.objects.writer,
            trust=self.job.trust,
            runs=self._note_run().table,
            **publish.unshown(plan, self._measurer),
        )
        self.objects.adopt(REPORT)
        self._note_run().write(self.objects)
        yield Progress("publish", steps - 1, steps, message="report")
        publish.finish(plan, self.log)
        yield Progress("publish", steps, steps)

    def _note_run(self) -> History:
        """The store's runs, with this one as far as it is; and what of it the job wants to be told."""
        name, begun = self._begun
        history = self._history or History.read(self.objects)
        now = self.clock.monotonic()
        row = publish.run_row(self.plan, self._figures, self._metrics, self.counts, self.budget) | {
            "run": self.id,
            "started": self.began,
            "seconds": round(now - self.started, 3),
            "rate": self.counts.pixels / max(now - self.started, 1e-3),
            **{f"seconds.{stage}": took for stage, took in self._seconds.items()},
            f"seconds.{name}": now - begun,
        }
        alerts, self._unknown = judged(self.job.alerts or (), row, history)
        self._alerts = tuple(alerts)
        return history.with_row(row, alerts)

    def _build_pyramids(self, batch: Mapping[str, SceneRecords]) -> Iterator[LevelRecord]:
        """Of the scenes of which anything has changed."""
        broken = {scene for scene, _, _ in self._broken}
        pyramids = [
            Pyramid(scene, arrays[MASK], arrays.levels, records)
            for scene, records in batch.items()
            if (arrays := self.plan.arrays[scene]).levels and (records.singles or scene in broken)
        ]
        if pyramids:
            of = self.objects, pyramids, self._pool(), self.job.faults, self._broken
            yield from build_pyramids(*of)

    def _add_figures(self, batch: Mapping[str, SceneRecords]) -> None:
        for scene, records in batch.items():
            self._figures[scene] = tables.scene_figures(self.plan, scene, records)

    def _is_published(self) -> bool:
        """True where nothing has changed since the last complete publish."""
        singles, _ = self.log.scenes()
        return (
            not singles
            and not self._broken
            and self.objects.published == publish.published_mark(self.plan)
            and all(self.objects.get(key) is not None for key in (METRICS, REPORT))
            and not self.objects.missing_in(TABLES)
        )

    def _stored_metrics(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.objects.get(METRICS) or b"{}")
        return found

    # ------------------------------------------------------------------------------------ workers

    def _open_pool(self, tasks: int) -> None:
        """Start workers in the background: they need a second or two."""
        if self._opening is None:
            starter = self._stack.enter_context(ThreadPoolExecutor(1))
            self._opening = starter.submit(self._enter_pool, tasks)

    def _prepare(self, plan: Plan) -> None:
        """Let workers load their libraries as soon as they are there."""
        kinds = {layout.kind for layout in plan.layouts.values()}
        placed = any(layout.placing.wkt for layout in plan.layouts.values())
        libraries = [name for kind in sorted(kinds) for name in LIBRARIES.get(kind, ())]
        libraries += GROUND if placed else ()

        def start(opening: Future[Pool]) -> None:
            pool = None if opening.cancelled() or opening.exception() else opening.result()
            if isinstance(pool, DaskPool | ForkedPool) and libraries:
                with suppress(Exception):  # without it they load what they need later
                    pool.prepare(prepare, libraries)

        assert self._opening is not None
        self._opening.add_done_callback(start)

    def _pool(self, tasks: int = 1 << 30) -> Pool:
        """The run's workers; started on first use."""
        self._open_pool(tasks)
        assert self._opening is not None
        return self._opening.result()

    def _dashboard(self) -> Iterator[str]:
        """Where Dask's pages are, where the job asks for them: known once workers are there."""
        if self._opening is not None and self.job.cluster.options.get("dashboard"):
            pool = self._pool()
            if isinstance(pool, DaskPool) and pool.dashboard:
                yield f"Dask shows its workers while this runs: {pool.dashboard}"

    def wait_for_workers(self) -> Pool:
        """The run's workers, once they are there; a second or two where they are still to start."""
        return self._pool()

    def _enter_pool(self, tasks: int) -> Pool:
        with ending_told_by(lambda: self._stop.is_set() or self._leaving.is_set()):
            pool = self._make_pool(tasks)
        if isinstance(pool, DaskPool | ForkedPool):
            pool.stop = self._stop
            self._stack.callback(pool.close)
        return pool

    def _make_pool(self, tasks: int) -> Pool:
        if self.client is not None:
            return clusters.client_pool(self.client)
        if self.in_process:
            return InProcess()
        spec, gpus = self.job.cluster, len(engines.gpus())
        if gpus and spec.workers == "auto" and "(gpu)" in asked.provenance(self.job.plugin):
            spec = spec.model_copy(update={"workers": gpus})  # more would share one's memory
        return self._stack.enter_context(clusters.open_pool(spec, tasks, self.child))

    def _forget_empty(self) -> None:
        """Leave nothing behind where no store was made."""
        if isinstance(self.objects.base, LocalObjects) and self.objects.get(ROOT) is None:
            self.objects.delete_tree(WORK)
            with suppress(OSError):
                os.rmdir(self.objects.root)


def _is_mask(path: str) -> bool:
    """True for an array that segmenting writes, not the pyramid's."""
    return path in (*MAPS, ROWS)


def run_job(job: Any, client: Any = None) -> Summary:
    """Run a job without Prefect: on a Dask client, or in this process.

    `job`: a Job, or its keys as a mapping (relative paths are taken against the working directory).
    `client`: a `distributed.Client` whose workers have one thread each. The summary counts scenes,
    frames and shards, names the frames in quarantine, and has `exit_code`: 0, 3 or 5; `left`: shards
    that the job's budget left to the next run; `alerts`. Raises SegengineError; JobError, which is one,
    where the job is wrong.
    """
    checked = parse_job(job, base=Path.cwd())
    with Run(checked, client=client, in_process=client is None) as run:
        for name in Run.STAGES:
            for _ in run.stage(name):
                pass
    return run.summary()
