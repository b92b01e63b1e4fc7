"""Alerts: their rules, how often they are false, what they miss; and the rows they are judged by."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from segengine.errors import JobError
from segengine.job import parse_job
from segengine.progress import Alert
from segengine.runs import Run
from segengine.stages.alerts import judged
from segengine.stages.changes import ENOUGH, NEW, Change, new_change
from segengine.store.runs import LAST, History
from segengine.terms.nights import AlertSpec
from segengine_flows.cli import main

MEAN = {"kind": "threshold", "method": "mean"}
BASE = {
    "run": "r", "version": "1", "started": 0.0, "seconds": 1.0, "exit_code": 0, "computed": 1, "left": 0,
    "shards": 1, "pixels": 1, "rate": 1.0, "frames.done": 1, "frames.failed": 0, "frames.left": 0,
    "frames.gone": 0,
}  # fmt: skip


def history(values: Any, figure: str = "mean_iou") -> History:
    found = History.read(Nothing())  # type: ignore[arg-type]
    for value in values:
        found = found.with_row(BASE if value is None else {**BASE, figure: value})
    return found


class Nothing:
    def get(self, key: str) -> None:
        return None


@pytest.mark.parametrize(
    ("before", "now", "spec", "expected"),
    [
        ([], 5.0, {"shift": 0.2}, None),  # nothing to have shifted from
        ([1.0], 1.2, {"shift": 0.2}, (1.0, "shift: 0.2")),  # by 20 %, whatever floats say
        ([1.0], 1.19, {"shift": 0.2}, None),
        ([1.0], 0.8, {"shift": 0.2}, (1.0, "shift: 0.2")),
        ([-1.0], -1.3, {"shift": 0.2}, (-1.0, "shift: 0.2")),
        ([0.0], 0.0, {"shift": 0.2}, None),
        ([0.0], 1e-9, {"shift": 0.2}, (0.0, "shift: 0.2")),
        ([9, 1, 1, 1, 1, 9, 9, 1], 9.0, {"shift": 0.2}, (1.0, "shift: 0.2")),  # of the last seven
        ([9, 9, 9, 9, 9, 9, 9, 1, 1, 1], 9.0, {"shift": 0.2}, None),
        ([1.0, None, None], 2.0, {"shift": 0.2}, (1.0, "shift: 0.2")),  # runs without it do not count
        ([0.8, 0.75], 0.69, {"below": 0.7}, (0.75, "below: 0.7")),
        ([], 0.69, {"below": 0.7}, (None, "below: 0.7")),
        ([0.8], 0.7, {"below": 0.7}, None),
        ([3.0], 5.5, {"above": 5}, (3.0, "above: 5")),
        ([3.0], 5.0, {"above": 5}, None),
    ],
)  # fmt: skip
def test_rules(before: Any, now: float, spec: Any, expected: Any) -> None:
    given = AlertSpec(figure="mean_iou", **spec)
    found, unknown = judged([given], {"mean_iou": now}, history(before))
    assert unknown == []
    assert found == ([] if expected is None else [Alert("mean_iou", now, *expected)])


def test_false_alarms_and_what_is_missed() -> None:
    """Of 1,000 series of 30 nights: at most 1 % with a false alarm; a fifth's shift is found in 3 nights.

    The figure is noisy by 2 % of itself from night to night (normal, independent), the rule half of
    the shift that is to be found: `shift: 0.1`.
    """
    chance = np.random.default_rng(23)
    spec = [AlertSpec(figure="area.water", shift=0.1)]
    false = found = 0
    for series in range(1000):
        level = 10 ** chance.uniform(2, 9)
        values = np.round(level * (1 + 0.02 * chance.standard_normal(33))).astype(int)
        values[30:] = np.round(values[30:] * (1.2 if series % 2 else 0.8))
        alarms = [fired(spec, values[:night], values[night]) for night in range(33)]
        false += any(alarms[:30])
        found += any(alarms[30:])
    assert false <= 10, false
    assert found >= 950, found


def test_changes_that_are_false_and_those_that_are_missed() -> None:
    """The same of `change`, which needs no share: over 30 nights, of any level and noise.

    A fifth's shift is found where the noise is 2 %, once there are enough runs to tell, or 5 %, after 40.
    """
    chance = np.random.default_rng(2)

    def series(length: int, noise: float) -> Any:
        return 10 ** chance.uniform(2, 9) * (1 + noise * chance.standard_normal(length))

    false = 0
    for _ in range(1000):
        values = series(30, chance.choice([0.02, 0.05]))
        false += any(new_change(values[:night]) for night in range(ENOUGH, 31))
    assert false <= 10, false
    for noise, nights in ((0.02, ENOUGH), (0.05, 40)):
        found = 0
        for number in range(200):
            values = series(nights + NEW, noise)
            values[nights:] *= 1.2 if number % 2 else 0.8
            found += any(new_change(values[: nights + k]) for k in range(1, NEW + 1))
        assert found >= 190, (noise, found)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0] * 20, None),
        ([0.0] * 20 + [1.0], Change(0, 0.0)),  # where nothing ever moved, whatever moves
        ([1e6] * 20 + [1e6 + 1], None),  # but for a trifle
        ([1e6] * 20 + [1.2e6], Change(0, 1e6)),
        ([1e6] * 20 + [1.2e6] * 3, Change(2, 1e6)),
        ([1e6] * 20 + [1.2e6] * 4, None),  # that was told of before
        ([1e6] * 10 + [5e5] * 10 + [1e6] * 2, Change(1, 5e5)),  # since an earlier one
        ([1e6] * 10 + [2e6], None),  # too few runs
        ([1.0] * 5 + [3.0] * 100 + [1.0], Change(0, 3.0)),  # the last ones are looked at
    ],
)  # fmt: skip
def test_a_change(values: list[float], expected: Any) -> None:
    assert new_change(values) == expected


def test_a_change_is_an_alert() -> None:
    spec = [AlertSpec(figure="mean_iou", change=True)]
    before = history([0.8, 0.81, 0.79, 0.8] * 5)
    assert judged(spec, {"mean_iou": 0.81}, before) == ([], [])
    found, _ = judged(spec, {"mean_iou": 0.6}, before)
    assert found == [Alert("mean_iou", 0.6, pytest.approx(0.8), "change: true")]


def test_a_change_takes_its_library(
    bench: Any, noise: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before any work is done, and by those alone who ask for it."""
    bench.put("0.png", noise(0, (40, 60, 3)))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        JobError, match=r"ruptures is not installed; pip install 'segengine\[alerts\]'"
    ):
        Run(parse_job(bench.job(MEAN, alerts=[{"figure": "seconds", "change": True}])))
    Run(parse_job(bench.job(MEAN, alerts=[{"figure": "seconds", "above": 1}])))


