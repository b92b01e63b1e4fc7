"""`cluster: {kind: jobqueue}` on a real Slurm: whatever ends, the same bytes and no job is left."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from faulty import counted
from harness import HERE, Job, Process, differing, job_of, until, write_photos

from tests.slurm import CPUS, Slurm

pytestmark = [pytest.mark.system, pytest.mark.slurm]

SHIPPED = Path(__file__).parents[2] / "deployments/slurm"
SHARDS = 200
WORKERS = 4
OPTIONS = {"system": "slurm", "memory": "500MB", "walltime": "1h"}

Make = Callable[..., Job]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photos(tmp_path_factory.mktemp("photos"), SHARDS // 4)


@pytest.fixture(scope="module")
def clean(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What a local run stores."""
    folder = tmp_path_factory.mktemp("clean")
    job = Job(folder, job_of(photos, folder / "masks.zarr", {"kind": "faulty:Trapped"}))
    job.run()
    assert job.summary()["computed"] == SHARDS
    return job.scenes()


def cluster(workers: Any = WORKERS, **options: Any) -> dict[str, Any]:
    return {"kind": "jobqueue", "workers": workers, "options": {**OPTIONS, **options}}


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


@pytest.fixture
def make(slurm: Slurm, photos: Path, make_job: Make, tmp_path: Path, log: Path) -> Make:
    """A job of 200 shards on the queue, and where its worker jobs' words go."""

    def build(pause: float = 0.0, workers: Any = WORKERS, **options: Any) -> Job:
        segmenter = {"kind": "faulty:Trapped", "log": str(log), "pause": pause}
        block = cluster(workers, **options)
        job = job_of(photos, tmp_path / "m.zarr", segmenter, cluster=block, faults={"retries": 12})
        state = str(tmp_path / "state")
        return make_job(job, XDG_STATE_HOME=state, **slurm.environment)

    return build


def wait_for_steps(job: Job, run: Process, number: int) -> None:
    run.until(lambda: job.steps("segment") >= number, "no progress")


def words(tmp_path: Path) -> list[Path]:
    """Folders with what jobs have said."""
    return list((tmp_path / "state").glob("segengine/*"))


# ------------------------------------------------------------------------------------- what goes well


@pytest.mark.parametrize(
    ("workers", "cores"), [(WORKERS, 1), (WORKERS, 2), ({"min": 0, "max": 4}, 1)]
)
def test_200_shards_have_the_bytes_of_a_local_run(
    make: Make,
    slurm: Slurm,
    clean: dict[str, bytes],
    log: Path,
    tmp_path: Path,
    workers: Any,
    cores: int,
) -> None:
    job = make(workers=workers, cores=cores)
    run = job.run()
    slurm.until_empty(15)
    run.assert_nobody_left()
    assert job.summary()["computed"] == SHARDS == len(counted(log))
    assert differing(job.scenes(), clean) == []
    assert words(tmp_path) == []


def test_workers_that_scancel_ends_are_asked_for_anew(
    make: Make, slurm: Slurm, clean: dict[str, bytes], log: Path
) -> None:
    dice, job = random.Random(5), make(pause=0.3)
    run = job.start()
    former: set[str] = set()
    for step in (10, 40, 80):
        wait_for_steps(job, run, step)
        victim = dice.choice(until(lambda: slurm.jobs("R"), "no job runs"))
        former |= {victim}
        assert slurm.call("scancel", victim).returncode == 0
    run.until(lambda: len(set(slurm.jobs("R")) - former) == WORKERS, "they are not replaced")
    assert run.wait() == 0, run.stderr
    slurm.until_empty(15)
    run.assert_nobody_left()
    assert job.summary()["computed"] == SHARDS
    assert SHARDS <= len(counted(log)) <= SHARDS + 3  # at most what each had in hand
    assert differing(job.scenes(), clean) == []


