"""What batch systems are asked, read against their manuals; what a Slurm does with it: tests/faults."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from segengine.dispatch import jobqueue
from segengine.dispatch.leaving import Leaving
from segengine.dispatch.systems import SYSTEMS, never_starts
from segengine.errors import JobError, SegengineError
from segengine.job import ClusterSpec
from segengine.terms.jobqueue import Jobqueue

FULL = {
    "queue": "long",
    "cores": 4,
    "memory": "16GiB",
    "walltime": "90m",
    "prologue": ["module load geo"],
    "interface": "lo",
}


def script(system: str, **options: Any) -> list[str]:
    options = {"system": system, **FULL, **options}
    spec = ClusterSpec.model_construct(kind="jobqueue", workers=4, options=options)
    return jobqueue.job_script(spec).splitlines()


@pytest.mark.parametrize(
    ("system", "line"),
    [
        # sbatch(1): generic resources a node, of which a job has one
        ("slurm", "#SBATCH --gres=gpu:4"),
        # pbs_resources(7B): GPUs are asked for in the chunk
        ("pbs", "#PBS -l select=1:ncpus=4:mem=16384MB:ngpus=4"),
        # bsub -gpu: a host
        ("lsf", "#BSUB -gpu num=4"),
        # the complex that most sites name so
        ("sge", "#$ -l gpu=4"),
    ],
)
def test_a_job_asks_for_a_gpu_a_worker(system: str, line: str) -> None:
    assert line in script(system, gpus=1)
    assert not any("gpu" in each for each in script(system))


@pytest.mark.parametrize(
    ("system", "lines"),
    [
        # sbatch(1): partition, tasks and cores a task, memory, time as hours:minutes:seconds
        ("slurm", ["-J", "-p long", "-n 1", "--cpus-per-task=4", "--mem=16G", "-t 01:30:00"]),
        ("slurm", ["--no-requeue", "--account=x"]),
        # qsub(1B) of PBS: a chunk with cores and memory, walltime, not rerun, its shell
        ("pbs", ["-N", "-q long", "-l select=1:ncpus=4:mem=16GB", "-l walltime=01:30:00"]),
        ("pbs", ["-r n", "-S /bin/bash", "--account=x"]),
        # bsub: slots on one host, memory in KB where no unit is configured, hours:minutes
        ("lsf", ["-J", "-q long", "-n 4", '-R "span[hosts=1]"', "-M 17179870", "-W 01:30", "-rn"]),
        # qsub of Grid Engine: hard run time; slots and memory by directives, as each site names them
        ("sge", ["-N", "-q long", "-l h_rt=01:30:00", "-r n", "-S /bin/bash", "--account=x"]),
    ],
)
def test_a_job_asks_as_its_system_wants_it(system: str, lines: list[str]) -> None:
    sign = {"slurm": "#SBATCH", "pbs": "#PBS", "lsf": "#BSUB", "sge": "#$"}[system]
    found = script(system, directives=["--account=x"])
    assert found[0] == "#!/usr/bin/env bash"
    header = [line.removeprefix(sign).strip() for line in found if line.startswith(sign)]
    for line in lines:
        assert any(h == line or (line in ("-J", "-N") and h.startswith(line)) for h in header), line


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_job_starts_workers_of_one_thread_after_the_users_own_lines(system: str) -> None:
    *before, command = [line for line in script(system) if line]
    assert "module load geo" in before
    assert "export DASK_DISTRIBUTED__WORKER__MEMORY__SPILL=False" in before
    assert "--nthreads 1 --memory-limit 4.00GiB --nworkers 4 --nanny" in command
    assert "--death-timeout 60" in command
    assert command.endswith("--interface lo")


@pytest.mark.parametrize(
    ("walltime", "seconds"),
    [
        ("90m", 5400),
        ("1.5h", 5400),
        ("01:30:00", 5400),
        (5400, 5400),
        ("2-01:00:00", 176400),
        ("90:00", 5400),
        ("1:5:00", 3900),
    ],
)
def test_a_walltime_is_a_duration_or_a_clock(walltime: Any, seconds: int) -> None:
    options = Jobqueue.of({"system": "slurm", "memory": "1GB", "walltime": walltime})
    assert options.seconds == seconds


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"system": "cron"}, "system: "),
        ({"memory": "much"}, "memory: must be a size"),
        ({"memory": "0GB"}, "memory: must be 100MB a worker at least, got '0GB'"),
        ({"memory": "7MB"}, "memory: must be 100MB a worker at least, got '7MB'"),
        (
            {"memory": "1GB", "cores": 16},
            "memory: must be 100MB a worker at least, so 1600MB for 16",
        ),
        ({"walltime": "25:61:00"}, "walltime: must be a duration"),
        ({"walltime": "1:00:60"}, "walltime: must be a duration"),
        ({"cores": True}, "cores: must be a number, got True"),
        ({"queue": ""}, "queue: String should have at least 1 character, got ''"),
        ({"prologue": 5}, "prologue: must be a list, as [...], got 5"),
        ({"directives": "--account=x"}, "directives: must be a list, as [...], got '--acc"),
        ({"walltime": "soon"}, "walltime: must be a duration"),
        ({"walltime": "5s"}, "walltime: must be a minute at least"),
        ({"cores": 0}, "cores: "),
        ({"queue": "a\nrm -r x"}, "queue: cannot be"),
        ({"directives": ["-a\nrm -r x"]}, "directives: cannot be"),
        ({"interface": "lo; rm -r x"}, "interface: cannot be"),
        ({"partition": "a"}, "partition: jobqueue has no such option; it takes system, queue,"),
    ],
)
def test_an_option_that_cannot_be_is_refused_by_name(options: dict[str, Any], said: str) -> None:
    spec = ClusterSpec.model_construct(
        kind="jobqueue", workers=1, options={"system": "slurm", "memory": "1GB", **options}
    )
    with pytest.raises(JobError) as caught:
        jobqueue.jobqueue(spec, 1).__enter__()
    assert str(caught.value).startswith(f"cluster.options: {said}")
    assert "\n" not in str(caught.value)


def test_commands_are_refused_where_a_deployment_forbids_code(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SEGENGINE_ALLOW_CODE", "0")
    with pytest.raises(ValueError, match=r"prologue: runs commands, which this deployment forbids"):
        Jobqueue.of({"system": "slurm", "memory": "1GB", "prologue": ["id"]})


def test_memory_is_shared_by_the_workers_of_a_job() -> None:
    assert Jobqueue.of({"system": "slurm", "memory": "8GiB", "cores": 4}).worker_bytes == 2**31


# ---------------------------------------------------------------------------------------- what is there


def test_a_package_that_is_missing_is_one_line_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "dask_jobqueue", None)
    with pytest.raises(JobError, match=r"pip install 'segengine\[hpc\]'$"):
        jobqueue.load_dask_jobqueue()


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_system_that_is_not_here_is_said(
    system: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    options = {"system": system, "memory": "1GB"}
    spec = ClusterSpec.model_construct(kind="jobqueue", workers=1, options=options)
    with pytest.raises(
        SegengineError, match=rf"system: {system}: \wsub\w* is not on|sbatch is not"
    ):
        jobqueue.jobqueue(spec, 1).__enter__()


FRESH = """
import signal, sys, threading
from segengine.dispatch.jobqueue import load_dask_jobqueue
before = signal.getsignal(signal.SIGINT)
said = []
def load():
    try:
        said.append(load_dask_jobqueue().SLURMCluster.__name__)
    except BaseException as error:
        said.append(repr(error))
