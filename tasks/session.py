"""One piece of work of the engine with one driver and any number of followers.

    driver (one thread)                     followers (Prefect's tasks)
    drive() -> plan, survey, ... publish -> follow("plan"), follow("survey"), ... outcome()

The driver never waits for a follower: Prefect that hangs, dies or never starts costs the run
nothing. Imports neither Prefect nor Dask.
"""

from __future__ import annotations

import os
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Generic, Literal, TypeVar

from segengine.errors import SegengineError, StoppedError
from segengine.job import Job
from segengine.urls import public

if TYPE_CHECKING:
    from segengine.dispatch.forked import Child
    from segengine.progress import Progress, Summary
    from segengine.runs import Run
    from segengine.training.job import TrainJob
    from segengine.training.trainers import Trained
    from segengine.watching.tally import Watcher

T = TypeVar("T")
Show = Callable[["Progress"], None]
Note = Callable[[str], None]

STAGES = ("plan", "survey", "segment", "stitch", "aggregate", "publish")
"""Names of the engine's stages, in order (`segengine.runs.Run.STAGES`, without loading it)."""

COLLECTOR = (
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
)
"""What names a collector of traces and metrics, by OpenTelemetry's standard."""

RECEIVER = ("OPENLINEAGE_URL", "OPENLINEAGE_CONFIG", "OPENLINEAGE__TRANSPORT__")
"""What the names of variables begin with that name a receiver of lineage, as its client has them."""

TRAIN = "train"
"""The one stage of a training."""

POLL = 1.0
"""Seconds a follower sleeps at most before it looks again: Prefect can cancel it in between."""

STOPPED = "interrupted; the same command goes on where it ended"


class Driven(ABC, Generic[T]):
    """Work that is driven once, in one thread, and that others follow."""

    def __init__(self) -> None:
        self._news = threading.Condition()
        self._latest: dict[str, tuple[int, Progress]] = {}
        self._ended: set[str] = set()
        self._result: T | None = None
        self._error: BaseException | None = None
        self._stop = threading.Event()
        self._driven = False

    # ------------------------------------------------------------------------------------- driver

    def drive(self, show: Show = lambda _: None, note: Note = lambda _: None) -> T:
        """Do it all in this thread; `show` gets every progress, `note` every notice.

        Raises SegengineError where it cannot go on, StoppedError after `stop()`.
        """
        if self._driven:
            raise RuntimeError("a session is driven once")
        self._driven = True
        try:
            result = self._drive(show, note)
        except BaseException as error:
            interrupted = isinstance(error, KeyboardInterrupt)
            with self._news:
                stopped = interrupted or isinstance(error, StoppedError)
                self._error = StoppedError(STOPPED) if stopped else error
                self._news.notify_all()
            raise
        with self._news:
            self._result = result
            self._news.notify_all()
        return result

    @abstractmethod
    def _drive(self, show: Show, note: Note) -> T:
        """The work itself; says how far it is with `_publish`, and what has ended with `_end`."""

    def _publish(self, stage: str, progress: Progress) -> None:
        with self._news:
            seen, _ = self._latest.get(stage, (0, None))
            self._latest[stage] = (seen + 1, progress)
            self._news.notify_all()

    def _end(self, stage: str) -> None:
        with self._news:
            self._ended.add(stage)
            self._news.notify_all()

    def _go_on_or_stop(self) -> None:
        if self._stop.is_set():
            raise StoppedError(STOPPED)

    def stop(self) -> None:
        """Ask the driver to end soon: at its next progress, or where it waits for workers."""
        self._stop.set()

    def start(self, note: Note = lambda _: None) -> threading.Thread:
        """Drive in a thread of its own; the interpreter does not exit before it has ended."""
        thread = threading.Thread(target=self._drive_quietly, args=(note,), name="segengine-run")
        thread.start()
        return thread

    def _drive_quietly(self, note: Note) -> None:
        try:
            self.drive(note=note)
        except BaseException:  # noqa: BLE001 - outcome() raises it where it is looked at
            return

    # ---------------------------------------------------------------------------------- followers

    def follow(self, stage: str) -> Iterator[Progress]:
        """The newest progress of a stage, again and again until it ends; slow readers skip some.

        Ends early, without raising, where the run has failed: `outcome()` says why.
        """
        seen = 0
        while True:
            with self._news:
                self._news.wait_for(lambda: self._is_news(stage, seen), timeout=POLL)  # noqa: B023
                ended = stage in self._ended or self._error is not None
                count, progress = self._latest.get(stage, (0, None))
            if progress is not None and count > seen:
                seen = count
                yield progress
            if ended:
                return

    def _is_news(self, stage: str, seen: int) -> bool:
        count, _ = self._latest.get(stage, (0, None))
        return count > seen or stage in self._ended or self._error is not None

    def state(self, stage: str) -> Literal["ended", "failed", "running"]:
        """Where a stage is; failed also where an earlier one failed."""
        if stage in self._ended:
            return "ended"
        return "running" if self._error is None else "failed"

    def trouble(self) -> str:
        """One line on why the run has failed; empty where it has not."""
        if self._error is None:
            return ""
        return public(str(self._error)).partition("\n")[0] or type(self._error).__name__

    def wait(self) -> BaseException | None:
        """Wait for the end; what the driver raised, or None."""
        with self._news:
            while self._result is None and self._error is None:
                self._news.wait(timeout=POLL)
        return self._error

    def outcome(self) -> T:
        """Wait for the end. Raises what the driver raised; of an error that is not ours the words
        only, without credentials that a URL in it may carry: Prefect keeps them."""
        error = self.wait()
        if isinstance(error, Exception) and not isinstance(error, SegengineError | StoppedError):
            raise RuntimeError(public(f"{type(error).__name__}: {error}")) from None
        if error is not None:
            raise error
        assert self._result is not None
        return self._result


