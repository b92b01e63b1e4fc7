"""Boundary F1, boundary IoU and surface distances."""

import math
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import binary_erosion, distance_transform_edt
from scipy.spatial.distance import directed_hausdorff

from segengine import metrics
from segengine.types import Prediction

MONAI = Path(__file__).parent / "fixtures" / "monai.npz"
NAMES = ("a", "b", "c")
SURFACE = ("hausdorff", "hd95", "assd", "nsd")


def compute(name, labels, truth, classes=NAMES, **options):
    metric = metrics.create(name, classes=classes, **options)
    return metric.compute(metric.update(metric.empty(), Prediction(labels), truth))


@st.composite
def maps(draw, frames=2):
    """Labels and truth of three classes in patches, some absent, with void on both sides."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    height, width = draw(st.integers(1, 24)), draw(st.integers(1, 24))
    patch = draw(st.integers(1, 6))

    def side():
        coarse = rng.integers(0, draw(st.integers(1, 3)), (frames, height, width))
        fine = coarse.repeat(patch, 1).repeat(patch, 2)[:, :height, :width].astype(np.uint8)
        fine[rng.random(fine.shape) < draw(st.sampled_from([0, 0.1]))] = 255
        return fine

    return side(), side()


def scored(labels, truth, c):
    """The masks of a class (n, y, x) on both sides."""
    return (labels == c) & (truth < 3), truth == c


@pytest.mark.parametrize("i", [0, 1])
def test_surface_metrics_equal_monai(i):
    with np.load(MONAI) as data:
        known = dict(data)
    options = {"spacing": known["spacings"][i].tolist(), "tolerance": float(known["tolerances"][i])}
    for name in SURFACE:
        expected = known[f"{name}_{i}"]
        found = [
            compute(name, a[None], b[None], **options)["classes"]
            for a, b in zip(known["labels"], known["truth"], strict=True)
        ]
        ours = np.array(
            [[frame[c][name] for c in NAMES] for frame in found], np.float64
        )  # None: NaN
        # MONAI has inf where one side is empty: ours is no distance, and counted
        sides = np.array([[f[c]["missed"] + f[c]["false"] for c in NAMES] for f in found])
        assert np.array_equal(sides > 0, np.isinf(known[f"hausdorff_{i}"]))
        expected = np.where(np.isinf(expected), np.nan, expected)
        np.testing.assert_allclose(
            ours, expected, rtol=1e-5, atol=1e-6
        )  # MONAI interpolates in float32


@given(maps(), st.sampled_from([1.0, (1.0, 2.0), (0.3, 0.7)]), st.sampled_from([0, 1, 2.5]))
@settings(max_examples=50, deadline=None)
def test_surface_metrics_equal_distance_maps(case, spacing, tolerance):
    labels, truth = case
    found = {
        name: compute(name, labels, truth, spacing=spacing, tolerance=tolerance) for name in SURFACE
    }
    for c, label in enumerate(NAMES):
        rows, counts = [], [0, 0, 0]
        for a, b in zip(*scored(labels, truth, c), strict=True):
            a, b = (m & ~binary_erosion(m) for m in (a, b))
            counts[1] += bool(b.any() and not a.any())
            counts[2] += bool(a.any() and not b.any())
            if not a.any() or not b.any():
                rows += [(np.nan, np.nan, np.nan, 0)] if a.any() or b.any() else []
                continue
            counts[0] += 1
            there = distance_transform_edt(~b, sampling=spacing)[a]
            back = distance_transform_edt(~a, sampling=spacing)[b]
            both = np.r_[there, back]
            far = max(np.quantile(there, 0.95), np.quantile(back, 0.95))
            rows.append((both.max(), far, both.mean(), (both <= tolerance + 1e-10).mean()))
            if spacing == 1:
                p, q = np.argwhere(a), np.argwhere(b)
                pair = directed_hausdorff(p, q)[0], directed_hausdorff(q, p)[0]
                assert both.max() == max(pair)
        for i, name in enumerate(SURFACE):
            values = [row[i] for row in rows if not np.isnan(row[i])]
            figures = found[name]["classes"][label]
            assert [figures[k] for k in ("frames", "missed", "false")] == counts
            expected = pytest.approx(np.mean(values), abs=1e-8) if values else None
            assert figures[name] == expected


def davis(a, b, radius):
    """Matched and all boundary pixels of both sides, by dilation with a disc."""

    def boundary(mask):
        mask = mask.astype(bool)
        height, width = mask.shape
        found = np.zeros(mask.shape, bool)
        for y in range(height):
            for x in range(width):
                near = [(y, x + 1), (y + 1, x), (y + 1, x + 1)]
                found[y, x] = any(
                    mask[y, x] != mask[v, u] for v, u in near if v < height and u < width
                )
        return found

    a, b = boundary(a), boundary(b)
    r = int(radius)
    y, x = np.ogrid[-r : r + 1, -r : r + 1]
    disc = (y * y + x * x <= radius * radius).astype(np.uint8)
    near = [cv2.dilate(m.astype(np.uint8), disc).astype(bool) for m in (b, a)]
    return (a & near[0]).sum(), a.sum(), (b & near[1]).sum(), b.sum()


@given(maps(), st.sampled_from([0.05, 1, 2, 2.5]))
@settings(max_examples=40, deadline=None)
def test_boundary_f1_is_that_of_davis(case, tolerance):
    labels, truth = case
    found = compute("boundary_f1", labels, truth, tolerances=[tolerance])
    found = found["tolerances"][f"{tolerance:g}"]
    diagonal = math.hypot(*truth.shape[1:])
    radius = tolerance if tolerance >= 1 else math.ceil(tolerance * diagonal)
    for c, name in enumerate(NAMES):
        counts = [davis(a, b, radius) for a, b in zip(*scored(labels, truth, c), strict=True)]
        counts = [n for n in counts if n[1] or n[3]]
        f1 = []
        for near_true, predicted, near_predicted, true in counts:
            p = near_true / predicted if predicted else 1
            r = near_predicted / true if true else 1
            f1.append(2 * p * r / (p + r) if p + r else 0)
        figures = found["classes"][name]
        assert figures["frames"] == len(counts)
        assert figures["f1"] == (pytest.approx(np.mean(f1), abs=1e-9) if counts else None)
        if counts:
            n = np.sum(counts, axis=0)
            p, r = n[0] / max(n[1], 1), n[2] / max(n[3], 1)
            assert figures["pooled_f1"] == pytest.approx(2 * p * r / (p + r) if p + r else 0)
            assert figures["missed"] == sum(not n[1] for n in counts)
            assert figures["false"] == sum(not n[3] for n in counts)


@given(maps(), st.sampled_from([0.02, 0.1, 0.3]))
@settings(max_examples=40, deadline=None)
def test_boundary_iou_is_the_published_formula(case, dilation):
    labels, truth = case
    found = compute("boundary_iou", labels, truth, dilation=dilation)["classes"]
    width = max(1, round(dilation * math.hypot(*truth.shape[1:])))
    for c, name in enumerate(NAMES):
        ious, pooled = [], [0, 0]
        for a, b in zip(*scored(labels, truth, c), strict=True):
            # d erosions by a 3 x 3 square, outside of the frame is not the mask
            a, b = (
                m & ~binary_erosion(m, np.ones((3, 3)), iterations=width, border_value=0)
                for m in (a, b)
            )
            both, either = (a & b).sum(), (a | b).sum()
            if either:
                ious.append(both / either)
                pooled = [pooled[0] + both, pooled[1] + either]
        assert found[name]["boundary_iou"] == (
            pytest.approx(np.mean(ious), abs=1e-9) if ious else None
        )
        assert found[name]["pooled_boundary_iou"] == (pooled[0] / pooled[1] if ious else None)


def test_the_frames_border_is_an_edge_for_the_surface_and_the_band():
    full = np.zeros((1, 9, 9), np.uint8)
    inner = full.copy()
    inner[0, 1:-1, 1:-1] = 1
    assert compute("hausdorff", full, full)["classes"]["a"]["hausdorff"] == 0
    assert compute("boundary_iou", full, full)["classes"]["a"]["boundary_iou"] == 1
    # all of the frame has no contour for DAVIS
    assert compute("boundary_f1", full, full)["tolerances"]["0.008"]["mean_f1"] is None
    found = compute("boundary_f1", inner, full)["tolerances"]["0.008"]["classes"]["b"]
    assert (found["f1"], found["false"], found["missed"]) == (0, 1, 0)


def test_the_tolerance_of_davis_is_a_share_of_the_diagonal_rounded_up():
    truth = np.zeros((1, 300, 400), np.uint8)
    truth[:, :, 200:] = 1
    for shift, expected in ((4, 1.0), (5, 0.0)):  # ceil(0.008 * 500) = 4
        labels = np.roll(truth, shift, 2)
        labels[:, :, :shift] = 0
        found = compute("boundary_f1", labels, truth, tolerances=[0.008, 5])["tolerances"]
        assert found["0.008"]["classes"]["a"]["f1"] == expected
        assert found["5"]["classes"]["a"]["f1"] == 1


def test_all_four_distances_share_one_state():
    options = {"classes": NAMES, "spacing": [0.5, 0.25], "tolerance": 2}
    bases = {metrics.create(name, **options).base for name in SURFACE}
    assert len(bases) == 1
    assert metrics.create("nsd", classes=NAMES).base not in bases


@pytest.mark.parametrize(
    ("name", "option", "values"),
    [
        ("hausdorff", "spacing", [0, -1, [1, 2, 3, 4], [1, 0], [[1, 1, 1]], "1", "voxel", True]),
        ("nsd", "tolerance", [-1, float("nan"), "1"]),
        ("boundary_iou", "dilation", [-0.1, 2, True]),
        ("boundary_f1", "tolerances", [[], [1, 1], [-1], ["2"]]),
    ],
)
def test_bad_options_name_themselves(name, option, values):
    for value in values:
        with pytest.raises(Exception, match=f"^{option}: "):
            metrics.create(name, classes=NAMES, **{option: value})
