"""Distances between the surfaces of volumes, against SciPy's maps of distances and by hand."""

from __future__ import annotations

import itertools
from functools import reduce
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.ndimage import binary_erosion, distance_transform_edt

from segengine import metrics
from segengine.errors import TooLargeError
from segengine.metrics import _surfaces
from segengine.types import Prediction, Steps

NAMES = ("a", "b", "c")
FIGURES = ("hausdorff", "hd95", "assd", "nsd")
TILTED = Steps((0.0, 0.4, 2.0), (0.0, 0.8, 0.0), (0.5, 0.0, 0.0))


def states_of(volumes: Any, **options: Any) -> dict[str, list[Any]]:
    """Of each figure its metric, then a state a volume."""
    found: dict[str, list[Any]] = {}
    for name in FIGURES:
        metric = metrics.create(name, classes=NAMES, **options)
        found[name] = [
            metric,
            *(metric.update(metric.empty(), Prediction(a), b) for a, b in volumes),
        ]
    return found


def volume() -> Any:
    """Labels (slice, y, x) of three classes, some of none."""
    shape = st.shared(st.tuples(*[st.integers(1, 5)] * 3), key="shape")
    return arrays(np.uint8, shape, elements=st.sampled_from([0, 1, 2, 255]))


@given(
    volume(), volume(), st.sampled_from([(1, 1, 1), (2.5, 0.75, 0.5)]), st.sampled_from([0, 1, 2.5])
)
@settings(max_examples=50, deadline=None)
def test_they_equal_distance_maps(
    labels: Any, truth: Any, spacing: tuple[float, ...], tolerance: float
) -> None:
    found = states_of([(labels, truth)], spacing=list(spacing), tolerance=tolerance)
    shown = {n: metric.compute(state)["classes"] for n, (metric, state) in found.items()}
    for c, name in enumerate(NAMES):
        a, b = ((side == c) & (truth != 255) for side in (labels, truth))
        a, b = a & ~binary_erosion(a), b & ~binary_erosion(b)
        own = {figure: shown[figure][name] for figure in FIGURES}
        counts = [bool(a.any() and b.any()), bool(b.any() > a.any()), bool(a.any() > b.any())]
        assert [own["nsd"][key] for key in ("volumes", "missed", "false")] == counts
        if not counts[0]:
            assert own["hd95"]["hd95"] is own["assd"]["assd"] is None
            assert own["nsd"]["nsd"] == (0 if any(counts) else None)
            continue
        there, back = (distance_transform_edt(~y, sampling=spacing)[x] for x, y in ((a, b), (b, a)))
        both = np.r_[there, back]
        expected = {
            "hausdorff": both.max(),
            "hd95": max(np.quantile(there, 0.95), np.quantile(back, 0.95)),
            "assd": both.mean(),
            "nsd": (both <= tolerance + 1e-10).mean(),
        }
        assert {k: own[k][k] for k in FIGURES} == pytest.approx(expected, abs=1e-8)


@given(st.lists(st.tuples(volume(), volume()), min_size=2, max_size=4))
@settings(max_examples=10, deadline=None)
def test_volumes_merge_in_any_order_to_the_mean_over_them(pairs: Any) -> None:
    metric, *states = states_of(pairs, spacing="volume")["assd"]
    merged = {reduce(metric.merge, order) for order in itertools.permutations(states)}
    assert len(merged) == 1
    figures = metric.compute(merged.pop())["classes"]
    for name in NAMES:
        own = [metric.compute(state)["classes"][name]["assd"] for state in states]
        own = [value for value in own if value is not None]
        assert figures[name]["assd"] == (pytest.approx(np.mean(own), abs=1e-8) if own else None)


def test_a_tilted_volume_is_measured_by_its_affine() -> None:
    rng = np.random.default_rng(0)
    labels, truth = (rng.integers(0, 3, (4, 5, 6), np.uint8) for _ in range(2))
    base = metrics.create("hausdorff", classes=NAMES, spacing="volume")
    assert base.in_volume(None) is None
    found = base.in_volume(TILTED)
    figures = found.compute(found.update(found.empty(), Prediction(labels), truth))["classes"]
    for c, name in enumerate(NAMES):
        a, b = (
            np.argwhere(m & ~binary_erosion(m)) @ np.array(TILTED)
            for m in (labels == c, truth == c)
        )
        apart = np.linalg.norm(a[:, None] - b, axis=2)
        expected = max(apart.min(0).max(), apart.min(1).max())
        assert figures[name]["hausdorff"] == pytest.approx(expected, abs=1e-8)


def test_a_volume_that_lies_askew_has_the_sides_of_its_voxels() -> None:
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    steps = Steps(*(tuple(row) for row in (np.diag([2.5, 0.75, 0.5]) @ turn).tolist()))
    assert _surfaces.sides(steps) == pytest.approx((2.5, 0.75, 0.5))
    assert _surfaces.sides(TILTED) is TILTED


def test_a_surface_that_is_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_surfaces, "LARGEST", 26)
    cube = np.pad(np.ones((3, 3, 3), np.uint8), 1, constant_values=255)
    states_of([(0 * cube, cube)], spacing="volume")  # one of 27 is inside
    monkeypatch.setattr(_surfaces, "LARGEST", 25)
    with pytest.raises(TooLargeError, match="more than 25 voxels"):
        states_of([(0 * cube, cube)], spacing="volume")
