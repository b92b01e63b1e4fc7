"""`segengine run`: this thread drives the engine, a daemon thread mirrors it to Prefect, if at all.

    main thread     embedded API starts -> job -> engine, stage by stage ----------> exit code
    mirror thread                       -> flow `segment` follows -> final state

Without an API that is configured or asked for there is no mirror, and Prefect is not loaded. Nothing
the mirror does, or fails to do, reaches the engine or the exit code.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from segengine.errors import JobError
from segengine.job import Job, load_job
from segengine.urls import public
from segengine_flows import terminal
from segengine_flows.settings import configured_url, home

if TYPE_CHECKING:
    from segengine.dispatch.forked import Child
    from segengine.progress import Summary
    from segengine_flows.api import EmbeddedApi
    from segengine_tasks.session import Session

START = 45.0
"""Seconds an embedded API may need to answer; the first one on a machine makes a database."""
GRACE = 6.0
"""Seconds that an embedded API gets after the engine's end, and any that does not answer."""
INTERRUPTED_GRACE = 1.0
"""The same after Ctrl-C or SIGTERM."""
UNRECORDED = (
    "Prefect does not record this run: --prefect does it here, PREFECT_API_URL on a server of yours"
)


def run(
    job_file: str,
    overrides: Sequence[str] = (),
    *,
    repair: bool = False,
    refit: bool = False,
    prefect: bool = False,
    metrics_file: str | None = None,
    lineage: str | None = None,
    as_json: bool = False,
) -> int:
    """Run a job file with progress on stderr and the result on stdout; returns the exit code.

    `as_json`: the result is one JSON object, what `status` says of the store and of the run besides.
    Raises SegengineError where the run cannot go on, KeyboardInterrupt where it was interrupted.
    """
    options = {
        "repair": repair,
        "refit": refit,
        "metrics_file": metrics_file,
        "lineage": lineage,
    }
    recorded = prefect or configured_url() is not None
    show = _show_json if as_json else terminal.show_result
    if not recorded:
        return _run(load_job(job_file, overrides), None, options, show)
    # First of all: it needs longer to start than anything else here.
    with Recorder() as recorder:
        return _run(load_job(job_file, overrides), recorder, options, show)


def _run(
    job: Job,
    recorder: Recorder | None,
    options: Mapping[str, Any],
    show: Callable[[Summary], None],
) -> int:
    from segengine_tasks.session import Session

    with _child(job) as child:
        session = Session(job, child=child, **options)
        if recorder is not None:
            recorder.mirror(session)
        summary = drive(session)
    show(summary)
    if recorder is None:
        terminal.say(UNRECORDED)
    return summary.exit_code


def _show_json(summary: Summary) -> None:
    from segengine.commands.status import status

    found = status(summary.store).as_json()
    terminal.write_json(
        {
            **found,
            "notices": [*found["notices"], *summary.remarks],
            "name": summary.name,
            "report": summary.report,
            "computed": summary.computed,
            "left": summary.left,
            "budget": summary.budget or None,
            "seconds": summary.seconds,
            "exit_code": summary.exit_code,
        }
    )


def _child(job: Job) -> AbstractContextManager[Child | None]:
    """A worker that is there at once, for a job that may do with it; made before any thread."""
    import segengine.runs  # noqa: F401 - what both of them need is loaded once
    from segengine.dispatch.forked import fork

    return (fork() if job.cluster.kind == "local" else None) or nullcontext()


def drive(session: Session) -> Summary:
    """Drive a session in this thread, showing its progress."""
    display = terminal.display(lambda: session.run_id)
    try:
        summary = session.drive(display.update, display.note)
        display.end(summary)
        return summary
    finally:
        display.close()


