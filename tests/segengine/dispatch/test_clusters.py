"""Which workers a job gets, and which are refused before any work is handed to them."""

from __future__ import annotations

import signal
from typing import Any

import pytest
from distributed.versions import get_versions

from segengine.dispatch import clusters
from segengine.dispatch.dask import DaskPool
from segengine.errors import JobError, SegengineError
from segengine.job import ClusterSpec


class Client:
    """Says of workers what a Dask client would."""

    def __init__(self, threads: dict[str, int], **versions: Any) -> None:
        self.threads, self.versions = threads, versions

    def scheduler_info(self, n_workers: int) -> dict[str, Any]:
        assert n_workers == -1  # all of them, not the first five
        return {"workers": {name: {"nthreads": n} for name, n in self.threads.items()}}

    def run(self, function: Any, on_error: str) -> dict[str, Any]:
        assert on_error == "return"
        return {name: self.versions.get(name, function()) for name in self.threads}

    def get_versions(self, packages: list[str]) -> dict[str, Any]:
        same = get_versions(packages)
        return {"client": same, "scheduler": same, "workers": dict.fromkeys(self.threads, same)}


def test_workers_of_one_thread_and_our_version_are_taken() -> None:
    pool = clusters.client_pool(Client({"a": 1, "b": 1}))
    assert isinstance(pool, DaskPool)
    assert (pool.workers, pool.lookahead) == (2, 0)


@pytest.mark.parametrize(
    ("client", "kind", "said"),
    [
        (Client({}), SegengineError, "here has no workers; start some with `dask worker"),
        (Client({"a": 1, "b": 3}), JobError, "here: worker b has 3 threads; start workers"),
        (Client({"a": 1}, a=ImportError("none")), SegengineError, "cannot import segengine: none;"),
    ],
)
def test_what_cannot_work_for_us_is_refused_in_one_line(
    client: Any, kind: type[Exception], said: str
) -> None:
    with pytest.raises(kind) as caught:
        clusters.client_pool(client, "here")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.system
@pytest.mark.parametrize(("wanted", "tasks", "there"), [(2, 1, 1), (1, 9, 1), (2, 9, 2)])
def test_no_more_workers_than_works(wanted: int, tasks: int, there: int) -> None:
    with clusters.open_pool(ClusterSpec(workers=wanted), tasks) as pool:
        assert pool.workers == there


@pytest.mark.system
def test_a_worker_never_hears_the_terminal(clients: Any) -> None:
    masks = clients(2).run(lambda: signal.pthread_sigmask(signal.SIG_BLOCK, []))
    assert len(masks) == 2
    assert all(signal.SIGINT in mask for mask in masks.values())


@pytest.mark.system
def test_who_waits_for_work_looks_up_seldom(clients: Any) -> None:
    """A worker, and the scheduler in the driver's process, which is there while all of them work."""

    def rates(node: Any) -> dict[str, float]:
        return {name: 1000 / each.callback_time for name, each in node.periodic_callbacks.items()}

    client = clients(2)
    found = [client.run_on_scheduler(lambda dask_scheduler: rates(dask_scheduler))]
    found += client.run(lambda dask_worker: rates(dask_worker)).values()
    assert len(found) == 3
    for node in found:
        assert {"tick", "monitor"} <= node.keys()
        assert sum(node.values()) < 20, node
