"""`cluster: {kind: address}`: a scheduler and workers that somebody else has started."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from faulty import counted
from harness import Job, Process, differing, job_of, kill, write_photos

pytestmark = pytest.mark.system

Start = Callable[..., Process]


@pytest.fixture
def scheduler(tmp_path: Path) -> Iterator[Process]:
    command = ["-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0"]
    command += ["--no-dashboard", "--scheduler-file", str(tmp_path / "scheduler.json")]
    process = Process(tmp_path / "scheduler", command)
    process.until((tmp_path / "scheduler.json").exists, "no scheduler")
    yield process
    process.end()


@pytest.fixture
def start_worker(scheduler: Process, tmp_path: Path) -> Iterator[Start]:
    started: list[Process] = []

    def start(*options: str, first: str = "") -> Process:
        """`first`: Python that runs in the worker before anything else."""
        main = "from distributed.cli.dask_worker import main; main()"
        command = ["-c", f"{first}{main}", "--host", "127.0.0.1", "--no-dashboard"]
        command += ["--scheduler-file", str(tmp_path / "scheduler.json"), *options]
        worker = Process(tmp_path / "workers", command)
        started.append(worker)
        worker.until(lambda: "Registered to" in worker.stderr, "no worker")
        return worker

    yield start
    for process in started:
        process.end()


def wait_for_calls(run: Process, log: Path, number: int) -> None:
    run.until(lambda: len(counted(log)) >= number, "no work")


def block(tmp_path: Path) -> dict[str, str]:
    address = json.loads((tmp_path / "scheduler.json").read_text())["address"]
    return {"kind": "address", "address": address}


def test_a_run_on_a_strangers_workers_survives_the_death_of_some(
    start_worker: Start, make_job: Callable[..., Job], tmp_path: Path
) -> None:
    dice = random.Random(3)
    photos = write_photos(tmp_path / "photos", 4)
    local = make_job(job_of(photos, tmp_path / "local.zarr", {"kind": "faulty:Surveyed"}))
    local.run()
    workers = [start_worker("--nthreads", "1") for _ in "12"]
    log = tmp_path / "log"
    segmenter = {"kind": "faulty:Surveyed", "log": str(log), "pause": 0.15}
    job = make_job(job_of(photos, tmp_path / "m.zarr", segmenter, cluster=block(tmp_path)))
    run = job.start()
    for wanted in (5, 12, 20):
        wait_for_calls(run, log, wanted)
        # The process below the nanny: that one starts another.
        victims = [p for p in dice.choice(workers).everyone() if "spawn_main" in str(p.cmdline())]
        assert [kill(victim) for victim in victims]
        time.sleep(0.2)
    assert run.wait() == 0, run.stderr
    assert differing(job.scenes(), local.scenes()) == []
    run.assert_nobody_left()
    assert all(worker.popen.poll() is None for worker in workers)


def test_workers_with_several_threads_are_refused(
    start_worker: Start, make_job: Callable[..., Job], tmp_path: Path
) -> None:
    photos = write_photos(tmp_path / "photos", 1)
    segmenter = {"kind": "faulty:Trapped"}
    job = make_job(job_of(photos, tmp_path / "m.zarr", segmenter, cluster=block(tmp_path)))
    (line,) = job.run(1).stderr.splitlines()
    assert "has no workers; start some with `dask worker --nthreads 1`" in line
    start_worker("--nthreads", "1")
    start_worker("--nthreads", "2", "--no-nanny")
    (line,) = job.run(2).stderr.splitlines()
    assert "has 2 threads; start workers with `dask worker --nthreads 1`" in line


def test_an_address_where_nobody_listens_is_said(
    make_job: Callable[..., Job], tmp_path: Path
) -> None:
    photos = write_photos(tmp_path / "photos", 1)
    cluster = {"kind": "address", "address": "tcp://127.0.0.1:9"}
    job = make_job(job_of(photos, tmp_path / "m.zarr", {"kind": "faulty:Trapped"}, cluster=cluster))
    (line,) = job.run(1).stderr.splitlines()
    assert line.startswith("cluster.address: tcp://127.0.0.1:9 does not answer")


def test_workers_that_lack_segengine_are_refused_at_once(
    start_worker: Start, make_job: Callable[..., Job], tmp_path: Path
) -> None:
    without = "import sys; sys.modules['segengine'] = None; "
    start_worker("--nthreads", "1", "--no-nanny", first=without)
    photos, spec = write_photos(tmp_path / "photos", 1), {"kind": "faulty:Trapped"}
    job = make_job(job_of(photos, tmp_path / "m.zarr", spec, cluster=block(tmp_path)))
    (line,) = job.run(1).stderr.splitlines()
    assert "cannot import segengine" in line
    assert line.endswith("install it there, or start workers in this environment")


def test_a_worker_of_another_environment_is_refused_before_the_first_shard(
    start_worker: Start, make_job: Callable[..., Job], tmp_path: Path
) -> None:
    other = "import distributed.versions as v; real = v.version; "
    other += "v.version = lambda name: '1.0.0' if name == 'numpy' else real(name); "
    start_worker("--nthreads", "1", "--no-nanny", first=other)
    log, photos = tmp_path / "log", write_photos(tmp_path / "photos", 1)
    spec = {"kind": "faulty:Trapped", "log": str(log)}
    job = make_job(job_of(photos, tmp_path / "m.zarr", spec, cluster=block(tmp_path)))
    (line,) = job.run(1).stderr.splitlines()
    assert f"has numpy 1.0.0 (here {np.__version__}); install one version everywhere" in line
    assert line.startswith(f"cluster.address: {block(tmp_path)['address']}: worker tcp://127")
    assert counted(log) == []
