"""Losses in training: what goes in and comes out, edges, options."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray

from segengine import losses
from segengine.errors import JobError

BOTH: dict[str, Any] = {"losses": [{"loss": "dice", "weight": 0.5}, {"loss": "focal", "gamma": 3}]}
ONE_CHANNEL = [name for name in losses.names() if not name.endswith("categorical_ce")]
REFERENCES = dict(np.load(Path(__file__).parent / "fixtures" / "references.npz"))


def create(name: str, **options: Any) -> Any:
    return losses.create(name, **(BOTH if name == "compound" else {}), **options)


def drawn(classes: int = 3, seed: int = 0) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Labels (n, y, x) and logits."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, max(classes, 2), (2, 8, 8)).astype(np.uint8)
    return labels, random.normal(size=(2, 8, 8, classes)).astype(np.float32)


def value_and_gradient(loss: Any, y: Any, p: Any) -> tuple[float, NDArray[Any]]:
    prediction = tf.constant(p)
    with tf.GradientTape() as tape:
        tape.watch(prediction)
        value = loss(y, prediction)
    return float(value), tape.gradient(value, prediction).numpy()


def sigmoid(z: NDArray[np.float32]) -> Any:
    return keras.ops.convert_to_numpy(keras.ops.sigmoid(z))


def softmax(z: NDArray[np.float32]) -> Any:
    return keras.ops.convert_to_numpy(keras.ops.softmax(z))


@pytest.mark.parametrize("name", losses.names())
def test_serialised_and_back(name: str) -> None:
    loss = create(name, label_smoothing=0.1, class_weights=[1, 2, 3], ignore=255, reduction="sum")
    config = json.loads(json.dumps(keras.losses.serialize(loss)))
    again = keras.losses.deserialize(config)
    labels, z = drawn()
    assert again.name == name
    assert again.get_config() == loss.get_config()
    assert float(again(labels, softmax(z))) == float(loss(labels, softmax(z)))


@pytest.mark.parametrize("name", losses.names())
def test_logits_say_what_probabilities_say(name: str) -> None:
    for classes in (1, 3):
        if classes == 1 and name not in ONE_CHANNEL:
            continue
        labels, z = drawn(classes)
        yes_or_no = classes == 1 or name in ("bce", "weighted_bce", "balanced_ce")
        p = sigmoid(z) if yes_or_no else softmax(z)
        assert float(create(name, from_logits=True)(labels, z)) == pytest.approx(
            float(create(name)(labels, p)), rel=1e-5
        )


@pytest.mark.parametrize("name", losses.names())
def test_half_precision_is_computed_in_single(name: str) -> None:
    labels, z = drawn()
    half = softmax(z).astype(np.float16)
    value, gradient = value_and_gradient(create(name), labels, half)
    assert value == pytest.approx(float(create(name)(labels, half.astype(np.float32))), rel=1e-6)
    assert gradient.dtype == np.float16
    assert np.isfinite(gradient).all()
    certain = np.zeros((2, 8, 8, 3), np.float16)
    certain[..., 1] = 1
    value, gradient = value_and_gradient(create(name), labels, certain)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("name", losses.names())
def test_edges_are_finite(name: str) -> None:
    for classes in (1, 3):
        if classes == 1 and name not in ONE_CHANNEL:
            continue
        cases = [f"{case}{classes}" for case in ("background", "foreground", "pixel", "certain")]
        y, p, z = (np.concatenate([REFERENCES[f"{case}/{key}"] for case in cases]) for key in "ypz")
        for prediction, logits in (
            (p, False),
            (z * 50, True),
            (np.zeros_like(z), True),
            (y, False),
        ):
            loss = create(name, from_logits=logits)
            value, gradient = value_and_gradient(loss, y, prediction)
            assert np.isfinite(value), (classes, logits)
            assert np.isfinite(gradient).all(), (classes, logits)


EXACT = {
    "dice",
    "jaccard",
    "tversky",
    "focal_tversky",
    "log_cosh_dice",
    "lovasz",
    "hausdorff",
    "mse",
}


@pytest.mark.parametrize("name", sorted(EXACT))
def test_a_perfect_prediction_loses_nothing(name: str) -> None:
    for case in ("perfect1", "perfect3"):
        assert float(create(name)(REFERENCES[f"{case}/y"], REFERENCES[f"{case}/p"])) == 0
    nothing = np.zeros((1, 4, 4, 1), np.float32)
    assert float(create(name)(nothing, nothing)) == 0


@pytest.mark.parametrize("name", losses.names())
def test_void_pixels_do_not_matter(name: str) -> None:
    for classes in (1, 3):
        if classes == 1 and name not in ONE_CHANNEL:
            continue
        labels, z = drawn(classes)
        labels[0, 2:5, 1:7] = 255
        p = sigmoid(z) if classes == 1 else softmax(z)
        other = np.where((labels == 255)[..., None], p[:, ::-1, ::-1], p)
        assert (other != p).any()
        loss = create(name, ignore=255)
        value, gradient = value_and_gradient(loss, labels, p)
        assert value == float(loss(labels[..., None], other))
        assert (gradient[labels == 255] == 0).all()
        void = np.full_like(labels, 255)
        value, gradient = value_and_gradient(loss, void, p)
        assert value == 0
        assert (gradient == 0).all()


def test_an_image_without_truth_is_not_in_the_mean() -> None:
    labels, z = drawn(1)
    labels[1] = 255
    for name in ONE_CHANNEL:
        loss = create(name, ignore=255)
        both, first = loss(labels, sigmoid(z)), loss(labels[:1], sigmoid(z)[:1])
        assert float(both) == pytest.approx(float(first), rel=1e-6), name


@pytest.mark.parametrize("name", losses.names())
def test_reduction(name: str) -> None:
    labels, z = drawn()
    values = np.asarray(create(name, reduction="none")(labels, softmax(z)))
    pixels = name == "compound" or name in losses.groups()["distribution"]
    assert values.shape == ((2, 8, 8) if pixels else (2,))
    mean = create(name, reduction="mean")(labels, softmax(z))
    assert float(mean) == pytest.approx(values.mean(), rel=1e-5)
    if name != "compound":
        total = create(name, reduction="sum")(labels, softmax(z))
        assert float(total) == pytest.approx(values.sum(), rel=1e-5)


@pytest.mark.parametrize("name", losses.names())
def test_class_weights_multiply_the_terms_of_a_class(name: str) -> None:
    labels, z = drawn()
    p, y = softmax(z), np.eye(3, dtype=np.float32)[labels]

    def weighted(*weights: float) -> float:
        return float(create(name, class_weights=weights)(y, p))

    assert weighted(1, 1, 1) == pytest.approx(float(create(name)(y, p)), rel=1e-6)
    of_each = weighted(1, 0, 0), weighted(0, 1, 0), weighted(0, 0, 1)
    assert weighted(2, 3, 5) == pytest.approx(np.dot((2, 3, 5), of_each), rel=1e-5)
    assert of_each[1] != 0


def test_class_weights_of_one_channel_are_of_background_and_foreground() -> None:
    labels, z = drawn(1)
    values = np.asarray(losses.create("bce", reduction="none")(labels, sigmoid(z)))
    weighted = losses.create("bce", reduction="none", class_weights=[2, 3])(labels, sigmoid(z))
    np.testing.assert_allclose(weighted, values * np.where(labels == 1, 3, 2), rtol=1e-6)
    dice = losses.create("dice", class_weights=[2, 3])(labels, sigmoid(z))
    assert float(dice) == pytest.approx(3 * float(losses.create("dice")(labels, sigmoid(z))))


def test_compound_is_the_sum() -> None:
    labels, z = drawn()
    p = softmax(z)
    parts = [{"loss": "dice", "weight": 0.5}, {"loss": "bce", "label_smoothing": 0.1}, "mse"]
    found = losses.create("compound", losses=parts, class_weights=[1, 2, 3])(labels, p)
    dice = losses.create("dice", class_weights=[1, 2, 3])(labels, p)
    bce = losses.create("bce", class_weights=[1, 2, 3], label_smoothing=0.1)(labels, p)
    mse = losses.create("mse", class_weights=[1, 2, 3])(labels, p)
    assert float(found) == pytest.approx(0.5 * float(dice) + float(bce) + float(mse))


def test_tversky_of_halves_is_dice_and_of_ones_jaccard() -> None:
    labels, z = drawn()
    half = losses.create("tversky", alpha=0.5, beta=0.5, smooth=0.5)(labels, softmax(z))
    assert float(half) == pytest.approx(float(losses.create("dice")(labels, softmax(z))), rel=1e-6)
    ones = losses.create("tversky", alpha=1, beta=1)(labels, softmax(z))
    assert float(ones) == pytest.approx(
        float(losses.create("jaccard")(labels, softmax(z))), rel=1e-6
    )


def test_tversky_alpha_is_on_false_positives() -> None:
    nothing, everything = np.zeros((1, 4, 4, 1), np.float32), np.ones((1, 4, 4, 1), np.float32)
    false_alarm = losses.create("tversky", alpha=0.1, beta=0.9)(nothing, everything)
    assert float(false_alarm) == pytest.approx(1 - 1 / (0.1 * 16 + 1))
    miss = losses.create("tversky", alpha=0.1, beta=0.9)(everything, nothing)
    assert float(miss) == pytest.approx(1 - 1 / (0.9 * 16 + 1))


def test_shapes_that_do_not_fit_are_named() -> None:
    labels, z = drawn()
    with pytest.raises(ValueError, match=r"y_true: its shape \(2, 8, 8, 2\) does not fit"):
        losses.create("dice")(np.zeros((2, 8, 8, 2)), z)
    with pytest.raises(ValueError, match="ignore: needs integer truth"):
        losses.create("dice", ignore=255)(np.eye(3)[labels], z)
    with pytest.raises(ValueError, match="class_weights: dice needs 3 here, got 2"):
        losses.create("dice", class_weights=[1, 2])(labels, z)
    with pytest.raises(ValueError, match="alpha: 3 classes need as many, got 2"):
        losses.create("focal", alpha=[0.1, 0.2])(labels, z)
    with pytest.raises(ValueError, match="alpha: one channel takes one number"):
        losses.create("focal", alpha=[0.1, 0.2])(labels, z[..., :1])
    with pytest.raises(ValueError, match="categorical_ce: needs at least two classes"):
        losses.create("categorical_ce")(labels, z[..., :1])


BAD: list[tuple[str, dict[str, Any], str]] = [
    ("dice", {"smoth": 1}, "smoth: dice has no such option; did you mean smooth"),
    ("dice", {"smooth": -1}, "smooth: must be a number of at least 0, got -1"),
    ("dice", {"smooth": "much"}, "smooth: must be a number of at least 0, got 'much'"),
    ("dice", {"squared": "no"}, "squared: must be true or false, got 'no'"),
    ("bce", {"label_smoothing": 2}, "label_smoothing: must be a number in 0 to 1, got 2"),
    ("bce", {"reduction": "max"}, "reduction: must be one of sum_over_batch_size, .*got 'max'"),
    ("bce", {"class_weights": [-1, 1]}, "class_weights: must be numbers of at least 0, got -1"),
    ("weighted_bce", {"beta": 0}, "beta: must be a number above 0, got 0"),
    ("balanced_ce", {"beta": "often"}, "beta: must be auto or a number in 0 to 1, got 'often'"),
    ("focal", {"alpha": 2}, "alpha: must be a number in 0 to 1"),
    ("focal", {"alpha": [0.5, "x"]}, "alpha: must be numbers"),
    ("focal", {"gamma": float("nan")}, "gamma: must be a number of at least 0, got nan"),
    ("tversky", {"beta": -1}, "beta: must be a number of at least 0"),
    ("focal_tversky", {"gamma": 0}, "gamma: must be a number above 0"),
    ("sensitivity_specificity", {"r": 2}, "r: must be a number in 0 to 1"),
    ("iou_balanced", {"eta": -1}, "eta: must be a number of at least 0"),
    ("hausdorff", {"alpha": 0}, "alpha: must be a number above 0"),
    ("lovasz", {"classes": "some"}, "classes: must be present or all, got 'some'"),
    ("compound", {}, "losses: at least one is needed"),
    ("compound", {"losses": [{"weight": 1}]}, "losses: each needs the name"),
    ("compound", {"losses": [3]}, "losses: each must be a name or a mapping, got 3"),
    ("compound", {"losses": [{"loss": "dyce"}]}, "losses: 'dyce' is not one of .*mean dice"),
    ("compound", {"losses": [{"loss": "dice", "weight": "much"}]}, "losses: the weight of dice"),
    ("compound", {"losses": [{"loss": "dice", "reduction": "sum"}]}, "losses: `reduction` is"),
]


@pytest.mark.parametrize(("name", "options", "message"), BAD)
def test_bad_options_are_named(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(JobError, match=f"^{message}"):
        losses.create(name, **options)


def test_every_loss_is_in_the_group_it_says() -> None:
    from segengine import registry

    groups = losses.groups()
    assert tuple(groups) == ("distribution", "region", "boundary", "compound")
    assert sorted(sum(groups.values(), ())) == list(losses.names())
    for group, members in groups.items():
        for name in members:
            found: Any = registry.load("losses", name)
            assert (found.group, found.name) == (group, name)
