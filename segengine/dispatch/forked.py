"""One worker that is there at once: a copy of this process, made before it has any thread.

    this process --- a work ----> child: does it
                 <-- its result -

A photo is segmented sooner than Dask starts. What a worker's process is for holds here as well: a
work that kills it ends no run, and one that hangs is ended; Dask's worker does the rest.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from typing import Any, NoReturn, Self

from segengine.dispatch.child import prepare_worker
from segengine.dispatch.dask import DaskPool
from segengine.dispatch.orphans import end_with
from segengine.dispatch.pool import Outcome, Work, hung, is_later, late, pause, settle
from segengine.errors import StoppedError
from segengine.store.values import decode, encode
from segengine.worker.attempts import tried

TICK = 0.5
"""Seconds between looks at the clock, and at whether the run is to stop."""
ONE_THREAD = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""What Dask sets for its workers; a network's engine asks for it."""
ASKED, TOLD = b"?", b"!"
"""What a call begins with."""
THREADED = ("tensorflow", "onnxruntime", "openvino")
"""Libraries with threads that Python does not count: a copy of what they hold waits for ever."""
_SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}


def fork() -> Child | None:
    """A child, where one can be made: on Linux, while nothing but this thread runs.

    Of a process with threads a copy may hold locks that nobody gives back.
    """
    threaded = threading.active_count() > 1 or any(name in sys.modules for name in THREADED)
    if not sys.platform.startswith("linux") or threaded:
        return None
    return Child()


class LostError(Exception):
    """The child is gone, or cannot be told what to do."""


class Child:
    """A copy of this process that does what it is sent, one work at a time."""

    def __init__(self) -> None:
        self._pipe, far = Pipe()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()  # else it would be written twice
        parent = os.getpid()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        self.pid = os.fork()
        if self.pid == 0:
            _serve(far, parent, before)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        far.close()
        self.lost = False
        """Whether it has ended."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End it, whatever it does."""
        if self.lost:
            return
        self.lost = True
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(self.pid, 0)
        self._pipe.close()

    def send(self, function: Callable[..., Any], *args: Any, answers: bool = True) -> None:
        """Have it call something, once it has done what it was sent before."""
        try:
            call = ForkingPickler.dumps((function, args))
            self._pipe.send_bytes((ASKED if answers else TOLD) + bytes(call))
        except Exception as error:  # gone; or what cannot be pickled, which is for Dask to try
            raise LostError from error

    def has_answered(self, seconds: float) -> bool:
        """Whether there is an answer, after waiting for it."""
        return self._pipe.poll(seconds)

    def answer(self) -> Any:
        """What the call gave."""
        try:
            return decode(self._pipe.recv_bytes())
        except (EOFError, OSError) as error:
            raise LostError from error


def _serve(pipe: Connection, parent: int, mask: Iterable[int]) -> NoReturn:
    """What the child does: nothing of its parent's, whatever happens."""
    try:
        end_with(parent)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the run, which ends it
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        os.environ.update(dict.fromkeys(ONE_THREAD, "1"))
        while True:
            message = pipe.recv_bytes()
            value = tried(partial(_called, message[1:]))
            if message.startswith(ASKED):
                pipe.send_bytes(encode(value))
    finally:
        os._exit(0)


def _called(message: bytes) -> Any:
    function, args = ForkingPickler.loads(message)
    prepare_worker(0)
    value = function(*args)
    return value.finish() if is_later(value) else value


@dataclass(frozen=True, slots=True)
class _Again(Work):
    """A work that was tried before."""

    before: int = 0

    def at(self, attempt: int, last: bool) -> Any:
        """As Work's; tries of before count."""
        return Work.at(self, attempt + self.before, last)


class ForkedPool:
    """A child; and other workers, once it is lost."""

    def __init__(self, child: Child, others: Callable[[], DaskPool]) -> None:
        """`others`: starts them."""
        self.stop = threading.Event()
        """As `DaskPool.stop`."""
        self._child, self._start = child, others
        self._others: DaskPool | None = None

    @property
    def workers(self) -> int:
        """One."""
        return 1

    def prepare(self, function: Callable[..., None], *args: Any) -> None:
        """Have it called before the first work; what it raises is ignored."""
        with suppress(LostError):  # the first work finds out
            self._child.send(function, *args, answers=False)

    def dispatch(
        self, works: Iterable[Work], *, retries: int, deadline: float
    ) -> Iterator[Outcome]:
        """As `Pool.dispatch`."""
        works = iter(works)
        for work in works:
            if self._child.lost:
                rest = chain([work], works)
                yield from self._elsewhere().dispatch(rest, retries=retries, deadline=deadline)
            else:
                yield self._ended(work, retries, deadline)

    def close(self) -> None:
        """As `DaskPool.close`."""
        if self._others is not None:
            self._others.close()

    def _ended(self, work: Work, retries: int, deadline: float) -> Outcome:
        """How a work ends that is the child's first."""
        attempt = 0
        while True:
            attempt += 1
            last = attempt > retries
            try:
                self._child.send(work.function, work.at(attempt, last))
                began = time.monotonic()
                while not self._child.has_answered(TICK):
                    if work.is_spent:
                        self._child.close()
                        return late(work, attempt)
                    if time.monotonic() - began > deadline:
                        return self._hung(work, attempt, retries, deadline)
                    self._refuse_to_go_on()
                value = self._child.answer()
            except LostError:
                return self._died(work, attempt, retries, deadline)
            outcome = settle(work, value, attempt, last)
            if outcome is not None:
                return outcome
            self.stop.wait(pause(attempt))
            self._refuse_to_go_on()

    def _refuse_to_go_on(self) -> None:
        if self.stop.is_set():
            raise StoppedError

    def _hung(self, work: Work, attempt: int, retries: int, deadline: float) -> Outcome:
        self._child.close()
        if attempt > retries:
            return hung(work, attempt, deadline)
        return self._again(work, attempt, retries - attempt, deadline)

    def _died(self, work: Work, attempt: int, retries: int, deadline: float) -> Outcome:
        """Whether that was the work's doing is for those to find out who can start a worker again."""
        self._child.close()
        return self._again(work, attempt, retries, deadline)

    def _again(self, work: Work, before: int, retries: int, deadline: float) -> Outcome:
        """How a work ends, elsewhere, that was tried before."""
        again = _Again(
            work.key, work.function, work.task, work.follow, left=work.left, before=before
        )
        (found,) = self._elsewhere().dispatch([again], retries=retries, deadline=deadline)
        return replace(found, work=work, attempts=before + found.attempts)

    def _elsewhere(self) -> DaskPool:
        if self._others is None:
            self._others = self._start()
            self._others.stop = self.stop
        return self._others
