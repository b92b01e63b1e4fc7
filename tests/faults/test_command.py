"""`segengine run` with Prefect: signals, an API that goes away, and nobody left behind."""

from __future__ import annotations

import signal
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import psutil
import pytest
from faulty import counted
from harness import Job, Process, differing, job_of, until, write_photos

pytestmark = pytest.mark.system

SLACK = 3.0
"""Seconds that a busy machine may add."""
CALLS = 16 + 1 + 16
"""Surveys, a fit, drafts."""
WORKERS = 2


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photos(tmp_path_factory.mktemp("photos"), 4)


@pytest.fixture(scope="module")
def clean(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("clean")
    job = Job(folder, job_of(photos, folder / "m.zarr", {"kind": "faulty:Surveyed"}))
    job.run()
    return job.scenes()


@pytest.fixture(scope="module")
def shared_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("prefect")


@pytest.fixture
def prefect_home(shared_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Settings and database of the embedded API, whatever the environment names."""
    for name in ("PREFECT_API_URL", "PREFECT_PROFILE", "PREFECT_PROFILES_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PREFECT_HOME", str(shared_home))
    return shared_home


class Gated:
    """A job that stops by itself after some calls of its segmenter, until it is let go."""

    def __init__(self, job: Job, log: Path, gate: Path) -> None:
        self.job, self.log, self.gate = job, log, gate

    def start(self, passing: int) -> Process:
        self.gate.write_text(str(passing))
        run = self.job.start_command("--prefect")
        run.until(lambda: self.calls > passing, "nobody waits at the gate")
        return run

    def finish(self) -> Process:
        """The same command again, to its end."""
        self.gate.unlink()
        run = self.job.start_command("--prefect")
        assert run.wait() == 0, run.stderr
        return run

    @property
    def calls(self) -> int:
        return len(counted(self.log))


@pytest.fixture
def gated(photos: Path, prefect_home: Path, make_job: Callable[..., Job], tmp_path: Path) -> Gated:
    log, gate = tmp_path / "log", tmp_path / "gate"
    segmenter = {"kind": "faulty:Surveyed", "log": str(log), "gate": str(gate)}
    return Gated(make_job(job_of(photos, tmp_path / "m.zarr", segmenter)), log, gate)


@pytest.mark.parametrize(
    ("number", "code", "passing"), [(signal.SIGINT, 130, 5), (signal.SIGTERM, 143, 20)]
)
def test_an_interrupted_run_ends_soon_and_goes_on(
    number: signal.Signals, code: int, passing: int, gated: Gated, clean: dict[str, bytes]
) -> None:
    run = gated.start(passing)
    began = time.monotonic()
    run.popen.send_signal(number)
    assert run.wait() == code
    assert time.monotonic() - began < 5 + SLACK
    assert "interrupted; the same command goes on" in run.stderr
    run.assert_nobody_left()
    again = gated.finish()
    assert differing(gated.job.scenes(), clean) == []
    assert CALLS <= gated.calls <= CALLS + 2 * WORKERS
    again.assert_nobody_left()


def test_a_killed_command_leaves_nobody_behind_and_goes_on(
    gated: Gated, clean: dict[str, bytes]
) -> None:
    run = gated.start(20)
    assert api_of(run).is_running()
    run.popen.kill()
    run.wait()
    run.assert_nobody_left()
    gated.finish()
    assert differing(gated.job.scenes(), clean) == []
    # beside the one that it is at, a worker may hold one that is computed and not stored
    assert CALLS <= gated.calls <= CALLS + 2 * WORKERS


def api_of(run: Process) -> psutil.Process:
    """The embedded Prefect API."""
    (found,) = (p for p in run.everyone() if "segengine_flows.api" in p.cmdline())
    return found


def flow_runs(home: Path) -> int:
    """How many the API has written down."""
    try:
        with closing(sqlite3.connect(f"file:{home}/prefect.db?mode=ro", uri=True)) as database:
            (number,) = database.execute("select count(*) from flow_run").fetchone()
            return int(number)
    except sqlite3.OperationalError:  # no database yet, or no tables
        return 0


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_prefect_api_that_dies_or_falls_silent_costs_little_and_changes_nothing(
    number: signal.Signals, gated: Gated, clean: dict[str, bytes], prefect_home: Path
) -> None:
    before = flow_runs(prefect_home)
    run = gated.start(6)
    run.until(lambda: flow_runs(prefect_home) > before, "Prefect does not follow the run")
    api_of(run).send_signal(number)
    gated.gate.unlink()
    report = Path(gated.job.store, "report", "index.html")
    until(lambda: report.exists() or run.popen.poll() is not None, "the run does not end")
    published = time.monotonic()
    assert run.wait() == 0, run.stderr
    assert time.monotonic() - published < 10 + SLACK
    assert "Prefect does not show all of this run" in run.stderr
    assert differing(gated.job.scenes(), clean) == []
    assert gated.calls == CALLS
    run.assert_nobody_left()
