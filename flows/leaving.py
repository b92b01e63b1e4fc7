"""The end of a process that cannot wait: nobody it started stays, and no store stays locked.

Loads next to nothing: the command wants its signals caught before anything that takes time.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, NoReturn

# All that a signal needs is here before it is caught: what is imported then may be half there.
from segengine import stderr
from segengine_flows.early import INTERRUPTED

QUICK = 2.5
"""Seconds between a signal and the end of the process, whatever it is doing."""
LAST = 1.0
"""Seconds that each of the last things may take: a store or an API may not answer."""
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Ctrl-C, a polite kill, and a terminal that is closed."""

_leaving = threading.Lock()
"""Held by who ends this process."""


class Interrupted(KeyboardInterrupt):
    """One of these signals."""

    def __init__(self, signum: int, watchdog: threading.Timer) -> None:
        super().__init__(signum)
        self.exit_code, self.watchdog = 128 + signum, watchdog

    def leave(self) -> NoReturn:
        """End this process, in one line."""
        self.watchdog.cancel()
        leave(self.exit_code, INTERRUPTED)


def catch_signals() -> None:
    """From now on one of these signals raises Interrupted in the main thread.

    The process ends soon, whatever becomes of that; at a second signal it ends at once.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    for number in SIGNALS:
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup
            signal.signal(number, _interrupt)


def let_signals_end() -> None:
    """From now on such a signal ends this process without a word: all is said and done."""
    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            if signal.getsignal(number) in (_interrupt, _insist):
                signal.signal(number, signal.SIG_DFL)


def _interrupt(signum: int, frame: FrameType | None) -> None:
    if _leaving.locked():
        return
    for number in SIGNALS:
        if signal.getsignal(number) is _interrupt:
            signal.signal(number, _insist)
    # Who is interrupted may say so in a traceback: threads, finalizers, whatever C calls Python from.
    stderr.mute()
    raise Interrupted(signum, leave_soon(128 + signum, INTERRUPTED))


def _insist(signum: int, frame: FrameType | None) -> None:
    if not _leaving.locked():
        leave(128 + signum, INTERRUPTED)


def leave(code: int, message: str = "", last: Callable[[], None] | None = None) -> NoReturn:
    """End this process and those it started, now; the locks that it holds are given back.

    `last`: called after that, if it does not take long. Who comes second waits for the end.
    """
    if not _leaving.acquire(blocking=False):
        threading.Event().wait()
    try:
        _leave(message, last)
    finally:
        os._exit(code)


def _leave(message: str, last: Callable[[], None] | None) -> None:
    if message:
        with contextlib.suppress(OSError, ValueError):
            # Who still works may see its workers die, and has nothing to say about it.
            stderr.say_last(message, "error")
    no_more_workers = _loaded("segengine.dispatch.nannies", "LEAVING")
    if no_more_workers is not None:
        no_more_workers.set()
    _kill_children()
    give_back_locks = _loaded("segengine.store.lock", "give_back_locks")
    if give_back_locks is not None:
        # The workers are gone: nobody writes to the stores any more.
        _in_time(give_back_locks)
    if last is not None:
        _in_time(last)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, RuntimeError):
            stream.flush()
    _kill_children()  # one was perhaps being started


def _loaded(module: str, name: str) -> Any:
    """What a module holds, if it is loaded so far; where it is not, there is nothing to end."""
    return getattr(sys.modules.get(module), name, None)


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
