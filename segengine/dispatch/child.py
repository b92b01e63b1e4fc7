"""What runs in a worker around each work: it is prepared, told of, and its result sent as an event."""

from __future__ import annotations

import multiprocessing
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

from segengine import engines
from segengine.dispatch.memory import keep_freed_memory
from segengine.dispatch.orphans import end_with
from segengine.dispatch.pool import HELD, is_later
from segengine.store.values import encode
from segengine.worker.attempts import tried
from segengine.worker.tasks import Later

PROMPT = 0.02
"""Seconds between two works of a message that are said to start: saying so may take as long as one."""


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


def is_storing() -> bool:
    """True while this worker stores what it has computed."""
    return _STORING.before is not None and not _STORING.before.done()


@dataclass(frozen=True, slots=True)
class Calls:
    """A message to a worker."""

    calls: Sequence[tuple[str, Callable[[Any], Any], Any]]
    """Stamp, function, task."""
    topic: str
    """Of the events that tell of them."""
    key: str
    beside: bool
    """Store each beside what comes next."""


def call_stamped(message: Calls) -> None:
    """What a Dask worker runs: for each call say that it starts, do the work, send the result.

    Records are small, so they come back as events: fetching each as a Dask result would be a round
    trip to the worker and twice the cost of the whole hand-out. What can be finished later is
    finished with its mates, all at once; or `beside` the next call.
    """
    from distributed import get_worker

    worker, topic = get_worker(), message.topic
    prepare_worker(worker.name)
    _end_with_parent()

    def send(values: Mapping[str, Any]) -> None:
        worker.log_event(topic, {"values": {s: encode(value) for s, value in values.items()}})

    def send_one(stamp: str, value: Any) -> None:
        send({stamp: value})

    worker.log_event(topic, {"message": message.key, "worker": worker.address})
    waiting: dict[str, Later] = {}

    def finish_waiting() -> None:
        works = list(waiting.values())
        send(dict(zip(waiting, type(works[0]).finish_all(works), strict=True)))
        waiting.clear()

    said = float("-inf")
    for stamp, function, task in message.calls:
        if time.monotonic() - said > PROMPT:
            worker.log_event(topic, {"begun": stamp})
            said = time.monotonic()
        value = tried(partial(function, task))
        if not is_later(value):
            send_one(stamp, value)
        elif message.beside:
            _STORING.start(value, partial(send_one, stamp))
        else:
            waiting[stamp] = value
            if sum(later.nbytes for later in waiting.values()) > HELD:
                finish_waiting()
    if waiting:
        finish_waiting()


def prepare_worker(name: object) -> None:
    """Set this process up for works; asked before each of them."""
    import cv2

    keep_freed_memory()
    _take_gpu(name)
    if cv2.getNumThreads() != 1:
        cv2.setNumThreads(1)


@cache
def _take_gpu(name: object) -> None:
    """Let a worker whose name ends in its number, here or in its batch job, see one GPU: its own."""
    found, number = engines.gpus(), re.search(r"\d+$", str(name))
    if number and len(found) > 1:
        os.environ["CUDA_VISIBLE_DEVICES"] = found[int(number[0]) % len(found)]


@cache
def _end_with_parent() -> None:
    """Let the kernel end a worker whose nanny is gone.

    Dask's own watch is a thread of the worker, and none runs while native code holds the
    interpreter's lock. Workers without a nanny belong to whoever started them.
    """
    parent = multiprocessing.parent_process()
    if parent is not None and parent.pid is not None:
        end_with(parent.pid)
