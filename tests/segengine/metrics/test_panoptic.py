from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segengine import metrics
from segengine.types import Prediction, Truth

MONAI = Path(__file__).parent / "fixtures" / "monai.npz"
NAMES = ("sky", "road", "car")
VOID = 0


def crowds(ids):
    columns = {"id": pa.array(ids, pa.uint32()), "crowd": pa.array([True] * len(ids))}
    return pa.table(columns)


@st.composite
def panoptic(draw):
    """Labels and ids of both sides, and the ids of at most one crowd a class."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    size = 18, 20
    coarse = rng.integers(0, 3, (5, 5))
    ids = np.arange(1, 26).reshape(5, 5)

    def side(noise, labels, ids):
        labels = np.where(
            rng.random(labels.shape) < noise, rng.integers(0, 3, labels.shape), labels
        )
        labels, ids = (a.repeat(4, 0).repeat(4, 1)[: size[0], : size[1]] for a in (labels, ids))
        labels = np.roll(labels, rng.integers(-2, 3, 2), (0, 1)).astype(np.uint8)
        ids = np.where(labels == 0, 0, ids).astype(np.uint32)  # sky is stuff
        labels[rng.random(size) < noise / 3] = 255
        return labels, ids

    joined = np.where(rng.random((5, 5)) < 0.3, ids[:, :1], ids)
    truth = side(0.1, coarse, joined)
    found = side(draw(st.sampled_from([0.0, 0.3])), coarse, joined)
    inside = [np.unique(truth[1][truth[0] == c]) for c in (1, 2)]
    chosen = [int(rng.choice(i[i > 0])) for i in inside if (i > 0).any() and rng.random() < 0.5]
    return found, truth, chosen


def by_definition(found, truth, crowd):
    """PQ of one frame as panopticapi has it: dictionaries of segments, one loop over pairs."""
    pairs, sizes, true_sizes = {}, {}, {}
    for labels, ids, true, true_ids in zip(
        *(a.reshape(-1).tolist() for a in (*found, *truth)), strict=True
    ):
        p = VOID if labels > 2 else (labels, ids)
        t = VOID if true > 2 else (true, true_ids)
        sizes[p], true_sizes[t] = sizes.get(p, 0) + 1, true_sizes.get(t, 0) + 1
        pairs[t, p] = pairs.get((t, p), 0) + 1
    figures = {c: [0, 0, 0, 0.0] for c in range(3)}
    matched_true, matched = set(), set()
    for (t, p), shared in pairs.items():
        if VOID in (t, p) or t[0] != p[0] or t[1] in crowd:
            continue
        union = sizes[p] + true_sizes[t] - shared - pairs.get((VOID, p), 0)
        if shared / union > 0.5:
            figures[t[0]][0] += 1
            figures[t[0]][3] += shared / union
            matched_true.add(t)
            matched.add(p)
    for t in true_sizes:
        if t != VOID and t not in matched_true and t[1] not in crowd:
            figures[t[0]][2] += 1
    for p in sizes:
        if p == VOID or p in matched:
            continue
        excused = pairs.get((VOID, p), 0) + sum(
            n
            for (t, q), n in pairs.items()
            if q == p and t != VOID and t[1] in crowd and t[0] == p[0]
        )
        if excused / sizes[p] <= 0.5:
            figures[p[0]][1] += 1
    return figures


@given(st.lists(panoptic(), min_size=1, max_size=3))
@settings(max_examples=40, deadline=None)
def test_pq_is_that_of_panopticapi(frames):
    metric = metrics.create("panoptic_quality", classes=NAMES)
    state = metric.empty()
    sums = {c: np.zeros(4) for c in range(3)}
    for found, truth, crowd in frames:
        state = metric.update(
            state,
            Prediction(found[0][None], instances=found[1][None]),
            Truth(truth[0][None], truth[1][None], crowds(crowd)),
        )
        for c, row in by_definition(found, truth, crowd).items():
            sums[c] += row
    result = metric.compute(state)
    means = {"pq": [], "sq": [], "rq": []}
    for c, name in enumerate(NAMES):
        tp, fp, fn, iou = sums[c]
        ours = result["classes"][name]
        assert [ours[k] for k in ("tp", "fp", "fn")] == [tp, fp, fn]
        if not tp + fp + fn:
            assert ours["pq"] is None
            continue
        below = tp + fp / 2 + fn / 2
        expected = {"pq": iou / below, "sq": iou / tp if tp else 0, "rq": tp / below}
        for key, value in expected.items():
            assert ours[key] == pytest.approx(value, abs=1e-9)
            means[key].append(value)
    for key, values in means.items():
        assert result[f"mean_{key}"] == (pytest.approx(np.mean(values)) if values else None)


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
