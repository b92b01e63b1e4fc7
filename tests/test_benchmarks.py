"""How the benchmarks are run: a row at a time, and what fails loses no other."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from .benchmarks import __main__ as benchmarks

MODULES = {
    "failing": "    yield GOOD\n    time.sleep(1)\n    raise ValueError('no\\nsuch thing')\n",
    "killed": "    os.kill(os.getpid(), 9)\n    yield GOOD\n",
    "fine": "    yield GOOD\n",
}
START = """import os, time
from tests.benchmarks.table import Row
GOOD = Row("a fine row", 2.0, 1.0, "s", 2.0, "<= 3")
def rows():
"""


@pytest.fixture
def strange(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let these be all the benchmarks there are."""
    for name, text in MODULES.items():
        (tmp_path / "strange").mkdir(exist_ok=True)
        (tmp_path / f"strange/{name}.py").write_text(START + text)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{Path(__file__).parents[1]}")
    monkeypatch.setattr(benchmarks, "NAMES", tuple(MODULES))
    monkeypatch.setattr(benchmarks, "PACKAGE", "strange")


WHOLE = """import sys
from tests.benchmarks import __main__ as benchmarks
benchmarks.NAMES, benchmarks.PACKAGE = tuple(sys.argv[1:]), "strange"
sys.exit(benchmarks.main([]))
"""


@pytest.mark.usefixtures("strange")
def test_one_that_fails_is_told_and_the_others_are_measured(
    capfd: pytest.CaptureFixture[str],
) -> None:
    command = [sys.executable, "-c", WHOLE, *MODULES]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as whole:
        assert whole.stdout is not None
        whole.stdout.readline()
        said = [whole.stdout.readline()]
        began = time.monotonic()
        said += whole.stdout.readlines()
        assert time.monotonic() - began > 0.5  # each row is there before the next is measured
    assert said[0].split() == said[3].split() == ["a", "fine", "row", "2", "1", "s", "2", "<=", "3"]
    assert said[1:3] == ["failing: failed: ValueError: no such thing\n",
                         "killed: failed: ended by signal 9\n"]  # fmt: skip
    assert whole.returncode == 1
    assert benchmarks.main(["fine"]) == 0
    assert capfd.readouterr().out.count("a fine row") == 1


def test_a_name_there_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    assert benchmarks.main(["startup", "no"]) == 2
    assert "no benchmark named no; there are startup, onephoto" in capsys.readouterr().out


def test_where_no_gpu_is_that_is_said(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert benchmarks.main(["gpu"]) == 0
    assert capfd.readouterr().out.splitlines()[-1].startswith("gpu: no GPU is here")


def test_the_manual_has_the_chart_that_is_drawn() -> None:
    from .benchmarks.scale import chart

    shown = Path(__file__).parents[1] / "deployments/sizing.svg"
    assert shown.read_text() == chart()
