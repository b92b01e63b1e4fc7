"""Gated-SCNN: published counts, and the whole network against an independent one in PyTorch."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest

from segengine.models import gscnn
from segengine.models._torch import load_torch_state

from .named_weights import give_named_weights, parameters, picture

FIXTURES = Path(__file__).parent / "fixtures"


def test_wideresnet38_has_the_published_count_and_equals_pytorch() -> None:
    model = gscnn.build(classes=19, backbone="wideresnet38", activation=None)
    assert parameters(model, "") == 137_278_190
    assert [parameters(model, f"gate{i}") for i in (1, 2, 3)] == [2248, 616, 184]
    load_torch_state(model, give_named_weights(model))
    found = np.load(FIXTURES / "gscnn.npz")
    image = found["pixels"][None].astype(np.float32) / 255
    logits, edge = model(image, training=False)
    assert logits.shape == (1, 64, 64, 19)
    thin = np.asarray(logits).transpose(0, 3, 1, 2)[..., ::5, ::5]
    np.testing.assert_allclose(thin, found["logits"], rtol=0, atol=1e-4)
    np.testing.assert_allclose(edge, found["edge"].transpose(0, 2, 3, 1), rtol=0, atol=3e-5)
    canny = keras.Model(model.input, model.get_layer("canny").output)(image)
    np.testing.assert_array_equal(canny[0, ..., 0], found["canny"][0, 0])


@pytest.mark.parametrize("backbone", ["resnet14", "resnet50", "resnet101"])
def test_other_backbones_take_any_size_and_bands(backbone: str) -> None:
    model = gscnn.build(bands=4, classes=3, backbone=backbone)
    assert [parameters(model, f"gate{i}") for i in (1, 2, 3)] == [2248, 616, 184]
    image = np.random.default_rng(0).random((1, 33, 50, 4), np.float32)
    segmentation, edge = model(image, training=False)
    assert segmentation.shape == (1, 33, 50, 3)
    assert edge.shape == (1, 33, 50, 1)
    np.testing.assert_allclose(np.sum(segmentation, axis=-1), 1, rtol=1e-6)


def test_a_saved_model_is_plain_keras(tmp_path: Path) -> None:
    model = gscnn.build(classes=2, size=(32, 32), white=255.0)
    image = picture(32, 32, seed=0)[None].astype(np.float32)
    expected = model(image, training=False)
    model.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras")(image, training=False)
    for a, b in zip(again, expected, strict=True):
        np.testing.assert_array_equal(a, b)
    canny = keras.Model(model.input, model.get_layer("canny").output)(image)
    assert 0 < np.mean(canny) < 1  # it saw the pixels as they are, not normalised


def test_options_are_checked() -> None:
    with pytest.raises(
        ValueError, match=r"^backbone: must be one of wideresnet38, resnet14, resnet50"
    ):
        gscnn.build(backbone="vgg")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^mean: needs one value a band, 3, not 1"):
        gscnn.build(mean=[0.5])
    with pytest.raises(ValueError, match=r"^std: must be above 0"):
        gscnn.build(std=[0.2, 0.0, 0.2])
