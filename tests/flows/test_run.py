"""`segengine run` as a process: Prefect beside it, interrupted, killed, gone on."""

import json
import re
import signal
import socket
import sqlite3
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

import segengine

from .conftest import SLOW, Start

pytestmark = pytest.mark.system

SLACK = 3.0
"""Seconds that a busy machine may add."""


KILLER = SLOW.replace("time.sleep(self.seconds)", "os.kill(os.getpid(), 9)").replace(
    "import time", "import os"
)


def rows(home: Path, query: str) -> list[tuple[Any, ...]]:
    with sqlite3.connect(f"file:{home / 'prefect.db'}?mode=ro", uri=True) as database:
        found = database.execute(query).fetchall()
    database.close()
    return found


def done(store: Path) -> int:
    return sum(
        r.kind == "mask" and r.status == "done" for r in segengine.open_store(store).records()
    )


def wait_for(what: Callable[[], Any], seconds: float = 120) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = what()
        if found:
            return found
        time.sleep(0.1)
    raise AssertionError("waited in vain")


def family(process: "subprocess.Popen[str]") -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def embedded_api(process: "subprocess.Popen[str]") -> psutil.Process | None:
    for child in family(process):
        try:
            if "segengine_flows.api" in child.cmdline():
                return child
        except psutil.Error:
            continue
    return None


def in_the_middle(store: Path) -> Callable[[], bool]:
    """True once some shards are done: their records lie in the store."""
    return lambda: len(list((store / "records").rglob("mask/*.json"))) > 3


def mirrored(home: Path) -> Callable[[], bool]:
    """True once Prefect shows the slow run's segment stage at work."""
    query = "select 1 from flow_run where name='slow' and state_type='RUNNING'"
    return lambda: bool(rows(home, query))


def test_a_run_is_a_flow_with_stages_artifacts_and_quarantine(
    start: Start, job_file: Path, photos: Path, prefect_home: Path
) -> None:
    long = "b" * 120 + "\x1b[31m.png"
    (photos / long).write_bytes(b"\x89PNG\r\n\x1a\n" + b"junk" * 10)
    process = start("run", str(job_file), "--prefect")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 3, err
    assert "b" * 120 + r"\x1b[31m.png: " in out
    assert "\x1b" not in out
    assert "Prefect does not" not in err
    # The embedded API flushed before it ended: flow, tasks and artifacts are in its database.
    (seen,) = re.findall(r"recorded in (\S+); `prefect server start` shows it at (\S+)", err)
    flow = rows(
        prefect_home,
        "select id, state_type, state_name from flow_run where name='photos' order by created",
    )[-1]
    assert flow[1:] == ("COMPLETED", "Quarantined")
    assert seen == (str(prefect_home), f"/runs/flow-run/{flow[0]}")
    tasks = rows(
        prefect_home, f"select state_type, name from task_run where flow_run_id='{flow[0]}'"
    )
    assert {re.sub(r"-\w+$", "", name) for _, name in tasks} == {
        "plan",
        "survey",
        "segment",
        "stitch",
        "aggregate",
        "publish",
    }
    assert {state for state, _ in tasks} == {"COMPLETED"}
    artifacts = rows(
        prefect_home, f"select type, key, data from artifact where flow_run_id='{flow[0]}'"
    )
    kinds = {(kind, key) for kind, key, _ in artifacts}
    assert kinds >= {
        ("progress", None),
        ("table", "photos-metrics"),
        ("table", "photos-quarantine"),
        ("markdown", "photos-summary"),
    }
    (summary,) = [data for _, key, data in artifacts if key == "photos-summary"]
    assert "Quarantined: 1 of 5 frames" in summary
    (quarantine,) = [data for _, key, data in artifacts if key == "photos-quarantine"]
    assert "b" * 120 in quarantine


def test_a_rerun_computes_nothing_and_names_the_flow_module_as_well(
    start: Start, job_file: Path
) -> None:
    first = start("run", str(job_file))
    assert first.wait(120) == 0
    again = start(str(job_file), "--prefect", module="segengine_flows.segment")
    out, err = again.communicate(timeout=120)
    assert again.returncode == 0, err
    assert " 0 shards computed, 2 done before" in out


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "hung"])
def test_an_api_that_goes_away_in_mid_run_costs_seconds_and_no_exit_code(
    start: Start, slow_job: Path, prefect_home: Path, how: signal.Signals
) -> None:
    store = slow_job.parent / "slow.zarr"
    process = start("run", str(slow_job), "--set", "segmenter.seconds=0.35", "--prefect")
    wait_for(lambda: mirrored(prefect_home)() and in_the_middle(store)())
    api = embedded_api(process)
    assert api is not None
    api.send_signal(how)
    wait_for(lambda: (store / "metrics.json").exists())
    began = time.monotonic()
    out, err = process.communicate(timeout=60)
    assert time.monotonic() - began < 10 + SLACK
    assert process.returncode == 0
    assert "40 shards computed" in out
    assert err.count("Prefect does not show all of this run") == 1
    assert "Traceback" not in err
    assert not api.is_running() or api.status() == psutil.STATUS_ZOMBIE