def fired(spec: list[AlertSpec], before: Any, now: int) -> bool:
    class Known(History):
        def values(self, figure: str) -> list[float]:
            return [float(v) for v in before[-LAST:]]

    return bool(judged(spec, {"area.water": int(now)}, Known(None))[0])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("alert", "words"),
    [
        ({"figure": "a"}, "needs one of shift, below, above, change"),
        ({"figure": "a", "change": False}, "alerts.0.change"),
        ({"figure": "a", "change": True, "above": 1}, "needs one of"),
        ({"figure": "a", "shift": 0.1, "below": 2}, "needs one of shift, below, above"),
        ({"figure": "a", "shift": 0}, "alerts.0.shift"),
        ({"figure": "", "below": 1}, "alerts.0.figure"),
        ({"figure": "a", "below": 1, "mail": "x"}, "unknown key"),
        ({"figure": "a", "above": float("nan")}, "alerts.0.above"),
        ({"figure": "a", "change": 1}, r"alerts\.0\.change: must be true, or left out, got 1"),
        ({"figure": "a", "below": "1"}, r"alerts\.0\.below: "),
        ({"figure": "a", "above": True}, r"alerts\.0\.above: "),
        ({"figure": "a", "shift": "0.2"}, r"alerts\.0\.shift: "),
    ],
)
def test_what_is_no_alert(alert: Any, words: str, bench: Any) -> None:
    with pytest.raises(JobError, match=words):
        parse_job(bench.job(MEAN, alerts=[alert]))


