import gzip
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from segengine import metrics
from segengine.errors import JobError
from segengine.types import Prediction, Truth

MONAI = Path(__file__).parent / "fixtures" / "monai.npz"
PANOPTICAPI = MONAI.with_name("panopticapi.json.gz")
NAMES = ("sky", "road", "car")


def crowds(ids):
    columns = {"id": pa.array(ids, pa.uint32()), "crowd": pa.array([True] * len(ids))}
    return pa.table(columns)


@pytest.fixture(scope="module")
def known():
    return json.loads(gzip.decompress(PANOPTICAPI.read_bytes()))


@pytest.mark.parametrize("kept", ["with", "without"])
def test_figures_are_those_of_panopticapi(kept, known):
    """All, things, stuff and classes; without background it is no category, but found on it is wrong."""
    without = int(kept == "without")
    names = ("background", "road", "car") if without else NAMES
    metric = metrics.create("panoptic_quality", classes=names)
    assert len(known) == 40
    for case in known:
        state = metric.empty()
        for (true, true_ids, crowd), (labels, ids, _) in case["frames"]:
            found, masks = np.array([labels], np.uint8), np.array([ids], np.uint32)
            truth = Truth(
                np.array([true], np.uint8), np.array([true_ids], np.uint32), crowds(crowd)
            )
            state = metric.update(state, Prediction(found, instances=masks), truth)
        result, theirs = metric.compute(state), case["figures"]
        assert list(result["classes"]) == list(names[without:])
        for group, averages in theirs[kept].items():
            if averages is None:
                assert result[group] == {"pq": None, "sq": None, "rq": None, "n": 0}
                continue
            assert result[group] == pytest.approx(averages[0], abs=1e-9)
            for number, row in averages[1].items():
                own = result["classes"][names[int(number)]]
                assert [own[k] for k in ("tp", "fp", "fn")] == theirs["counts"][int(number)]
                if own["pq"] is not None:
                    assert {k: own[k] for k in row} == pytest.approx(row, abs=1e-9)
        assert [result[f"mean_{k}"] for k in ("pq", "sq", "rq")] == [
            result["all"][k] for k in ("pq", "sq", "rq")
        ]


def test_who_finds_nothing_scores_nothing():
    labels, ids = np.zeros((1, 20, 20), np.uint8), np.zeros((1, 20, 20), np.uint32)
    true, true_ids = labels.copy(), ids.copy()
    true[0, :3, :3], true_ids[0, :3, :3] = 1, 1
    names = ("background", "thing")
    found = []
    for options in ({}, {"background": True}, {"things": ["background"], "background": True}):
        metric = metrics.create("panoptic_quality", classes=names, **options)
        state = metric.update(
            metric.empty(), Prediction(labels, instances=ids), Truth(true, true_ids)
        )
        found.append(metric.compute(state))
    assert found[0]["mean_pq"] == found[0]["all"]["pq"] == found[0]["things"]["pq"] == 0
    assert found[0]["stuff"] == {"pq": None, "sq": None, "rq": None, "n": 0}
    assert "background" not in found[0]["classes"]
    assert found[1]["mean_pq"] == pytest.approx((400 - 9) / 400 / 2)
    assert found[1]["stuff"]["pq"] == pytest.approx((400 - 9) / 400)
    assert found[2]["things"]["pq"] == pytest.approx((400 - 9) / 400)
    assert found[2]["stuff"]["pq"] == 0
    with pytest.raises(JobError, match="things: 'sky' is no class of the truth"):
        metrics.create("panoptic_quality", classes=names, things=["sky"])
    with pytest.raises(JobError, match="background: must be true or false"):
        metrics.create("panoptic_quality", classes=names, background=1)


def test_of_two_crowds_of_a_class_the_last_excuses():
    labels, ids = [2] * 4, [1] * 4
    assert compute(labels, ids, [2, 2, 2, 0], [7, 8, 8, 0], [7, 8])["car"] == (0, 1, 0)
    assert compute(labels, ids, [2, 2, 2, 0], [7, 7, 7, 0], [7])["car"] == (0, 0, 0)
    assert compute(labels, ids, [2, 2, 2, 0], [7, 8, 8, 0], [8, 7])["car"] == (0, 1, 0)
    assert compute(labels, ids, [2, 2, 2, 2], [8, 8, 8, 7], [7, 8])["car"] == (0, 0, 0)


def test_pq_of_instances_equals_monai():
    with np.load(MONAI) as data:
        known = dict(data)
    metric = metrics.create("panoptic_quality", classes=("background", "thing"))
    for found, true, (pq, sq, rq) in zip(
        known["found_ids"], known["ids"], known["pq"], strict=True
    ):
        prediction = Prediction((found > 0).astype(np.uint8)[None], instances=found[None])
        truth = Truth((true > 0).astype(np.uint8)[None], true[None])
        ours = metric.compute(metric.update(metric.empty(), prediction, truth))["classes"]["thing"]
        # MONAI adds 1e-6 to its divisors and takes IoU in float32
        assert [ours[k] for k in ("pq", "sq", "rq")] == pytest.approx([pq, sq, rq], abs=3e-6)


def compute(labels, ids, true, true_ids, crowd=()):
    metric = metrics.create("panoptic_quality", classes=NAMES)
    sides = [np.atleast_3d(np.array(a)).reshape(1, 1, -1) for a in (labels, ids, true, true_ids)]
    prediction = Prediction(sides[0].astype(np.uint8), instances=sides[1].astype(np.uint32))
    truth = Truth(sides[2].astype(np.uint8), sides[3].astype(np.uint32), crowds(crowd))
    found = metric.compute(metric.update(metric.empty(), prediction, truth))["classes"]
    return {name: tuple(found[name][k] for k in ("tp", "fp", "fn")) for name in NAMES}


def test_half_is_not_a_match():
    assert compute([2, 2], [1, 1], [2, 255], [1, 0])["car"] == (1, 0, 0)
    assert compute([2, 2], [1, 1], [2, 1], [1, 0])["car"] == (0, 1, 1)


def test_what_lies_in_void_or_a_crowd_is_dropped():
    assert compute([2, 2, 2], [1, 1, 1], [255, 255, 0], [0, 0, 0])["car"] == (0, 0, 0)
    assert compute([2, 2], [1, 1], [255, 0], [0, 0])["car"] == (0, 1, 0)
    assert compute([2, 2, 2], [1, 1, 1], [2, 2, 0], [7, 7, 0], [7])["car"] == (0, 0, 0)
    assert compute([1, 1, 1], [1, 1, 1], [2, 2, 0], [7, 7, 0], [7])["road"] == (0, 1, 0)


def test_a_class_without_ids_is_one_segment():
    assert compute([0, 1, 0], [0, 0, 0], [0, 1, 0], [0, 0, 0])["sky"] == (1, 0, 0)
    assert compute([2, 1, 2], [3, 0, 4], [2, 1, 2], [5, 0, 5])["car"] == (0, 2, 1)


def test_what_is_missing_is_named():
    metric = metrics.create("panoptic_quality", classes=NAMES)
    labels = np.zeros((1, 2, 2), np.uint8)
    ids = labels.astype(np.uint32)
    with pytest.raises(ValueError, match=r"^instances: the prediction has none"):
        metric.update(metric.empty(), Prediction(labels), Truth(labels, ids))
    with pytest.raises(ValueError, match=r"^truth: it has no instances"):
        metric.update(metric.empty(), Prediction(labels, instances=ids), labels)
