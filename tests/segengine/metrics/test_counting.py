"""Object counts, their errors, and the table of regions."""

import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.measure import regionprops_table
from sklearn import metrics as sklearn_metrics

from segengine import metrics
from segengine.types import Prediction, Truth

NAMES = ("a", "b", "c")


def scattered(counts):
    """Labels and ids of a frame with so many objects of each class, one pixel each."""
    labels, ids = np.zeros((1, 8, 8), np.uint8), np.zeros((1, 8, 8), np.uint32)
    for i, c in enumerate(np.repeat(range(3), counts)):
        labels.reshape(-1)[2 * i + 1], ids.reshape(-1)[2 * i + 1] = c, i + 1
    return labels, ids


@given(st.lists(st.tuples(*[st.integers(0, 5)] * 6), min_size=1, max_size=6))
@settings(max_examples=40, deadline=None)
def test_counting_errors_equal_scikit_learn(rows):
    metric = metrics.create("counting", classes=NAMES)
    state = metric.empty()
    for row in rows:
        (labels, ids), (true, true_ids) = scattered(row[:3]), scattered(row[3:])
        state = metric.update(state, Prediction(labels, instances=ids), Truth(true, true_ids))
    found = metric.compute(state)
    table = np.array(rows)
    for c, name in enumerate(NAMES):
        p, t = table[:, c], table[:, 3 + c]
        figures = found["classes"][name]
        assert (figures["predicted"], figures["true"]) == (p.sum(), t.sum())
        if not p.sum() + t.sum():
            assert figures["mae"] is figures["rmse"] is figures["bias"] is None
            continue
        assert figures["mae"] == pytest.approx(sklearn_metrics.mean_absolute_error(t, p))
        assert figures["rmse"] == pytest.approx(sklearn_metrics.root_mean_squared_error(t, p))
        assert figures["bias"] == pytest.approx((p - t).mean())
    present = [f["mae"] for f in found["classes"].values() if f["mae"] is not None]
    assert found["mean_mae"] == (pytest.approx(np.mean(present)) if present else None)


def objects(classes, scores=None, crowd=None):
    columns = {"class": pa.array(classes, pa.uint16())}
    if scores is not None:
        columns["score"] = pa.array(scores, pa.float32())
    if crowd is not None:
        columns["crowd"] = pa.array(crowd, pa.bool_())
    return pa.table(columns)


def test_objects_count_before_ids_and_crowds_and_low_scores_do_not():
    labels, ids = scattered((1, 0, 0))
    prediction = Prediction(labels, None, ids, objects([1, 1, 2, 9], [0.4, 0.5, 1, 1]))
    truth = Truth(labels, ids, objects([1, 2, 2, 2], crowd=[False, True, False, False]))
    metric = metrics.create("counting", classes=NAMES, min_score=0.5)
    found = metric.compute(metric.update(metric.empty(), prediction, truth))["classes"]
    assert [(f["predicted"], f["true"]) for f in found.values()] == [(0, 0), (1, 1), (1, 2)]
    counts = metrics.create("object_counts", classes=NAMES, min_score=0.5)
    state = counts.locate(counts.update(counts.empty(), prediction), "s", 7)
    assert counts.compute(state)["frames"] == [{"scene": "s", "frame": 7, "counts": [0, 1, 1]}]


def test_object_counts_of_many_frames():
    metric = metrics.create("object_counts", classes=NAMES)
    state = metric.empty()
    for i, counts in ((4, (0, 2, 1)), (1, (0, 4, 0))):
        labels, ids = scattered(counts)
        one = metric.update(metric.empty(), Prediction(labels, instances=ids))
        state = metric.merge(state, metric.locate(one, "s", i))
    found = metric.compute(state)
    assert found["objects"] == 7
    assert found["classes"]["b"] == {"objects": 6, "mean": 3, "most": 4}
    assert [(f["frame"], f["counts"]) for f in found["frames"]] == [(1, [0, 4, 0]), (4, [0, 2, 1])]


def test_a_bad_score_names_itself():
    for name in ("counting", "object_counts"):
        for value in (-1, 2, "0.5", float("nan")):
            with pytest.raises(Exception, match=r"^min_score: must be a number"):
                metrics.create(name, classes=NAMES, min_score=value)