def test_a_run_says_at_its_start_where_a_server_shows_it(
    start: Start, slow_job: Path, api: Any, prefect_home: Path
) -> None:
    """The page of this very run, while it works."""
    process = start("run", str(slow_job), "--set=segmenter.seconds=0.1", PREFECT_API_URL=api.url)
    said = re.fullmatch(
        rf"segengine: this run is recorded: {api.url[:-4]}/runs/flow-run/(\S+)\n",
        process.stderr.readline(),
    )
    assert process.poll() is None
    assert said
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "this run is recorded" not in err
    ((name, state),) = rows(
        prefect_home, f"select name, state_type from flow_run where id='{said[1]}'"
    )
    assert (name, state) == ("slow", "COMPLETED")


def test_an_api_that_was_never_there_costs_seconds_and_no_exit_code(
    start: Start, job_file: Path
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    process = start("run", str(job_file), PREFECT_API_URL=f"http://127.0.0.1:{port}/api")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "Prefect does not show all of this run" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["ctrl-c", "sigterm"]
)
def test_an_interrupted_run_ends_soon_leaves_no_process_and_goes_on(
    start: Start, slow_job: Path, signum: signal.Signals, code: int
) -> None:
    store = slow_job.parent / "slow.zarr"
    process = start("run", str(slow_job), "--prefect")
    wait_for(in_the_middle(store))
    others = family(process)
    assert len(others) >= 2  # the API and a worker
    began = time.monotonic()
    process.send_signal(signum)
    _, err = process.communicate(timeout=30)
    assert process.returncode == code, err
    assert time.monotonic() - began < 5 + SLACK
    assert err.splitlines()[-1] == "segengine: interrupted; the same command goes on where it ended"
    assert "Traceback" not in err
    assert psutil.wait_procs(others, timeout=3)[1] == []
    assert not (store / "run.lock").exists()
    before = done(store)
    assert 0 < before < 40
    again = start("run", str(slow_job), "--set", "segmenter.seconds=0.2")
    out, err = again.communicate(timeout=120)
    assert again.returncode == 0, err
    assert f"{40 - before} shards computed, {before} done before" in out


def test_a_killed_run_leaves_no_process(start: Start, slow_job: Path) -> None:
    process = start("run", str(slow_job), "--prefect")
    wait_for(in_the_middle(slow_job.parent / "slow.zarr"))
    others = family(process)
    assert embedded_api(process) in others
    process.kill()
    assert psutil.wait_procs(others, timeout=10)[1] == []


def test_a_run_that_fails_is_one_line_and_a_failed_flow(
    start: Start, slow_job: Path, prefect_home: Path
) -> None:
    for name in ("a.png", "b.png", "c.png", "d.png", "e.png", "f.png", "g.png"):
        (slow_job.parent / "frames" / name).write_bytes(b"")
    process = start("run", str(slow_job), "--set", "name=limit", "--prefect")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    message = err.splitlines()[-1]
    assert message.startswith("segengine: ")
    assert "quarantined" in message
    query = "select state_type, state_name from flow_run where name='limit'"
    assert rows(prefect_home, query) == [("FAILED", "Failed")]


WATCHED = """
import json, sys
import psutil
from segengine import runs
from segengine_flows import cli

pool = runs.Run._pool
others = []

def watched(run, *tasks):
    found = pool(run, *tasks)
    others.extend(" ".join(p.cmdline()) for p in psutil.Process().children(recursive=True))
    return found

if __name__ == "__main__":
    runs.Run._pool = watched
    code = cli.main(sys.argv[1:])
    loaded = {name.partition(".")[0] for name in sys.modules} & {"prefect", "distributed"}
    print(json.dumps([code, sorted(loaded), len(set(others))]))
"""
ONE = ("--set", "source.paths=[photos/0.png]")