class Recorder:
    """Prefect beside runs: the embedded API where none is configured, and a mirror a run."""

    def __init__(self) -> None:
        self._api: EmbeddedApi | None = None
        self._mirrors: list[Mirror] = []
        self._trouble = ""

    def __enter__(self) -> Recorder:
        if configured_url() is None:
            from segengine_flows.api import EmbeddedApi

            try:
                self._api = EmbeddedApi()
            except OSError as error:
                self._give_up(str(error))
        return self

    def mirror(self, session: Session, tell: bool = True) -> None:
        """Start to mirror a session, after those before it, once an embedded API is there; `tell`: say
        where it is seen.

        Who asks for that waits for it here, and not when the session has ended.
        """
        if self._trouble:
            return
        from segengine_flows.api import prepare_client

        try:
            prepare_client(self._api.url if self._api is not None else None)
            # On this thread: two threads that import at once can see half a module.
            import segengine_flows.segment  # noqa: F401

            if self._api is not None:
                self._api.wait(START)
        except Exception as error:  # noqa: BLE001 - a broken Prefect must not stop a run
            self._give_up(f"{type(error).__name__}: {error}".partition("\n")[0])
            return
        before = self._mirrors[-1] if self._mirrors else None
        self._mirrors.append(Mirror(session, self._api, before, self._say_page if tell else _keep))
        self._mirrors[-1].start()

    def _say_page(self, run: str) -> None:
        """Say where a flow run is seen; without credentials."""
        page = f"runs/flow-run/{run}"
        if self._api is not None:  # of which there is no page
            where = f"in {home()}; `prefect server start` shows it at /{page}"
            terminal.say(f"this run is recorded {where}")
            return
        from prefect.settings import get_current_settings

        shown = get_current_settings().ui_url or (configured_url() or "").removesuffix("/api")
        terminal.say(f"this run is recorded: {public(shown).rstrip('/')}/{page}")

    def where(self) -> str:
        """Where the runs can be looked at, in words; without credentials."""
        if self._trouble:
            return "Prefect has none of them"
        url = configured_url() if self._api is None else None
        if url is None:
            return f"Prefect has them in {home()}; `prefect server start` shows them"
        parts = urlsplit(url)
        return f"Prefect has them at {parts.scheme}://{parts.hostname}:{parts.port or ''}".rstrip(
            ":"
        )

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        nothing_ran = kind is not None and issubclass(kind, JobError)
        hurry = kind is not None and issubclass(kind, KeyboardInterrupt)
        done = not nothing_ran and all(mirror.finish(hurry) for mirror in self._mirrors)
        if self._api is not None:
            self._api.stop(patience=2.0 if done and not hurry else 0.0)

    def _give_up(self, trouble: str) -> None:
        self._trouble = trouble
        _warn(trouble)


class Mirror:
    """Runs the flow that follows a session, in a daemon thread, and gives up on it in time."""

    def __init__(
        self,
        session: Session,
        api: EmbeddedApi | None,
        before: Mirror | None,
        begun: Callable[[str], None],
    ) -> None:
        """`begun`: is told the flow run's id."""
        from segengine_flows.guard import Pulse

        self._session, self._api, self._before, self._begun = session, api, before, begun
        self._thread = threading.Thread(target=self._run, name="segengine-prefect", daemon=True)
        self._pulse: Pulse = before._pulse if before is not None else Pulse()
        self._trouble: str | None = None

    def start(self) -> None:
        """Start to follow."""
        self._thread.start()

    def finish(self, hurry: bool = False) -> bool:
        """Wait for Prefect to have everything, as long as it answers; say so where it does not.

        An embedded API gets some seconds, whatever it answers. True where it has everything.
        """
        began, grace = time.monotonic(), INTERRUPTED_GRACE if hurry else GRACE
        while self._thread.is_alive():
            waited = time.monotonic() - began
            if self._api is not None and not self._api.is_alive():
                self._thread.join(0.2)
                self._trouble = self._trouble or "its API has ended"
                break
            bounded = hurry or self._api is not None
            if (bounded and waited >= grace) or self._pulse.is_gone(began, grace):
                self._trouble = f"it did not answer within {waited:.0f} s"
                break
            self._thread.join(0.1)
        if self._trouble is not None and not hurry:
            _warn(self._trouble)
        return self._trouble is None

    def _run(self) -> None:
        try:
            if self._before is not None:
                self._before._thread.join()
            self._follow()
            _flush()
        except BaseException as error:  # noqa: BLE001 - reported by finish(), never raised
            self._trouble = f"{type(error).__name__}: {error}".partition("\n")[0]

    def _follow(self) -> None:
        from segengine_flows.segment import Driven, driven, segment

        driven.set(Driven(self._session, self._begun))
        # What Prefect stores must not hold the credentials that a URL may carry.
        public = Job.model_validate(self._session.job.as_json())
        segment(public, self._session.repair, self._session.refit, return_state=True)


def _keep(run: str) -> None:
    """Say nothing of a flow run."""


def _flush() -> None:
    """Send the events and log lines that Prefect still holds back; task runs live in its events."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    flushes: tuple[Callable[..., object], ...] = (EventsWorker.drain_all, APILogWorker.drain_all)
    for flush in flushes:
        flush(timeout=GRACE / 2, at_exit=False)


def _warn(trouble: str) -> None:
    terminal.say(
        f"Prefect does not show all of this run, which is not affected: {trouble}", "warning"
    )