def test_a_drained_node_ends_what_it_has_and_goes_on_once_resumed(
    make: Make, slurm: Slurm, clean: dict[str, bytes], log: Path
) -> None:
    job = make(pause=0.2)
    run = job.start()
    wait_for_steps(job, run, 20)
    slurm.update_node("State=DRAIN", "Reason=test")
    for number in slurm.jobs("R"):
        slurm.call("scancel", number)
    run.until(lambda: len(slurm.jobs("PD")) == WORKERS, "nothing waits for the node")
    before = job.steps("segment")
    time.sleep(12)  # longer than any look at the queue: a wait is no trouble
    assert run.popen.poll() is None, run.stderr
    assert job.steps("segment") == before < SHARDS
    slurm.update_node("State=RESUME")
    assert run.wait() == 0, run.stderr
    slurm.until_empty(15)
    assert job.summary()["computed"] == SHARDS
    assert SHARDS <= len(counted(log)) <= SHARDS + WORKERS
    assert differing(job.scenes(), clean) == []


def test_a_walltime_shorter_than_the_run_loses_no_shard_and_does_none_twice(
    make: Make, slurm: Slurm, clean: dict[str, bytes], log: Path
) -> None:
    job = make(pause=0.65, workers=2, walltime="1m")
    began = time.monotonic()
    run = job.start()
    assert run.wait(300) == 0, run.stderr
    assert time.monotonic() - began > 60
    slurm.until_empty(15)
    assert job.summary()["computed"] == SHARDS == len(counted(log))
    assert differing(job.scenes(), clean) == []


# ------------------------------------------------------------------------------- the driver is ended


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGKILL, -9), (signal.SIGINT, 130), (signal.SIGTERM, 143)]
)
def test_no_job_is_left_when_the_driver_is_ended(
    make: Make,
    slurm: Slurm,
    clean: dict[str, bytes],
    log: Path,
    number: signal.Signals,
    code: int,
) -> None:
    """Neither those that run nor those that wait."""
    job = make(pause=0.2, workers=CPUS + 2)
    run = job.start_command()
    run.until(lambda: len(counted(log)) > 20 and len(slurm.jobs("PD")) == 2, "no work")
    run.popen.send_signal(number)
    assert run.wait() == code
    slurm.until_empty(20)
    run.assert_nobody_left()
    done = job.records()
    assert 0 < len(done) < SHARDS
    again = job.run()
    slurm.until_empty(15)
    again.assert_nobody_left()
    assert job.summary()["computed"] == SHARDS - len(done)
    assert done.items() <= job.records().items()
    assert differing(job.scenes(), clean) == []


@pytest.fixture
def login(
    slurm: Slurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], subprocess.CompletedProcess[str]]:
    """A login node: what is typed there, in a folder with the batch file as it ships."""
    for name in [name for name in os.environ if name.startswith("PREFECT_")]:
        monkeypatch.delenv(name)
    paths = [str(Path(sys.executable).parent), os.environ["PATH"]]
    environment = {
        "PATH": os.pathsep.join(paths),
        "PYTHONPATH": str(HERE),
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "XDG_STATE_HOME": str(tmp_path / "state"),
        "SEGENGINE_PAUSE": "4",
        **slurm.environment,
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    shutil.copy(SHIPPED / "segengine.sbatch", tmp_path)

    def typed(text: str) -> subprocess.CompletedProcess[str]:
        command = ["bash", "-euc", text]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240)

    return typed


def said_by_driver(tmp_path: Path) -> str:
    return "".join(file.read_text() for file in tmp_path.glob("segengine-*.log"))


