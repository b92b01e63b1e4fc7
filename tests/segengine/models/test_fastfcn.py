"""FastFCN: published counts, and each head against an independent one in PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import segengine.models
from segengine.errors import JobError
from segengine.models import fastfcn
from segengine.models._torch import load_torch_state

from .named_weights import give_named_weights, parameters

FIXTURES = Path(__file__).parent / "fixtures"


def test_published_parameter_counts() -> None:
    model = fastfcn.build(classes=21, aux=True)
    assert parameters(model, "") - parameters(model, "aux") == 52_816_341
    assert parameters(model, "jpu") == 19_735_552
    assert parameters(model, "head") == 9_448_981
    assert parameters(model, "aux") == 2_365_205
    trunk = sum(parameters(model, p) for p in ("conv1", "bn1", "layer"))
    assert trunk == 23_631_808


def test_resnet101_and_deeplab_counts() -> None:
    model = fastfcn.build(classes=21, backbone="resnet101", head="deeplab")
    assert sum(parameters(model, p) for p in ("conv1", "bn1", "layer")) == 42_623_936
    assert parameters(model, "head") == 16_130_837


@pytest.mark.parametrize("head", ["fcn", "psp", "deeplab", "encnet"])
def test_equals_pytorch(head: str) -> None:
    found = np.load(FIXTURES / "fastfcn.npz")
    model = fastfcn.build(classes=21, head=head, aux=head == "fcn", activation=None)
    load_torch_state(model, give_named_weights(model))
    image = found["pixels"][None].astype(np.float32) / 255
    outputs = model(image, training=False)
    logits, *more = outputs if isinstance(outputs, list) else [outputs]
    assert logits.shape == (1, 65, 97, 21)
    thin = np.asarray(logits).transpose(0, 3, 1, 2)[..., ::5, ::7]
    np.testing.assert_allclose(thin, found[head], rtol=0, atol=1e-4)
    if head == "fcn":
        aux = np.asarray(more[0]).transpose(0, 3, 1, 2)[..., ::5, ::7]
        np.testing.assert_allclose(aux, found["fcn_aux"], rtol=0, atol=1e-4)
    if head == "encnet":
        np.testing.assert_allclose(more[0], found["encnet_present"], rtol=0, atol=1e-4)


def test_a_saved_model_is_plain_keras(tmp_path: Path) -> None:
    model = segengine.models.build("fastfcn", bands=1, classes=2, size=(32, 64), head="encnet")
    image = np.random.default_rng(0).random((1, 32, 64, 1), np.float32)
    expected = model(image, training=False)
    np.testing.assert_allclose(np.sum(expected[0], axis=-1), 1, rtol=1e-6)
    model.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras")(image, training=False)
    for a, b in zip(again, expected, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backbone": "vgg"}, "backbone: must be one of resnet14, resnet50, resnet101, not 'vgg'"),
        ({"head": "fpn"}, "head: must be one of fcn, psp, deeplab, encnet, not 'fpn'"),
        ({"classes": 0}, "classes: "),
    ],
)
def test_options_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(JobError, match=message):
        segengine.models.build("fastfcn", **options)