class Session(Driven["Summary"]):
    """A run of a job, each stage at most once and in order."""

    def __init__(
        self,
        job: Job,
        *,
        repair: bool = False,
        refit: bool = False,
        in_process: bool = False,
        child: Child | None = None,
        metrics_file: str | None = None,
        lineage: str | None = None,
    ) -> None:
        """`metrics_file`: a text file for Prometheus; default: as SEGENGINE_METRICS_FILE says.
        `lineage`: a file or address for events of OpenLineage; default: as its variables say.

        `repair`, `refit`, `in_process` and `child` are those of `segengine.runs.Run`."""
        super().__init__()
        self.job, self.repair, self.refit = job, repair, refit
        self.in_process, self.child = in_process, child
        self._notices: tuple[str, ...] = ()
        self._run_id = ""
        self.metrics_file = metrics_file or os.environ.get("SEGENGINE_METRICS_FILE")
        self.lineage = lineage

    @property
    def run_id(self) -> str:
        """The run's id; empty before it holds its store."""
        return self._run_id

    @property
    def notices(self) -> tuple[str, ...]:
        """What the plan had to say; empty before its end."""
        return self._notices

    def _drive(self, show: Show, note: Note) -> Summary:
        from segengine.runs import Run

        summary: Summary | None = None
        with Run(
            self.job,
            repair=self.repair,
            refit=self.refit,
            in_process=self.in_process,
            child=self.child,
            stop=self._stop,
        ) as run:
            self._run_id = run.id
            watching = self._watchers()
            try:
                for stage in STAGES:
                    self._go_on_or_stop()
                    self._follow_stage(run, stage, show, watching)
                    if stage == "plan":
                        self._notices = run.notices()
                        for line in self._notices:
                            note(line)
                    self._end(stage)
                summary = run.summary()
            finally:
                for watcher in watching:
                    watcher.finish(summary, sys.exception() if summary is None else None)
        return summary

    def _follow_stage(
        self, run: Run, stage: str, show: Show, watching: tuple[Watcher, ...]
    ) -> None:
        for watcher in watching:
            watcher.begin(stage)
        for progress in run.stage(stage):
            self._go_on_or_stop()
            self._publish(stage, progress)
            show(progress)
            for watcher in watching:
                watcher.update(progress)
        for watcher in watching:
            watcher.end(stage)

    def _watchers(self) -> tuple[Watcher, ...]:
        """Who else follows; nothing of it is loaded where nobody does."""
        telemetry = any(map(os.environ.get, COLLECTOR)) and not _is_true("OTEL_SDK_DISABLED")
        lineage = bool(self.lineage or any(name.startswith(RECEIVER) for name in os.environ))
        lineage = lineage and not _is_true("OPENLINEAGE_DISABLED")
        if not (self.metrics_file or telemetry or lineage):
            return ()
        from segengine.watching.watchers import watchers

        return watchers(
            self.job.as_json(),
            self._run_id,
            metrics_file=self.metrics_file,
            telemetry=telemetry,
            lineage=lineage,
            lineage_to=self.lineage,
        )


def _is_true(variable: str) -> bool:
    return os.environ.get(variable, "").strip().lower() == "true"


class Training(Driven["Trained"]):
    """A training: one stage, which ends between two steps where it is stopped."""

    def __init__(self, job: TrainJob) -> None:
        super().__init__()
        self.job = job

    def _drive(self, show: Show, note: Note) -> Trained:
        from segengine.training.trainers import train

        def update(progress: Progress) -> None:
            self._go_on_or_stop()
            self._publish(TRAIN, progress)
            show(progress)

        trained = train(self.job, update, note)
        self._end(TRAIN)
        return trained
