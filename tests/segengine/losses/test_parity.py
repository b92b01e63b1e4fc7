"""Values and gradients against PyTorch, MONAI, segmentation_models_pytorch (fixtures) and Keras."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray

from segengine import losses

REFERENCES = dict(np.load(Path(__file__).parent / "fixtures" / "references.npz"))
OPTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "dice_squared": ("dice", {"squared": True}),
    "weighted_bce": ("weighted_bce", {"beta": 3.0}),
    "categorical_ce_smooth": ("categorical_ce", {"label_smoothing": 0.1}),
    "categorical_ce_ignore": ("categorical_ce", {"ignore": 1}),
}
"""Loss and options of a reference that is not simply a loss's name."""
OF_LOGITS = {"bce", "weighted_bce", "balanced_ce", "categorical_ce", "focal", "lovasz"}
COMPARED = sorted(key.removesuffix("/value") for key in REFERENCES if key.endswith("/value"))


def value_and_gradient(loss: Any, y: Any, p: Any) -> tuple[float, NDArray[np.float32]]:
    """Of a Keras loss, with respect to the prediction."""
    prediction = tf.constant(p)
    with tf.GradientTape() as tape:
        tape.watch(prediction)
        value = loss(y, prediction)
    return float(value), tape.gradient(value, prediction).numpy()


@pytest.mark.parametrize("loss", sorted({key.partition("/")[0] for key in COMPARED}))
def test_value_and_gradient_are_the_references(loss: str) -> None:
    name, options = OPTIONS.get(loss, (loss, {}))
    compared = [key for key in COMPARED if key.startswith(f"{loss}/")]
    assert len(compared) >= 6
    for key in compared:
        case = key.partition("/")[2]
        y = REFERENCES[f"{case}/y"]
        if "ignore" in options:
            y = y.argmax(-1)
        logits = name in OF_LOGITS
        ours = losses.create(name, from_logits=logits, **options)
        value, gradient = value_and_gradient(
            ours, y, REFERENCES[f"{case}/{'z' if logits else 'p'}"]
        )
        assert value == pytest.approx(float(REFERENCES[f"{key}/value"]), rel=1e-5, abs=1e-5), key
        if f"{key}/gradient" in REFERENCES:
            expected = REFERENCES[f"{key}/gradient"]
            np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-5, err_msg=key)


KERAS: list[tuple[str, int, dict[str, Any], Any]] = [
    ("mse", 1, {}, keras.losses.MeanSquaredError()),
    ("mse", 3, {}, keras.losses.MeanSquaredError()),
    ("bce", 1, {}, keras.losses.BinaryCrossentropy()),
    ("bce", 3, {"label_smoothing": 0.2}, keras.losses.BinaryCrossentropy(label_smoothing=0.2)),
    ("bce", 3, {"from_logits": True}, keras.losses.BinaryCrossentropy(from_logits=True)),
    ("bce", 1, {"reduction": "none"}, keras.losses.BinaryCrossentropy(reduction="none")),
    ("bce", 1, {"reduction": "sum"}, keras.losses.BinaryCrossentropy(reduction="sum")),
    ("focal", 1, {}, keras.losses.BinaryFocalCrossentropy(apply_class_balancing=True)),
    ("focal", 3, {"alpha": [0.25] * 3}, keras.losses.CategoricalFocalCrossentropy(alpha=0.25)),
    ("categorical_ce", 3, {}, keras.losses.CategoricalCrossentropy()),
    (
        "categorical_ce",
        3,
        {"label_smoothing": 0.1, "reduction": "none"},
        keras.losses.CategoricalCrossentropy(label_smoothing=0.1, reduction="none"),
    ),
    (
        "categorical_ce",
        3,
        {"from_logits": True},
        keras.losses.CategoricalCrossentropy(from_logits=True),
    ),
]


@pytest.mark.parametrize(("name", "classes", "options", "theirs"), KERAS)
@pytest.mark.parametrize("case", ["random", "background", "pixel", "certain", "perfect"])
def test_value_is_that_of_keras(
    name: str, classes: int, options: dict[str, Any], theirs: Any, case: str
) -> None:
    y = REFERENCES[f"{case}{classes}/y"]
    p = REFERENCES[f"{case}{classes}/{'z' if options.get('from_logits') else 'p'}"]
    ours = losses.create(name, **options)(y, p)
    np.testing.assert_allclose(ours, theirs(y, p), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("reduction", ["sum_over_batch_size", "sum", "none"])
def test_ignored_pixels_are_those_of_keras(reduction: str) -> None:
    labels, p = REFERENCES["random3/y"].argmax(-1), REFERENCES["random3/p"]
    labels[0, :2] = 255
    theirs = keras.losses.SparseCategoricalCrossentropy(ignore_class=255, reduction=reduction)
    ours = losses.create("sparse_categorical_ce", ignore=255, reduction=reduction)
    np.testing.assert_allclose(ours(labels, p), theirs(labels, p), rtol=1e-5, atol=1e-6)
    weights = np.linspace(0, 1, labels.size, dtype=np.float32).reshape(labels.shape)
    np.testing.assert_allclose(
        ours(labels, p, weights), theirs(labels, p, weights), rtol=1e-5, atol=1e-6
    )
