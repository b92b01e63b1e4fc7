"""Waiting for workers, from which Ctrl-C and SIGTERM call a run away at once.

A kind of cluster is opened in a thread of its own, which no signal reaches. So it waits here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotYet
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from segengine.errors import StoppedError

_STEP = 0.1
"""Seconds between looks at whether the run is ending."""
_ENDING: ContextVar[Callable[[], bool]] = ContextVar("ending", default=lambda: False)


@contextmanager
def ending_told_by(is_ending: Callable[[], bool]) -> Iterator[None]:
    """In this thread, ask that whether the run is ending."""
    token = _ENDING.set(is_ending)
    try:
        yield
    finally:
        _ENDING.reset(token)


def pause(seconds: float) -> None:
    """Wait so long. Raises StoppedError where the run is ending."""
    end = time.monotonic() + seconds
    while True:
        if _ENDING.get()():
            raise StoppedError
        left = end - time.monotonic()
        if left <= 0:
            return
        time.sleep(min(_STEP, left))


def result_of(future: Future[Any]) -> Any:
    """What a future holds, once it does. Raises StoppedError where the run is ending."""
    while True:
        try:
            return future.result(_STEP)
        except NotYet:
            if future.done():
                raise
            pause(0)
