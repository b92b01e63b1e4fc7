"""How the benchmarks are run: a row at a time, and what fails loses no other."""

import sys
from collections.abc import Iterator
from types import ModuleType

import pytest

from .benchmarks import __main__ as benchmarks
from .benchmarks.table import Row

GOOD = Row("a fine row", 2.0, 1.0, "s", 2.0, "<= 3")


def use(monkeypatch: pytest.MonkeyPatch, **rows: object) -> None:
    """Let these be all the benchmarks there are."""
    for name, function in rows.items():
        module = ModuleType(name)
        module.rows = function  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, f"tests.benchmarks.{name}", module)
    monkeypatch.setattr(benchmarks, "NAMES", tuple(rows))


def test_one_that_fails_is_told_and_the_others_are_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    printed: list[str] = []

    def failing() -> Iterator[Row]:
        yield GOOD
        printed.append(capsys.readouterr().out)  # each row is there before the next is measured
        raise ValueError("no\nsuch thing")

    use(monkeypatch, failing=failing, fine=lambda: [GOOD])
    assert benchmarks.main([]) == 1
    assert printed[0].count("a fine row") == 1
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "failing: failed: ValueError: no such thing"
    assert said[1].split() == ["a", "fine", "row", "2", "1", "s", "2", "<=", "3"]
    assert benchmarks.main(["fine"]) == 0
    assert capsys.readouterr().out.count("a fine row") == 1


def test_a_name_there_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    assert benchmarks.main(["startup", "no"]) == 2
    assert "no benchmark named no; there are startup, onephoto" in capsys.readouterr().out


def test_where_no_gpu_is_that_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert benchmarks.main(["gpu"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("gpu: no GPU is here")
