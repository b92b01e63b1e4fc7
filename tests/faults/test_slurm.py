"""`cluster: {kind: jobqueue}` on a real Slurm: whatever ends, the same bytes and no job is left.

A clock decides how long most of these take, so they go on side by side: a `@meanwhile` begins in a
thread when the first one of the file does, and its test waits for it.
"""

from __future__ import annotations

import inspect
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from faulty import counted
from harness import HERE, Job, Process, differing, job_of, until, write_photos

from tests.slurm import Account, Slurm

pytestmark = [pytest.mark.system, pytest.mark.slurm]

SHIPPED = Path(__file__).parents[2] / "deployments/slurm"
MANY, FEW = 200, 60
"""Shards of a run."""
OPTIONS = {"system": "slurm", "memory": "500MB", "walltime": "1h"}
HUNG = 60
"""Seconds; longer than Dask keeps a worker without work."""
AT_ONCE = 6
"""Tests that go on side by side."""


@dataclass
class Local:
    """Photos, and what a local run stores of them."""

    shards: int
    photos: Path
    scenes: dict[str, bytes]


@dataclass
class Trial:
    """Runs on the queue, and what tells how they go."""

    slurm: Account
    folder: Path
    local: dict[int, Local]
    shards: int = FEW
    job: Job = field(init=False)

    @property
    def calls(self) -> int:
        """How often a shard was worked on, also in vain."""
        return len(counted(self.folder / "log"))

    @property
    def words(self) -> list[Path]:
        """Folders with what its jobs have said."""
        return list((self.folder / "state").glob("segengine/*"))

    @property
    def environment(self) -> dict[str, str]:
        """Of all that it starts."""
        return {"XDG_STATE_HOME": str(self.folder / "state"), **self.slurm.environment}

    def plan(
        self,
        workers: Any,
        pause: float = 0.0,
        trap: str = "",
        deadline: int = HUNG,
        **options: Any,
    ) -> None:
        """Write the job; the trap, if any, springs once, in one of the last shards."""
        segmenter = {"kind": "faulty:Trapped", "log": str(self.folder / "log"), "pause": pause}
        segmenter |= {"trap": trap, "times": 1}
        block = {"kind": "jobqueue", "workers": workers, "options": {**OPTIONS, **options}}
        blocks = {"cluster": block, "faults": {"retries": 12, "deadline": deadline}}
        photos = self.local[self.shards].photos
        job = job_of(photos, self.folder / "m.zarr", segmenter, **blocks)
        self.job = Job(self.folder / "job", job, self.environment)

    def steps(self, run: Process, number: int) -> None:
        """Wait until so many shards are done."""
        run.until(lambda: self.job.steps("segment") >= number, "no progress")

    def assert_whole(self) -> None:
        """All is done as a local run does it, and no job is left."""
        self.slurm.until_empty(20)
        for run in self.job.started:
            run.assert_nobody_left()
        assert differing(self.job.scenes(), self.local[self.shards].scenes) == []

    def type(self, text: str) -> subprocess.CompletedProcess[str]:
        """At a login node, in a folder with the batch file as it ships."""
        shutil.copy(SHIPPED / "segengine.sbatch", self.folder)
        paths = [str(Path(sys.executable).parent), os.environ["PATH"]]
        ours = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
        environment = ours | {
            "PATH": os.pathsep.join(paths),
            "PYTHONPATH": str(HERE),
            "PREFECT_HOME": str(self.folder / "prefect"),
            "SEGENGINE_PAUSE": "4",
            **self.environment,
        }
        command = ["bash", "-euc", text]
        return subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=240
        )

    def said_by_driver(self) -> str:
        """Where the driver is a batch job."""
        return "".join(file.read_text() for file in self.folder.glob("segengine-*.log"))

    def end(self) -> None:
        """Clean up."""
        if hasattr(self, "job"):
            self.job.end()
        self.slurm.clear()


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Local]:
    """By number of shards."""
    found = {}
    for shards in (MANY, FEW):
        folder = tmp_path_factory.mktemp("local")
        photos = write_photos(folder / "photos", shards // 4, trapped=(shards // 4 - 1,))
        job = Job(folder, job_of(photos, folder / "m.zarr", {"kind": "faulty:Trapped"}))
        job.run(0, "--in-process")
        assert job.summary()["computed"] == shards
        found[shards] = Local(shards, photos, job.scenes())
    return found


@pytest.fixture(scope="module")
def going(
    request: pytest.FixtureRequest,
    slurm_site: Slurm,
    local: dict[int, Local],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[dict[str, Future[None]]]:
    """What goes on, by the name of the test that waits for it: of those that were asked for."""

    def tell(item: Any) -> None:
        one = Trial(Account(slurm_site), tmp_path_factory.mktemp("trial"), local)
        try:
            item.function.story(one, **(item.callspec.params if hasattr(item, "callspec") else {}))
        finally:
            one.end()

    here = [item for item in request.session.items if item.path == request.path]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield {item.name: pool.submit(tell, item) for item in here}


def meanwhile(story: Callable[..., None]) -> Callable[..., None]:
    """A test that waits for what its function does in a thread."""

    def test(going: dict[str, Future[None]], request: pytest.FixtureRequest, **_: Any) -> None:
        going[request.node.name].result()

    of_test = list(inspect.signature(test).parameters.values())[:-1]
    of_story = list(inspect.signature(story).parameters.values())[1:]
    test.__signature__ = inspect.Signature([*of_test, *of_story])  # type: ignore[attr-defined]
    test.story = story  # type: ignore[attr-defined]
    return test


# ------------------------------------------------------------------------------------- what a clock ends


@meanwhile
def test_a_walltime_shorter_than_the_run_loses_no_shard_and_does_none_twice(one: Trial) -> None:
    one.plan(workers=2, pause=2.0, walltime="1m")
    began = time.monotonic()
    run = one.job.start()
    assert run.wait(400) == 0, run.stderr
    assert time.monotonic() - began > 60
    assert one.job.summary()["computed"] == FEW == one.calls
    one.assert_whole()


@meanwhile
def test_a_walltime_below_a_shards_time_is_said_before_it_is_over(one: Trial) -> None:
    one.plan(workers=1, pause=1000, deadline=1000, walltime="2m")
    run = one.job.start_command()
    run.until(lambda: one.calls, "no work")
    began = time.monotonic()
    assert run.wait(400) == 1
    assert time.monotonic() - began < 120
    (line,) = run.stderr.splitlines()
    assert "cluster.options: walltime: a shard was not done within" in line
    assert "Slurm ends a job after 120 s; ask for more" in line
    one.slurm.until_empty(20)
    run.assert_nobody_left()


@meanwhile
def test_workers_come_with_the_work_and_go_without_it(one: Trial) -> None:
    one.plan(workers={"min": 0, "max": 3}, pause=0.5, trap="sleep")
    run = one.job.start()
    run.until(lambda: len(one.slurm.jobs("R")) == 3, "no more are asked for")
    assert one.job.steps("segment") < FEW - 4, "they come when there is little left to do"
    one.steps(run, FEW - 1)
    run.until(lambda: len(one.slurm.jobs()) == 1, "who has no work stays")
    assert run.wait() == 0, run.stderr
    assert one.job.summary()["computed"] == FEW
    one.assert_whole()


# ------------------------------------------------------------------------------------- what goes well


@meanwhile
def test_200_shards_have_the_bytes_of_a_local_run(one: Trial) -> None:
    one.shards = MANY
    one.plan(workers=4, cores=2)
    one.job.run()
    assert one.job.summary()["computed"] == MANY == one.calls
    one.assert_whole()
    assert one.words == []


@meanwhile
def test_what_scancel_ends_or_a_drained_node_keeps_waiting_goes_on_elsewhere_or_later(
    one: Trial,
) -> None:
    workers = 2
    one.plan(workers=workers, pause=0.3)
    slurm, job = one.slurm, one.job
    run = job.start()
    one.steps(run, 10)
    first = slurm.jobs("R")
    victim = random.Random(5).choice(first)
    assert slurm.call("scancel", victim).returncode == 0
    run.until(lambda: set(slurm.jobs("R")) - set(first), "it is not replaced")
    one.steps(run, job.steps("segment") + 5)
    slurm.update_node("State=DRAIN", "Reason=test")
    try:
        slurm.call("scancel", *slurm.jobs("R"))
        run.until(lambda: len(slurm.jobs("PD")) == workers, "nothing waits for the node")
        before = job.steps("segment")
        time.sleep(6)  # longer than from one look at the queue to the next: a wait is no trouble
        assert run.popen.poll() is None, run.stderr
        assert job.steps("segment") == before < FEW
    finally:
        slurm.update_node("State=RESUME")
    assert run.wait() == 0, run.stderr
    assert job.summary()["computed"] == FEW
    assert FEW <= one.calls <= FEW + 1 + workers  # at most what each had in hand
    one.assert_whole()


# ------------------------------------------------------------------------------- the driver is ended


@meanwhile
def test_no_job_is_left_however_the_driver_is_ended(one: Trial) -> None:
    """Neither the one that runs nor those that wait; each run goes on where the one before ended."""
    one.plan(workers=3, directives=["--licenses=single"], pause=0.15)
    slurm, job = one.slurm, one.job
    done: dict[Any, Any] = {}
    for number, code in ((signal.SIGKILL, -9), (signal.SIGINT, 130), (signal.SIGTERM, 143)):
        enough = one.calls + 8
        run = job.start_command()
        while one.calls < enough or len(slurm.jobs("PD")) != 2:
            assert run.popen.poll() is None, run.stderr
        run.popen.send_signal(number)
        assert run.wait() == code
        slurm.until_empty(20)
        run.assert_nobody_left()
        assert len(done) < len(job.records()) < FEW
        assert done.items() <= job.records().items()
        done = job.records()
    job.run()
    assert job.summary()["computed"] == FEW - len(done)
    assert done.items() <= job.records().items()
    assert FEW <= one.calls <= FEW + 3  # each time what the worker had in hand
    one.assert_whole()


@meanwhile
def test_a_driver_that_is_requeued_goes_on(one: Trial) -> None:
    """By itself before its time is over, and by its site."""
    one.plan(workers=1, pause=0.3)
    slurm, job = one.slurm, one.job
    done = one.type(f"sbatch --parsable segengine.sbatch {job.file}")
    number = done.stdout.strip()
    assert number, done.stderr
    before: dict[Any, Any] = {}
    for how in ("scancel --batch --signal=USR1", "scontrol requeue"):
        enough = one.calls + 10
        until(lambda enough=enough: one.calls >= enough, one.said_by_driver() or "no work")  # type: ignore[misc]
        assert one.type(f"{how} {number}").returncode == 0
        until(lambda: slurm.jobs("PD") == [number] == slurm.jobs(), "not requeued, or not alone")
        assert len(before) < len(job.records()) < FEW
        assert before.items() <= job.records().items()
        before = job.records()
        time.sleep(3)  # in the same second its node still refuses it: "Job credential revoked"
        one.type(f"scontrol update JobId={number} StartTime=now")  # else it waits two minutes
    until(lambda: not slurm.jobs(), "the driver does not end")
    rest = f"{FEW - len(before)} shards computed, {len(before)} done before"
    assert rest in one.said_by_driver()
    assert before.items() <= job.records().items()
    assert FEW <= one.calls <= FEW + 2  # each time what the worker had in hand
    one.assert_whole()


@meanwhile
def test_the_chapter_does_what_it_says(one: Trial) -> None:
    text = (SHIPPED / "README.md").read_text(encoding="utf-8")
    (job,) = re.findall(r"^```yaml\n(# slurm\.yaml\n.*?)^```$", text, re.MULTILINE | re.DOTALL)
    (one.folder / "slurm.yaml").write_text(job)
    write_photos(one.folder / "photos", 2)
    install, *steps = re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert "segengine[hpc]" in install  # it is
    assert len(steps) == 3
    for step in steps:
        done = one.type(step)
        assert done.returncode == 0, done.stderr
    one.slurm.until_empty(60)
    assert "2 frames in 1 scene; 0 shards computed" in one.said_by_driver()  # all was done
    shipped = (SHIPPED / "segengine.sbatch").read_text(encoding="utf-8")
    assert "\n#SBATCH --requeue\n" in shipped
    assert shipped.count("# change: ") == 4


# ------------------------------------------------------------------------------------- bad settings

BAD: dict[str, tuple[dict[str, Any], list[str]]] = {
    "queue": (
        {"queue": "nosuch"},
        ["does not take the job", "Invalid partition name specified"],
    ),
    "memory": (
        {"memory": "900GB"},
        ["does not take the job", "Memory specification can not be satisfied"],
    ),
    "time": ({"queue": "short"}, ["will not start the jobs: PartitionTimeLimit"]),
    "cores": ({"cores": 64, "memory": "6400MB"}, ["will not start the jobs: PartitionConfig"]),
    "prologue": (
        {"prologue": ["echo no such module >&2", "exit 3"]},
        ["no such module", "look at prologue"],
    ),
    "interface": (
        {"interface": "nosuch0"},
        ["interface: nosuch0", "name one of this host's"],
    ),
    "directive": ({"directives": ["--nosuch=1"]}, ["does not take the job", "nosuch"]),
}
"""Options that cannot be, and what the line says of each."""


@pytest.mark.parametrize("name", BAD)
@meanwhile
def test_bad_settings_end_in_one_line_within_a_minute(one: Trial, name: str) -> None:
    options, said = BAD[name]
    one.plan(workers=2, **options)
    began = time.monotonic()
    run = one.job.start_command()
    assert run.wait() == 1
    assert time.monotonic() - began < 60
    (line,) = run.stderr.splitlines()
    assert "cluster.options: " in line
    assert all(part in line for part in said), line
    one.slurm.until_empty(20)
    run.assert_nobody_left()
