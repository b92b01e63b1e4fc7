"""Ctrl-C, a closed window and a kill of all, at every moment: one line, and nobody left behind."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from harness import HERE, Job, job_of, write_photos
from terminals import CTRL_C, Terminal

from segengine.training import checkpoints, synthetic

pytestmark = pytest.mark.system

RECORDED = "segengine: this run is recorded in "
"""Said with `--prefect` as soon as its flow has begun, which a test does not wait for."""
LINE = "segengine: interrupted; the same command goes on where it ended"
SOON = 5.0 + 5.0
"""Seconds to the end, and those that a busy machine may add."""
PAUSE = 0.1
TRAINING = {
    "name": "pets",
    "source": {"kind": "pets", "paths": ["pets"]},
    "split": {"train": "trainval", "validation": {"split": "test", "fraction": 0.5}},
    "architecture": {"name": "unet", "start_neurons": 2, "depth": 1},
    "input": {"size": [32, 32]},
    "epochs": 1000,
    "batch": 4,
    "out": "out",
}
START, LOAD, WORK = "start", "load", "work"
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
        early = (HERE / "early",) if place == LOAD else ()
        self.terminal = Terminal(folder, *command, path=early, **where)

    def until_there(self) -> None:
        """Wait until it waits; at the start only until there is a worker."""
        mark = self.gate.with_suffix(".there")
        at_start = self.place == START
        self.terminal.until(self.terminal.workers if at_start else mark.exists, self.place)
        if self.place == WORK:  # those before it are perhaps still being stored
            self.terminal.until(lambda: self.done() >= 2, "no shard is done")

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


@pytest.fixture
def make_terminal(tmp_path: Path) -> Iterator[Callable[..., Terminal]]:
    """Starts any command of ours."""
    made: list[Terminal] = []

    def make(*arguments: str, **options: Any) -> Terminal:
        options |= {"PREFECT_HOME": str(tmp_path / "prefect"), "PREFECT_API_URL": ""}
        made.append(Terminal(tmp_path, "-m", "segengine_flows.start", *arguments, **options))
        return made[-1]

    yield make
    for each in made:
        each.end()


def _press(terminal: Terminal, times: int) -> None:
    for _ in range(times):
        with suppress(OSError):  # it has gone already
            terminal.type(CTRL_C)
        time.sleep(PAUSE)


def _assert_left(run: Run, code: int, began: float) -> None:
    """It has ended as it should, with no lock left."""
    _assert_ended(run.terminal, code, began)
    assert not Path(run.job.store, "run.lock").exists()


def _assert_ended(terminal: Terminal, code: int, began: float) -> None:
    """It has ended as it should: soon, in one line, with nobody left."""
    assert terminal.wait() == code, terminal.screen
    assert time.monotonic() - began < SOON
    said = [line for line in terminal.said() if not line.startswith(RECORDED)]
    assert said == [LINE], terminal.screen
    assert terminal.cursor_is_shown()
    terminal.assert_nobody_left()


@pytest.mark.parametrize(
    ("place", "times"),
    [
        ("import", 1),
        (START, 1),
        (LOAD, 1),
        (LOAD, 3),
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
    _press(run.terminal, times)
    _assert_left(run, 130, began)
    assert run.done() >= before
    if place in (WORK, REPORT):
        assert before >= 2


@pytest.mark.parametrize(("place", "times"), [(LOAD, 1), (WORK, 3)])
def test_ctrl_c_with_prefect_is_one_line(start: Callable[..., Run], place: str, times: int) -> None:
    run = start(place, "--prefect")
    run.until_there()
    began = time.monotonic()
    _press(run.terminal, times)
    _assert_left(run, 130, began)


@pytest.mark.parametrize(
    ("number", "code", "place"), [(signal.SIGTERM, 143, WORK), (signal.SIGHUP, 129, LOAD)]
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


@pytest.mark.parametrize("times", [1, 3])
def test_ctrl_c_in_a_training_is_one_line_and_keeps_its_epochs(
    make_terminal: Callable[..., Terminal], tmp_path: Path, times: int
) -> None:
    synthetic.write_pets(tmp_path / "pets", 12)
    (tmp_path / "train.yaml").write_text(json.dumps(TRAINING))
    terminal = make_terminal("train", "train.yaml")
    kept = tmp_path / "out" / checkpoints.FILE
    terminal.until(kept.exists, "no epoch ends")
    began = time.monotonic()
    _press(terminal, times)
    _assert_ended(terminal, 130, began)
    state, _ = checkpoints.load(kept.parent, kept.name) or pytest.fail("no checkpoint")
    assert state.epochs >= 1


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_in_the_demo_is_one_line(
    make_terminal: Callable[..., Terminal], tmp_path: Path, times: int
) -> None:
    terminal = make_terminal("demo", "--out", "here")
    terminal.until(lambda: "report: " in terminal.screen, "no job ends")
    _press(terminal, times)
    assert terminal.wait() == 130, terminal.screen
    assert [line for line in terminal.said() if line.startswith("segengine: ")] == [LINE]
    assert "Traceback" not in terminal.screen
    assert terminal.cursor_is_shown()
    terminal.assert_nobody_left()
    assert list(tmp_path.glob("here/*.zarr")) != []
    assert list(tmp_path.glob("here/*.zarr/run.lock")) == []


@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize(
    ("command", "place"),
    [("verify", "import"), ("evaluate", "import"), ("evaluate", "metrics.json")],
)
def test_ctrl_c_in_what_reads_a_store_is_one_line(
    photos: Path,
    tmp_path: Path,
    make_job: Callable[..., Job],
    make_terminal: Callable[..., Terminal],
    command: str,
    place: str,
    times: int,
) -> None:
    job = make_job(job_of(photos, tmp_path / "m.zarr", {"kind": "waiting:Waiting"}))
    job.run(0, "--in-process")
    before = job.scenes()
    gate = tmp_path / "gate"
    gate.touch()
    truth = ["--truth", f"{photos}/{{stem}}.png", "--metrics", "iou"]
    asked = [command, job.store, "--trust", *(truth if command == "evaluate" else [])]
    terminal = make_terminal(*asked, WAIT_AT=place, WAIT_GATE=str(gate))
    terminal.until(gate.with_suffix(".there").exists, place)
    began = time.monotonic()
    _press(terminal, times)
    _assert_ended(terminal, 130, began)
    assert not Path(job.store, "run.lock").exists()
    gate.unlink()
    assert job.scenes() == before
    again = job.launch(["-m", "segengine_flows.cli", "verify", job.store, "--trust"])
    assert again.wait() == 0, again.stderr


@pytest.mark.parametrize(
    "module", ["segengine.stderr", "segengine_flows.cli", "segengine_tasks.words"]
)
def test_ctrl_c_while_the_command_itself_loads_is_one_line(
    make_terminal: Callable[..., Terminal], tmp_path: Path, module: str
) -> None:
    gate = tmp_path / "gate"
    gate.touch()
    where = {"WAIT_GATE": str(gate), "WAIT_IN": module}
    terminal = make_terminal("plan", "job.yaml", path=[HERE / "early"], **where)
    terminal.until(gate.with_suffix(".there").exists, "it does not load")
    _press(terminal, 1)
    assert terminal.wait() == 130, terminal.screen
    said = [line for line in terminal.said() if not line.startswith(RECORDED)]
    assert said == [LINE], terminal.screen
