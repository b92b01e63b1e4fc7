"""`cluster: {kind: address}`: a scheduler that dies in mid-run, and comes back or does not."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from faulty import Numbered, counted, numbered
from harness import AGAIN, Job, Process, differing, job_of, write_photos

from segengine.dispatch import clusters, connecting, dask
from segengine.dispatch.pool import Work
from segengine.errors import SegengineError
from segengine.job import ClusterSpec

pytestmark = pytest.mark.system


class Cluster:
    """A scheduler on a port that stays, and workers that are started whenever they end."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.started = folder, []
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.address = f"tcp://127.0.0.1:{self.port}"

    started: list[Process]

    def start_scheduler(self) -> Process:
        command = ["-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--no-dashboard"]
        process = Process(self.folder / "scheduler", [*command, "--port", str(self.port)])
        self.started.append(process)
        process.until(lambda: "Scheduler at" in process.stderr, "no scheduler")
        return process

    def start_worker(self) -> None:
        command = ["-m", "distributed.cli.dask_worker", self.address, "--host", "127.0.0.1"]
        command += ["--no-dashboard", "--nthreads", "1"]
        process = Process(self.folder / "workers", command, prefix=AGAIN)
        self.started.append(process)
        process.until(lambda: "Registered to" in process.stderr, "no worker")

    def end(self) -> None:
        for process in reversed(self.started):
            process.end()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    found = Cluster(tmp_path / "cluster")
    yield found
    found.end()


@pytest.mark.parametrize("wanted", [4, 16], ids=["surveying", "labelling"])
def test_a_run_goes_on_with_the_workers_of_a_scheduler_that_comes_back(
    cluster: Cluster, make_job: Callable[..., Job], tmp_path: Path, wanted: int
) -> None:
    photos = write_photos(tmp_path / "photos", 3)
    logs = {name: tmp_path / name for name in ("local", "far")}
    spec = {"kind": "faulty:Surveyed", "pause": 0.1}
    local = make_job(job_of(photos, tmp_path / "l.zarr", {**spec, "log": str(logs["local"])}))
    local.run()
    scheduler = cluster.start_scheduler()
    for _ in "12":
        cluster.start_worker()
    block = {"kind": "address", "address": cluster.address}
    far = {**spec, "log": str(logs["far"])}
    job = make_job(job_of(photos, tmp_path / "m.zarr", far, cluster=block))
    run = job.start()
    run.until(lambda: len(counted(logs["far"])) >= wanted, "no work")
    scheduler.end()
    time.sleep(1.0)
    cluster.start_scheduler()
    assert run.wait() == 0, run.stderr
    assert run.stderr == ""
    assert differing(job.scenes(), local.scenes()) == []
    # Twice at most what two workers had in their hands when it died.
    assert len(counted(logs["far"])) <= len(counted(logs["local"])) + 2
    assert all(record.attempts == 1 for record in job.records().values())


def test_a_scheduler_that_stays_away_ends_the_run_in_one_line(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (connecting, dask):
        monkeypatch.setattr(module, "NO_WORKERS", 3.0)
    scheduler = cluster.start_scheduler()
    cluster.start_worker()
    spec = ClusterSpec(kind="address", address=cluster.address)
    works = (Work(str(i), numbered, Numbered(i)) for i in range(100_000))
    with clusters.address(spec, 9) as pool:
        outcomes = pool.dispatch(works, retries=2, deadline=60)
        assert next(iter(outcomes)).status == "done"
        scheduler.end()
        begun = time.monotonic()
        with pytest.raises(SegengineError, match=r"the scheduler is gone, .* run again: what is"):
            assert all(outcome.status == "done" for outcome in outcomes)
        assert time.monotonic() - begun < 60
