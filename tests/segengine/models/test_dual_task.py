"""The dual-task loss: each term by its definition, its gradient by differences, its ablation."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, gaussian_filter

from segengine.models.dual_task import DualTask, stacked, terms, true_edges

TERMS = ("segmentation", "edge", "selected", "consistency")
Array = NDArray[Any]


def drawn(seed: int = 0, classes: int = 3) -> tuple[Array, Array, Array, Array]:
    """Labels with void, logits, edges on both sides of 0.8, noise."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.repeat(rng.integers(0, classes, (2, 3, 3)), 4, 1), 4, 2)
    labels[0, :2, :3] = 255
    logits = rng.normal(size=(2, 12, 12, classes))
    edge = rng.uniform(0.05, 0.95, (2, 12, 12, 1))
    return labels.astype(np.int32), logits, edge, rng.gumbel(size=logits.shape)


def by_definition(labels: Array, logits: Array, edge: Array, noise: Array) -> dict[str, float]:
    """The terms of one image (h, w, ...), pixel by pixel."""
    classes = logits.shape[-1]
    valid = labels < classes
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    share = [(labels == k).sum() / valid.sum() for k in range(classes)]
    entropy, weights, picked = [], [], []
    for y, x in np.argwhere(valid):
        entropy.append(-np.log(p[y, x, labels[y, x]]))
        weights.append(1 + (1 - share[labels[y, x]]))
        picked.append(edge[y, x, 0] > 0.8)
    b = np.array([edges_by_distance(labels, classes)[y, x] for y, x in np.argwhere(valid)])
    s = edge[valid][:, 0]
    balanced = np.where(b, (1 - b.mean()) * np.log(s), b.mean() * np.log(1 - s))
    soft = np.exp((np.log(p) + noise) / 0.5)
    soft /= soft.sum(-1, keepdims=True)
    z, z_true = (
        steepness(m * valid[..., None]) for m in (soft, labels[..., None] == np.arange(classes))
    )
    inside = np.broadcast_to(valid[..., None], z.shape)
    apart = abs(z - z_true)
    return {
        "segmentation": float(np.average(entropy, weights=weights)),
        "edge": float(-balanced.mean()),
        "selected": float(np.mean(np.array(entropy)[picked])),
        "consistency": float(
            (apart[inside & (z > 1e-8)].mean() + apart[inside & (z_true > 1e-8)].mean()) / 2
        ),
    }


def steepness(maps: Array) -> Array:
    smooth = gaussian_filter(maps.astype(float), (1, 1, 0), mode="nearest", radius=(3, 3, 0))
    padded = np.pad(smooth, ((1, 1), (1, 1), (0, 0)), "edge")
    dy = (padded[2:, 1:-1] - padded[:-2, 1:-1]) / 2
    dx = (padded[1:-1, 2:] - padded[1:-1, :-2]) / 2
    found: Array = np.hypot(dy, dx) / np.sqrt(2)
    return found


def edges_by_distance(labels: Array, classes: int) -> Array:
    """Within 2 pixels of another class, by the distance to each class."""
    found = np.zeros(labels.shape, bool)
    for k in range(classes):
        if (labels == k).any():
            near = distance_transform_edt(labels != k) <= 2
            found |= near & (labels != k) & (labels < classes)
    return found


def test_each_term_is_its_definition() -> None:
    labels, logits, edge, noise = drawn()
    found = terms(labels, tf.constant(logits), tf.constant(edge), tf.constant(noise))
    assert tuple(found) == TERMS
    for i in range(2):
        expected = by_definition(labels[i], logits[i], edge[i], noise[i])
        for term in TERMS:
            np.testing.assert_allclose(found[term][i], expected[term], rtol=1e-6, err_msg=term)


@settings(deadline=None, max_examples=50)
@given(hnp.arrays(np.int32, st.tuples(st.just(1), st.integers(1, 9), st.integers(1, 9)),
                  elements=st.sampled_from([0, 0, 0, 1, 2, 255])))  # fmt: skip
def test_true_edges_are_those_of_the_distance_transform(labels: Array) -> None:
    np.testing.assert_array_equal(true_edges(labels, 3)[0], edges_by_distance(labels[0], 3))


def gradients(labels: Array, logits: Array, edge: Array, noise: Array, term: str) -> list[Array]:
    x, s = tf.constant(logits), tf.constant(edge)
    with tf.GradientTape() as tape:
        tape.watch([x, s])
        value = tf.reduce_sum(terms(labels, x, s, tf.constant(noise))[term])
    found = tape.gradient(value, [x, s], unconnected_gradients=tf.UnconnectedGradients.ZERO)
    return [g.numpy() for g in found]


@pytest.mark.parametrize("term", TERMS)
def test_gradients_are_those_of_finite_differences(term: str) -> None:
    labels, logits, edge, noise = drawn(seed=1)
    found = gradients(labels, logits, edge, noise, term)
    rng, h = np.random.default_rng(0), 1e-6
    for which in (0, 1):
        for _ in range(3):
            step = rng.normal(size=(logits, edge)[which].shape)

            def value(by: float, step: Array = step, which: int = which) -> float:
                moved = [logits, edge]
                moved[which] = moved[which] + by * step
                tensors = [tf.constant(m) for m in moved]
                return float(tf.reduce_sum(terms(labels, *tensors, tf.constant(noise))[term]))

            slope = (value(h) - value(-h)) / (2 * h)
            np.testing.assert_allclose((found[which] * step).sum(), slope, rtol=1e-4, atol=1e-8)