@pytest.mark.usefixtures("plain_report")
def test_a_row_a_run_and_alerts_that_fired(bench: Any, noise: Any, capsys: Any) -> None:
    alerts = [{"figure": "area.object", "shift": 0.2}, {"figure": "frames.failed", "above": 0}]
    alerts += [{"figure": "area.nothing", "below": 5}]
    job = bench.root / "job.json"
    for i in range(2):
        bench.put(f"{i}.png", noise(i, (40, 60, 3)))

    def run() -> tuple[dict[str, Any], list[str]]:
        job.write_text(json.dumps(bench.job(MEAN, alerts=alerts, cluster={"workers": 1})))
        code = main(["run", str(job), "--json"])
        out = json.loads(capsys.readouterr().out)
        assert code == out["exit_code"]
        main(["status", str(bench.store)])
        lines = [li for li in capsys.readouterr().out.splitlines() if li.startswith("alert")]
        assert main(["status", str(bench.store), "--json"]) == code
        assert json.loads(capsys.readouterr().out)["alerts"] == out["alerts"]
        (notice,) = (line for line in out["notices"] if "alerts" in line)
        assert "this run has no figure area.nothing;" in notice
        return out, lines

    def planned() -> str:
        job.write_text(json.dumps(bench.job(MEAN, alerts=alerts, cluster={"workers": 1})))
        main(["plan", str(job), "--json"])
        (notice,) = json.loads(capsys.readouterr().out)["notices"]
        return str(notice)

    assert planned() == (
        "alerts: there will be no figure area.nothing; areas are area.background, area.object, area.void"
    )
    first, lines = run()
    assert "the last run had no figure area.nothing;" in planned()
    assert (first["alerts"], lines, first["computed"]) == ([], [], 2)
    second, _ = run()
    assert (second["alerts"], second["computed"]) == ([], 0)
    areas = bench.open().metrics["areas"]
    rows = bench.open().runs.to_pylist()
    assert len(rows) == 2  # with nothing new too
    for row in rows:
        assert row["alerts"] == []
        assert {k: row[f"area.{k}"] for k in areas} == {k: a["pixels"] for k, a in areas.items()}
        assert row["area.object"] + row["area.background"] == 2 * 40 * 60
        assert (row["frames.done"], row["frames.failed"], row["shards"]) == (2, 0, 2)
    assert [row["computed"] for row in rows] == [2, 0]

    bench.put("2.png", noise(2, (80, 60, 3)))
    (bench.inputs / "bad.png").write_bytes(b"no image")
    third, lines = run()
    assert third["exit_code"] == 3  # that of the quarantine: an alert changes none
    wide = bench.open().metrics["areas"]["object"]["pixels"]
    assert third["alerts"] == [
        {"figure": "area.object", "value": wide, "before": areas["object"]["pixels"], "rule": "shift: 0.2"},
        {"figure": "frames.failed", "value": 1.0, "before": 0.0, "rule": "above: 0"},
    ]  # fmt: skip
    assert (
        lines[0] == f"alert: area.object is {wide}, before {areas['object']['pixels']} (shift: 0.2)"
    )
    rows = bench.open().runs.to_pylist()
    assert rows[-1]["alerts"] == third["alerts"]
    assert len({row["run"] for row in rows}) == 3
    main(["run", str(job)])
    assert "no figure area.nothing" in capsys.readouterr().out
