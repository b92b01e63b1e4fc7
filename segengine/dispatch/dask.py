"""Tasks to a Dask client's workers, a bounded number at a time; every way they can end is an outcome.

    pending --> running (at most `window`) --> done
                   |  transient failure        again, after a pause; then `error`
                   |  its worker died          again, alone at the end, so that no innocent is blamed;
                   |                           then `crash`
                   |  longer than the deadline its worker is restarted, again alone; then `hang`
                   |  no time left            its worker is restarted behind our back; `late`

The clock of the deadline starts when the worker says that it starts (an event of this run and this
attempt), so waiting in a queue counts for nothing. Where that event does not come, because native code
holds the worker's interpreter from its first line on, the clock starts when the scheduler is asked.

Short works share a message: what a message costs is then paid once for many; so do longer ones where
workers are very many. Results come as events, so that what is done stays done when their worker dies,
and so do starts: what was begun last is suspected.
"""

from __future__ import annotations

import heapq
import math
import queue
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice, zip_longest
from typing import Any

from segengine.dispatch.child import Calls, call_stamped
from segengine.dispatch.pool import MOST, SHORT, Outcome, Work, hung, late, pause, settle
from segengine.errors import SegengineError, StoppedError
from segengine.store.values import decode
from segengine.worker.tasks import Retry, retry_of

TICK = 0.5
"""Seconds between looks at the deadlines."""

MESSAGE = 0.004
"""Seconds from one message to the next at which a scheduler and a driver are half busy: each takes
up to 2 ms of a core for one."""
AT_ONCE = 256
"""Works that are handed out at once: Dask warns of graphs of 10 MB."""
NO_WORKERS = 120.0
"""Seconds without any worker after which a run ends with an error instead of waiting on."""
GONE = (
    f"the scheduler is gone, and was not back within {NO_WORKERS:g} s; start it and its workers, and "
    "run again: what is done is kept"
)


@dataclass(slots=True)
class _Message:
    """Works that travel to a worker together, in their order."""

    key: str
    future: Any = None
    members: list[_Running] = field(default_factory=list)
    starts: int = 0
    """More than one: Dask began it again, because its worker died."""
    storing: bool = False
    """Computed, and the worker free for the next; results are still to come."""
    submitted: float = field(default_factory=time.monotonic)
    worker: str = ""
    heard: float = 0.0
    """Monotonic time of the last that its worker said of it; 0: nothing yet."""

    @property
    def lost(self) -> list[_Running]:
        """Those whose result is not here."""
        return [member for member in self.members if not member.value]

    @property
    def last(self) -> _Running | None:
        """The one of them that was begun last, or that comes first."""
        lost = self.lost
        return max(lost, key=lambda member: member.since, default=None)


@dataclass(slots=True)
class _Running:
    stamp: str
    work: Work
    message: _Message
    attempt: int
    last: bool
    since: float = 0.0
    """Monotonic time of the start stamp; 0: not started yet."""
    value: bytes = b""
    """The encoded result, once its event is here."""


