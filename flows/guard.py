"""A deployed flow whose API is away at its end: Prefect would keep its process for minutes.

Its flow engine retries the final state, joins its heartbeats and drains its events, one after the
other (66 s were measured), and then exits with 1 although the run went well.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext

from segengine_tasks.artifacts import Publisher
from segengine_tasks.session import Session, StoppedError

GRACE = 8.0
"""Seconds between the engine's end and the process's, where Prefect does not answer."""


@contextmanager
def prompt_end(session: Session, publish: Publisher) -> Iterator[None]:
    """Follow a session in this block; unless all of it is published, the process ends in time.

    Only a process that a worker started for this very flow run: one of a user's own is left alone.
    """
    told = threading.Event()
    if owns_process():
        threading.Thread(target=_watch, args=(session, told), daemon=True).start()
    try:
        yield
    finally:
        if publish.trouble is None:
            told.set()


def _watch(session: Session, told: threading.Event) -> None:
    """Wait for the engine's end, then for Prefect, but not long."""
    error = session.wait()
    if isinstance(error, StoppedError) or told.wait(GRACE):
        return
    sys.stderr.write("segengine: Prefect does not answer; the run has ended, and so does this\n")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0 if error is None else 1)


def owns_process() -> bool:
    """True where this process was started to execute the flow run that it is in."""
    context = FlowRunContext.get()
    run = context.flow_run if context is not None else None
    return run is not None and os.environ.get("PREFECT__FLOW_RUN_ID") == str(run.id)


def probe() -> None:
    """Raise where the API does not answer."""
    get_client(sync_client=True).hello().raise_for_status()
