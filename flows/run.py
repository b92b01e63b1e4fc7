"""`segengine run`: this thread drives the engine, a daemon thread mirrors it to Prefect.

    main thread     embedded API starts -> job -> engine, stage by stage ----------> exit code
    mirror thread                    waits for the API -> flow `segment` follows -> final state

Nothing the mirror does, or fails to do, reaches the engine or the exit code; at the end it has a
few seconds to write down what it saw.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from segengine.errors import JobError
from segengine.job import Job, load_job
from segengine_flows import terminal
from segengine_flows.api import EmbeddedApi, configured_url, prepare_client

if TYPE_CHECKING:
    from segengine.progress import Summary
    from segengine_tasks.session import Session

START = 45.0
"""Seconds an embedded API may need to answer; the first one on a machine makes a database."""
GRACE = 6.0
"""Seconds that Prefect gets after the engine's end."""
INTERRUPTED_GRACE = 1.0
"""The same after Ctrl-C or SIGTERM."""


def run(
    job_file: str, overrides: Sequence[str] = (), *, repair: bool = False, refit: bool = False
) -> int:
    """Run a job file with progress on stderr and the result on stdout; returns the exit code.

    Raises SegengineError where the run cannot go on, KeyboardInterrupt where it was interrupted.
    """
    # First of all: it needs longer to start than anything else here.
    with _Prefect() as prefect:
        job = load_job(job_file, overrides)
        from segengine_tasks.session import Session

        session = Session(job, repair=repair, refit=refit)
        prefect.mirror(session)
        summary = drive(session)
        terminal.show_result(summary)
    return summary.exit_code


def drive(session: Session) -> Summary:
    """Drive a session in this thread, showing its progress."""
    display = terminal.Display()
    try:
        return session.drive(display.update, display.note)
    finally:
        display.close()


class _Prefect:
    """The embedded API where none is configured, and the mirror; both end with the block."""

    def __init__(self) -> None:
        self._api: EmbeddedApi | None = None
        self._mirror: Mirror | None = None
        self._trouble = ""

    def __enter__(self) -> _Prefect:
        if configured_url() is None:
            try:
                self._api = EmbeddedApi()
            except OSError as error:
                self._trouble = str(error)
        return self

    def mirror(self, session: Session) -> None:
        """Start to mirror a session; a word on stderr where that cannot be."""
        if not self._trouble:
            try:
                prepare_client(self._api.url if self._api is not None else None)
                # On this thread: two threads that import at once can see half a module.
                import segengine_flows.segment  # noqa: F401
            except Exception as error:  # noqa: BLE001 - a broken Prefect must not stop a run
                self._trouble = f"{type(error).__name__}: {error}".partition("\n")[0]
        if self._trouble:
            _warn(self._trouble)
            return
        self._mirror = Mirror(session, self._api)
        self._mirror.start()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        nothing_ran = kind is not None and issubclass(kind, JobError)
        hurry = kind is not None and issubclass(kind, KeyboardInterrupt)
        if self._mirror is not None and not nothing_ran:
            self._mirror.finish(hurry=hurry)
        if self._api is not None:
            done = self._mirror is not None and self._mirror.is_done
            self._api.stop(patience=2.0 if done and not hurry else 0.0)


class Mirror:
    """Runs the flow that follows a session, in a daemon thread, and gives up on it in time."""

    def __init__(self, session: Session, api: EmbeddedApi | None) -> None:
        self._session, self._api = session, api
        self._thread = threading.Thread(target=self._run, name="segengine-prefect", daemon=True)
        self._ready = 0.0
        """When the API first answered."""
        self._trouble: str | None = None

    @property
    def is_done(self) -> bool:
        """True once Prefect has everything."""
        return not self._thread.is_alive() and self._trouble is None

    def start(self) -> None:
        """Start to follow."""
        self._thread.start()

    def finish(self, hurry: bool = False) -> None:
        """Wait for Prefect to have everything, for a while, and say so where it has not."""
        began = heard = time.monotonic()
        used = 0.0
        while self._thread.is_alive():
            now = time.monotonic()
            if self._api is not None and not self._api.is_alive():
                self._thread.join(0.2)
                self._trouble = self._trouble or "its API has ended"
                break
            if self._api is not None and not self._ready and not hurry:
                # A first start makes a database: patience while it works on that.
                working = self._api.cpu_seconds()
                heard, used = (now, working) if working > used else (heard, used)
            if now >= max(heard, self._ready) + (INTERRUPTED_GRACE if hurry else GRACE):
                self._trouble = f"it did not answer within {now - began:.0f} s"
                break
            self._thread.join(0.1)
        if self._trouble is not None and not hurry:
            _warn(self._trouble)

    def _run(self) -> None:
        try:
            if self._api is not None:
                self._api.wait(START)
            self._ready = time.monotonic()
            self._follow()
            _flush()
        except BaseException as error:  # noqa: BLE001 - reported by finish(), never raised
            self._trouble = f"{type(error).__name__}: {error}".partition("\n")[0]

    def _follow(self) -> None:
        from segengine_flows.segment import driven, segment

        driven.set(self._session)
        # What Prefect stores must not hold the credentials that a URL may carry.
        public = Job.model_validate(self._session.job.as_json())
        segment(public, self._session.repair, self._session.refit, return_state=True)


def _flush() -> None:
    """Send the events and log lines that Prefect still holds back; task runs live in its events."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    flushes: tuple[Callable[..., object], ...] = (EventsWorker.drain_all, APILogWorker.drain_all)
    for flush in flushes:
        flush(timeout=GRACE / 2, at_exit=False)


def _warn(trouble: str) -> None:
    terminal.say(f"Prefect does not show all of this run, which is not affected: {trouble}")
