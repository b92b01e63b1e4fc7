"""`cluster: {kind: address}` over bad wires: every packet late, some lost, and one cut off for long."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from faulty import counted
from harness import AGAIN, Job, Process, differing, job_of, until, write_photos
from wires import Wires

pytestmark = [pytest.mark.system, pytest.mark.hosts]

HOSTS = ("driver", "scheduler", "one", "two")
DELAY, LOSS = 0.05, 0.01
CUT = 35.0
"""Seconds; Dask gives up a connection after 30 without an answer."""


class Far:
    """A scheduler and two workers, each on a host of its own, started anew wherever they end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.wires = Wires(HOSTS, DELAY, LOSS)
        self.address = f"tcp://{self.wires.addresses['scheduler']}:8786"
        scheduler = ["--host", self.wires.addresses["scheduler"], "--port", "8786"]
        self.started = [self._start("scheduler", "scheduler", *scheduler)]
        for name in ("one", "two"):
            worker = [self.address, "--host", self.wires.addresses[name], "--nthreads", "1"]
            self.started.append(self._start(name, "worker", *worker))

    def _start(self, host: str, what: str, *options: str) -> Process:
        command = ["-m", f"distributed.cli.dask_{what}", *options, "--no-dashboard"]
        return Process(self.folder / host, command, prefix=(*self.wires.on(host), *AGAIN))

    def wait(self) -> None:
        """Until both workers are there."""
        for worker in self.started[1:]:
            worker.until(lambda w=worker: "Registered to" in w.stderr, "no worker")

    def end(self) -> None:
        for process in reversed(self.started):
            process.end()
        self.wires.close()


@pytest.fixture
def make_far(tmp_path: Path) -> Iterator[Callable[[str], Far]]:
    made: list[Far] = []

    def make(name: str) -> Far:
        made.append(Far(tmp_path / "hosts" / name))
        return made[-1]

    yield make
    for far in made:
        far.end()


def test_runs_over_bad_wires_go_on_after_one_was_cut_for_half_a_minute(
    make_far: Callable[[str], Far], make_job: Callable[..., Job], tmp_path: Path
) -> None:
    photos = write_photos(tmp_path / "photos", 5)
    spec = {"kind": "faulty:Surveyed", "pause": 0.1}
    local = make_job(
        job_of(photos, tmp_path / "l.zarr", {**spec, "log": str(tmp_path / "local.log")})
    )
    # Of three runs, each with hosts of its own, another one is cut off: mostly, all of it is waiting.
    cut = ("driver", "scheduler", "one")
    fars = {name: make_far(name) for name in cut}
    logs = {name: tmp_path / f"{name}.log" for name in cut}
    jobs, runs = {}, {}
    local.run()
    for name, far in fars.items():
        far.wait()
        settings = {**spec, "log": str(logs[name])}
        block = {"kind": "address", "address": far.address}
        jobs[name] = make_job(job_of(photos, tmp_path / f"{name}.zarr", settings, cluster=block))
        jobs[name].prefix = far.wires.on("driver")
        runs[name] = jobs[name].start()
    for name, far in fars.items():
        runs[name].until(lambda n=name: len(counted(logs[n])) >= 26, "no work")
        far.wires.cut = frozenset({name})
    time.sleep(CUT)
    for far in fars.values():
        assert far.wires.refused
        far.wires.cut = frozenset()
    calls = len(counted(tmp_path / "local.log"))
    for name, run in runs.items():
        assert run.wait() == 0, run.stderr
        assert run.stderr == ""
        assert differing(jobs[name].scenes(), local.scenes()) == []
        # What two workers had in hand; a scheduler that lives kept what the driver did not hear.
        assert len(counted(logs[name])) - calls <= {"driver": 0}.get(name, 2)
        assert all(record.attempts == 1 for record in jobs[name].records().values())
        until(lambda n=name: fars[n].wires.lost, "no packet was lost", 1.0)
