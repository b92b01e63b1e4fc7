"""The dense CRF against the mean field over every pair of pixels, in float64."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from skimage import data

from segengine.networks.crf import Crf, refine
from segengine.networks.permutohedral import Lattice, _simplices

SIDE = 40
FEW = Crf(steps=2)
"""The mean field drives equal classes apart: after 10 steps a rounding error can be a label."""
Array = NDArray[Any]


def _softmax(logits: Array) -> Array:
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True))


def _every_pair(points: Array, deviation: float) -> Array:
    squared = sum((axis[:, None] - axis[None, :]) ** 2 for axis in points.T)
    return np.asarray(np.exp(-squared / (2 * deviation**2)))


def mean_field(probabilities: Array, image: Array, crf: Crf) -> Array:
    """The definition: all pairs, a pixel itself too, each kernel normalised symmetrically."""
    height, width, classes = probabilities.shape
    places = np.stack(np.indices((height, width)), axis=-1).reshape(-1, 2).astype(np.float64)
    colors = image.reshape(-1, 3).astype(np.float64)
    bilateral = _every_pair(places, crf.bilateral_position)
    bilateral *= _every_pair(colors, crf.bilateral_color)
    kernel = np.zeros_like(bilateral)
    for weight, term in (
        (crf.bilateral_weight, bilateral),
        (crf.smoothness_weight, _every_pair(places, crf.smoothness_position)),
    ):
        sums = term.sum(axis=1)
        kernel += weight * term / np.sqrt(np.outer(sums, sums))
    unary = np.log(np.maximum(probabilities, 1e-7)).reshape(-1, classes).astype(np.float64)
    q = _softmax(unary)
    for _ in range(crf.steps):
        q = _softmax(unary + kernel @ q)
    return q.reshape(probabilities.shape)


def scene(seed: int, classes: int = 4) -> tuple[Array, Array]:
    """Noisy probabilities (y, x, class) of regions, and a picture of the regions with its noise."""
    rng = np.random.default_rng(seed)
    fields = [gaussian_filter(rng.normal(size=(SIDE, SIDE)), 5) for _ in range(classes)]
    labels = np.argmax(fields, axis=0)
    colors = rng.integers(0, 256, (classes, 3))[labels] + rng.normal(0, 4, (SIDE, SIDE, 3))
    logits = 3 * gaussian_filter(np.eye(classes)[labels], (2, 2, 0))
    logits += rng.normal(0, 0.7, logits.shape)
    return _softmax(logits).astype(np.float32), np.clip(colors, 0, 255).astype(np.uint8)


def _agreement(cases: list[tuple[Array, Array]], crf: Crf) -> tuple[float, float]:
    """Shares of pixels whose label is the definition's, and whose label the CRF changed."""
    same, changed = [], []
    for probabilities, image in cases:
        expected = mean_field(probabilities, image, crf).argmax(-1)
        found = refine(probabilities[None], image[None], crf)[0].argmax(-1)
        same.append((found == expected).mean())
        changed.append((found != probabilities.argmax(-1)).mean())
    return float(np.mean(same)), float(np.mean(changed))


def test_labels_are_those_of_every_pair() -> None:
    same, changed = _agreement([scene(seed) for seed in range(6)], Crf())
    assert same >= 0.999
    assert changed > 0.05


def test_labels_on_a_photograph() -> None:
    """A network's soft, blurred opinion of dark and bright, on a natural picture's gradients."""
    rng = np.random.default_rng(0)
    photo = data.astronaut()
    cases = []
    for y, x in ((30, 200), (100, 180), (200, 60), (300, 300)):
        image = photo[y : y + SIDE, x : x + SIDE]
        gray = image.mean(axis=-1)
        logits = gaussian_filter(np.where(gray > np.median(gray), 2.0, -2.0), 2)
        logits += rng.normal(0, 0.3, logits.shape)
        cases.append((_softmax(np.dstack([-logits, logits])).astype(np.float32), image))
    same, changed = _agreement(cases, Crf())
    assert same >= 0.999
    assert changed > 0.005


def test_other_parameters() -> None:
    crf = Crf(3, 5.0, 20.0, 10.0, 1.0, 2.5)
    same, changed = _agreement([scene(seed, 3) for seed in range(4)], crf)
    assert same >= 0.999
    assert changed > 0.05


def test_frames_are_on_their_own_and_repeatable() -> None:
    a, b = scene(1), scene(2)
    both = refine(np.stack([a[0], b[0]]), np.stack([a[1], b[1]]), Crf())
    assert both.dtype == np.float32
    np.testing.assert_array_equal(both[0], refine(a[0][None], a[1][None], Crf())[0])
    np.testing.assert_array_equal(both[1], refine(b[0][None], b[1][None], Crf())[0])
    np.testing.assert_allclose(both.sum(-1), 1, rtol=1e-5)


