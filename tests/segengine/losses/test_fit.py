"""Losses in a model: a step of `fit` in graph mode, XLA, and saving."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from segengine import losses

BOTH: dict[str, Any] = {"losses": [{"loss": "dice", "weight": 0.5}, {"loss": "focal", "gamma": 3}]}


def create(name: str, **options: Any) -> Any:
    return losses.create(name, **(BOTH if name == "compound" else {}), **options)


def drawn(classes: int) -> tuple[Any, Any]:
    """Labels (n, y, x) and images."""
    random = np.random.default_rng(0)
    labels = random.integers(0, max(classes, 2), (2, 8, 8)).astype(np.int32)
    return labels, random.normal(size=(2, 8, 8, classes)).astype(np.float32)


@pytest.mark.parametrize("name", losses.names())
def test_a_step_of_training_in_graph_mode(name: str) -> None:
    classes = 3 if name.endswith("categorical_ce") else 1
    labels, images = drawn(classes)
    model = keras.Sequential([keras.Input((8, 8, classes)), keras.layers.Conv2D(classes, 1)])
    model.compile(loss=create(name, from_logits=True), optimizer=keras.optimizers.SGD(0.1))
    before = [weights.copy() for weights in model.get_weights()]
    history = model.fit(images, labels, verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    assert all(np.isfinite(weights).all() for weights in model.get_weights())
    changed = zip(before, model.get_weights(), strict=True)
    assert any((a != b).any() for a, b in changed)


def test_xla_compiles_what_says_so() -> None:
    made = [create(name, from_logits=True) for name in losses.names()]
    on_host = {loss.name for loss in made if not loss.supports_jit}
    assert on_host == {"boundary", "hausdorff", "shape_aware", "iou_balanced"}
    mixed = losses.create("compound", losses=[{"loss": "dice"}, {"loss": "boundary"}])
    assert not mixed.supports_jit
    labels, images = drawn(3)
    compiled = [loss for loss in made if loss.supports_jit]

    @tf.function(jit_compile=True)
    def together(prediction: Any) -> Any:
        return [loss(labels, prediction) for loss in compiled]

    found = [float(value) for value in together(images)]
    np.testing.assert_allclose(found, [float(loss(labels, images)) for loss in compiled], rtol=1e-5)


# Keras 3.15 reads TensorFlow's variables in a way that NumPy 2 warns of
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_a_saved_model_keeps_its_loss(tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Conv2D(1, 1)])
    model.compile(loss=create("tversky", alpha=0.4, from_logits=True))
    labels, images = drawn(1)
    model.fit(images, labels, verbose=0)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert again.loss.get_config() == model.loss.get_config()
    assert again.evaluate(images, labels, verbose=0) == model.evaluate(images, labels, verbose=0)
