"""GPUs of local workers: `CUDA_VISIBLE_DEVICES` stands in for what a machine has."""

from __future__ import annotations

import os
from typing import Any

import pytest

from segengine.dispatch import child, clusters
from segengine.dispatch.child import prepare_worker
from segengine.errors import JobError
from segengine.job import ClusterSpec


def spec(workers: Any, gpus: int) -> ClusterSpec:
    return ClusterSpec(kind="local", workers=workers, options={"gpus": gpus})


def seen(client: Any) -> list[str | None]:
    """What each worker sees."""

    def look(dask_worker: Any) -> str | None:  # goes there by value: no worker can import this file
        prepare_worker(dask_worker.name)
        return os.environ.get("CUDA_VISIBLE_DEVICES")

    return sorted(client.run(look).values())


@pytest.mark.parametrize(
    ("gpus", "expected"), [(1, ["4", "7"]), (0, ["-1", "-1"])], ids=["each its own", "none"]
)
def test_a_worker_sees_its_gpus(
    gpus: int, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    with clusters.local(spec(2, gpus), 2) as pool:
        assert seen(pool.client) == expected
        pool.client.restart()
        assert seen(pool.client) == expected


@pytest.mark.parametrize(
    ("name", "gpu"), [(0, "4"), (1, "7"), (2, "4"), ("SLURMCluster-3-1", "7"), ("host", "4,7")]
)
def test_workers_of_one_job_see_one_each(
    name: object, gpu: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    child._take_gpu.cache_clear()
    child._take_gpu(name)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == gpu


@pytest.mark.parametrize(
    ("workers", "here", "said"),
    [(3, "0,1", "cluster.workers: 3 workers"), (1, "-1", "cluster.options: gpus: 1, and no GPU")],
)
def test_what_is_not_there_is_refused(
    workers: int, here: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", here)
    with pytest.raises(JobError, match=said), clusters.local(spec(workers, 1), 3):
        pass