class DaskPool:
    """A Dask client's workers, each with one thread."""

    def __init__(
        self,
        client: Any,
        *,
        lookahead: int = 1,
        expected: int = 0,
        check: Callable[[], None] | None = None,
    ) -> None:
        """`expected`: workers that there may be, once they have started.

        `check`: asked while nothing ends; raises SegengineError where no worker will come. Without it
        a run ends that has none for a while.
        """
        self.client, self.expected, self.check = client, expected, check
        self.lookahead = lookahead
        """Tasks that wait at the scheduler, a worker. 0 where its settings are not ours."""
        self.stop = threading.Event()
        """Set from any thread: what is dispatched raises StoppedError instead of waiting on."""
        self.dashboard = ""
        """Address of Dask's pages; empty where they are not served."""
        self._prepared: set[Any] = set()
        self._run: _DaskRun | None = None

    @property
    def undone(self) -> int:
        """Works that are handed out, or are to be tried again: so many workers would have some."""
        run = self._run
        return run.undone() if run is not None else 0

    @property
    def workers(self) -> int:
        """Workers there are now, or are to come."""
        return max(1, self.expected, len(self.client.scheduler_info(n_workers=-1)["workers"]))

    def prepare(self, function: Callable[..., None], *args: Any) -> None:
        """Have each worker that is there call it before its first work; what it raises is ignored."""
        for worker in self.client.scheduler_info(n_workers=-1)["workers"]:
            future = self.client.submit(function, *args, workers=[worker], pure=False)
            self._prepared.add(future)  # let go of, it would be cancelled; held on to, done again
            future.add_done_callback(self._prepared.discard)

    def close(self) -> None:
        """Give up what still runs: whoever asked for it may have left, and holds on to how it ends."""
        if self._run is not None:
            self._run.close()

    def dispatch(
        self, works: Iterable[Work], *, retries: int, deadline: float
    ) -> Iterator[Outcome]:
        """As `Pool.dispatch`."""
        workers = self.workers
        from distributed.client import ClosedClientError

        run = _DaskRun(
            self.client, workers, self.lookahead, retries, deadline, self.stop, self.check
        )
        self._run = run
        try:
            yield from run.outcomes(iter(works))
        except ClosedClientError as error:  # it tried for as long, and gave up
            raise SegengineError(GONE) from error
        finally:
            self._run = None
            run.close()