def test_unlikely_classes_stay_out_of_the_way() -> None:
    """A class that sends no messages ends as the definition has it, and changes no other."""
    probabilities, image = scene(3, 3)
    never = np.full((SIDE, SIDE, 2), 5e-5, np.float32)
    padded = np.concatenate([probabilities * np.float32(1 - 1e-4), never], axis=-1)
    found = refine(padded[None], image[None], Crf())[0]
    assert found[..., 3:].max() < 1e-3
    alone = refine(probabilities[None], image[None], Crf())[0]
    np.testing.assert_allclose(found[..., :3], alone, atol=5e-3)


@settings(max_examples=20, deadline=None)
@given(
    arrays(np.uint8, (9, 12, 3)),
    arrays(np.float32, (9, 12, 3), elements=st.floats(0, 1, width=32)),
    st.permutations(range(3)),
)
def test_classes_have_no_order(image: Array, raw: Array, order: list[int]) -> None:
    probabilities = _softmax(raw)
    one = refine(probabilities[None], image[None], FEW)
    other = refine(probabilities[None][..., order], image[None], FEW)
    np.testing.assert_allclose(other, one[..., order], atol=1e-4)
    assert np.isfinite(one).all()


@settings(max_examples=20, deadline=None)
@given(st.floats(0.05, 0.95), arrays(np.uint8, (6, 7, 3)))
def test_undecided_stays_undecided(p: float, image: Array) -> None:
    """Classes of equal probability everywhere are equal after."""
    probabilities = np.empty((1, 6, 7, 3), np.float32)
    probabilities[...] = (p, (1 - p) / 2, (1 - p) / 2)
    found = refine(probabilities, image[None], FEW)
    np.testing.assert_allclose(found[..., 1], found[..., 2], rtol=1e-4)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 6).flatmap(lambda d: arrays(np.float64, (5, d), elements=st.floats(-50, 50))))
def test_corners_hold_their_point(points: Array) -> None:
    """Weights are not negative, sum to 1 and give the point back; corners are lattice points."""
    corners, weights = _simplices(points)
    d = points.shape[1]
    assert weights.min() > -1e-4
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-5)
    last = -corners.sum(axis=-1, keepdims=True)
    whole = np.concatenate([corners, last], axis=-1)
    assert ((whole - np.arange(d + 1)[:, None]) % (d + 1) == 0).all()
    # distances between the points are those in the lattice's plane, up to its scale
    back = (weights[..., None] * whole).sum(axis=1)
    scale = (2 / 3) ** 0.5 * (d + 1)
    np.testing.assert_allclose(
        np.linalg.norm(back[:, None] - back[None], axis=-1),
        scale * np.linalg.norm(points[:, None] - points[None], axis=-1),
        atol=1e-3,
    )


@pytest.mark.parametrize("d", [1, 2, 3, 5])
def test_lattice_is_nearly_a_gaussian(d: int) -> None:
    rng = np.random.default_rng(d)
    points = rng.normal(0, 1.5, (500, d))
    values = rng.random((500, 2)).astype(np.float32)
    expected = _every_pair(points, 1.0) @ values
    found = Lattice.of(points).filter(values)
    found *= (found * expected).sum() / (found**2).sum()
    error = np.sqrt(((found - expected) ** 2).mean() / (expected**2).mean())
    assert error < 0.05


def test_points_too_far_apart() -> None:
    with pytest.raises(ValueError, match="too many standard deviations apart"):
        Lattice.of(np.array([[0.0] * 5, [1e5] * 5]))


def test_option() -> None:
    assert Crf.of(False) is None
    assert Crf.of(True) == Crf()
    assert Crf.of({"steps": 5, "bilateral_color": 8}) == replace(Crf(), steps=5, bilateral_color=8)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("yes", "crf: must be true, false or parameters by name, not 'yes'"),
        ({"sigma": 3}, "crf.sigma: is unknown; known are steps, bilateral_weight"),
        ({"steps": 0}, "crf.steps: must be an integer of at least 1, not 0"),
        ({"steps": True}, "crf.steps: must be an integer"),
        ({"bilateral_color": 0}, "crf.bilateral_color: must be a number above 0, not 0"),
        ({"smoothness_weight": "3"}, "crf.smoothness_weight: must be a number above 0, not '3'"),
    ],
)
def test_wrong_options_are_named(option: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Crf.of(option)


def test_wrong_pixels_are_named() -> None:
    probabilities = np.full((1, 4, 4, 2), 0.5, np.float32)
    with pytest.raises(ValueError, match="crf: needs 3 bands of uint8, not 4 of uint8"):
        refine(probabilities, np.zeros((1, 4, 4, 4), np.uint8), Crf())
    with pytest.raises(ValueError, match="crf: needs 3 bands of uint8, not 3 of uint16"):
        refine(probabilities, np.zeros((1, 4, 4, 3), np.uint16), Crf())
    with pytest.raises(ValueError, match="crf: needs probabilities of at least 2 classes"):
        refine(probabilities[..., :1], np.zeros((1, 4, 4, 3), np.uint8), Crf())
