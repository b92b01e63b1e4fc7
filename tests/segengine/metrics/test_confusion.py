import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from segengine import metrics
from segengine.errors import JobError
from segengine.metrics.confusion import Confusion, count_pairs
from segengine.types import Prediction

COLORS = ("red", "green", "blue", "black")


def table(metric: Confusion, labels, truth):
    return metric.update(metric.empty(), Prediction(np.asarray(labels)), np.asarray(truth))


@st.composite
def labelled(draw, *, void=True):
    """Metric, labels and truth; some classes absent, some pixels void on either side."""
    p, t = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = (draw(st.integers(1, 3)), draw(st.integers(1, 9)), draw(st.integers(1, 9)))
    dtype = draw(st.sampled_from(["uint8", "uint16"]))
    labels = rng.integers(0, draw(st.integers(1, p)), shape).astype(dtype)
    truth = rng.integers(0, draw(st.integers(1, t)), shape).astype(
        draw(st.sampled_from(["u1", "i4"]))
    )
    if void:
        labels[rng.random(shape) < 0.2] = np.iinfo(dtype).max
        truth[rng.random(shape) < 0.2] = 255
    names = tuple(f"p{i}" for i in range(p)), tuple(f"t{i}" for i in range(t))
    return Confusion(*names), labels, truth


@given(labelled())
@settings(max_examples=60, deadline=None)
def test_the_table_counts_every_pixel_with_a_true_class(case):
    metric, labels, truth = case
    expected = metric.empty()
    for p, t in zip(labels.ravel().tolist(), truth.ravel().tolist(), strict=True):
        if 0 <= t < len(metric.truth_classes):
            expected[min(p, len(metric.classes)), t] += 1
    assert np.array_equal(table(metric, labels, truth), expected)


def test_the_table_of_more_than_256_classes():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 300, (2, 40, 50)).astype(np.uint16)
    truth = rng.integers(-2, 300, (2, 40, 50)).astype(np.int32)
    valid = truth >= 0
    expected = sklearn_metrics.confusion_matrix(truth[valid], labels[valid], labels=range(300)).T
    found = count_pairs(labels, truth, 300, 300)
    assert np.array_equal(found[:300], expected)
    assert not found[300].any()


def test_counts_above_2_to_the_24_are_exact():
    labels = np.zeros((1, 4097, 4099), np.uint8)  # one class of more pixels than float32 counts
    labels[0, 0, :5] = 1
    found = count_pairs(labels, labels, 2, 2)
    assert found.tolist() == [[4097 * 4099 - 5, 0], [0, 5], [0, 0]]


def test_views_that_are_not_contiguous():
    rng = np.random.default_rng(1)
    labels, truth = rng.integers(0, 3, (2, 2, 30, 40)).astype(np.uint8)
    found = count_pairs(labels[:, ::2, 3:-4], truth[:, ::2, 3:-4], 3, 3)
    part = np.s_[:, ::2, 3:-4]
    expected = count_pairs(labels[part].copy(), truth[part].copy(), 3, 3)
    assert np.array_equal(found, expected)
    assert found.sum() == labels[part].size


@given(labelled(), st.data())
@settings(max_examples=40, deadline=None)
def test_any_cut_in_any_order_merges_to_the_table_of_the_whole(case, data):
    metric, labels, truth = case
    rows = sorted(data.draw(st.lists(st.integers(0, labels.shape[1]), max_size=3)))
    cuts = list(zip([0, *rows], [*rows, labels.shape[1]], strict=True))
    parts = [table(metric, labels[:, a:b], truth[:, a:b]) for a, b in cuts]
    merged = metric.empty()
    for part in data.draw(st.permutations(parts)):
        merged = metric.merge(merged, part)
    assert np.array_equal(merged, table(metric, labels, truth))


@given(labelled())
@settings(max_examples=60, deadline=None)
def test_figures_equal_scikit_learn(case):
    metric, labels, truth = case
    names = tuple(f"c{i}" for i in range(6))
    metric = Confusion(names, names)
    valid = truth < 6
    y, p = truth[valid], np.minimum(labels[valid], 6)  # 6: void, a label outside `present`
    found = metric.compute(table(metric, labels, truth))
    present = sorted({*y.tolist(), *p.tolist()} - {6})
    absent = set(range(6)) - set(present)
    assert all(found["classes"][f"c{i}"]["iou"] is None for i in absent)
    if not y.size:
        assert found["pixel_accuracy"] is None
        assert found["mean_iou"] is None
        return
    assert found["pixel_accuracy"] == pytest.approx(sklearn_metrics.accuracy_score(y, p))
    for average, prefix in (("macro", "mean"), ("weighted", "frequency_weighted"), (None, None)):
        options = {"labels": present, "average": average, "zero_division": 0}
        precision, recall, dice, _ = sklearn_metrics.precision_recall_fscore_support(
            y, p, **options
        )
        iou = sklearn_metrics.jaccard_score(y, p, **options)
        for name, value in zip(
            ("precision", "recall", "iou", "dice"), (precision, recall, iou, dice), strict=True
        ):
            ours = (
                [found["classes"][f"c{i}"][name] for i in present]
                if prefix is None
                else found[f"{prefix}_{name}"]
            )
            assert ours == pytest.approx(value)
    for i in present:
        assert found["classes"][f"c{i}"]["pixels"] == int((y == i).sum())