def test_each_term_changes_the_gradient_of_what_it_is_about() -> None:
    labels, logits, edge, _ = drawn(seed=2)
    y = np.concatenate([logits, edge], -1).astype(np.float32)

    def gradient(**weights: float) -> Array:
        loss, x = DualTask(noise=False, **weights), tf.constant(y)
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = loss(labels, x)
        found: Array = tape.gradient(value, x).numpy()
        return found

    whole = gradient()
    for term in TERMS:
        change = abs(whole - gradient(**{term: 0.0})).max(axis=(0, 1, 2))
        about_edge = term == "edge"
        assert (change[:-1].max() > 1e-5) != about_edge, term
        assert (change[-1] > 1e-5) == about_edge, term


def test_no_gradient_is_lost_or_infinite_at_the_extremes() -> None:
    labels = np.zeros((1, 8, 8), np.int32)
    for logits in (np.zeros((1, 8, 8, 2)), np.full((1, 8, 8, 2), [80.0, -80.0])):
        for e in (0.0, 0.5, 1.0):
            y = tf.constant(np.concatenate([logits, np.full((1, 8, 8, 1), e)], -1), tf.float32)
            for truth in (labels, labels + 255, (np.indices((1, 8, 8)).sum(0) % 2)):
                with tf.GradientTape() as tape:
                    tape.watch(y)
                    value = DualTask()(truth, y)
                assert np.isfinite(value)
                assert np.isfinite(tape.gradient(value, y)).all()


def test_all_void_is_no_loss() -> None:
    _, logits, edge, _ = drawn()
    y = np.concatenate([logits, edge], -1).astype(np.float32)
    assert float(DualTask()(np.full((2, 12, 12), 255), y)) == 0.0


def test_noise_repeats_and_depends_on_the_seed() -> None:
    labels, logits, edge, _ = drawn()
    y = np.concatenate([logits, edge], -1).astype(np.float32)
    assert float(DualTask(seed=3)(labels, y)) == float(DualTask(seed=3)(labels, y))
    assert float(DualTask(seed=3)(labels, y)) != float(DualTask(seed=4)(labels, y))


def test_one_class_is_two() -> None:
    labels, logits, edge, _ = drawn(classes=2)
    two = np.concatenate([0 * logits[..., :1], logits[..., 1:], edge], -1).astype(np.float32)
    a, b = (DualTask(noise=False)(labels, y) for y in (two, two[..., 1:]))
    np.testing.assert_allclose(a, b, rtol=1e-6)


def test_trains_a_network_of_two_outputs() -> None:
    """Compiled and fitted: both outputs learn; the loss comes back from its config."""
    image = keras.Input((16, 16, 3))
    x = keras.layers.Conv2D(8, 3, padding="same", activation="relu")(image)
    logits = keras.layers.Conv2D(2, 1, name="logits")(x)
    edge = keras.layers.Conv2D(1, 3, padding="same", activation="sigmoid", name="edge")(x)
    model = keras.Model(image, [logits, edge])
    loss = keras.losses.deserialize(keras.losses.serialize(DualTask(edge=5.0, seed=1)))
    assert loss.get_config() == DualTask(edge=5.0, seed=1).get_config()
    both = stacked(model)
    both.compile(keras.optimizers.Adam(0.05), loss=loss)
    labels = np.zeros((4, 16, 16, 1), np.int32)
    labels[:, :, 8:] = 1
    images = np.random.default_rng(0).normal(labels, 0.2, (4, 16, 16, 3)).astype(np.float32)
    history = both.fit(images, labels, epochs=25, verbose=0).history["loss"]
    assert history[-1] < 0.5 * history[0]
    logits_now, edge_now = model(images)
    assert (np.argmax(logits_now, -1) == labels[..., 0]).mean() > 0.95
    assert np.mean(edge_now[:, 4:-4, 7:9]) > np.mean(edge_now[:, 4:-4, 2:5]) + 0.3


def test_weights_are_checked() -> None:
    with pytest.raises(ValueError, match=r"^edge: its weight must not be negative"):
        DualTask(edge=-1)


@pytest.mark.parametrize("edge", [0.0, 5.0])
def test_without_its_term_the_edge_is_not_learned(edge: float) -> None:
    """The ablation in training: the same start, with and without the edge's cross-entropy."""
    keras.utils.set_random_seed(1)
    image = keras.Input((16, 16, 3))
    x = keras.layers.Conv2D(8, 3, padding="same", activation="relu")(image)
    logits = keras.layers.Conv2D(2, 1)(x)
    model = keras.Model(
        image, [logits, keras.layers.Conv2D(1, 3, padding="same", activation="sigmoid")(x)]
    )
    labels = np.zeros((4, 16, 16), np.int32)
    labels[:, :, 8:] = 1
    images = np.random.default_rng(0).normal(labels[..., None], 0.2, (4, 16, 16, 3))
    truth = edges_by_distance(labels[0], 2)
    both = stacked(model)
    both.compile(keras.optimizers.Adam(0.05), loss=DualTask(edge=edge))
    kernel = model.layers[-1].kernel.numpy()
    both.fit(images, labels, epochs=20, verbose=0)
    assert (np.argmax(model(images)[0], -1) == labels).mean() > 0.95
    found = model(images)[1].numpy()[..., 0]
    apart = found[:, truth].mean() - found[:, ~truth].mean()
    assert (model.layers[-1].kernel.numpy() != kernel).any() == (edge > 0)
    assert (apart > 0.3) == (edge > 0)
