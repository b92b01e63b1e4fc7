"""Formulas that no library has, by brute force, and gradients by finite differences."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray
from skimage import measure

from segengine import losses

Floats = NDArray[np.float64]


@pytest.fixture
def double() -> Iterator[None]:
    keras.config.set_floatx("float64")
    yield
    keras.config.set_floatx("float32")


def softmax(z: Floats) -> Floats:
    exp = np.exp(z - z.max(-1, keepdims=True))
    result: Floats = exp / exp.sum(-1, keepdims=True)
    return result


def drawn(seed: int, classes: int) -> tuple[NDArray[np.int64], Floats, Floats]:
    """Blobs of labels (n, y, x), and logits and probabilities that roughly know them."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, max(classes, 2), (2, 4, 8)) * random.integers(0, 2, (2, 4, 8))
    labels = coarse.repeat(2, 1).repeat(2, 2)
    one_hot = labels[..., None] == (np.arange(classes) if classes > 1 else 1)
    z = random.normal(size=one_hot.shape) + 2 * one_hot - 1
    return labels, z, softmax(z) if classes > 1 else 1 / (1 + np.exp(-z))


def gradient(loss: Any, y: Any, p: Any) -> Floats:
    prediction = tf.constant(p)
    with tf.GradientTape() as tape:
        tape.watch(prediction)
        value = loss(y, prediction)
    found: Floats = tape.gradient(value, prediction).numpy()
    return found


DETACHED = {"iou_balanced"}
"""Their weights depend on the prediction smoothly, and yet no gradient flows through them."""


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("from_logits", [False, True])
@pytest.mark.parametrize("name", sorted(set(losses.names()) - DETACHED - {"compound"}))
def test_gradient_is_that_of_finite_differences(name: str, from_logits: bool) -> None:
    for classes in (1, 3):
        if classes == 1 and name.endswith("categorical_ce"):
            continue
        labels, z, p = drawn(classes, classes)
        loss = losses.create(name, from_logits=from_logits)
        at = z if from_logits else 0.05 + 0.9 * p
        direction = np.random.default_rng(3).normal(size=at.shape)
        step = 1e-6 * direction
        difference = (float(loss(labels, at + step)) - float(loss(labels, at - step))) / 2e-6
        along = float((gradient(loss, labels, at) * direction).sum())
        assert along == pytest.approx(difference, rel=1e-5, abs=1e-7)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("classes", [1, 3])
def test_iou_balanced_weighs_positives_by_their_objects(classes: int) -> None:
    labels, _, p = drawn(11, classes)
    y = (labels[..., None] == (np.arange(classes) if classes > 1 else 1)).astype(float)
    predicted = p > 0.5 if classes == 1 else p == p.max(-1, keepdims=True)
    entropy = -(y * np.log(p) + (1 - y) * np.log(1 - p))
    expected = np.ones_like(p)
    for i, k in np.ndindex(len(p), classes):
        objects = measure.label(y[i, ..., k], connectivity=2)
        found = measure.label(predicted[i, ..., k], connectivity=2)
        weights = np.zeros(objects.shape)
        for a in range(1, objects.max() + 1):
            overlaps = [
                ((objects == a) & (found == b)).sum() / ((objects == a) | (found == b)).sum()
                for b in range(1, found.max() + 1)
            ]
            weights[objects == a] = max(overlaps, default=0) ** 1.5
        positive = y[i, ..., k] == 1
        ce = entropy[i, ..., k]
        weights *= ce[positive].sum() / (weights * ce)[positive].sum()
        expected[i, ..., k][positive] = weights[positive]
    assert len(np.unique(expected.round(9))) > 4  # objects of several qualities
    by_weight = gradient(losses.create("iou_balanced"), y, p)
    plain = gradient(losses.create("bce"), y, p)
    np.testing.assert_allclose(by_weight, expected * plain, rtol=1e-9)
    value = float(losses.create("iou_balanced")(y, p))
    assert value == pytest.approx((expected * entropy).mean())
    assert value == pytest.approx(float(losses.create("bce")(y, p)))