def test_void_on_a_true_pixel_is_a_miss_and_nobodys_false_alarm():
    metric = Confusion(("a", "b"))
    found = metric.compute(
        table(metric, np.uint8([[[0, 255, 255, 1]]]), np.uint8([[[0, 0, 1, 255]]]))
    )
    assert found["classes"]["a"] == {
        "precision": 1,
        "recall": 0.5,
        "iou": 0.5,
        "dice": 2 / 3,
        "pixels": 2,
    }
    assert found["classes"]["b"]["iou"] == 0
    assert found["pixel_accuracy"] == pytest.approx(1 / 3)
    assert found["confusion"]["counts"] == [[1, 0, 1], [0, 0, 1]]


def test_figures_of_nothing_are_null_in_json():
    metric = Confusion(("a", "b"))
    found = json.loads(json.dumps(metric.compute(metric.empty()), allow_nan=False))
    assert found["mean_iou"] is None
    assert found["classes"]["a"]["precision"] is None


@given(st.permutations(range(5)), st.integers(3, 5))
@settings(max_examples=30, deadline=None)
def test_clusters_are_matched_to_the_classes_they_agree_with(order, truths):
    rng = np.random.default_rng(3)
    truth = rng.integers(0, 5, (1, 40, 40)).astype(np.uint8)
    labels = np.asarray(order, np.uint8)[truth]
    metric = Confusion(
        tuple(f"cluster {i}" for i in range(5)), COLORS[:1] + tuple("bcde")[: truths - 1]
    )
    found = metric.match(table(metric, labels, truth))
    assert found == {order[t]: t if t < truths else None for t in range(5)}


def test_the_matching_agrees_at_least_as_much_as_any_other():
    from itertools import permutations

    rng = np.random.default_rng(4)
    metric = Confusion(tuple(f"level {i}" for i in range(4)), COLORS)
    for _ in range(10):
        state = rng.integers(0, 50, (5, 4))
        found = metric.match(state)
        agreed = sum(state[p, t] for p, t in found.items() if t is not None)
        assert agreed == max(
            sum(state[p, t] for p, t in enumerate(o)) for o in permutations(range(4))
        )


@pytest.mark.parametrize(
    ("classes", "truth", "expected"),
    [
        (("red", "green"), ("green", "red"), {0: 1, 1: 0}),
        (("background", "object"), ("coin", "background"), {0: 1, 1: 0}),
        (("background", "object"), ("no", "yes"), {0: 0, 1: 1}),
        (("sky", "road", "car"), ("road", "sky"), {0: 1, 1: 0, 2: None}),
    ],
)
def test_named_classes_are_matched_by_name_then_in_order(classes, truth, expected):
    metric = Confusion(classes, truth)
    misleading = np.arange(metric.empty().size).reshape(metric.empty().shape)[::-1].copy()
    assert metric.match(misleading) == expected


def test_strange_names_are_matched_by_agreement():
    metric = Confusion(("left", "right"), COLORS[:3])
    assert metric.match(np.array([[0, 9, 1], [0, 8, 7], [0, 0, 0]])) == {0: 1, 1: 2}


def test_the_matching_of_the_run_holds_for_a_frame():
    metric = Confusion(("cluster 0", "cluster 1"), ("a", "b"))
    run = np.array([[0, 90], [80, 0], [0, 0]])
    frame = np.array([[5, 0], [0, 0], [0, 0]])
    assert metric.compute(frame)["pixel_accuracy"] == 1
    assert metric.compute(frame, metric.match(run))["pixel_accuracy"] == 0
    assert metric.compute(run)["matching"] == {"cluster 0": "b", "cluster 1": "a"}
    assert Confusion(("a", "b")).compute(frame)["matching"] is None


@given(labelled())
@settings(max_examples=30, deadline=None)
def test_scores_of_many_tables_equal_the_figures_of_each(case):
    metric, labels, truth = case
    states = np.stack([table(metric, labels[i], truth[i]) for i in range(len(labels))])
    matching = metric.match(states.sum(0))
    accuracy, iou = metric.scores(states)
    for i, state in enumerate(states):
        figures = metric.compute(state, matching)
        ours = [None if np.isnan(v) else v for v in (accuracy[i], iou[i])]
        assert ours == [figures["pixel_accuracy"], figures["mean_iou"]]


def test_bad_options_and_shapes_name_themselves():
    with pytest.raises(ValueError, match="truth_classes: each class needs a name of its own"):
        Confusion(("a",), ("b", "b"))
    with pytest.raises(ValueError, match="classes: at least one"):
        Confusion(())
    with pytest.raises(ValueError, match=r"truth: its shape is \(1, 2, 3\)"):
        table(Confusion(("a",)), np.zeros((1, 2, 2), np.uint8), np.zeros((1, 2, 3), np.uint8))


def test_metrics_are_reached_by_name():
    assert "confusion" in metrics.names()
    assert metrics.create("confusion", classes=["a", "b"], truth_classes=["c"]).truth_classes == (
        "c",
    )
    with pytest.raises(JobError, match=r"confuson.*did you mean confusion"):
        metrics.create("confuson")
    with pytest.raises(JobError, match="colour: confusion has no such option"):
        metrics.create("confusion", classes=["a"], colour=1)