@pytest.mark.parametrize(
    ("photo", "loaded"), [(ONE, []), ((), ["distributed"])], ids=["one photo", "two shards"]
)
def test_a_run_that_nobody_asked_to_record_is_without_prefect(
    launch: Start, start: Start, job_file: Path, prefect_home: Path, photo: Any, loaded: list[str]
) -> None:
    script = job_file.parent / "watched.py"
    script.write_text(WATCHED)
    before = rows(prefect_home, "select count(*) from flow_run")
    job = ("run", str(job_file), *photo)
    plain = launch("-P", str(script), *job)
    out, err = plain.communicate(timeout=120)
    code, found, others = json.loads(out.splitlines()[-1])
    assert (code, found) == (0, loaded), err
    assert others >= 1  # a worker is a process of its own
    recorded = [line for line in err.splitlines() if "Prefect" in line]
    assert recorded == [
        "segengine: Prefect does not record this run: --prefect does it here, "
        "PREFECT_API_URL on a server of yours"
    ]
    assert rows(prefect_home, "select count(*) from flow_run") == before
    # The same stages, by the same function: not a byte differs.
    flow = start(*job, "--set", "store.path=flow.zarr", "--prefect")
    _, err = flow.communicate(timeout=120)
    assert flow.returncode == 0, err
    here = segengine.load_job(job_file, [*photo[1:], "store.path=here.zarr"])
    segengine.run(here)
    assert scenes(job_file.parent / "masks.zarr") == scenes(job_file.parent / "flow.zarr") != {}
    assert scenes(job_file.parent / "masks.zarr") == scenes(job_file.parent / "here.zarr")
    (count,) = rows(prefect_home, "select count(*) from flow_run where name='photos'")[0]
    assert count >= 1


@pytest.mark.parametrize("how", [(), ("--prefect",)], ids=["plain", "flow"])
def test_one_photo_that_kills_its_worker_ends_no_run(
    start: Start, slow_job: Path, how: tuple[str, ...]
) -> None:
    (slow_job.parent / "slow_segmenter.py").write_text(KILLER)
    photo = ("--set", "source.paths=[frames/00.png]", "--set", "faults.retries=1")
    process = start("run", str(slow_job), *photo, *how)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 3, err
    assert "1 frame quarantined:\n  crash: 00.png: its worker died" in out
    assert "Traceback" not in err


def scenes(store: Path) -> dict[str, bytes]:
    """Every file below `scenes/`."""
    return {
        str(p.relative_to(store)): p.read_bytes() for p in store.glob("scenes/**/*") if p.is_file()
    }


def test_an_api_that_never_starts_does_not_keep_the_terminal(
    start: Start, job_file: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    process = start("run", str(job_file), "--prefect", PREFECT_HOME=str(tmp_path / "file"))
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert err.count("Prefect does not show all of this run") == 1


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("frames", ["frames", "frames/00.png"], ids=["40 frames", "one frame"])
def test_one_long_shard_does_not_keep_an_interrupted_run(
    start: Start, slow_job: Path, frames: str, signum: signal.Signals
) -> None:
    store = slow_job.parent / "slow.zarr"
    begun = slow_job.parent / "begun"
    (slow_job.parent / "slow_segmenter.py").write_text(
        SLOW.replace("time.sleep", f"open({str(begun)!r}, 'w').close(); time.sleep")
    )
    paths = ("--set", f"source.paths=[{frames}]")
    process = start("run", str(slow_job), "--set", "segmenter.seconds=60", *paths)
    wait_for(begun.exists)
    others = family(process)
    assert others
    began = time.monotonic()
    process.send_signal(signum)
    _, err = process.communicate(timeout=30)
    assert process.returncode == (-9 if signum == signal.SIGKILL else 128 + signum), err
    assert time.monotonic() - began < 5 + SLACK
    assert "Traceback" not in err
    assert psutil.wait_procs(others, timeout=3)[1] == []
    assert (store / "run.lock").exists() == (signum == signal.SIGKILL)


DEMO = """
import itertools, sys
import segengine.commands.demo
from segengine_flows import cli

if __name__ == "__main__":
    every = segengine.commands.demo.demo_jobs
    segengine.commands.demo.demo_jobs = lambda out: itertools.islice(every(out), 2)
    sys.exit(cli.main(["demo", "--out", "here"]))
"""


def test_the_demo_is_a_flow_a_job_and_says_where_they_are_seen(
    launch: Start, prefect_home: Path, tmp_path: Path
) -> None:
    (tmp_path / "two_jobs.py").write_text(DEMO)
    process = launch("-P", str(tmp_path / "two_jobs.py"))
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    seen = [line for line in out.splitlines() if line.startswith("runs:")]
    assert seen == [
        f"runs:   Prefect has them in {prefect_home}; `prefect server start` shows them"
    ]
    found = rows(prefect_home, "select name, state_type from flow_run where name like 'demo-%'")
    assert sorted(found) == [("demo-edges", "COMPLETED"), ("demo-threshold", "COMPLETED")]
