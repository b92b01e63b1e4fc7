"""Hand tasks to workers, a bounded number at a time; turn every way they can end into an outcome.

    pending --> running (at most `window`) --> done
                   |  transient failure        again, after a pause; then `error`
                   |  its worker died          again, alone at the end, so that no innocent is blamed;
                   |                           then `crash`
                   |  longer than the deadline its worker is restarted, again alone; then `hang`

The clock of the deadline starts when the worker says that it starts (an event of this run and this
attempt), so waiting in a queue counts for nothing. Where that event does not come, because native code
holds the worker's interpreter from its first line on, the clock starts when the scheduler is asked.
"""

from __future__ import annotations

import heapq
import multiprocessing
import os
import queue
import signal
import sys
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, Literal, Protocol

from segengine import engines
from segengine.errors import SegengineError, StoppedError, StoreError
from segengine.values import decode, encode
from segengine.work import Later, Retry, retry_of

PAUSE = 0.25
"""Seconds before a transient failure is tried again; doubled each time."""
TICK = 0.5
"""Seconds between looks at the deadlines."""
KEPT = 1 << 28
"""Bytes of freed memory that a worker keeps for its next shard."""
NO_WORKERS = 120.0
"""Seconds without any worker after which a run ends with an error instead of waiting on."""


@dataclass(frozen=True, slots=True)
class Work:
    """A function of `segengine.worker` and its task, which has fields `attempt` and `last`."""

    key: str
    function: Callable[[Any], Any]
    task: Any

    def run(self, attempt: int, last: bool) -> Any:
        """Call it here."""
        value = self.function(self.at(attempt, last))
        return value.finish() if isinstance(value, Later) else value

    def at(self, attempt: int, last: bool) -> Any:
        """The task of one attempt."""
        return replace(self.task, attempt=attempt, last=last)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a piece of work ended."""

    work: Work
    status: Literal["done", "error", "crash", "hang"]
    value: Any
    reason: str
    attempts: int


class Pool(Protocol):
    """Where work is done."""

    @property
    def workers(self) -> int: ...
    def dispatch(
        self, works: Iterable[Work], *, retries: int, deadline: float
    ) -> Iterator[Outcome]:
        """Yield one outcome for each work, in the order they end. Raises StoreError when the store
        cannot be used at all."""
        ...


def _settle(work: Work, value: Any, attempt: int, last: bool) -> Outcome | None:
    """The outcome of a finished call; None: try again."""
    if not isinstance(value, Retry):
        return Outcome(work, "done", value, "", attempt)
    if value.fatal:
        raise StoreError(value.reason)
    return Outcome(work, "error", None, value.reason, attempt) if last else None


@dataclass(frozen=True, slots=True)
class InProcess:
    """One after the other, in this process: the reference that every cluster must agree with."""

    workers: int = 1

    def dispatch(
        self, works: Iterable[Work], *, retries: int, deadline: float
    ) -> Iterator[Outcome]:
        """As `Pool.dispatch`; a call that hangs or kills the process cannot be helped here."""
        _keep_freed_memory()
        for work in works:
            outcome, attempt = None, 0
            while outcome is None:
                attempt += 1
                last = attempt > retries
                outcome = _settle(work, work.run(attempt, last), attempt, last)
                if outcome is None:
                    time.sleep(PAUSE * 2 ** (attempt - 1))
            yield outcome


class _Storing:
    """The shard that this worker stores while it computes the next: one thread, one shard."""

    def __init__(self) -> None:
        self.pool = ThreadPoolExecutor(1, "segengine-storing")
        self.before: Future[None] | None = None

    def start(self, later: Later, send: Callable[[Any], None]) -> None:
        """Finish it beside what comes next, once the one before it is stored; then send its value."""
        if self.before is not None:
            self.before.result()
        self.before = self.pool.submit(lambda: send(later.finish()))


_STORING = _Storing()


def call_stamped(
    function: Callable[[Any], Any], task: Any, topic: str, stamp: str, alone: bool = True
) -> Any:
    """What a Dask worker runs: say that it starts, do the work, send the result.

    Records are small, so they come back as events: fetching each as a Dask result would be a round
    trip to the worker and twice the cost of the whole hand-out. Not alone, what can be finished
    later is finished while the next call computes.
    """
    from distributed import get_worker

    worker = get_worker()
    _prepare_worker(worker.name)
    _end_with_parent()
    worker.log_event(topic, {"stamp": stamp, "worker": worker.address})

    def send(value: Any) -> None:
        worker.log_event(topic, {"stamp": stamp, "value": encode(value)})

    value = function(task)
    if isinstance(value, Later):
        if not alone:
            _STORING.start(value, send)
            return None
        value = value.finish()
    send(value)
    return value


def _prepare_worker(name: object) -> None:
    import cv2

    _keep_freed_memory()
    _take_gpu(name)
    if cv2.getNumThreads() != 1:
        cv2.setNumThreads(1)


@cache
def _keep_freed_memory() -> None:
    """Let glibc hand freed arrays out again instead of returning their pages to the kernel.

    Each shard needs the same few arrays of many megabytes. By default, and the more so with the
    trim threshold that Dask sets for its workers, every one of them is mapped, zeroed page by page
    and unmapped again, which cost twice as much as everything else a mean threshold does.
    """
    if not sys.platform.startswith("linux"):
        return
    import ctypes

    trim_threshold, mmap_threshold = -1, -3  # malloc.h
    with suppress(AttributeError):  # a C library without it
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(mmap_threshold, 1 << 25)  # the most glibc takes
        mallopt(trim_threshold, KEPT)


@cache
def _take_gpu(name: object) -> None:
    """Let a local cluster's worker, whose name is its number, see one GPU: each its own."""
    found = engines.gpus()
    if isinstance(name, int) and len(found) > 1:
        os.environ["CUDA_VISIBLE_DEVICES"] = found[name % len(found)]


