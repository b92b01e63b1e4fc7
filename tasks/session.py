"""One run of the engine with one driver and any number of followers.

    driver (one thread)                     followers (Prefect's tasks)
    drive() -> plan, survey, ... publish -> follow("plan"), follow("survey"), ... outcome()

The driver never waits for a follower: Prefect that hangs, dies or never starts costs the run
nothing. Imports neither Prefect nor Dask.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Literal

from segengine.errors import SegengineError, StoppedError
from segengine.job import Job
from segengine.urls import public

if TYPE_CHECKING:
    from segengine.progress import Progress, Summary

STAGES = ("plan", "survey", "segment", "stitch", "aggregate", "publish")
"""Names of the engine's stages, in order (`segengine.stages.Run.STAGES`, without loading it)."""

POLL = 1.0
"""Seconds a follower sleeps at most before it looks again: Prefect can cancel it in between."""

STOPPED = "interrupted; the same command goes on where it ended"


class Session:
    """A run that is driven once, each stage at most once and in order, and that others follow."""

    def __init__(
        self, job: Job, *, repair: bool = False, refit: bool = False, in_process: bool = False
    ) -> None:
        """`repair`, `refit` and `in_process` are those of `segengine.stages.Run`."""
        self.job, self.repair, self.refit, self.in_process = job, repair, refit, in_process
        self._news = threading.Condition()
        self._latest: dict[str, tuple[int, Progress]] = {}
        self._ended: set[str] = set()
        self._notices: tuple[str, ...] = ()
        self._summary: Summary | None = None
        self._error: BaseException | None = None
        self._stop = threading.Event()
        self._driven = False

    # ------------------------------------------------------------------------------------- driver

    def drive(
        self,
        show: Callable[[Progress], None] = lambda _: None,
        note: Callable[[str], None] = lambda _: None,
    ) -> Summary:
        """Run all stages in this thread; `show` gets every progress, `note` every notice.

        Raises SegengineError where the run cannot go on, StoppedError after `stop()`.
        """
        if self._driven:
            raise RuntimeError("a session is driven once")
        self._driven = True
        try:
            summary = self._drive(show, note)
        except BaseException as error:
            interrupted = isinstance(error, KeyboardInterrupt)
            with self._news:
                stopped = interrupted or isinstance(error, StoppedError)
                self._error = StoppedError(STOPPED) if stopped else error
                self._news.notify_all()
            raise
        with self._news:
            self._summary = summary
            self._news.notify_all()
        return summary

    def _drive(self, show: Callable[[Progress], None], note: Callable[[str], None]) -> Summary:
        from segengine.stages import Run

        with Run(
            self.job,
            repair=self.repair,
            refit=self.refit,
            in_process=self.in_process,
            stop=self._stop,
        ) as run:
            for stage in STAGES:
                self._go_on_or_stop()
                for progress in run.stage(stage):
                    self._go_on_or_stop()
                    self._publish(stage, progress)
                    show(progress)
                if stage == "plan":
                    self._notices = run.notices()
                    for line in self._notices:
                        note(line)
                with self._news:
                    self._ended.add(stage)
                    self._news.notify_all()
            return run.summary()

    def _publish(self, stage: str, progress: Progress) -> None:
        with self._news:
            seen, _ = self._latest.get(stage, (0, None))
            self._latest[stage] = (seen + 1, progress)
            self._news.notify_all()

    def _go_on_or_stop(self) -> None:
        if self._stop.is_set():
            raise StoppedError(STOPPED)

    def stop(self) -> None:
        """Ask the driver to end soon: at its next progress, or where it waits for workers."""
        self._stop.set()

    def start(self) -> threading.Thread:
        """Drive in a thread of its own; the interpreter does not exit before it has ended."""
        thread = threading.Thread(target=self._drive_quietly, name="segengine-run")
        thread.start()
        return thread

    def _drive_quietly(self) -> None:
        try:
            self.drive()
        except BaseException:  # noqa: BLE001 - outcome() raises it where it is looked at
            return

    # ---------------------------------------------------------------------------------- followers

    @property
    def notices(self) -> tuple[str, ...]:
        """What the plan had to say; empty before its end."""
        return self._notices

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
            while self._summary is None and self._error is None:
                self._news.wait(timeout=POLL)
        return self._error

    def outcome(self) -> Summary:
        """Wait for the end. Raises what the driver raised; of an error that is not ours the words
        only, without credentials that a URL in it may carry: Prefect keeps them."""
        error = self.wait()
        if isinstance(error, Exception) and not isinstance(error, SegengineError | StoppedError):
            raise RuntimeError(public(f"{type(error).__name__}: {error}")) from None
        if error is not None:
            raise error
        assert self._summary is not None
        return self._summary