@st.composite
def regions(draw):
    """Labels in patches, ids of some, pixels of two bands."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    size, patch = (draw(st.integers(1, 20)), draw(st.integers(1, 20))), draw(st.integers(1, 5))
    labels = rng.integers(0, 3, size).repeat(patch, 0).repeat(patch, 1)[: size[0], : size[1]]
    labels = np.where(rng.random(size) < 0.1, 255, labels).astype(np.uint8)
    pixels = rng.integers(0, 65536, (*size, 2)).astype(np.uint16)
    ids = rng.choice([0, 1, 2, 7, 2**31], size).astype(np.uint32)
    return labels, ids.repeat(patch, 0).repeat(patch, 1)[: size[0], : size[1]], pixels


def rows_of(labels, ids, pixels):
    metric = metrics.create("regions", classes=NAMES, intensity=True)
    prediction = Prediction(labels[None], instances=None if ids is None else ids[None])
    state = metric.update(metric.empty(), prediction, pixels=pixels[None])
    return metric.compute(state)["regions"]


@given(regions())
@settings(max_examples=50, deadline=None)
def test_regions_of_ids_equal_scikit_image(case):
    labels, ids, pixels = case
    first = {int(i): int(labels[ids == i][0]) for i in np.unique(ids) if i}
    kept = [i for i, c in first.items() if c < 3]
    small = np.zeros(ids.shape, np.int64)
    for i, identity in enumerate(kept, 1):
        small[ids == identity] = i
    wanted = ("area", "perimeter", "centroid", "bbox", "intensity_mean")
    expected = regionprops_table(small, pixels.astype(np.float64), properties=wanted)
    found = rows_of(labels, ids, pixels)
    assert found["id"] == kept
    assert found["class"] == [NAMES[first[i]] for i in kept]
    for ours, theirs in (
        ("area", "area"),
        ("perimeter", "perimeter"),
        ("y", "centroid-0"),
        ("x", "centroid-1"),
        ("top", "bbox-0"),
        ("left", "bbox-1"),
        ("bottom", "bbox-2"),
        ("right", "bbox-3"),
    ):
        np.testing.assert_allclose(found[ours], expected[theirs], rtol=1e-12)
    means = [[expected[f"intensity_mean-{band}"][i] for band in (0, 1)] for i in range(len(kept))]
    assert [pytest.approx(row, rel=1e-12) for row in means] == found["intensity"]


@given(regions())
@settings(max_examples=30, deadline=None)
def test_without_ids_a_region_is_a_connected_piece_of_one_label(case):
    labels, _, pixels = case
    left = labels.copy()
    pieces = []  # (class, area) by flood from the first pixel on
    for y, x in np.ndindex(labels.shape):
        if left[y, x] > 2:
            continue
        todo, area, value = [(y, x)], 0, left[y, x]
        left[y, x] = 255
        while todo:
            v, u = todo.pop()
            area += 1
            for b in range(max(0, v - 1), min(labels.shape[0], v + 2)):
                for a in range(max(0, u - 1), min(labels.shape[1], u + 2)):
                    if left[b, a] == value:
                        left[b, a] = 255
                        todo.append((b, a))
        pieces.append((NAMES[value], area))
    found = rows_of(labels, None, pixels)
    assert list(zip(found["class"], found["area"], strict=True)) == pieces
    assert found["id"] == list(range(1, len(pieces) + 1))


def test_a_square_and_its_frame():
    labels = np.full((1, 6, 7), 255, np.uint8)
    labels[0, 1:5, 2:6] = 1
    metric = metrics.create("regions", classes=NAMES)
    state = metric.locate(metric.update(metric.empty(), Prediction(labels)), "s", 3)
    found = metric.compute(state)
    assert {k: v[0] for k, v in found["regions"].items()} == {
        **{"scene": "s", "frame": 3, "id": 1, "class": "b", "area": 16, "perimeter": 12},
        **{"y": 2.5, "x": 3.5, "top": 1, "left": 2, "bottom": 5, "right": 6},
    }
    assert found["classes"]["b"] == {"regions": 1, "area": 16}
    assert metric.needs == ()


def test_intensity_needs_pixels_and_is_null_where_one_is_nan():
    metric = metrics.create("regions", classes=NAMES, intensity=True)
    labels = np.array([[[0, 0, 1]]], np.uint8)
    assert metric.needs == ("pixels",)
    with pytest.raises(ValueError, match=r"^pixels: intensity is asked for"):
        metric.update(metric.empty(), Prediction(labels))
    pixels = np.array([[[[1.0], [math.nan], [4.0]]]])
    found = metric.compute(metric.update(metric.empty(), Prediction(labels), pixels=pixels))
    assert found["regions"]["intensity"] == [[None], [4.0]]
