"""`plan` tells what a run takes from its start to its end, and not its labelling alone."""

from __future__ import annotations

from typing import Any

import pytest

import segengine
from segengine.commands.plan import plan
from segengine.job import parse_job
from segengine.stages.cost import around
from segengine.store.blobs import open_objects
from segengine.store.runs import RUNS_SCHEMA, History
from segengine.store.seals import SealedObjects

MEAN = {"kind": "threshold", "method": "mean"}


def row(seconds: float, done: int = 10, **stages: float) -> dict[str, Any]:
    empty = {field.name: None for field in RUNS_SCHEMA if field.name != "alerts"}
    took = {f"seconds.{stage}": value for stage, value in stages.items()}
    return {
        **empty, "run": "r", "version": "1", "started": 0.0, "seconds": seconds, "exit_code": 0,
        "computed": done, "left": 0, "shards": done, "pixels": 1, "rate": 1.0, **took,
    }  # fmt: skip


def history(*rows: dict[str, Any]) -> History:
    found = History.read(SealedObjects(open_objects("/nowhere/m.zarr")))
    for each in rows:
        found = found.with_row(each)
    return found


def test_start_and_publishing_are_what_the_runs_took_beside_labelling() -> None:
    assert around(history(), 10) is None, "no run"
    one = row(26, segment=15, survey=3, stitch=2, aggregate=1, publish=2, plan=0.5)
    assert around(history(one), 10) == pytest.approx(26 - 20)
    slow = row(126, segment=20, publish=3)  # its machine was asleep
    other = row(27, segment=20, publish=3)
    assert around(history(one, slow, other), 10) == pytest.approx(4 + 3), "the middle one counts"
    assert around(history(one), 20) == pytest.approx(3 + 2 * 3), "publishing grows with the shards"
    odd = row(float("nan"), segment=20, publish=3)
    assert around(history(odd), 10) == pytest.approx(3)


def test_the_estimate_is_the_labelling_and_that(bench: Any, noise: Any) -> None:
    for i in range(3):
        bench.put(f"{i}.png", noise(i, (60, 150, 3)))
    first = plan(parse_job(bench.job(MEAN, cluster={"workers": 1})))
    assert first.beside is None
    assert "without publishing, which no run has measured yet" in first.lines()[-1]
    segengine.run(bench.job(MEAN, cluster={"workers": 1}))
    again = plan(parse_job(bench.job({**MEAN, "offset": 3}, cluster={"workers": 1})))
    took = History.read(SealedObjects(open_objects(str(bench.store)))).last[-1]
    labelling = sum(took.get(f"seconds.{s}") or 0.0 for s in ("survey", "segment", "stitch"))
    assert again.beside == pytest.approx(took["seconds"] - labelling, abs=0.01)
    assert again.seconds is not None
    assert again.seconds > again.beside
    assert again.as_json()["estimate"]["seconds"] == again.seconds
    assert " of it to start and publish, by the runs before)" in again.lines()[-1]


@pytest.mark.parametrize("frames", [1, 3])
def test_a_photo_that_cannot_be_read_costs_no_estimate(frames: int, bench: Any, noise: Any) -> None:
    for i in range(3):
        bench.put(f"{i}.png", noise(i, (60, 150, 3)))
    broken = bench.inputs / "0.png"
    broken.write_bytes(broken.read_bytes()[:-200])
    job = bench.job(MEAN, store={"frames": frames}, cluster={"workers": 1})
    report = plan(parse_job(job))
    assert report.seconds is not None
    assert ("not counting what cannot be read of it: 0.png" in report.lines()[-1]) == (frames == 3)
