"""`segengine watch`: inputs that arrive are segmented, a run that fails is no end, a signal is."""

from __future__ import annotations

import configparser
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import segengine
from segengine.errors import SegengineError
from segengine_flows import cli

ROOT = Path(__file__).parents[2]
UNIT = ROOT / "deployments/systemd/segengine.service"


def until(holds: Callable[[], bool], seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.1)


@pytest.fixture
def job(bench: Any) -> Path:
    path = bench.store.parent / "job.yaml"
    path.write_text(yaml.safe_dump(bench.job({"kind": "threshold"})))
    return Path(path)


class Watch:
    """A watch as a user starts one, and what it says."""

    def __init__(self, job: Path, every: str, said: Path) -> None:
        self.path = said
        command = [sys.executable, "-m", "segengine_flows.start", "watch", str(job)]
        with said.open("w") as out:
            self.process = subprocess.Popen(
                [*command, "--every", every], stdout=out, stderr=subprocess.STDOUT
            )

    def said(self) -> str:
        return self.path.read_text()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[Path, str], Watch]]:
    started: list[Watch] = []

    def begin(job: Path, every: str) -> Watch:
        started.append(Watch(job, every, tmp_path / "said"))
        return started[-1]

    yield begin
    for one in started:
        one.process.terminate()
        one.process.wait(30)


def done(store: Path) -> int:
    try:
        return sum(record.status == "done" for record in segengine.open_store(store).records())
    except SegengineError:  # not there yet
        return 0


def test_what_follows_a_run_is_handed_to_each(monkeypatch: pytest.MonkeyPatch) -> None:
    handed: list[Any] = []
    monkeypatch.setattr("segengine_flows.watch.watch", lambda *args: handed.append(args) or 0)
    command = ["watch", "job.yaml", "--metrics-file", "a.prom", "--lineage", "events.jsonl"]
    assert cli.main(command) == 0
    ((_, _, options, _),) = handed
    assert options[-4:] == ["--metrics-file", "a.prom", "--lineage", "events.jsonl"]


@pytest.mark.system
def test_what_arrives_is_segmented(job: Path, start: Any, bench: Any, noise: Any) -> None:
    watch = start(job, "1s")
    until(lambda: "names no input" in watch.said())
    bench.put("a.png", noise(1, (40, 40, 3)))
    until(lambda: done(bench.store) == 1)
    bench.put("b.png", noise(2, (40, 40, 3)))
    until(lambda: done(bench.store) == 2)
    watch.process.send_signal(signal.SIGTERM)
    assert watch.process.wait(10) == 143
    assert not (bench.store / "run.lock").exists()
    assert "Traceback" not in watch.said()


@pytest.mark.system
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_between_runs_is_the_end(
    job: Path, start: Any, bench: Any, noise: Any, number: signal.Signals
) -> None:
    bench.put("a.png", noise(1, (40, 40, 3)))
    watch = start(job, "1h")
    until(lambda: "again at" in watch.said())
    watch.process.send_signal(number)
    assert watch.process.wait(10) == 128 + number
    assert watch.said().splitlines()[-1].startswith("segengine: interrupted")


@pytest.mark.system
def test_a_signal_ends_the_run_under_way(job: Path, start: Any, bench: Any, noise: Any) -> None:
    for i in range(400):
        bench.put(f"{i:03}.png", noise(i, (200, 200, 3)))
    watch = start(job, "1h")
    until(lambda: done(bench.store) > 0)
    watch.process.send_signal(signal.SIGTERM)
    assert watch.process.wait(10) == 143
    assert "again at" not in watch.said()
    assert not (bench.store / "run.lock").exists()
    assert watch.said().count("interrupted") == 1


@pytest.mark.skipif(sys.platform != "linux", reason="no other kernel tells a child")
def test_a_watch_that_is_killed_takes_its_run_along() -> None:
    run = "import time; print('up', flush=True); time.sleep(60)"
    watch = (
        f"import sys; from segengine_flows.watch import _run; _run([sys.executable, '-c', {run!r}])"
    )
    with subprocess.Popen([sys.executable, "-c", watch], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        begun = time.monotonic()
        process.kill()
        assert process.stdout.read() == b""  # nobody has it open any more
    assert time.monotonic() - begun < 30


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--every", "0s"], "--every: must be more than nothing, got '0s'"),
        (["--every", "often"], "--every: must be a duration as 90m, 4h or 01:30:00, got 'often'"),
        (["--set", "segmenter.kind=nothing"], "segmenter.kind"),
    ],
)
def test_what_cannot_be_watched_is_told_at_once(
    job: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["watch", str(job), *words]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_the_unit_of_systemd_starts_a_command_that_there_is() -> None:
    unit = configparser.ConfigParser(interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(UNIT)
    program, *words = shlex.split(unit["Service"]["ExecStart"])
    assert Path(program).name == "segengine"
    args = cli._parser().parse_args(words)
    assert (args.name, args.every, args.log) == ("watch", "10m", "json")
    assert unit["Service"]["KillMode"] == "mixed"
