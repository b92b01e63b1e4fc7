"""A deployed flow at its end: Prefect is told for as long as it answers, and not a minute longer.

Prefect's engine retries its last calls for minutes where its API is gone, whatever the run came to.
An API that is slow, or fails now and then, is not gone: its answers are what tells.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from functools import partial
from typing import Any, TypeVar
from uuid import UUID

from prefect import runtime
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.context import FlowRunContext
from prefect.exceptions import PrefectHTTPStatusError
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings
from prefect.states import Cancelled

from segengine.errors import StoppedError
from segengine_flows.leaving import leave, leave_soon
from segengine_tasks.session import STOPPED, Driven, Note

Work = TypeVar("Work", bound=Driven[Any])

STOPPING = 1.5
"""Seconds for an engine to end in good order where Prefect ends the flow: its worker looks after 3."""

EVERY = 1.0
"""Seconds between an answer of the API and the next question."""
SILENCE = 9.0
"""Seconds without an answer after which an API that has answered at once is gone."""
FAILURES = 3
"""Questions in a row that fail, after which that is not bad luck."""
SLOWER = 3.0
"""An API that is slow may be silent for so many times its slowest answer so far."""
TIMEOUT = 60.0
"""Seconds that one answer may take."""
UNTOLD = "Prefect does not answer: how this run ended is in its store, and not in Prefect"


class Pulse:
    """Whether the API answers: asked again and again, in a daemon thread, from the start on."""

    def __init__(self) -> None:
        self._heard = 0.0
        self._slowest = 0.0
        self._failed = 0
        threading.Thread(target=self._listen, name="segengine-pulse", daemon=True).start()

    def is_gone(self, since: float, silence: float = SILENCE) -> bool:
        """True where it has not answered for too long, of the time since a moment (monotonic)."""
        quiet = time.monotonic() - max(self._heard, since)
        return quiet > silence and (self._failed >= FAILURES or quiet > SLOWER * self._slowest)

    def _listen(self) -> None:
        while True:
            with (
                contextlib.suppress(Exception),
                # One question, one answer: what fails is asked again here.
                temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}),
                get_client(httpx_settings={"timeout": TIMEOUT}, sync_client=True) as client,
            ):
                while True:
                    asked = time.monotonic()
                    _ask(client)
                    self._heard, self._failed = time.monotonic(), 0
                    self._slowest = max(self._slowest, self._heard - asked)
                    time.sleep(EVERY)
            self._failed += 1
            time.sleep(EVERY)


def _ask(client: SyncPrefectClient) -> None:
    """Raise where the API, or the database behind it, does not answer."""
    try:
        client.request("GET", "/ready")
    except PrefectHTTPStatusError as error:
        if error.response.status_code >= 500:
            raise


@contextlib.contextmanager
def driving(session: Work, note: Note = lambda _: None) -> Iterator[Work]:
    """Drive a session in a thread, out of Prefect's reach; it ends with the flow, or before."""
    thread = session.start(note)
    try:
        yield session
    finally:
        if thread.is_alive():  # only where Prefect ends the flow
            session.stop()
            tell = partial(tell_cancelled, runtime.flow_run.id)
            owns = owns_process()
            if owns:
                leave_soon(128 + signal.SIGTERM, last=tell, seconds=STOPPING)
            thread.join()
            if owns:  # Prefect would call a run crashed that has ended in good order
                leave(128 + signal.SIGTERM, last=tell)
            tell()  # once the lock is back: the next run may start at once
        thread.join()


def guard(session: Driven[Any]) -> None:
    """End this process, not with 0, where the API is gone when the session has ended.

    So its worker knows that the flow run's state was not told. Only a process that was started for
    this very flow run: one of a user's own is left alone.
    """
    if owns_process():
        threading.Thread(target=_watch, args=(session, Pulse()), daemon=True).start()


def _watch(session: Driven[Any], pulse: Pulse) -> None:
    if isinstance(session.wait(), StoppedError):
        return  # `leave_soon` sees to that
    ended = time.monotonic()
    while not pulse.is_gone(ended):
        time.sleep(0.1)
    leave(1, UNTOLD)


def tell_cancelled(run: str) -> None:
    """Say that a flow run which is being cancelled is: its worker does so too, but seconds later."""
    with contextlib.suppress(Exception), get_client(sync_client=True) as client:
        state = client.read_flow_run(UUID(run)).state
        if state is not None and state.is_cancelling():
            client.set_flow_run_state(UUID(run), Cancelled(message=STOPPED), force=True)


def owns_process() -> bool:
    """True where this process was started to execute the flow run that it is in."""
    context = FlowRunContext.get()
    run = context.flow_run if context is not None else None
    return run is not None and os.environ.get("PREFECT__FLOW_RUN_ID") == str(run.id)
