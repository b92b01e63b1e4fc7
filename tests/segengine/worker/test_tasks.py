"""What travels is told by values alone, and why it failed in one line."""

from __future__ import annotations

from typing import Any

import pytest
from distributed.protocol import deserialize, serialize

from segengine.errors import StoreAccessError, StoreLockedError
from segengine.job import parse_job
from segengine.planning.plan import make_plan
from segengine.store.blobs import open_objects
from segengine.worker.tasks import Retry, ShardTask, retry_of


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (ValueError("torn"), Retry("ValueError: torn")),
        (MemoryError(), Retry("out of memory")),
        (StoreAccessError("m.zarr: timed out"), Retry("m.zarr: timed out")),
        (StoreAccessError("full", "make room", fatal=True), Retry("full; make room", fatal=True)),
        (StoreLockedError("another run has it"), Retry("another run has it", fatal=True)),
    ],
)
def test_why_a_task_failed(error: Exception, why: Retry) -> None:
    assert retry_of(error) == why


def test_a_reason_holds_no_secret() -> None:
    why = retry_of(OSError("https://host.invalid/a.tif?X-Amz-Signature=SECRET: 403"))
    assert "SECRET" not in why.reason
    assert "https://host.invalid/a.tif" in why.reason
    assert "SECRET" not in Retry("s3://key:SECRET@bucket/a").reason


def test_a_task_is_the_same_once_it_has_travelled(bench: Any, noise: Any) -> None:
    bench.put("a.png", noise(1, (40, 40, 3)))
    job = parse_job(bench.job({"kind": "threshold", "method": "mean"}))
    plan = make_plan(job, open_objects(str(bench.store)))
    (layout,) = plan.layouts.values()
    task = plan.task(layout, (0, 0, 0))
    sent = serialize(task)
    again = deserialize(*sent)
    assert isinstance(again, ShardTask)
    assert again == task
    assert sum(map(len, sent[1])) < 4000
