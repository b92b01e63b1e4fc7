"""The cost of handing out shards that do nothing, and what the driver keeps of each."""

import gc
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass

import psutil

from segengine.dispatch.clusters import open_pool
from segengine.dispatch.pool import Work
from segengine.job import ClusterSpec
from segengine.store.blobs import open_objects
from segengine.store.kinds import MaskRecord
from segengine.store.records import RecordLog
from tests.benchmarks.table import Row, show


@dataclass(frozen=True, slots=True)
class NoOp:
    """A shard without pixels."""

    store: str
    number: int
    attempt: int = 1
    last: bool = False


def no_op(task: NoOp) -> MaskRecord:
    """Commit a record, as every shard does, and nothing else."""
    place = (0, task.number // 1000, task.number % 1000)
    record = MaskRecord(
        scene="scene", shard=place, box=(0, 0, 0, 1, 1, 1), inputs="inputs", job="job"
    )
    RecordLog(open_objects(task.store)).write(record)
    return record


def rows() -> list[Row]:
    """Milliseconds a shard at 10,000; megabytes of growth from 1,000 to 10,000."""
    with (
        tempfile.TemporaryDirectory(prefix="segengine-bench-") as store,
        open_pool(ClusterSpec(kind="local", workers=2), 2) as pool,
    ):

        def run(first: int, last: int) -> float:
            works: Iterator[Work] = (
                Work(str(i), no_op, NoOp(store, i)) for i in range(first, last)
            )
            started = time.perf_counter()
            for _ in pool.dispatch(works, retries=2, deadline=600):
                pass
            return time.perf_counter() - started

        run(0, 1_000)
        before = _memory()
        seconds = run(1_000, 11_000)
        growth = _memory() - before
    return [
        Row(
            "orchestration per shard, 10,000 no-op shards",
            seconds / 10,
            5,
            "ms",
            seconds / 50,
            "<= 1",
        ),
        Row("driver memory, 1,000 to 11,000 shards", growth, 20, "MB", growth / 20, "<= 1"),
    ]


def _memory() -> float:
    gc.collect()
    return psutil.Process().memory_info().rss / 1e6


if __name__ == "__main__":
    show(rows())
