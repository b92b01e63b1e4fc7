"""U-Net on pretrained encoders: counts, arithmetic, freezing, and weights that cannot be fetched."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest

import segengine.models
from segengine.errors import JobError
from segengine.models._context import context
from segengine.models._encoder import SKIPS
from segengine.models._torch import load_torch_state
from segengine.models.unet_mobilenetv2 import build

from .named_weights import give_named_weights

FIXTURES = Path(__file__).parent / "fixtures"


def _trainable(model: keras.Model) -> int:
    return sum(int(np.prod(v.shape)) for v in model.trainable_weights)


def test_parameter_counts() -> None:
    model = segengine.models.build("unet-mobilenetv2", classes=3, size=(128, 128))
    assert model.count_params() == 6_504_227
    assert _trainable(model) == 4_660_323
    assert model.output_shape == (None, 128, 128, 3)
    thawed = build(classes=3, freeze_encoder=False)
    moving = sum(v.shape[0] for v in thawed.weights if v.name.startswith("moving_"))
    assert thawed.count_params() == 6_504_227 == _trainable(thawed) + moving


def test_equals_pytorch() -> None:
    found = np.load(FIXTURES / "unet_mobilenetv2.npz")
    model = build(classes=3, activation=None)
    load_torch_state(model, give_named_weights(model))
    logits = model(found["pixels"][None].astype(np.float32) / 127.5 - 1, training=False)
    np.testing.assert_allclose(logits[0], found["logits"], rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("backbone", "bounded"),
    [("MobileNetV2", True), ("ResNet50", True), ("EfficientNetB0", False), ("VGG16", True)],
)
def test_backbones(backbone: str, bounded: bool) -> None:
    model = build(bands=4, classes=2, backbone=backbone)
    encoder = model.get_layer("encoder")
    image = np.random.default_rng(0).random((1, 64, 96, 4), np.float32)
    sizes = [feature.shape[1:3] for feature in encoder(image)]
    assert sizes == [(64 >> k, 96 >> k) for k in range(1, 6)]
    assert model(image).shape == (1, 64, 96, 2)
    found = context(model)  # the squeeze and excitation of EfficientNet looks at everything
    assert (found is not None) == bounded
    assert found is None or found[1] == 32
    assert SKIPS[backbone][-1] in {layer.name for layer in encoder.layers}


def test_a_frozen_encoder_is_left_alone_by_training() -> None:
    model = build(classes=3, size=(32, 32))
    encoder = model.get_layer("encoder")
    before = [np.array(v.numpy()) for v in encoder.weights]
    model.compile("sgd", "sparse_categorical_crossentropy")
    rng = np.random.default_rng(0)
    image = rng.random((2, 32, 32, 3), np.float32)
    up = model.get_layer("up1").kernel.numpy()
    model.train_on_batch(image, rng.integers(0, 3, (2, 32, 32)))
    for variable, value in zip(encoder.weights, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)
    assert np.abs(model.get_layer("up1").kernel.numpy() - up).max() > 0


def test_a_saved_model_is_plain_keras(tmp_path: Path) -> None:
    model = build(classes=3)
    model.save(tmp_path / "pets.keras")
    again = keras.models.load_model(tmp_path / "pets.keras", safe_mode=True)
    assert _trainable(again) == 4_660_323
    image = np.random.default_rng(0).random((1, 32, 64, 3), np.float32)
    np.testing.assert_array_equal(again(image), model(image))


def test_weights_that_cannot_be_fetched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nobody listens there
    # nothing was fetched before; Keras reads the environment when it is imported
    monkeypatch.setattr("keras.src.backend.config._KERAS_DIR", str(tmp_path))
    with pytest.raises(JobError) as caught:
        segengine.models.build("unet-mobilenetv2", weights="imagenet")
    message = str(caught.value)
    assert "\n" not in message
    file = "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5"
    assert message.startswith(f"weights: {file} cannot be downloaded here; fetch https://")
    assert f"/{file} elsewhere and put it in" in message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": (100, 100)}, "size: must be a multiple of 32, not 100 x 100"),
        ({"backbone": "AlexNet"}, "backbone: must be one of MobileNetV2, ResNet50"),
        (
            {"weights": "imagenet", "bands": 4},
            "bands: the imagenet weights are for 3 bands, not 4",
        ),
    ],
)
def test_wrong_options_are_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(JobError, match=message):
        segengine.models.build("unet-mobilenetv2", **options)
