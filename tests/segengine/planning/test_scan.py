"""Which headers are read again, and what is said meanwhile."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import segengine.planning.scan
from segengine.errors import StoppedError
from segengine.job import parse_job
from segengine.planning.layout import Cut
from segengine.planning.scan import scan, scanning
from segengine.progress import NowAndThen, Progress
from segengine.sources.listing import list_entries
from segengine.store.layouts import Unplaced
from segengine.watching.tally import Tally
from segengine_tasks.session import Session

CUT = Cut(16, 256)


@pytest.mark.parametrize(
    ("kind", "changed", "placed"),
    [
        ("error", False, True),
        ("error", True, True),
        ("corrupt", False, False),
        ("corrupt", True, True),
    ],
)
def test_a_header_that_could_not_be_read(
    kind: str, changed: bool, placed: bool, bench: Any
) -> None:
    """An error is tried again each time; `corrupt` is final until the input changes."""
    path = bench.put("a.png", np.zeros((40, 40), np.uint8))
    (entry,) = list_entries([str(bench.inputs)], "auto").entries
    mark = "another" if changed else entry.fingerprint
    before = Unplaced(entry.name, str(path), mark, kind, "damaged")
    found = scan({"paths": [str(bench.inputs)]}, {}, [before], CUT)
    assert bool(found.layouts) is placed
    assert found.probed == placed
    assert found.unplaced == (() if placed else (before,))
    other_options = scan({"paths": [str(bench.inputs)]}, {}, [before], CUT, unchanged_source=False)
    assert (len(other_options.layouts), other_options.unplaced) == (1, ())


@pytest.mark.parametrize(
    ("key", "value"), [("mosaic", "newest"), ("area", [0, 0, 1, 1]), ("crs", "EPSG:32633")]
)
@pytest.mark.parametrize("name", ["a.tif", "a.png"])
def test_what_is_damaged_is_told_so_where_it_could_be_no_scene_either(
    name: str, key: str, value: Any, bench: Any
) -> None:
    bench.put(name, np.zeros((40, 40), np.uint8))
    (bench.inputs / name).write_bytes(b"II*\0junk" if name == "a.tif" else b"junk")
    (bad,) = scan({"paths": [str(bench.inputs)], key: value}, {}, (), CUT).unplaced
    assert "damaged TIFF" in bad.reason if name == "a.tif" else "image" in bad.reason
    assert "is read as" not in bad.reason


def said(spec: Any, previous: Any = None) -> tuple[list[Progress], Any]:
    """All progress of a scan, and what it comes to."""
    found: list[Progress] = []
    steps = scanning(spec, previous or {}, (), CUT)
    while True:
        try:
            found.append(next(steps))
        except StopIteration as end:
            return found, end.value


@pytest.fixture
def twelve(bench: Any) -> dict[str, Any]:
    """The `source` block of eleven images and a broken one."""
    for number in range(11):
        bench.put(f"{number:02}.png", np.full((40, 40), number, np.uint8))
    (bench.inputs / "11.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"junk" * 10)
    return {"paths": [str(bench.inputs)]}


def test_each_input_that_is_looked_at_is_counted(
    twelve: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segengine.planning.scan, "EVERY", 0.0)
    progress, found = said(twelve)
    names = [f"{number:02}.png" for number in range(12)]
    assert [(p.done, p.total, p.message) for p in progress] == [
        *((done, 12, name) for done, name in enumerate(names, 1)),
        (12, 12, ""),
    ]
    assert {(p.stage, p.unit) for p in progress} == {("plan", "inputs")}
    assert progress[-1].failed == 1
    assert found.layouts.keys() == scan(twelve, {}, (), CUT).layouts.keys()
    again, _ = said(twelve, found.layouts)  # all but the broken one are known by now
    assert [(p.done, p.total) for p in again] == [(1, 1), (1, 1)]


def test_what_takes_no_time_is_not_talked_about(twelve: dict[str, Any]) -> None:
    assert said(twelve)[0] == []
    now = 0.0
    due = NowAndThen(0.25, lambda: now)
    times = []
    for hundredth in range(100):
        now = hundredth / 100
        times += [now] if due() else []
    assert times == [0.25, 0.5, 0.75]


def test_a_plan_can_be_stopped_between_two_inputs(
    twelve: dict[str, Any], bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segengine.planning.scan, "EVERY", 0.0)
    session = Session(parse_job(bench.job({"kind": "threshold"})), in_process=True)
    shown: list[Progress] = []

    def show(progress: Progress) -> None:
        shown.append(progress)
        if progress.done == 3:
            session.stop()

    with pytest.raises(StoppedError):
        session.drive(show)
    assert [p.done for p in shown] == [1, 2, 3]
    assert not bench.store.exists()


def test_a_run_counts_inputs_then_shards_and_watchers_only_these(
    twelve: dict[str, Any], bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segengine.planning.scan, "EVERY", 0.0)
    session = Session(parse_job(bench.job({"kind": "threshold"})), in_process=True)
    shown: list[Progress] = []
    summary = session.drive(shown.append)
    plan = [p for p in shown if p.stage == "plan"]
    assert [p.unit for p in plan] == ["inputs"] * 13 + [""]
    assert (plan[-1].done, plan[-1].total) == (0, summary.shards)
    tally = Tally()
    for progress in plan:
        tally.begin("plan")
        tally.update(progress)
        assert (tally.skipped, tally.total) in ((0, 0), (0, summary.shards))
    assert tally.total == summary.shards
