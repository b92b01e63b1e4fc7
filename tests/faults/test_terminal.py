"""Ctrl-C, a closed window and a kill of all, at every moment: one line, and nobody left behind."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from harness import Job, job_of, write_photos
from terminals import CTRL_C, Terminal

pytestmark = pytest.mark.system

LINE = "segengine: interrupted; the same command goes on where it ended"
SOON = 5.0 + 5.0
"""Seconds to the end, and those that a busy machine may add."""
PAUSE = 0.1
START, WORK = "start", "work"
REPORT = "report/index.html"


class Run:
    """`segengine run` on a terminal, which waits at a place."""

    def __init__(self, job: Job, folder: Path, place: str, *options: str) -> None:
        self.job, self.place, self.gate = job, place, folder / "gate"
        self.gate.touch()
        command = ["-m", "segengine_flows.start", "run", str(job.file), *options]
        where = {"WAIT_AT": place, "WAIT_GATE": str(self.gate)}
        where |= {"PREFECT_HOME": str(folder / "prefect"), "PREFECT_API_URL": ""}
        self.environment = where
        self.terminal = Terminal(folder, *command, **where)

    def until_there(self) -> None:
        """Wait until it waits; for workers only until there is one, which then still loads."""
        mark = self.gate.with_suffix(".there")
        at_start = self.place == START
        self.terminal.until(self.terminal.workers if at_start else mark.exists, self.place)

    def finish(self) -> None:
        """The same command again, to its end."""
        self.gate.unlink()
        again = Job(self.job.folder, self.job.job, self.environment).start_command()
        assert again.wait() == 0, again.stderr

    def done(self) -> int:
        """Shards with a record."""
        return len(self.job.records()) if Path(self.job.store, "zarr.json").exists() else 0


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photos(tmp_path_factory.mktemp("photos"), 4)


@pytest.fixture
def start(
    photos: Path, tmp_path: Path, make_job: Callable[..., Job]
) -> Iterator[Callable[..., Run]]:
    """Starts a run that waits at a place."""
    started: list[Run] = []

    def run(place: str, *options: str) -> Run:
        job = make_job(job_of(photos, tmp_path / "m.zarr", {"kind": "waiting:Waiting"}))
        started.append(Run(job, tmp_path, place, *options))
        return started[-1]

    yield run
    for each in started:
        each.terminal.end()


def _assert_left(run: Run, code: int, began: float) -> None:
    """It has ended as it should: soon, in one line, with nobody and no lock left."""
    terminal = run.terminal
    assert terminal.wait() == code, terminal.screen
    assert time.monotonic() - began < SOON
    assert terminal.said() == [LINE], terminal.screen
    assert terminal.cursor_is_shown()
    terminal.assert_nobody_left()
    assert not Path(run.job.store, "run.lock").exists()


@pytest.mark.parametrize(
    ("place", "times"),
    [
        ("import", 1),
        (START, 1),
        (START, 3),
        (WORK, 1),
        (WORK, 2),
        (WORK, 3),
        (REPORT, 1),
        (REPORT, 3),
    ],
)
def test_ctrl_c_at_any_moment_is_one_line(
    start: Callable[..., Run], place: str, times: int
) -> None:
    run = start(place)
    run.until_there()
    began, before = time.monotonic(), run.done()
    for _ in range(times):
        with suppress(OSError):  # it has gone already
            run.terminal.type(CTRL_C)
        time.sleep(PAUSE)
    _assert_left(run, 130, began)
    assert run.done() >= before
    if place not in ("import", START):
        assert before >= 2


@pytest.mark.parametrize(("place", "times"), [(START, 1), (WORK, 3)])
def test_ctrl_c_with_prefect_is_one_line(start: Callable[..., Run], place: str, times: int) -> None:
    run = start(place, "--prefect")
    run.until_there()
    began = time.monotonic()
    for _ in range(times):
        with suppress(OSError):
            run.terminal.type(CTRL_C)
        time.sleep(PAUSE)
    _assert_left(run, 130, began)


@pytest.mark.parametrize(
    ("number", "code", "place"), [(signal.SIGTERM, 143, WORK), (signal.SIGHUP, 129, START)]
)
def test_a_signal_to_all_is_one_line(
    start: Callable[..., Run], number: signal.Signals, code: int, place: str
) -> None:
    run = start(place)
    run.until_there()
    began = time.monotonic()
    run.terminal.signal(number)
    _assert_left(run, code, began)


def test_a_terminal_that_is_closed_ends_its_run_in_good_order(start: Callable[..., Run]) -> None:
    run = start(WORK)
    run.until_there()
    before = run.done()
    run.terminal.close()
    assert run.terminal.wait() == 129
    run.terminal.assert_nobody_left()
    assert not Path(run.job.store, "run.lock").exists()
    run.finish()
    assert run.done() > before >= 2
