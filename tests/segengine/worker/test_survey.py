"""Surveys on a worker: the state of a batch, and the fit of all states."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations
from typing import Any

import numpy as np
import pytest

import segengine
from segengine.job import parse_job
from segengine.planning.plan import Plan, make_plan
from segengine.runs import Run
from segengine.stages.survey import _batches, _fit_work, _groups
from segengine.store.blobs import open_objects
from segengine.store.values import decode
from segengine.worker.survey import fit_states, survey_batch
from segengine.worker.tasks import FitTask, Fitted, Retry, Surveyed

pytestmark = pytest.mark.usefixtures("plain_report")
SPEC = {"kind": "threshold", "method": "mean", "scope": "run"}


def planned(bench: Any, **blocks: Any) -> Plan:
    """A run that ended once its plan was committed."""
    job = parse_job(bench.job(SPEC, **blocks))
    with Run(job, in_process=True) as run:
        list(run.stage("plan"))
    return make_plan(job, open_objects(str(bench.store)))


def surveyed(plan: Plan, size: int) -> tuple[list[Surveyed], FitTask]:
    (group,) = _groups(plan)
    group.batches = list(_batches(plan, group, size))
    found: list[Any] = [survey_batch(batch) for batch in group.batches]
    assert all(isinstance(f, Surveyed) for f in found)
    group.found = {f.key: f for f in found}
    work = _fit_work(plan, group)
    assert work is not None
    return found, work.task  # type: ignore[return-value]


@pytest.fixture
def three(bench: Any, noise: Any) -> Any:
    for i in range(3):
        bench.put(f"{i}.png", noise(i, (40, 50, 3)))
    return bench


def test_a_batch_says_what_it_saw(three: Any) -> None:
    found, _ = surveyed(planned(three, store={"frames": 1}), 2)
    assert [len(f.seen) for f in found] == [2, 1]
    assert [f.pixels for f in found] == [2 * 40 * 50, 40 * 50]
    assert all(f.failures == () for f in found)
    data = open_objects(str(three.store)).get(found[0].key)
    assert data is not None
    assert decode(data, ("segengine",))["found"] == found[0]


def test_the_fit_is_that_of_all_pixels_whatever_the_order(three: Any, noise: Any) -> None:
    _, task = surveyed(planned(three, store={"frames": 1}), 1)
    assert len(task.states) == 3
    digests = set()
    for i, states in enumerate(permutations(task.states)):
        fitted = fit_states(replace(task, states=states, key=f"work/fits/{i}"))
        assert isinstance(fitted, Fitted)
        digests.add(fitted.digest)
    assert len(digests) == 1
    assert digests != {""}
    side = np.concatenate([noise(i, (40, 50, 3)) for i in range(3)], axis=1)
    three.run(SPEC)
    masks = three.open()["256x256-uint8-3"].mask
    tiled = np.concatenate([np.asarray(masks[i, :40, :50]) for i in range(3)], axis=1)
    np.testing.assert_array_equal(tiled, segengine.segment(side, SPEC))


def test_a_state_that_is_gone_is_tried_again(three: Any) -> None:
    _, task = surveyed(planned(three), 9)
    open_objects(str(three.store)).delete(task.states[0])
    found = fit_states(task)
    assert isinstance(found, Retry)
    assert found.reason == f"{task.states[0]}: the survey state is gone from the store"


def test_a_frame_that_is_damaged_is_in_no_state(three: Any) -> None:
    plan = planned(three)
    (group,) = _groups(plan)
    (batch,) = _batches(plan, group, 9)
    file = three.inputs / "1.png"
    file.write_bytes(file.read_bytes()[:900])
    found = survey_batch(batch)
    assert isinstance(found, Surveyed)
    ((scene, failure),) = found.failures
    assert (scene, failure.frame, failure.kind) == (batch.shards[0].scene, 1, "corrupt")
    assert found.pixels == 2 * 40 * 50