@cache
def _end_with_parent() -> None:
    """Let the kernel end a worker whose nanny is gone.

    Dask's own watch is a thread of the worker, and none runs while native code holds the
    interpreter's lock. Workers without a nanny belong to whoever started them.
    """
    parent = multiprocessing.parent_process()
    if parent is None or not sys.platform.startswith("linux"):
        return
    import ctypes

    set_parent_death_signal = 1  # PR_SET_PDEATHSIG of linux/prctl.h
    ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)
    if os.getppid() != parent.pid:  # it went just before
        os._exit(1)


@dataclass(slots=True)
class _Running:
    stamp: str
    work: Work
    future: Any
    attempt: int
    last: bool
    alone: bool
    worker: str = ""
    since: float = 0.0
    """Monotonic time of the start stamp; 0: not started yet."""
    value: bytes = b""
    """The encoded result, once its event is here."""
    starts: int = 0
    """More than one: Dask began it again, because its worker died while it was being stored."""
    storing: bool = False
    """Computed, and free for the next; its result is still to come."""
    submitted: float = field(default_factory=time.monotonic)


class DaskPool:
    """A Dask client's workers, each with one thread."""

    def __init__(self, client: Any, *, lookahead: int = 1) -> None:
        self.client = client
        self.lookahead = lookahead
        """Tasks that wait at the scheduler, a worker. 0 where its settings are not ours."""
        self.stop = threading.Event()
        """Set from any thread: what is dispatched raises StoppedError instead of waiting on."""

    @property
    def workers(self) -> int:
        """Workers there are now."""
        return max(1, len(self.client.scheduler_info(n_workers=-1)["workers"]))

    def dispatch(
        self, works: Iterable[Work], *, retries: int, deadline: float
    ) -> Iterator[Outcome]:
        """As `Pool.dispatch`."""
        window = self.workers * (1 + self.lookahead)
        run = _DaskRun(self.client, window, retries, deadline, self.stop)
        try:
            yield from run.outcomes(iter(works))
        finally:
            run.close()


