"""Doing work on a worker: what it makes is committed as its record, or there is a reason why not.

    do --> record --> the record, with what it took
     |        |
     +--------+-----> Damaged: stored bytes that it needs are not those that were committed
     +--------+-----> Retry: another attempt may go better; or the store is out of use

The driver tries a `Retry` again (`segengine.dispatch.pool`), and takes all else as it is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from segengine.errors import DamagedStoreError
from segengine.store.blobs import Objects, Writer, open_objects
from segengine.store.kinds import Record
from segengine.store.records import RecordLog
from segengine.worker.tasks import Damaged, Retry, retry_of

T = TypeVar("T")
R = TypeVar("R", bound=Record)


def tried(work: Callable[[], T]) -> T | Retry:
    """What it gives, or why there is nothing."""
    try:
        return work()
    except Exception as error:  # noqa: BLE001 - a failure is a value
        return retry_of(error)


def recorded(
    store: str, writer: Writer, attempt: int, work: Callable[[Objects], R]
) -> R | Retry | Damaged:
    """Do work that makes a record, and commit that last."""

    def done() -> R | Damaged:
        started = time.perf_counter()
        objects = open_objects(store, writer)
        try:
            record = timed(work(objects), attempt, time.perf_counter() - started)
        except DamagedStoreError as error:
            return Damaged(error.key, error.what)
        RecordLog(objects).write(record)
        return record

    return tried(done)


def timed_together(records: Sequence[R], seconds: float) -> list[R]:
    """Records of work that is done just now, all at once and at the first try, which took so long."""
    return [timed(record, 1, seconds / len(records)) for record in records]


def timed(record: R, attempt: int, seconds: float) -> R:
    """A record of work that is done just now, with what it took."""
    return replace(record, attempts=attempt, seconds=round(seconds, 6), finished=time.time())
