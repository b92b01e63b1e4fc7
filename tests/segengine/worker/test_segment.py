"""A shard on a worker: computed, stored alone or with its mates, and what fails of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import segengine
from segengine.job import parse_job
from segengine.planning.plan import Plan, make_plan
from segengine.runs import Run
from segengine.store.blobs import open_objects
from segengine.store.kinds import MaskRecord
from segengine.store.records import RecordLog
from segengine.worker import segment
from segengine.worker.segment import Computed, compute_shard, segment_shard
from segengine.worker.tasks import Retry, ShardTask

pytestmark = pytest.mark.usefixtures("plain_report")
MEAN = {"kind": "threshold", "method": "mean"}


def planned(bench: Any, segmenter: Any = MEAN, **blocks: Any) -> Plan:
    """A run that ended once its plan was committed."""
    job = parse_job(bench.job(segmenter, **blocks))
    with Run(job, in_process=True) as run:
        list(run.stage("plan"))
    return make_plan(job, open_objects(str(bench.store)))


def tasks(plan: Plan, **extra: Any) -> list[ShardTask]:
    return [
        replace(plan.task(layout, place), **extra)
        for layout in plan.layouts.values()
        for place in plan.pending_places(layout)
    ]


def five(bench: Any, noise: Any) -> None:
    for i in range(5):
        bench.put(f"{i}.zarr", noise(i, (40, 50, 3)))  # each a scene


def labels(task: ShardTask, store: Path) -> np.ndarray:
    found: np.ndarray = np.asarray(segengine.open_store(store)[task.scene].mask)
    return found


def test_one_is_read_labelled_stored_and_recorded(bench: Any, noise: Any) -> None:
    image = noise(1, (40, 50, 3))
    bench.put("a.png", image)
    (task,) = tasks(planned(bench))
    made = segment_shard(task)
    assert isinstance(made, MaskRecord)
    assert made.pixels == 40 * 50
    kept = list(RecordLog(open_objects(str(bench.store))).read(task.scene))
    assert kept == [made]
    whole = segengine.segment(image, MEAN)
    np.testing.assert_array_equal(labels(task, bench.store)[0, :40, :50], whole)


@pytest.mark.parametrize("fsync", [True, False])
def test_mates_are_stored_as_they_are_alone(
    fsync: bool, bench: Any, new_bench: Any, noise: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone, together = bench, new_bench()
    trees = []
    for one in (alone, together):
        five(one, noise)
        every = tasks(planned(one, faults={"fsync": fsync}))
        assert len(every) == 5
        if one is alone:
            made = [segment_shard(task) for task in every]
        else:
            computed = [compute_shard(task) for task in every]
            assert all(isinstance(c, Computed) for c in computed)
            made = Computed.finish_all(computed)  # type: ignore[arg-type]
        assert all(isinstance(record, MaskRecord) for record in made)
        trees.append({k: v for k, v in one.tree().items() if "/mask/" in f"/{k}"})
    assert trees[0] == trees[1]
    assert len(trees[0]) >= 10  # metadata and one shard each


def test_one_that_cannot_be_stored_costs_its_mates_nothing(
    bench: Any, noise: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    five(bench, noise)
    every = tasks(planned(bench))
    computed: Any = [compute_shard(task) for task in every]
    bad = bench.store / every[2].arrays.arrays[0].shard_key(every[2].scene, every[2].place)
    bad.parent.mkdir(parents=True, exist_ok=True)
    bad.mkdir()  # where its file should be
    made = Computed.finish_all(computed)
    assert [isinstance(found, Retry) for found in made] == [False, False, True, False, False]
    log = RecordLog(open_objects(str(bench.store)))
    assert [len(list(log.read(task.scene))) for task in every] == [1, 1, 0, 1, 1]


def test_a_large_one_is_stored_before_the_next_is_begun(
    bench: Any, noise: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.put("a.png", noise(1, (40, 50, 3)))
    (task,) = tasks(planned(bench))
    assert isinstance(compute_shard(task), Computed)
    monkeypatch.setattr(segment, "LATER_BYTES", 10)
    assert isinstance(compute_shard(task), MaskRecord)


def test_what_fails_is_tried_again_and_at_last_is_void_and_said(
    bench: Any, noise: Any, toys: str
) -> None:
    good, bad = noise(1, (40, 50, 3)), noise(2, (40, 50, 3))
    good[0, 0], bad[0, 0] = 9, 7
    bench.put("a.png", good)
    bench.put("b.png", bad)
    plan = planned(bench, {"kind": f"{toys}:Fussy"}, store={"shard": 512})
    (task,) = tasks(plan)
    assert len(task.frames) == 2
    again = compute_shard(task)
    assert isinstance(again, Retry)
    assert "RuntimeError: I do not like it" in again.reason
    made = segment_shard(replace(task, last=True))
    assert isinstance(made, MaskRecord)
    (failure,) = made.failures
    assert (failure.frame, failure.kind) == (1, "error")
    assert failure.reason == "b.png: RuntimeError: I do not like it"
    masks = labels(task, bench.store)
    assert set(np.unique(masks[0, :40, :50])) == {0, 1}
    assert set(np.unique(masks[1, :40, :50])) == {255}