class _DaskRun:
    def __init__(
        self, client: Any, window: int, retries: int, deadline: float, stop: threading.Event
    ) -> None:
        self.client, self.window, self.stop = client, window, stop
        self.retries, self.deadline = retries, deadline
        self.topic = f"segengine-{uuid.uuid4().hex}"
        self.running: dict[str, _Running] = {}
        self.ended: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.again: list[tuple[float, int, Work, int]] = []
        self.suspects: deque[tuple[Work, int, int]] = deque()
        self.count = 0
        self.alive = time.monotonic()
        client.subscribe_topic(self.topic, self._stamped)

    def close(self) -> None:
        """Give up what still runs."""
        if self.running:
            self.client.cancel([r.future for r in self.running.values()], force=True)
            self.running.clear()
        self.client.unsubscribe_topic(self.topic)

    def outcomes(self, works: Iterator[Work]) -> Iterator[Outcome]:
        """The loop."""
        more = True
        while True:
            while self._computing() < self.window and (more or self._due()):
                if self._due():
                    _, _, work, attempt = heapq.heappop(self.again)
                    self._submit(work, attempt + 1, alone=False)
                    continue
                found = next(works, None)
                if found is None:
                    more = False
                else:
                    self._submit(found, 1, alone=False)
            if not self.running:
                if self.again:
                    time.sleep(max(0.0, self.again[0][0] - time.monotonic()))
                elif self.suspects:
                    work, attempt, deaths = self.suspects.popleft()
                    yield from self._alone(work, attempt, deaths)
                elif not more:
                    return
                continue
            yield from self._step()

    def _computing(self) -> int:
        return sum(not running.storing for running in self.running.values())

    def _due(self) -> bool:
        return bool(self.again) and self.again[0][0] <= time.monotonic()

    def _submit(self, work: Work, attempt: int, *, alone: bool) -> None:
        last = attempt > self.retries
        stamp = f"{work.function.__name__}-{uuid.uuid4().hex}"
        # Known before it is handed out: a quick worker's events come before `submit` returns.
        running = _Running(stamp, work, None, attempt, last, alone)
        self.running[stamp] = running
        running.future = self.client.submit(
            call_stamped,
            work.function,
            work.at(attempt, last),
            self.topic,
            stamp,
            alone,
            key=stamp,
            pure=False,
        )
        running.future.add_done_callback(lambda _, stamp=stamp: self.ended.put(stamp))

    def _stamped(self, event: Any) -> None:
        """Called by the client's loop when a worker starts or ends an attempt."""
        message = event[1]
        running = self.running.get(message["stamp"])
        if running is None:
            return
        if "value" in message:
            running.value = message["value"]
            self.ended.put(message["stamp"])
        else:
            running.worker, running.since = message["worker"], time.monotonic()
            running.starts += 1

    def _wait(self) -> str | None:
        """The stamp of what has ended; None where nothing has, and it is time to look around."""
        try:
            stamp = self.ended.get(timeout=TICK)
        except queue.Empty:
            stamp = None
        if self.stop.is_set():
            raise StoppedError
        if stamp is None:
            self._refuse_no_workers()
        return stamp

    def _refuse_no_workers(self) -> None:
        """Raise where nobody has been there to do the work for a while."""
        if self.client.scheduler_info(n_workers=-1)["workers"]:
            self.alive = time.monotonic()
        elif time.monotonic() - self.alive > NO_WORKERS:
            raise SegengineError(
                f"the cluster has had no worker for {NO_WORKERS:g} s; start workers and run again"
            )

    def _step(self) -> Iterator[Outcome]:
        """Wait for one end, or for the next look at the deadlines."""
        ended = self._wait()
        running = self.running.get(ended) if ended is not None else None
        if ended is not None and running is not None and not self._stores(running):
            del self.running[ended]
            yield from self._ended(running)
        for stamp, running in list(self.running.items()):
            if running.storing and not running.value and self._fell(running):
                del self.running[stamp]
                running.future.cancel(force=True)
                self.suspects.append((running.work, running.attempt, running.starts))
            elif self._overdue(running):
                del self.running[stamp]
                yield from self._hung(running)

    def _stores(self, running: _Running) -> bool:
        """True where the worker has computed it, and its result will be an event."""
        if running.value or running.future.status != "finished":
            return False
        running.storing = running.future.result() is None
        return running.storing

    def _fell(self, running: _Running) -> bool:
        """True where a worker that stored a shard died, and so did the one that began it again."""
        return running.starts > 2 or running.future.status in ("error", "cancelled")

    def _overdue(self, running: _Running) -> bool:
        now = time.monotonic()
        if not running.since and now - running.submitted > self.deadline:
            for worker, keys in self.client.processing().items():
                if running.stamp in keys:
                    running.worker, running.since = worker, now
        return bool(running.since) and now - running.since > self.deadline

    def _ended(self, running: _Running) -> Iterator[Outcome]:
        from distributed import KilledWorker

        work, attempt, last = running.work, running.attempt, running.last
        status = running.future.status
        if running.value:
            value = decode(running.value)
        elif status == "finished":
            value = running.future.result()
        elif status == "error":
            error = running.future.exception()
            if isinstance(error, KilledWorker):
                self.suspects.append((work, attempt, 1))
                return
            value = retry_of(error)
        else:  # cancelled or lost: the scheduler forgot it
            value = Retry(f"the scheduler lost the task ({status})")
        running.future.release()
        self.count += 1
        outcome = _settle(work, value, attempt, last)
        if outcome is not None:
            yield outcome
        else:
            due = time.monotonic() + PAUSE * 2 ** (attempt - 1)
            heapq.heappush(self.again, (due, self.count, work, attempt))

    def _hung(self, running: _Running) -> Iterator[Outcome]:
        self._restart(running)
        if running.last:
            yield self._hang(running)
        else:
            self.suspects.append((running.work, running.attempt, 0))

    def _restart(self, running: _Running) -> None:
        """Stop the attempt and the worker it holds."""
        running.future.cancel(force=True)
        try:
            self.client.restart_workers([running.worker], timeout=30, raise_for_error=False)
        except (ValueError, TimeoutError, OSError):  # it is gone already, or has no nanny
            self.client.retire_workers([running.worker], close_workers=True)

    def _hang(self, running: _Running) -> Outcome:
        reason = f"no result within {self.deadline:g} s (faults.deadline)"
        return Outcome(running.work, "hang", None, reason, running.attempt)

    def _alone(self, work: Work, attempt: int, deaths: int) -> Iterator[Outcome]:
        """Try a suspect with nothing beside it: now a dead worker is its own doing."""
        from distributed import KilledWorker

        while True:
            attempt += 1
            self._submit(work, attempt, alone=True)
            ((stamp, running),) = self.running.items()
            running.last = attempt > self.retries
            while not (running.value or running.future.done()):
                if self._overdue(running):
                    break
                self._wait()
            del self.running[stamp]
            if not (running.value or running.future.done()):
                self._restart(running)
                if attempt > self.retries:
                    yield self._hang(running)
                    return
                continue
            error = running.future.exception() if running.future.status == "error" else None
            if isinstance(error, KilledWorker):
                deaths += 1
                if deaths > max(1, self.retries):
                    reason = f"its worker died {deaths} times (killed, or out of memory)"
                    yield Outcome(work, "crash", None, reason, attempt)
                    return
                continue
            yield from self._ended(running)
            return
