"""Masks are measured as soon as they are stored; what that gives is what the stored mask gives."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import segengine
from segengine.errors import SegengineError
from segengine.job import parse_job
from segengine.runs import Run
from segengine.stages.aggregate import Measurer
from segengine.store.kinds import MeasureRecord, ShardMeasures
from segengine.store.records import RecordLog
from segengine.worker import measure as module
from segengine.worker.measure import MeasureTask, measure

pytestmark = pytest.mark.usefixtures("plain_report")
FIXED = {"kind": "threshold", "method": "fixed", "levels": 110}
OBJECTS = FIXED | {"instances": "components"}
EVALUATE = {"metrics": ["confusion", "boundary_f1"], "losses": ["dice"]}


def write(bench: Any, noise: Callable[..., np.ndarray], *sizes: tuple[int, int]) -> None:
    """Images, and a truth beside each but the last of several."""
    for i, size in enumerate(sizes):
        image = noise(i, (*size, 3))
        bench.put(f"{i}.png", image)
        if i < len(sizes) - 1 or i == 0:
            path = bench.root / f"truth/{i}.png"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray((image[..., 1] > 100).astype(np.uint8)).save(path)


def with_truth(bench: Any, segmenter: Any, classes: int = 2, **blocks: Any) -> dict[str, Any]:
    names = [f"class {i}" for i in range(classes)]
    truth = {"paths": [f"{bench.root}/truth/{{stem}}.png"], "classes": names}
    job: dict[str, Any] = bench.job(segmenter, **{"evaluate": EVALUATE, "truth": truth} | blocks)
    return job


def up_to_stitching(job: dict[str, Any]) -> Run:
    """A run that has stored its masks, and is not closed."""
    run = Run(parse_job(job), in_process=True)
    run.__enter__()
    for name in ("plan", "survey", "segment", "stitch"):
        list(run.stage(name))
    return run


def measured(run: Run) -> dict[Any, MeasureRecord]:
    log = RecordLog(run.objects)
    records = (r for scene in run.plan.layouts for r in log.read(scene))
    return {(r.scene, r.shard): r for r in records if isinstance(r, ShardMeasures)}


def without_times(metrics: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in metrics.items() if name != "throughput"}


def tasks_of(run: Run) -> list[MeasureTask]:
    """What the aggregate stage would do if nothing were measured yet."""
    assert isinstance(run._measurer, Measurer)
    for key in [r.key for r in measured(run).values()]:
        run.objects.delete(key)
    return run._measurer.stale()


CASES: dict[str, tuple[dict[str, Any], dict[str, Any], tuple[tuple[int, int], ...]]] = {
    "photos": (FIXED, {}, ((40, 50), (64, 64), (30, 20))),
    "a frame of its own size in each": (FIXED, {}, ((16, 16),)),
    "cut": (FIXED, {"store": {"shard": 32}}, ((70, 90),)),
    "linked": ({"kind": "edges", "operator": "canny"}, {"store": {"shard": 32}}, ((70, 90),)),
    "objects": (
        OBJECTS,
        {"evaluate": {"metrics": ["confusion", "regions"]}},
        ((40, 50), (64, 64), (9, 9)),
    ),
    "cut objects": (
        OBJECTS,
        {"store": {"shard": 32}, "evaluate": {"metrics": ["confusion", "regions"]}},
        ((70, 90),),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_measured_at_once_is_what_the_stored_mask_gives(
    bench: Any, noise: Any, case: str
) -> None:
    segmenter, blocks, sizes = CASES[case]
    write(bench, noise, *sizes)
    run = up_to_stitching(with_truth(bench, segmenter, **blocks))
    try:
        at_once = measured(run)
        tasks = [task for task in tasks_of(run) if task.kind == "measure"]
        assert {(t.scene, t.place) for t in tasks} == set(at_once) != set()
        for task in tasks:
            later = measure(task)
            assert isinstance(later, ShardMeasures)
            found = at_once[task.scene, task.place]
            same = {"seconds": 0.0, "finished": 0.0}
            assert replace(found, **same) == replace(later, **same)
            assert (found.truth, found.metrics, found.masks) == (
                task.inputs, task.key, task.checksum,
            )  # fmt: skip
    finally:
        run.__exit__(None, None, None)


def test_probabilities_are_measured_as_they_are_stored(bench: Any, noise: Any, toys: str) -> None:
    write(bench, noise, (40, 50), (64, 64), (9, 9))
    segmenter = {"kind": f"{toys}:Blocks"}
    job = with_truth(
        bench, segmenter, 5, store={"probabilities": True}, evaluate={"metrics": ["calibration"]}
    )
    run = up_to_stitching(job)
    at_once = measured(run)
    for task in tasks_of(run):
        later = measure(task)
        assert isinstance(later, ShardMeasures)
        assert later.states == at_once[task.scene, task.place].states
    run.__exit__(None, None, None)
    assert at_once


def test_what_needs_the_images_waits_for_the_aggregate_stage(bench: Any, noise: Any) -> None:
    write(bench, noise, (40, 50))
    metrics = [{"metric": "regions", "intensity": True}]
    run = up_to_stitching(with_truth(bench, OBJECTS, evaluate={"metrics": metrics}))
    assert measured(run) == {}
    list(run.stage("aggregate"))
    assert len(measured(run)) == 1
    run.__exit__(None, None, None)


def test_no_mask_is_read_again_to_be_measured(
    bench: Any, noise: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(bench, noise, (40, 50), (64, 64), (9, 9))
    read: list[Any] = []
    real = module.read_region
    monkeypatch.setattr(module, "read_region", lambda *a: read.append(a) or real(*a))
    job = with_truth(bench, FIXED)
    figures = segengine.run(job).metrics
    assert read == []
    for file in bench.store.glob("records/*/measure-*"):
        file.unlink()
    again = segengine.run(job | {"store": job["store"] | {"path": f"{bench.root}/other.zarr"}})
    assert without_times(again.metrics) == without_times(figures)
    report = json.loads((bench.store / "metrics.json").read_text())
    other = json.loads(Path(bench.root, "other.zarr/metrics.json").read_text())
    assert report["overall"] == other["overall"]


def test_what_fails_at_once_is_measured_later(
    bench: Any, noise: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(bench, noise, (40, 50), (64, 64), (9, 9))
    left = [3]
    real = module._payload

    def fails(*arguments: Any) -> Any:
        if left[0]:
            left[0] -= 1
            raise OSError("the share with the labels is away")
        return real(*arguments)

    monkeypatch.setattr(module, "_payload", fails)
    summary = segengine.run(with_truth(bench, FIXED))
    assert (left, summary.computed, summary.failed) == ([0], 3, ())
    monkeypatch.undo()
    figures = summary.metrics
    whole = with_truth(bench, FIXED, store={"path": f"{bench.root}/other.zarr"})
    assert without_times(segengine.run(whole).metrics) == without_times(figures)


DEADLY = """
import os

class Deadly:
    needs = ("truth",)
    version = 1

    def __init__(self, classes, truth_classes):
        pass

    def empty(self):
        return 0

    def update(self, state, prediction, truth):
        os._exit(1)

    def merge(self, a, b):
        return a + b

    def compute(self, state):
        return {}
"""


@pytest.mark.system
def test_a_metric_that_kills_its_worker_costs_no_mask(
    bench: Any, noise: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write(bench, noise, (40, 50), (64, 64))
    (tmp_path / "deadly_metric.py").write_text(DEADLY)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    job = with_truth(
        bench,
        FIXED,
        evaluate={"metrics": [{"metric": "deadly_metric:Deadly"}]},
        cluster={"workers": 1},
        store={"frames": 1},
    )
    with Run(parse_job(job)) as run:
        for name in ("plan", "survey", "segment", "stitch"):
            list(run.stage(name))
        with pytest.raises(SegengineError, match=r"^aggregate: "):
            list(run.stage("aggregate"))
    records = [r for r in segengine.open_store(bench.store).records() if r.kind == "mask"]
    assert [r.status for r in records] == ["done", "done"]
