"""StarDist's matching and the Cell Tracking Challenge's SEG, as their formulas say, whatever the cut."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from scipy.optimize import linear_sum_assignment

from segengine import metrics
from segengine.datasets._dataset import objects_of_maps
from segengine.errors import JobError
from segengine.types import Prediction, Truth

THRESHOLDS = (0.1, 0.3, 0.5, 0.7, 0.9)


def cells(seed: int, size: tuple[int, int] = (40, 50)) -> tuple[np.ndarray, np.ndarray]:
    """True and found ids of one class: moved, split, merged, missed."""
    rng = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(rng.normal(size=size), rng.uniform(1, 3))
    true = ndimage.label(noise > 0.02)[0]
    other = ndimage.gaussian_filter(rng.normal(size=size), 2)
    found = ndimage.label(noise + rng.uniform(0, 0.6) * other > rng.uniform(-0.02, 0.05))[0]
    return true, found


def overlaps(true: np.ndarray, found: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Intersections (true, found), and unions, of all objects."""
    kept, wanted = np.unique(true[true > 0]), np.unique(found[found > 0])
    common = np.array([[((true == t) & (found == f)).sum() for f in wanted] for t in kept])
    common = common.reshape(len(kept), len(wanted))
    a = np.array([(true == t).sum() for t in kept], int)
    b = np.array([(found == f).sum() for f in wanted], int)
    return common, a[:, None] + b[None] - common


def stardist(pairs: list[tuple[np.ndarray, np.ndarray]], threshold: float) -> dict[str, float]:
    """Its formulas, with SciPy's assignment over all objects of a frame."""
    tp = fp = fn = 0
    score = 0.0
    for true, found in pairs:
        common, union = overlaps(true, found)
        iou = common / union
        hits = 0
        if min(iou.shape):
            costs = -(iou >= threshold).astype(float) - iou / (2 * min(iou.shape))
            rows, columns = linear_sum_assignment(costs)
            good = iou[rows, columns] >= threshold
            hits, score = int(good.sum()), score + iou[rows, columns][good].sum()
        tp, fp, fn = tp + hits, fp + iou.shape[1] - hits, fn + iou.shape[0] - hits
    return {
        "tp": tp,
        "fp": fp,
        "fn": fn,
        "precision": tp / (tp + fp) if tp else 0,
        "recall": tp / (tp + fn) if tp else 0,
        "accuracy": tp / (tp + fp + fn) if tp else 0,
        "f1": 2 * tp / (2 * tp + fp + fn) if tp else 0,
        "mean_matched_score": score / tp if tp else 0,
        "mean_true_score": score / (tp + fn) if tp + fn else 0,
        "panoptic_quality": score / (tp + fp / 2 + fn / 2) if tp + fp + fn else 0,
    }


def measured(name: str, pairs: list[tuple[np.ndarray, np.ndarray]], **options: Any) -> Any:
    """One state a frame, merged from the last to the first."""
    metric = metrics.create(name, classes=("background", "cell"), **options)
    state = metric.empty()
    for true, found in reversed(pairs):
        prediction = Prediction((found > 0).astype(np.uint8)[None], instances=ids(found))
        one = metric.update(
            metric.empty(), prediction, Truth((true > 0).astype(np.uint8)[None], ids(true))
        )
        state = metric.merge(one, state)
    return metric.compute(state)


def ids(values: np.ndarray) -> np.ndarray:
    return values.astype(np.uint32)[None]


@given(st.lists(st.integers(0, 10_000), min_size=1, max_size=3))
@settings(max_examples=25, deadline=None)
def test_matching_is_stardists(seeds: list[int]) -> None:
    pairs = [cells(seed) for seed in seeds]
    found = measured("matching", pairs, thresholds=THRESHOLDS)
    for threshold, row in zip(THRESHOLDS, found["thresholds"], strict=True):
        expected = stardist(pairs, threshold)
        if not expected["tp"] + expected["fp"] + expected["fn"]:
            continue
        for key, value in expected.items():
            assert row[key] == pytest.approx(value, abs=1e-8), (threshold, key)
    assert found["classes"]["cell"]["thresholds"] == found["thresholds"]


def test_below_one_half_the_greatest_number_of_matches_counts() -> None:
    """One found object over two true ones, and one beside: greedy choice would lose a match."""
    true, found = np.zeros((2, 1, 20), int)
    true[0, :10], true[0, 10:16] = 1, 2
    found[0, 4:13], found[0, 13:20] = 1, 2
    for threshold in (0.1, 0.2, 0.3, 0.45):
        row = measured("matching", [(true, found)], thresholds=[threshold])["thresholds"][0]
        expected = stardist([(true, found)], threshold)
        assert {key: row[key] for key in expected} == pytest.approx(expected)


@given(st.lists(st.integers(0, 10_000), min_size=1, max_size=3))
@settings(max_examples=25, deadline=None)
def test_seg_is_that_of_the_challenge(seeds: list[int]) -> None:
    pairs = [cells(seed) for seed in seeds]
    terms = []
    for true, found in pairs:
        common, union = overlaps(true, found)
        for t, size in enumerate((true == i).sum() for i in np.unique(true[true > 0])):
            near = np.flatnonzero(2 * common[t] > size)
            assert len(near) < 2
            terms.append(common[t, near[0]] / union[t, near[0]] if len(near) else 0.0)
    found = measured("seg", pairs)
    assert found["all"] == (pytest.approx(np.mean(terms), abs=1e-8) if terms else None)
    assert found["classes"]["background"]["seg"] is None
    assert found["mean_seg"] == found["all"]


def test_void_and_crowds_count_as_nothing() -> None:
    labels, true, found = np.zeros((3, 1, 6, 12), int)
    labels[0, :, :4] = true[0, :, :4] = 1
    found[0, :, :5] = 1
    labels[0, :, 4:6] = 255
    found[0, :2, 4:6] = 2  # in void
    labels[0, :, 8:] = 255
    true[0, :, 8:] = 2  # a crowd
    found[0, 3:, 8:] = 3
    kinds = np.where(true[0] > 0, 1, 0)
    objects = objects_of_maps(true[0].astype(np.uint32), kinds, {2})
    truth = Truth(labels.astype(np.uint8), true.astype(np.uint32), objects)
    prediction = Prediction((found > 0).astype(np.uint8), instances=found.astype(np.uint32))
    for name in ("matching", "seg"):
        metric = metrics.create(name, classes=("background", "cell"))
        figures = metric.compute(metric.update(metric.empty(), prediction, truth))
        if name == "seg":
            assert figures["all"] == 1
        else:
            row = figures["thresholds"][-1]
            assert (row["tp"], row["fp"], row["fn"], row["panoptic_quality"]) == (1, 0, 0, 1)


def test_objects_of_another_class_do_not_match() -> None:
    labels = np.zeros((1, 4, 4), np.uint8)
    instances = np.ones((1, 4, 4), np.uint32)
    metric = metrics.create("matching", classes=("a", "b"), thresholds=[0.5])
    state = metric.update(
        metric.empty(), Prediction(labels, instances=instances), Truth(labels + 1, instances)
    )
    (row,) = metric.compute(state)["thresholds"]
    assert (row["tp"], row["fp"], row["fn"]) == (0, 1, 1)


@pytest.mark.parametrize("thresholds", [[], [0], [1.5], "x", [True]])
def test_thresholds_are_shares(thresholds: Any) -> None:
    with pytest.raises(JobError, match="thresholds"):
        metrics.create("matching", classes=("a", "b"), thresholds=thresholds)
