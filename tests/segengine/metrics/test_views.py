import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from segengine import metrics
from segengine.types import Prediction, Truth

NAMES = ("a", "b", "c", "d")


def compute(name, labels, truth, classes=NAMES):
    metric = metrics.create(name, classes=classes, truth_classes=NAMES)
    return metric.compute(metric.update(metric.empty(), Prediction(labels), Truth(truth)))


@st.composite
def labelled(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    truth = rng.integers(0, draw(st.integers(1, 4)), (2, 6, 7)).astype(np.uint8)
    noise = rng.integers(0, draw(st.integers(1, 4)), truth.shape)
    labels = np.where(rng.random(truth.shape) < draw(st.floats(0, 1)), truth, noise)
    labels[rng.random(truth.shape) < draw(st.sampled_from([0, 0.2]))] = 255
    truth[rng.random(truth.shape) < draw(st.sampled_from([0, 0.2]))] = 255
    return labels.astype(np.uint8), truth


@given(labelled())
@settings(max_examples=60, deadline=None)
def test_kappa_and_mcc_equal_scikit_learn(case):
    labels, truth = case
    valid = truth < 4
    y, p = truth[valid], labels[valid]  # void is one more class that is predicted
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of what is undefined, or one class alone
        kappa = sklearn_metrics.cohen_kappa_score(y, p, labels=[0, 1, 2, 3, 255])
        mcc = sklearn_metrics.matthews_corrcoef(y, p)
    found = compute("kappa", labels, truth)["kappa"]
    assert found is None if np.isnan(kappa) else found == pytest.approx(kappa, abs=1e-12)
    assert compute("mcc", labels, truth)["mcc"] == pytest.approx(mcc, abs=1e-12)


@given(labelled())
@settings(max_examples=20, deadline=None)
def test_views_are_the_figures_of_confusion(case):
    every = compute("confusion", *case)
    figures = {
        "pixel_accuracy": ("pixel_accuracy", None),
        "iou": ("mean_iou", "iou"),
        "fw_iou": ("frequency_weighted_iou", "iou"),
        "dice": ("mean_dice", "dice"),
        "precision": ("mean_precision", "precision"),
        "recall": ("mean_recall", "recall"),
        "kappa": ("kappa", None),
        "mcc": ("mcc", None),
    }
    for name, (key, per_class) in figures.items():
        expected = {key: every[key]}
        if per_class:
            expected["classes"] = {c: {per_class: every["classes"][c][per_class]} for c in NAMES}
        assert compute(name, *case) == expected


def test_figures_of_a_run_of_more_pixels_than_an_int64_squares():
    metric = metrics.create("mcc", classes=("a", "b"))
    few = np.array([[40, 10], [5, 45], [0, 0]])
    many = few * 10**15
    assert metric.compute(many) == {"mcc": pytest.approx(metric.compute(few)["mcc"], abs=1e-14)}
    kappa = metrics.create("kappa", classes=("a", "b"))
    assert kappa.compute(many)["kappa"] == pytest.approx(kappa.compute(few)["kappa"], abs=1e-14)


def test_a_view_matches_clusters_by_the_table_of_the_run():
    classes = ("cluster 0", "cluster 1", "cluster 2", "cluster 3")
    truth = np.arange(4, dtype=np.uint8).repeat(5)[None, None]
    assert compute("iou", 3 - truth, truth, classes)["mean_iou"] == 1
    metric = metrics.create("iou", classes=classes, truth_classes=NAMES)
    frame = metric.update(metric.empty(), Prediction(3 - truth[..., :5]), truth[..., :5])
    assert metric.compute(frame, {0: 0, 1: 1, 2: 2, 3: 3})["mean_iou"] == 0