def contour(mask: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Pixels of a mask with a 4-neighbour in the image outside it."""
    height, width = mask.shape
    return [
        (r, c)
        for r, c in zip(*np.nonzero(mask), strict=True)
        if any(
            0 <= i < height and 0 <= j < width and not mask[i, j]
            for i, j in [(r - 1, c), (r + 1, c), (r, c - 1), (r, c + 1)]
        )
    ]


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("classes", [1, 3])
def test_shape_aware_adds_the_distance_between_contours(classes: int) -> None:
    labels, _, p = drawn(5, classes)
    y = labels[..., None] == (np.arange(classes) if classes > 1 else 1)
    predicted = p > 0.5 if classes == 1 else p == p.max(-1, keepdims=True)
    far = np.zeros(labels.shape)
    for i, k in np.ndindex(len(p), classes):
        true = contour(y[i, ..., k])
        for r, c in contour(predicted[i, ..., k]):
            far[i, r, c] += min((np.hypot(r - a, c - b) for a, b in true), default=0)
    entropy = -(y * np.log(p) + (0 if classes > 1 else (1 - y) * np.log(1 - p))).sum(-1)
    assert far.max() >= 2
    value = float(losses.create("shape_aware")(y.astype(float), p))
    assert value == pytest.approx((entropy * (1 + far)).mean())


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("positives", [0, 2, 5])
def test_lovasz_is_the_extension_of_the_jaccard_loss(positives: int) -> None:
    y = np.arange(5) < positives
    p = np.random.default_rng(positives).random(5)

    def jaccard_loss(wrong: tuple[int, ...]) -> float:
        """Of the prediction that errs on these pixels."""
        mask = y.copy()
        mask[list(wrong)] ^= True
        return 1 - (mask & y).sum() / (mask | y).sum() if (mask | y).any() else 0.0

    # the greatest of the linear interpolations: the Jaccard loss is submodular
    error = abs(y - p)
    expected = max(
        sum(
            error[k] * (jaccard_loss(order[: i + 1]) - jaccard_loss(order[:i]))
            for i, k in enumerate(order)
        )
        for order in itertools.permutations(range(5))
    )
    value = losses.create("lovasz")(y.reshape(1, 1, 5, 1).astype(float), p.reshape(1, 1, 5, 1))
    assert float(value) == pytest.approx(expected)


def test_lovasz_over_a_batch_is_that_of_one_image() -> None:
    labels, _, p = drawn(2, 3)
    batch = losses.create("lovasz", per_image=False)(labels, p)
    whole = losses.create("lovasz")(labels.reshape(1, -1, 16), p.reshape(1, -1, 16, 3))
    assert float(batch) == pytest.approx(float(whole), rel=1e-6)


def test_lovasz_over_all_classes_counts_the_absent() -> None:
    labels, _, p = drawn(2, 3)
    labels = np.minimum(labels, 1)
    of_each = [
        float(losses.create("lovasz")((labels == k)[..., None].astype(float), p[..., k : k + 1]))
        for k in range(3)
    ]
    every = losses.create("lovasz", classes="all")(labels, p)
    assert float(every) == pytest.approx(np.mean(of_each), rel=1e-6)
    assert float(losses.create("lovasz")(labels, p)) == pytest.approx(
        np.mean(of_each[:2]), rel=1e-6
    )


def test_focal_of_two_classes_is_that_of_one_channel() -> None:
    labels, z, p = drawn(4, 1)
    one = losses.create("focal", from_logits=True)(labels, z)
    both = np.concatenate([np.zeros_like(z), z], axis=-1)
    assert float(losses.create("focal", from_logits=True)(labels, both)) == pytest.approx(
        float(one), rel=1e-6
    )
    assert float(losses.create("focal")(labels, p)) == pytest.approx(float(one), rel=1e-6)


def test_balanced_takes_a_number_or_the_share_of_negatives() -> None:
    labels, _, p = drawn(9, 1)
    y = labels[:1, ..., None].astype(float)
    auto = losses.create("balanced_ce")(y, p[:1])
    given = losses.create("balanced_ce", beta=float(1 - y.mean()))(y, p[:1])
    assert float(auto) == pytest.approx(float(given), rel=1e-6)
    assert float(losses.create("balanced_ce", beta=0.5)(y, p[:1])) == pytest.approx(
        float(losses.create("bce")(y, p[:1])) / 2, rel=1e-6
    )
