"""The end of a process that cannot wait: nobody it started stays, and no store stays locked."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable
from typing import NoReturn

from segengine_flows.terminal import say

INTERRUPTED = "interrupted; the same command goes on where it ended"
QUICK = 2.5
"""Seconds between a signal and the end of the process, whatever it is doing."""
LAST = 1.0
"""Seconds that each of the last things may take: a store or an API may not answer."""


def leave(code: int, message: str = "", last: Callable[[], None] | None = None) -> NoReturn:
    """End this process and those it started, now; the locks that it holds are given back.

    `last`: called after that, if it does not take long.
    """
    if message:
        with contextlib.suppress(OSError, ValueError):
            say(message)
    _kill_children()
    if "segengine.stages" in sys.modules:
        from segengine.stages import abandon_runs

        # The workers are gone: nobody writes to the stores any more.
        _in_time(abandon_runs)
    if last is not None:
        _in_time(last)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    _kill_children()  # Dask has perhaps begun to replace those workers
    os._exit(code)


def _in_time(call: Callable[[], None]) -> None:
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(LAST)


def _kill_children() -> None:
    import psutil

    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            child.kill()


def leave_soon(
    code: int,
    message: str = "",
    last: Callable[[], None] | None = None,
    seconds: float = QUICK,
) -> threading.Timer:
    """`leave` after some seconds, unless the process has ended by then or the timer is cancelled."""
    timer = threading.Timer(seconds, leave, [code, message, last])
    timer.daemon = True
    timer.start()
    return timer