if sys.argv[1] == "thread":
    thread = threading.Thread(target=load); thread.start(); thread.join()
else:
    load()
assert signal.getsignal(signal.SIGINT) is before, "Ctrl-C is another's"
print(*said)
"""


@pytest.mark.parametrize("where", ["main", "thread"])
def test_ctrl_c_stays_ours_whoever_loads_dask_jobqueue(where: str) -> None:
    done = subprocess.run([sys.executable, "-c", FRESH, where], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "SLURMCluster"), done.stderr


def test_others_may_set_signals_meanwhile() -> None:
    real = signal.signal
    with jobqueue._signals_kept():
        kept: list[Any] = []
        assert signal.signal is not real
        thread = threading.Thread(target=lambda: kept.append(signal.getsignal(signal.SIGINT)))
        thread.start()
        thread.join()
        assert signal.signal(signal.SIGINT, signal.SIG_IGN) is signal.getsignal(signal.SIGINT)
        assert kept == [signal.getsignal(signal.SIGINT)]
    assert signal.signal is real


# ------------------------------------------------------------------------------------- what is listed


@pytest.mark.parametrize(
    ("system", "code", "out", "err", "found"),
    [
        ("slurm", 0, "7 PENDING None\n8 RUNNING None\n", "", {"7": "PENDING None", "8": "RUNNING None"}),
        ("slurm", 1, "", "squeue: error: Unable to contact slurm controller\n", None),
        ("pbs", 0, "12.server\n", "", {"12": ""}),
        ("lsf", 0, "31 PEND\n", "", {"31": "PEND"}),
        ("lsf", 255, "", "Job <seg-1> is not found\n", {}),
        ("sge", 0, "job-ID prior name\n-----\n   5 0.55 seg-1 me r\n", "", {"5": "0.55 seg-1 me r"}),
    ],
)  # fmt: skip
def test_jobs_are_listed_as_each_system_prints_them(
    system: str,
    code: int,
    out: str,
    err: str,
    found: dict[str, str] | None,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    command = tmp_path / SYSTEMS[system].listing[0]
    command.write_text(f"#!/bin/sh\nprintf '{out}'\nprintf '{err}' >&2\nexit {code}\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert SYSTEMS[system].listed("seg-1") == found


def test_a_list_that_cannot_be_had_tells_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert [system.listed("seg-1") for system in SYSTEMS.values()] == [None] * 4


@pytest.mark.parametrize(
    ("said", "never"),
    [
        ("PENDING PartitionTimeLimit", "PartitionTimeLimit"),
        ("PENDING QOSMaxWallDurationPerJobLimit", "QOSMaxWallDurationPerJobLimit"),
        ("PENDING Resources", ""),
        ("PENDING ReqNodeNotAvail, UnavailableNodes:node1", ""),
        ("PENDING AssocGrpCpuLimit", ""),
        ("RUNNING None", ""),
    ],
)
def test_what_passes_by_waiting_is_waited_for(said: str, never: str) -> None:
    assert never_starts(said) == never


@pytest.mark.parametrize(
    ("walltime", "longest", "kept"),
    [(3600, 0, 360), (3600, 400, 600), (60, 0, 10), (3600, 3000, 2160)],
)
def test_workers_stop_the_earlier_the_longer_shards_take(
    walltime: float, longest: float, kept: float
) -> None:
    leaving = Leaving(walltime)
    leaving.longest, leaving.chance = longest, 0.0
    assert leaving.kept_back() == kept