@pytest.mark.parametrize("how", ["scontrol requeue", "scancel --batch --signal=USR1"])
def test_a_driver_that_is_requeued_goes_on(
    make: Make,
    slurm: Slurm,
    clean: dict[str, bytes],
    log: Path,
    login: Callable[[str], subprocess.CompletedProcess[str]],
    tmp_path: Path,
    how: str,
) -> None:
    """By its site, and by itself before its time is over."""
    job = make(pause=0.2, workers=2)
    done = login(f"sbatch --parsable segengine.sbatch {job.file}")
    number = done.stdout.strip()
    assert number, done.stderr
    until(lambda: len(counted(log)) > 30, said_by_driver(tmp_path) or "no work")
    assert login(f"{how} {number}").returncode == 0
    until(lambda: slurm.jobs("PD") == [number] == slurm.jobs(), "it is not requeued, or not alone")
    before = job.records()
    assert 0 < len(before) < SHARDS
    time.sleep(3)  # in the same second its node still refuses it: "Job credential revoked"
    login(f"scontrol update JobId={number} StartTime=now")  # else it waits two minutes
    until(lambda: not slurm.jobs(), "the driver does not end")
    rest = f"{SHARDS - len(before)} shards computed, {len(before)} done before"
    assert rest in said_by_driver(tmp_path)
    assert before.items() <= job.records().items()
    assert SHARDS <= len(counted(log)) <= SHARDS + 2
    assert differing(job.scenes(), clean) == []


def test_the_chapter_does_what_it_says(
    slurm: Slurm, login: Callable[[str], subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    text = (SHIPPED / "README.md").read_text(encoding="utf-8")
    (job,) = re.findall(r"^```yaml\n(# slurm\.yaml\n.*?)^```$", text, re.MULTILINE | re.DOTALL)
    (tmp_path / "slurm.yaml").write_text(job)
    write_photos(tmp_path / "photos", 2)
    install, *steps = re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert "segengine[hpc]" in install  # it is
    assert len(steps) == 3
    for step in steps:
        done = login(step)
        assert done.returncode == 0, done.stderr
    slurm.until_empty(60)
    assert "2 frames in 1 scene; 0 shards computed" in said_by_driver(tmp_path)  # all was done
    shipped = (SHIPPED / "segengine.sbatch").read_text(encoding="utf-8")
    assert "\n#SBATCH --requeue\n" in shipped
    assert shipped.count("# change: ") == 4


# ------------------------------------------------------------------------------------- bad settings


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"queue": "nosuch"}, ["does not take the job", "Invalid partition name specified"]),
        (
            {"memory": "900GB"},
            ["does not take the job", "Memory specification can not be satisfied"],
        ),
        ({"queue": "short"}, ["will not start the jobs: PartitionTimeLimit"]),
        ({"cores": 64}, ["will not start the jobs: PartitionConfig"]),
        (
            {"prologue": ["echo no such module >&2", "exit 3"]},
            ["no such module", "look at prologue"],
        ),
        ({"interface": "nosuch0"}, ["interface: nosuch0", "name one of this host's"]),
        ({"directives": ["--nosuch=1"]}, ["does not take the job", "nosuch"]),
    ],
)
def test_bad_settings_end_in_one_line_within_a_minute(
    make: Make, slurm: Slurm, options: dict[str, Any], said: list[str]
) -> None:
    job = make(**options)
    began = time.monotonic()
    run = job.start_command()
    assert run.wait() == 1
    assert time.monotonic() - began < 60
    (line,) = (text for text in run.stderr.splitlines() if "cluster.options" in text)
    assert all(part in line for part in said), line
    assert "Traceback" not in run.stderr
    slurm.until_empty(15)
    run.assert_nobody_left()


def test_a_walltime_below_a_shards_time_ends_the_run_when_it_is_over(
    make: Make, slurm: Slurm
) -> None:
    job = make(pause=1000, workers=1, walltime="1m")
    run = job.start_command()
    assert run.wait() == 1
    (line,) = (text for text in run.stderr.splitlines() if "cluster.options" in text)
    assert "walltime: a shard was not done within" in line
    assert "Slurm ends a job after 60 s; ask for more" in line
    slurm.until_empty(15)
    run.assert_nobody_left()
