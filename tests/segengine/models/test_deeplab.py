"""DeepLab: published counts, and each version against PyTorch (v3: torchvision's)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import segengine.models
from segengine import tiling
from segengine.errors import JobError
from segengine.models._context import context
from segengine.models._torch import load_torch_state
from segengine.models.deeplab import build
from segengine.training.recalibration import Recalibration

from .named_weights import give_named_weights, parameters

FIXTURES = Path(__file__).parent / "fixtures"
R50 = {"backbone": "resnet50"}


@pytest.mark.parametrize(
    ("version", "options", "name", "count"),
    [
        ("1", {}, "v1", 20_505_429),
        ("2", R50, "v2", 44_048_532 - 42_500_160 + 23_508_032),
        ("2", {**R50, "scales": [0.5, 0.75, 1.0]}, "v2_scales", 25_056_404),
        ("3", R50, "v3", 39_638_869),
        ("3+", R50, "v3plus", 23_508_032 + 15_535_104 + 1_309_045),
    ],
)
def test_equals_pytorch(version: str, options: dict[str, Any], name: str, count: int) -> None:
    found = np.load(FIXTURES / "deeplab.npz")
    model = build(classes=21, version=version, activation=None, **options)
    assert parameters(model, "") == count
    assert parameters(model, "decoder") == (1_309_045 if version == "3+" else 0)
    load_torch_state(model, give_named_weights(model))
    image = found["pixels"][None].astype(np.float32) / 127.5 - 1
    logits = np.asarray(model(image, training=False))
    assert logits.shape == (1, 65, 97, 21)
    np.testing.assert_allclose(logits[0, ::5, ::7], found[name], rtol=0, atol=1e-4)


@pytest.mark.parametrize(("version", "count"), [("2", 44_048_532), ("3", 58_630_997)])
def test_published_counts_with_resnet101(version: str, count: int) -> None:
    model = segengine.models.build("deeplab", classes=21, version=version)
    assert parameters(model, "") == count
    assert parameters(model, "backbone.") == 42_500_160


def _rates(model: keras.Model) -> set[int]:
    convolutions = (x for x in model.layers if isinstance(x, keras.layers.Conv2D))
    return {x.dilation_rate[0] for x in convolutions if "classifier" in x.name or "aspp" in x.name}


def test_what_is_left_out_is_as_published() -> None:
    light = {"backbone": "mobilenetv2", "classes": 2}
    default = build(**R50)
    assert default.name == "deeplab-v3plus"
    assert _rates(default) == {1, 6, 12, 18}
    last = [default.get_layer(f"backbone.layer4.{i}.conv2").dilation_rate[0] for i in range(3)]
    assert last == [2, 4, 8]
    assert _rates(build(**light, output_stride=8)) == {1, 12, 24, 36}
    assert _rates(build(**light, version=2)) == {6, 12, 18, 24}


def test_any_size_and_safe_loading(tmp_path: Path) -> None:
    model = build(bands=4, classes=3, backbone="mobilenetv2")
    rng = np.random.default_rng(0)
    for size in ((33, 70), (64, 48)):
        found = np.asarray(model(rng.random((2, *size, 4), np.float32)))
        assert found.shape == (2, *size, 3)
        np.testing.assert_allclose(found.sum(-1), 1, rtol=1e-5)
    model.save(tmp_path / "deeplab.keras")
    again = keras.models.load_model(tmp_path / "deeplab.keras", safe_mode=True)
    image = rng.random((1, 40, 50, 4), np.float32)
    np.testing.assert_array_equal(again(image), model(image))


def test_scales_load_too(tmp_path: Path) -> None:
    model = build(classes=2, version=2, backbone="mobilenetv2", scales=(0.5, 1))
    model.save(tmp_path / "deeplab.keras")
    again = keras.models.load_model(tmp_path / "deeplab.keras", safe_mode=True)
    image = np.random.default_rng(0).random((1, 40, 50, 3), np.float32)
    np.testing.assert_array_equal(again(image), model(image))


def test_tiled_equals_whole_without_image_pooling() -> None:
    keras.utils.set_random_seed(1)
    model = build(classes=2, version=2, backbone="mobilenetv2", activation=None)
    found = context(model)
    assert found is not None
    halo, stride = found
    assert stride == 8
    width = 2 * halo + 64
    image = np.random.default_rng(1).normal(size=(1, 16, width, 3)).astype(np.float32)
    whole = model(image, training=False)
    span = tiling.span(halo + 8, halo + 40, width, halo, stride)
    assert span.start > 0
    assert span.stop < width
    tile = model(image[:, :, span.start : span.stop], training=False)
    inside = tile[:, :, span.inside(halo + 8, halo + 40)]
    np.testing.assert_allclose(inside, whole[:, :, halo + 8 : halo + 40], rtol=0, atol=1e-5)


def test_image_pooling_has_no_bound() -> None:
    assert context(build(backbone="mobilenetv2")) is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"version": 4}, r"version: must be one of 1, 2, 3, 3\+, not '4'"),
        ({"version": 1, "backbone": "resnet50"}, "backbone: version 1 is built on vgg16, not"),
        ({"backbone": "vgg16"}, "backbone: version 3. is built on resnet50, resnet101, mobilenet"),
        ({"output_stride": 32}, "output_stride: must be 8 or 16, not 32"),
        ({"rates": [6, 0]}, "rates: must be an integer of at least 1, not 0"),
        ({"version": 1, "rates": [6, 12]}, "rates: version 1 has one, not 2"),
        ({"multigrid": [1, 2]}, "multigrid: must be 3 rates, not 2"),
        (
            {"multigrid": [1, 2, 4], "backbone": "mobilenetv2"},
            "multigrid: is for ResNets, not mobilenetv2",
        ),
        ({"scales": []}, "scales: must be factors above 0"),
        ({"weights": "imagenet"}, "weights: there are no imagenet weights for resnet101"),
    ],
)
def test_wrong_options_are_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(JobError, match=message):
        segengine.models.build("deeplab", **options)


def test_its_statistics_can_be_computed_anew() -> None:
    """What is traced by itself needs a name that TensorFlow takes, which a plus is not."""
    model = build(classes=2, size=(32, 32), backbone="mobilenetv2", activation=None)
    pixels = np.random.default_rng(0).random((2, 32, 32, 3), np.float32)
    Recalibration(model)([pixels])
    norm = model.get_layer("aspp.project.1")
    assert np.asarray(norm.moving_mean).any()
