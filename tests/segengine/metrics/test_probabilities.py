"""Calibration and threshold curves."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from segengine import metrics
from segengine.types import Prediction

NAMES = ("a", "b", "c")


def scene(seed, void=0.1):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 3, (2, 9, 8)).astype(np.uint8)
    logits = rng.normal(size=(*truth.shape, 3)) * 2 + 2 * np.eye(3)[truth]
    odds = np.exp(logits)
    probabilities = (odds / odds.sum(-1, keepdims=True)).astype(np.float32)
    probabilities = np.where(
        rng.random((*truth.shape, 1)) < 0.2, np.rint(probabilities * 5) / 5, probabilities
    ).astype(np.float32)
    truth[rng.random(truth.shape) < void] = 255
    return probabilities, truth


def compute(name, probabilities, truth, **options):
    metric = metrics.create(name, classes=NAMES, **options)
    labels = np.zeros(truth.shape, np.uint8)
    state = metric.update(metric.empty(), Prediction(labels, probabilities), truth)
    return metric.compute(state)


@given(st.integers(0, 2**32 - 1), st.integers(1, 20))
@settings(max_examples=40, deadline=None)
def test_ece_is_the_sum_over_bins_in_fractions(seed, bins):
    from fractions import Fraction

    probabilities, truth = scene(seed)
    found = compute("calibration", probabilities, truth, bins=bins)
    groups = [[] for _ in range(bins)]
    for p, t in zip(probabilities.reshape(-1, 3), truth.reshape(-1).tolist(), strict=True):
        if t < 3:
            top = Fraction(float(p.max()))
            m = next(m for m in range(bins) if top <= Fraction(m + 1, bins) or m == bins - 1)
            groups[m].append((top, int(p.argmax()) == t))
    gaps = [abs(sum(right for _, right in g) - sum(top for top, _ in g)) for g in groups]
    total = sum(map(len, groups))
    assert found["ece"] == pytest.approx(float(sum(gaps) / total), abs=1e-9)
    assert [b["pixels"] for b in found["bins"]] == [len(g) for g in groups]
    assert found["mce"] == pytest.approx(
        float(max(gap / len(g) for gap, g in zip(gaps, groups, strict=True) if g)), abs=1e-9
    )


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_brier_is_the_mean_square_and_any_cut_gives_the_same(seed):
    probabilities, truth = scene(seed)
    inside = truth < 3
    p, y = probabilities[inside].astype(np.float64), truth[inside]
    squares = ((p - np.eye(3)[y]) ** 2).sum(-1)
    found = compute("calibration", probabilities, truth)
    assert found["brier"] == pytest.approx(squares.mean(), abs=1e-9)
    top = p.max(-1), p.argmax(-1) == y
    assert found["label_brier"] == pytest.approx(((top[0] - top[1]) ** 2).mean(), abs=1e-9)
    metric = metrics.create("calibration", classes=NAMES)
    parts = [
        metric.update(metric.empty(), Prediction(t * 0, q), t)
        for i in (slice(0, 1), slice(1, 2))
        for q, t in ((probabilities[i, :4], truth[i, :4]), (probabilities[i, 4:], truth[i, 4:]))
    ]
    whole = metric.update(metric.empty(), Prediction(truth * 0, probabilities), truth)
    assert metric.merge(metric.merge(parts[3], parts[1]), metric.merge(parts[0], parts[2])) == whole


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_a_layer_of_confidence_tells_all_but_the_brier_score(seed):
    probabilities, truth = scene(seed)
    labels = probabilities.argmax(-1).astype(np.uint8)
    layer = np.rint(254 * probabilities.max(-1).astype(np.float64)).astype(np.uint8)
    layer[0, 0, :3] = 255
    metric = metrics.create("calibration", classes=NAMES)
    given_ = Prediction(labels, confidence=layer)
    found = metric.compute(metric.update(metric.empty(), given_, truth))
    inside = (truth < 3) & (layer != 255)
    p, right = layer[inside] / 254, labels[inside] == truth[inside]
    place = np.clip(np.ceil(p * 15).astype(int) - 1, 0, None)
    gaps = np.abs(np.bincount(place, right, 15) - np.bincount(place, p, 15))
    assert found["ece"] == pytest.approx(gaps.sum() / inside.sum(), abs=1e-9)
    counts = np.bincount(place, minlength=15)
    assert found["mce"] == pytest.approx((gaps[counts > 0] / counts[counts > 0]).max(), abs=1e-9)
    assert found["label_brier"] == pytest.approx(((p - right) ** 2).mean(), abs=1e-9)
    assert found["brier"] is None
    assert found["void"] == ((truth < 3) & (layer == 255)).sum()


def test_void_has_no_confidence_and_is_counted_apart():
    probabilities, truth = scene(1, void=0)
    probabilities[0, :2] = np.nan
    found = compute("calibration", probabilities, truth)
    assert found["void"] == 16
    rest = np.s_[:, 2:]
    assert sum(b["pixels"] for b in found["bins"]) == truth.size - 16
    truth[0, :2] = 255
    without = compute("calibration", probabilities, truth)
    assert without["void"] == 0
    assert without["ece"] == found["ece"]
    assert probabilities[rest].shape[1] == 7


def test_a_confident_and_right_prediction_is_calibrated():
    truth = np.array([[[0, 1, 2]]], np.uint8)
    found = compute("calibration", np.eye(3, dtype=np.float32)[truth], truth)
    assert found["ece"] == 0
    assert found["bins"][-1]["pixels"] == 3


def test_many_pixels_of_one_confidence_are_summed_exactly():
    truth = np.zeros((1, 1200, 2000), np.uint8)
    probabilities = np.tile(np.float32([0.7, 0.2, 0.1]), (*truth.shape, 1))
    found = compute("calibration", probabilities, truth)
    assert found["bins"][10]["confidence"] == pytest.approx(float(np.float32(0.7)), abs=1e-9)


@given(st.integers(0, 2**32 - 1), st.sampled_from([2, 11, 101]))
@settings(max_examples=40, deadline=None)
def test_areas_equal_scikit_learn_at_the_levels(seed, levels):
    probabilities, truth = scene(seed)
    found = compute("threshold_curves", probabilities, truth, levels=levels)
    inside = truth < 3
    for i, name in enumerate(NAMES):
        y = truth[inside] == i
        score = np.floor(probabilities[inside][:, i].astype(np.float64) * (levels - 1))
        figures = found["classes"][name]
        assert figures["average_precision"] == pytest.approx(
            sklearn_metrics.average_precision_score(y, score), abs=1e-12
        )
        assert figures["auc"] == pytest.approx(sklearn_metrics.roc_auc_score(y, score), abs=1e-12)
    values = [figures["auc"] for figures in found["classes"].values()]
    assert found["mean_auc"] == pytest.approx(np.mean(values))


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_curves_are_the_counts_at_each_threshold(seed):
    probabilities, truth = scene(seed)
    probabilities[0, 0] = np.nan  # void: below every threshold
    found = compute("threshold_curves", probabilities, truth, levels=11)
    inside = truth < 3
    for i, name in enumerate(NAMES):
        y, p = truth[inside] == i, probabilities[inside][:, i].astype(np.float64)
        best = (-1, None)
        for j, t in enumerate(found["thresholds"]):
            taken = p * 10 >= j
            tp, fp, fn = (int(n.sum()) for n in (taken & y, taken & ~y, ~taken & y))
            figures = found["classes"][name]
            assert figures["precision"][j] == (tp / (tp + fp) if tp + fp else None)
            assert figures["recall"][j] == tp / (tp + fn)
            assert figures["f1"][j] == 2 * tp / (2 * tp + fp + fn)
            best = max(best, (figures["f1"][j], -t))
        assert (figures["best_f1"], -figures["best_threshold"]) == best


def test_void_is_a_miss_that_no_threshold_reaches():
    truth = np.zeros((1, 1, 4), np.uint8)
    probabilities = np.tile(np.float32([1, 0, 0]), (1, 1, 4, 1))
    probabilities[0, 0, :2] = np.nan
    figures = compute("threshold_curves", probabilities, truth)["classes"]
    assert figures["a"]["recall"] == [0.5] * 101
    assert figures["a"]["average_precision"] == 0.5
    assert figures["a"]["auc"] is None  # no other pixel
    assert figures["b"]["average_precision"] is None
    assert figures["b"]["best_threshold"] is None


@pytest.mark.parametrize("name", ["calibration", "threshold_curves"])
def test_what_is_missing_or_wrong_is_named(name):
    _, truth = scene(0)
    with pytest.raises(ValueError, match=r"^probabilities: the prediction has none"):
        compute(name, None, truth)
    with pytest.raises(ValueError, match=r"^probabilities: their shape is \(2, 9, 8, 2\)"):
        compute(name, np.zeros((2, 9, 8, 2), np.float32), truth)
    option = {"calibration": "bins", "threshold_curves": "levels"}[name]
    for value in (0, True, 2.5):
        with pytest.raises(Exception, match=f"^{option}: must be an integer from"):
            metrics.create(name, classes=NAMES, **{option: value})
