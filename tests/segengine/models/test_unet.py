"""The tutorial's U-Net: its counts, dropout, arithmetic, and how far it looks."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest

import segengine.models
from segengine import tiling
from segengine.errors import JobError
from segengine.models._context import context
from segengine.models._torch import load_torch_state
from segengine.models.unet import build

from .named_weights import give_named_weights

FIXTURES = Path(__file__).parent / "fixtures"


@pytest.mark.parametrize(("bands", "count"), [(1, 2_158_417), (3, 2_158_705)])
def test_parameter_counts(bands: int, count: int) -> None:
    model = segengine.models.build("unet", bands=bands)
    assert model.count_params() == count
    assert model.output_shape == (None, None, None, 1)
    assert model.layers[-1].activation is keras.activations.sigmoid


def test_layers_and_dropout_are_the_tutorials() -> None:
    kinds = []
    for layer in build().layers:
        match layer:
            case keras.layers.Conv2DTranspose():
                assert layer.activation is keras.activations.linear
                kinds.append(f"up {layer.filters}")
            case keras.layers.Conv2D():
                kinds.append(f"conv {layer.filters} {layer.kernel_size[0]}")
            case keras.layers.Dropout():
                kinds.append(f"dropout {layer.rate}")
            case keras.layers.MaxPooling2D() | keras.layers.Concatenate():
                kinds.append(type(layer).__name__)
    expected = []
    for filters, rate in ((16, 0.25), (32, 0.5), (64, 0.5), (128, 0.5)):
        expected += [f"conv {filters} 3"] * 2 + ["MaxPooling2D", f"dropout {rate}"]
    expected += ["conv 256 3"] * 2
    for filters in (128, 64, 32, 16):
        expected += [f"up {filters}", "Concatenate", "dropout 0.5", *[f"conv {filters} 3"] * 2]
    assert kinds == [*expected, "conv 1 1"]


def test_equals_pytorch() -> None:
    found = np.load(FIXTURES / "unet.npz")
    model = build(classes=3, activation=None)
    load_torch_state(model, give_named_weights(model))
    logits = model(found["pixels"][None].astype(np.float32) / 127.5 - 1, training=False)
    np.testing.assert_allclose(logits[0], found["logits"], rtol=0, atol=1e-4)


def _dropouts(model: keras.Model) -> list[float]:
    return [layer.rate for layer in model.layers if isinstance(layer, keras.layers.Dropout)]


def test_options() -> None:
    small = build(5, 4, (16, 24), start_neurons=4, depth=2, dropout=False, batch_norm=True)
    assert small.output_shape == (None, 16, 24, 4)
    assert small.layers[-1].activation is keras.activations.softmax
    assert _dropouts(small) == []
    norms = [x for x in small.layers if isinstance(x, keras.layers.BatchNormalization)]
    assert len(norms) == 10
    rates = [0.1, 0.2, 0.3, 0.4]
    assert _dropouts(build(depth=2, dropout=rates)) == rates
    assert _dropouts(build(depth=2, dropout=0.3)) == [0.3] * 4


def test_a_saved_model_is_plain_keras(tmp_path: Path) -> None:
    model = build(1, 2, depth=2, start_neurons=4, batch_norm=True)
    model.save(tmp_path / "unet.keras")
    again = keras.models.load_model(tmp_path / "unet.keras", safe_mode=True)
    image = np.random.default_rng(0).random((2, 12, 8, 1), np.float32)
    np.testing.assert_array_equal(again(image), model(image))

    model.save_weights(tmp_path / "unet.weights.h5")
    weights = str(tmp_path / "unet.weights.h5")
    twin = build(1, 2, weights=weights, depth=2, start_neurons=4, batch_norm=True)
    np.testing.assert_array_equal(twin(image), model(image))
    with pytest.raises(ValueError, match=r"weights: .* is no file of weights of unet"):
        build(1, 2, weights=weights, depth=2, start_neurons=8, batch_norm=True)
    (tmp_path / "text.weights.h5").write_text("no weights")
    with pytest.raises(ValueError, match=r"weights: .* is no file of weights of unet"):
        build(weights=str(tmp_path / "text.weights.h5"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": (100, 128)}, "size: must be a multiple of 16, not 100 x 128"),
        ({"bands": 0}, "bands: must be an integer of at least 1"),
        ({"classes": True}, "classes: must be an integer of at least 1"),
        ({"depth": 0}, "depth: must be an integer of at least 1"),
        ({"dropout": 1.0}, r"dropout: must be true, false, a rate in \[0, 1\) or 8 of them"),
        ({"dropout": [0.1]}, "dropout: must be true"),
        ({"activation": "relu"}, "activation: must be sigmoid, softmax or null"),
        ({"activation": "softmax"}, "activation: softmax of one class is always 1"),
        ({"weights": "nowhere.weights.h5"}, "weights: there is no file nowhere.weights.h5"),
        ({"colour": 1}, "colour: unet has no such option"),
    ],
)
def test_wrong_options_are_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(JobError, match=message):
        segengine.models.build("unet", **options)


def test_looks_107_pixels_left_and_122_right() -> None:
    model = build(1, activation=None)
    for variable in model.trainable_variables:
        positive = "kernel" in variable.name
        variable.assign(np.full(variable.shape, 0.02 if positive else 0, np.float32))
    # with positive weights nothing cancels: what a lit pixel reaches is above zero, all else is 0
    width, middle = 304, 144
    lit = np.zeros((16, 16, width, 1), np.float32)
    lit[np.arange(16), 8, middle + np.arange(16)] = 1e6
    reached = np.asarray(model(lit, training=False))[..., 0].max(axis=1) > 0
    first = reached.argmax(axis=1)
    last = width - 1 - reached[:, ::-1].argmax(axis=1)
    places = middle + np.arange(16)
    assert (last - places).max() == 122
    assert (places - first).max() == 107
    assert context(model) == (128, 16)


def test_tiled_equals_whole() -> None:
    keras.utils.set_random_seed(1)
    model = build(2, start_neurons=8, activation=None)
    known = context(model)
    assert known is not None
    halo, stride = known
    image = np.random.default_rng(1).random((1, 16, 520, 2), np.float32)
    whole = model(tiling.pad_to(image, stride), training=False)[:, :, :520]
    for start, stop in ((0, 150), (150, 331), (331, 520)):
        span = tiling.span(start, stop, 520, halo, stride)
        tile = tiling.pad_to(image[:, :, span.start : span.stop], stride)
        assert tile.shape[2] < 520
        got = model(tile, training=False)[:, :, span.inside(start, stop)]
        np.testing.assert_allclose(got, whole[:, :, start:stop], rtol=0, atol=1e-5)