class _DaskRun:
    def __init__(
        self,
        client: Any,
        workers: int,
        lookahead: int,
        retries: int,
        deadline: float,
        stop: threading.Event,
        check: Callable[[], None] | None,
    ) -> None:
        self.client, self.window, self.stop = client, workers * (1 + lookahead), stop
        self.told, self.check = check, check or self._refuse_no_workers
        self.retries, self.deadline = retries, deadline
        self.topic = f"segengine-{uuid.uuid4().hex}"
        self.messages: dict[str, _Message] = {}
        self.running: dict[str, _Running] = {}
        self.ended: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.again: list[tuple[float, int, Work, int]] = []
        self.suspects: deque[tuple[Work, int, int]] = deque()
        self.ahead: deque[Work] = deque()
        """Taken from the works, and not yet handed out."""
        self.fill = max(SHORT, workers * MESSAGE)
        """Seconds of work that share a message."""
        self.seconds = self.fill
        """What a work takes, as the last few did; at first as much as fills a message."""
        self.crowded = self.fill > SHORT
        """There are so many workers that messages must be few, whatever they hold."""
        self.computing = 0
        """Messages that hold a worker, or would."""
        self.count = 0
        self.closed = False
        self.alive = self.looked = self.minded = time.monotonic()
        self.asked = 0.0
        self.restarts: dict[str, float] = {}
        """When a worker of an address was last restarted."""
        self.in_hand: Mapping[str, Any] = {}
        """Keys of what each worker has, when that was asked for last."""
        self._subscribe()

    def _subscribe(self) -> None:
        self.connection = self.client.scheduler_comm
        """What works are handed out on; Dask makes another where it breaks."""
        self.client.subscribe_topic(self.topic, self._stamped)

    def close(self) -> None:
        """Give up what still runs; once, for the client may be closed by the next time."""
        if self.closed or self._is_cut():
            return  # the scheduler has given it up
        self.closed = True
        if self.messages:
            futures = [m.future for m in self.messages.values() if m.future is not None]
            self.client.cancel(futures, force=True)
            self.messages.clear()
        self.client.unsubscribe_topic(self.topic)

    def _is_cut(self) -> bool:
        """Whether that is gone, and with it all futures and what nobody heard."""
        return self.connection is None or self.client.scheduler_comm is not self.connection

    def outcomes(self, works: Iterator[Work]) -> Iterator[Outcome]:
        """The loop."""
        more = True
        while True:
            if self._is_cut():
                yield from self._begin_again()
            yield from self._end_spent()
            free: list[_Message] = []
            while self.computing < self.window and (more or self._due()):
                if self._due():
                    _, _, work, attempt = heapq.heappop(self.again)
                    free.append(self._message([work], attempt + 1))
                    continue
                found = self._next(works)
                if found:
                    free.append(self._message(found, 1))
                else:
                    more = False
            if free:
                self._hand_out(free)
            if not self.messages:
                if self.again:
                    time.sleep(max(0.0, self.again[0][0] - time.monotonic()))
                elif self.suspects:
                    work, attempt, deaths = self.suspects.popleft()
                    yield from self._alone(work, attempt, deaths)
                elif not more:
                    return
                continue
            yield from self._step()

    def _next(self, works: Iterator[Work]) -> list[Work]:
        """What the next message holds: as many as fill it. None of them is at its last attempt,
        where being suspected for another's fault would be the end of it."""
        fills = self.fill / self.seconds
        size = max(1, min(MOST, math.ceil(fills) if self.crowded else int(fills)))
        size = size if self.retries else 1
        # Where messages are long, the last ones are shorter and shorter, so that all end together
        # (guided self-scheduling; Polychronopoulos and Kuck, 1987, doi:10.1109/TC.1987.5009495).
        share = 2 * self.window if self.crowded else 1
        self.ahead.extend(islice(works, max(0, size * share - len(self.ahead))))
        size = min(size, max(1, len(self.ahead) // share))
        found: list[Work] = []
        while len(found) < size:
            self.ahead.extend(islice(works, 0 if self.ahead else 1))
            if not self.ahead or (found and not self._joins(self.ahead[0], found[0])):
                break
            found.append(self.ahead.popleft())
            if found[0].together is not None and self.retries:
                size = MOST
        return found

    def _joins(self, work: Work, first: Work) -> bool:
        """Whether it may share a message that begins so."""
        if work.together is not None or first.together is not None:
            return bool(work.together == first.together)
        if work.follow or first.follow:
            return self.crowded and work.follow is first.follow
        return True

    def undone(self) -> int:
        """Messages that hold a worker, or would; called from any thread."""
        return self.computing + len(self.again) + (1 if self.suspects else 0)

    def _due(self) -> bool:
        return bool(self.again) and self.again[0][0] <= time.monotonic()

    def _message(self, works: list[Work], attempt: int) -> _Message:
        """What is to hand out: known before it is, for a quick worker's events come before that returns."""
        last = attempt > self.retries
        message = _Message(f"{works[0].function.__name__}-{uuid.uuid4().hex}")
        for i, work in enumerate(works):
            running = _Running(f"{message.key}-{i}", work, message, attempt, last)
            message.members.append(running)
            self.running[running.stamp] = running
        self.messages[message.key] = message
        self.computing += 1
        return message

    def _hand_out(self, messages: list[_Message], *, alone: bool = False) -> None:
        """Many at once: to a scheduler, each graph costs more than a task does."""
        while messages:
            count, works = 0, 0
            while count < len(messages) and works < AT_ONCE:
                works += len(messages[count].members)
                count += 1
            self._hand_out_at_once(messages[:count], alone=alone)
            messages = messages[count:]

    def _hand_out_at_once(self, messages: list[_Message], *, alone: bool) -> None:
        futures = self.client.map(
            call_stamped,
            [self._calls(message, alone) for message in messages],
            key=[message.key for message in messages],
            pure=False,
        )
        for message, future in zip(messages, futures, strict=True):
            message.future = future
            future.add_done_callback(lambda _, key=message.key: self.ended.put(key))

    def _calls(self, message: _Message, alone: bool) -> Calls:
        members, tasks = message.members, []
        for member, then in zip_longest(members, members[1:]):
            task, work = member.work.at(member.attempt, member.last), member.work
            if work.follow is not None and len(members) > 1:
                task = work.follow(task, then.work.task if then else None)
            tasks.append((member.stamp, work.function, task))
        beside = members[0].work.follow is not None and not alone
        return Calls(tasks, self.topic, message.key, beside)

    def _stamped(self, event: Any) -> None:
        """Called by the client's loop when a worker starts or ends an attempt."""
        said = event[1]
        if "message" in said:
            message = self.messages.get(said["message"])
            if message is not None:
                message.worker, message.heard = said["worker"], time.monotonic()
                message.starts += 1
                self.ended.put(message.key)
            return
        now = time.monotonic()
        if "begun" in said:
            running = self.running.get(said["begun"])
            if running is not None:
                running.since = running.message.heard = now
            return
        for stamp, value in said["values"].items():
            running = self.running.get(stamp)
            if running is not None:
                running.message.heard, running.value = now, value
                self.ended.put(stamp)

    def _wait(self) -> str | None:
        """What has ended; None where nothing has, and it is time to look around."""
        try:
            ended = self.ended.get(timeout=TICK)
        except queue.Empty:
            ended = None
        if self.stop.is_set():
            raise StoppedError
        if ended is None and not self._is_cut():
            self.check()
        return ended

    def _begin_again(self) -> Iterator[Outcome]:
        """Once a scheduler is back, hand out anew what was on its way: nobody is to blame for it."""
        end = time.monotonic() + NO_WORKERS
        while self.client.status != "running" or self.client.scheduler_comm is None:
            if self.stop.wait(TICK):
                raise StoppedError
            if self.told is not None:
                self.told()  # who started the scheduler may know that it will not be back
            if self.client.status not in ("running", "connecting") or time.monotonic() > end:
                raise SegengineError(GONE)
        self._subscribe()
        for event in self._missed():
            self._stamped(event)
        for running in list(self.running.values()):
            if running.value:
                yield from self._done(running)
        for message in list(self.messages.values()):
            # Where it is the same scheduler, or it was told since.
            message.future.cancel(force=True)
            self._free(message)
        self.alive = time.monotonic()

    def _missed(self) -> Iterable[Any]:
        """What workers have told a scheduler that is still the same, while we could not hear it."""
        try:
            found: Iterable[Any] = self.client.get_events(self.topic)
        except OSError:  # gone again
            return ()
        return found

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
        for left in reversed(range(self.window)):
            if ended is None or self._is_cut():
                break
            if ended in self.running:
                yield from self._done(self.running[ended])
            elif ended in self.messages:
                yield from self._ended(self.messages[ended])
            # Several are answered before the next are handed out, which is cheaper all at once.
            ended = self.ended.get() if left and not self.ended.empty() else None
        if self._is_cut():
            return
        if time.monotonic() - self.looked > TICK:
            self.looked = time.monotonic()
            for message in list(self.messages.values()):
                yield from self._late(message)

    def _end_spent(self) -> Iterator[Outcome]:
        """What has no time left ends, and with it the worker that is at it; nobody is to blame."""
        if time.monotonic() - self.minded < TICK:
            return
        self.minded = time.monotonic()
        spent = [m for m in self.messages.values() if any(x.work.is_spent for x in m.lost)]
        self._leave_to_restart({worker for m in spent if (worker := self._worker_at(m))})
        for message in spent:
            for member in message.members:
                if member.value and member.stamp in self.running:
                    yield from self._done(member)
            message.future.cancel(force=True)
            lost = message.lost
            self._forget(message)
            yield from (late(member.work, member.attempt) for member in lost)
        yield from self._end_waiting()

    def _end_waiting(self) -> Iterator[Outcome]:
        """The same of what is on no worker."""
        waiting = [(work, attempt) for _, _, work, attempt in self.again]
        waiting += [(work, attempt) for work, attempt, _ in self.suspects]
        waiting += [(work, 0) for work in self.ahead]
        spent = {work.key: late(work, attempt) for work, attempt in waiting if work.is_spent}
        if spent:
            self.again = [each for each in self.again if each[2].key not in spent]
            heapq.heapify(self.again)
            self.suspects = deque(each for each in self.suspects if each[0].key not in spent)
            self.ahead = deque(work for work in self.ahead if work.key not in spent)
            yield from spent.values()

    def _worker_at(self, message: _Message) -> str:
        """Address of the worker that has begun a message; empty where it waits."""
        if message.heard:
            return message.worker
        for worker, keys in self._in_hand().items():
            if message.key == next((key for key in self.messages if key in keys), ""):
                return worker
        return ""

    def _leave_to_restart(self, workers: set[str]) -> None:
        """Have workers restarted without waiting for it, which may take a busy machine many seconds."""
        now = time.monotonic()
        self.restarts.update(dict.fromkeys(workers, now))

        def restart() -> None:
            with suppress(Exception):  # the run is over by now, and its workers with it
                self._restart_workers(list(workers))

        if workers:
            threading.Thread(target=restart, daemon=True).start()

    def _late(self, message: _Message) -> Iterator[Outcome]:
        """What is not done in time, or never will be."""
        if message.key not in self.messages:
            return
        if message.storing and (
            message.starts > 2 or message.future.status in ("error", "cancelled")
        ):  # a worker that stored a shard died, and so did the one that began it again
            message.future.cancel(force=True)
            self._suspect(message, message.starts)
        else:
            overdue = self._overdue(message)
            if overdue is not None:
                yield from self._hung(overdue)

    def _done(self, running: _Running) -> Iterator[Outcome]:
        """A work's result is here."""
        message = running.message
        del self.running[running.stamp]
        if not any(member.stamp in self.running for member in message.members):
            first = message.members[0].since or message.submitted
            took = (time.monotonic() - first) / len(message.members)
            self.seconds = (self.seconds + max(took, SHORT / MOST)) / 2
            self._forget(message)
        yield from self._settled(running, decode(running.value))

    def _forget(self, message: _Message) -> None:
        """Nothing more is expected of it."""
        if self.messages.pop(message.key, None) is not None:
            message.future.release()
            self._computed(message)
        for member in message.lost:
            self.running.pop(member.stamp, None)

    def _computed(self, message: _Message) -> None:
        """Its worker is free for the next."""
        if not message.storing:
            message.storing = True
            self.computing -= 1

    def _ended(self, message: _Message) -> Iterator[Outcome]:
        """A message's call has begun, has returned, or never will.

        `lost` is what Dask begins again, since the worker died that held its result.
        """
        from distributed import KilledWorker

        status = message.future.status
        if status == "finished":
            self._computed(message)
        elif status == "error":
            error = message.future.exception()
            if not isinstance(error, KilledWorker):
                yield from self._failed(message, retry_of(error))
            elif self._waited_behind(message, error.last_worker.address):
                self._free(message)
            else:
                self._suspect(message, 1)
        elif status not in ("pending", "lost"):  # cancelled: the scheduler forgot it
            yield from self._failed(message, Retry(f"the scheduler lost the task ({status})"))
        elif message.starts > 1 and len(message.members) > 1:
            # What it has done would be done again: the rest goes out anew, each by itself.
            message.future.cancel(force=True)
            self._free(message)

    def _waited_behind(self, message: _Message, worker: str) -> bool:
        """Whether it had not begun when its worker was restarted because of another."""
        return not message.starts and message.submitted <= self.restarts.get(worker, 0.0)

    def _suspect(self, message: _Message, deaths: int) -> None:
        """Its worker died: what was begun last is suspected, the rest is free of blame."""
        last = message.last
        self._free(message, but=last)
        if last is not None:
            self.suspects.append((last.work, last.attempt, deaths))

    def _free(self, message: _Message, *, but: _Running | None = None) -> None:
        """Expect nothing of it: what is not done of it goes out anew, each by itself, unblamed."""
        lost = message.lost
        self._forget(message)
        for member in lost:
            if member is not but:
                self._once_more(member, member.attempt - 1)

    def _failed(self, message: _Message, why: Retry) -> Iterator[Outcome]:
        lost = message.lost
        self._forget(message)
        for member in lost:
            yield from self._settled(member, why)

    def _settled(self, running: _Running, value: Any) -> Iterator[Outcome]:
        outcome = settle(running.work, value, running.attempt, running.last)
        if outcome is not None:
            yield outcome
        else:
            self._once_more(running, running.attempt, pause(running.attempt))

    def _once_more(self, running: _Running, attempts: int, pause: float = 0.0) -> None:
        """Hand it out again, by itself, after so many attempts."""
        self.count += 1
        due = time.monotonic() + pause
        heapq.heappush(self.again, (due, self.count, running.work, attempts))

    def _overdue(self, message: _Message) -> _Running | None:
        """What a message's worker has been at for too long."""
        now, last = time.monotonic(), message.last
        if last is None:
            return None
        unheard = not message.heard and now - message.submitted > self.deadline
        # What waits behind another of ours has not begun: its clock does not run yet.
        if unheard and (worker := self._worker_at(message)):
            message.worker, message.heard = worker, now
        return last if message.heard and now - message.heard > self.deadline else None

    def _in_hand(self) -> Mapping[str, Any]:
        """What each worker has; asked for once a tick, however many wait at the scheduler."""
        if time.monotonic() - self.asked > TICK:
            with suppress(OSError):  # the scheduler is gone, which is found out elsewhere
                self.in_hand = self.client.processing()
            self.asked = time.monotonic()
        return self.in_hand

    def _hung(self, running: _Running) -> Iterator[Outcome]:
        self._restart(running)
        self._free(running.message, but=running)
        if running.last:
            yield self._hang(running)
        else:
            self.suspects.append((running.work, running.attempt, 0))

    def _restart(self, running: _Running) -> None:
        """Stop the attempt and the worker it holds."""
        worker = running.message.worker
        running.message.future.cancel(force=True)
        self._restart_workers([worker])
        self.restarts[worker] = time.monotonic()

    def _restart_workers(self, workers: list[str]) -> None:
        try:
            self.client.restart_workers(workers, timeout=30, raise_for_error=False)
        except (KeyError, ValueError, TimeoutError, OSError):  # gone already, or without a nanny
            with suppress(OSError):
                self.client.retire_workers(workers, close_workers=True)

    def _hang(self, running: _Running) -> Outcome:
        return hung(running.work, running.attempt, self.deadline)

    def _alone(self, work: Work, attempt: int, deaths: int) -> Iterator[Outcome]:
        """Try a suspect with nothing beside it: now a dead worker is its own doing."""
        from distributed import KilledWorker

        while True:
            attempt += 1
            message = self._message([work], attempt)
            self._hand_out([message], alone=True)
            (running,) = message.members
            while not (
                running.value or message.future.done() or self._is_cut() or self._overdue(message)
            ):
                if work.is_spent:
                    self.minded = 0.0
                    yield from self._end_spent()
                    return
                self._wait()
            if self._is_cut() and not running.value:
                self._forget(message)
                yield from self._begin_again()
                attempt -= 1
                continue
            if running.value:
                yield from self._done(running)
                return
            if not message.future.done():
                self._restart(running)
                self._forget(message)
                if running.last:
                    yield self._hang(running)
                    return
                continue
            error = message.future.exception() if message.future.status == "error" else None
            if isinstance(error, KilledWorker):
                self._forget(message)
                deaths += 1
                if deaths > max(1, self.retries):
                    reason = f"its worker died {deaths} times (killed, or out of memory)"
                    yield Outcome(work, "crash", None, reason, attempt)
                    return
                continue
            yield from self._ended(message)
            return
