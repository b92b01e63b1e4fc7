"""ResNet trunks: counts, strides, and torch state dicts by name.

Arithmetic is covered by DeepLab v3, which is torchvision's whole.
"""

from __future__ import annotations

import keras
import numpy as np
import pytest

from segengine.models._mobilenetv2 import mobilenetv2
from segengine.models._resnet import load_torch_state, resnet

from .named_weights import give_named_weights, parameters


@pytest.mark.parametrize(
    ("depth", "stem", "count"),
    [
        (50, "plain", 23_508_032),
        (50, "deep", 23_631_808),
        (101, "plain", 42_500_160),
        (152, "plain", 58_143_808),
    ],
)
def test_parameter_counts(depth: int, stem: str, count: int) -> None:
    inputs = keras.Input((None, None, 3))
    model = keras.Model(inputs, resnet(inputs, depth, stem=stem)["c5"])  # type: ignore[arg-type]
    assert parameters(model, "") == count


@pytest.mark.parametrize("stride", [8, 16, 32])
def test_sizes_are_rounded_up(stride: int) -> None:
    inputs = keras.Input((65, 97, 1))
    found = resnet(inputs, 50, stride)
    for name, step in (("stem", 2), ("c2", 4), ("c3", 8), ("c4", min(16, stride)), ("c5", stride)):
        assert found[name].shape[1:3] == (-(-65 // step), -(-97 // step)), name
    assert [found[f"c{i}"].shape[-1] for i in range(2, 6)] == [256, 512, 1024, 2048]


def test_names_are_torchvisions() -> None:
    inputs = keras.Input((None, None, 3))
    model = keras.Model(inputs, resnet(inputs, prefix="backbone.")["c5"])
    names = give_named_weights(model)
    assert len(names) == 265  # 53 convolutions, and 4 tensors of as many normalisations
    for name in (
        "backbone.conv1.weight",
        "backbone.bn1.running_mean",
        "backbone.layer1.0.downsample.0.weight",
        "backbone.layer1.0.downsample.1.running_var",
        "backbone.layer4.2.conv3.weight",
    ):
        assert name in names


def test_dilated_mobilenet_holds_the_strided_one() -> None:
    """Without strides and with dilation, every second (fourth) feature is the strided network's."""
    found = {}
    for stride in (32, 16, 8):
        inputs = keras.Input((None, None, 3))
        model = keras.Model(inputs, mobilenetv2(inputs, stride)["c5"])
        load_torch_state(model, give_named_weights(model))
        image = np.random.default_rng(0).random((1, 128, 160, 3), np.float32)
        found[stride] = np.asarray(model(image, training=False))
    assert found[32].shape == (1, 4, 5, 320)
    assert np.abs(found[32]).max() > 0.1
    np.testing.assert_allclose(found[16][:, 1::2, 1::2], found[32], rtol=0, atol=1e-5)
    np.testing.assert_allclose(found[8][:, 3::4, 3::4], found[32], rtol=0, atol=1e-5)


def test_a_state_that_does_not_fit_changes_nothing() -> None:
    inputs = keras.Input((4, 4, 2))
    x = keras.layers.Conv2D(3, 1, name="conv")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(5, name="fc")(x), name="small")
    kernel = model.get_layer("conv").kernel.numpy()
    state = {
        "conv.weight": np.ones((3, 2, 1, 1)),
        "conv.bias": np.ones(4),
        "fc.weight": np.arange(15.0).reshape(5, 3),
        "bn.weight": np.ones(3),
        "bn.num_batches_tracked": np.array(7),
    }
    with pytest.raises(ValueError, match="state: does not fit small: ") as caught:
        load_torch_state(model, state)
    assert str(caught.value).partition("small: ")[2].split("; ") == [
        "conv.bias has shape (4,), for (3,) here",
        "fc.bias is missing",
        "bn.weight is of no layer",
    ]
    np.testing.assert_array_equal(model.get_layer("conv").kernel.numpy(), kernel)
    state = {k: v for k, v in state.items() if not k.startswith("bn.w")}
    load_torch_state(model, state | {"conv.bias": np.ones(3), "fc.bias": np.zeros(5)})
    np.testing.assert_array_equal(model.get_layer("fc").kernel, state["fc.weight"].T)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 34}, "depth: must be one of 14, 50, 101, 152, not 34"),
        ({"output_stride": 4}, "output_stride: must be 8, 16 or 32, not 4"),
        ({"multigrid": (1, 2)}, "multigrid: must be 3 rates, not 2"),
        ({"multigrid": (1, 0, 1)}, "multigrid: must be an integer of at least 1, not 0"),
        ({"stem": "wide"}, "stem: must be plain or deep, not 'wide'"),
    ],
)
def test_wrong_options_are_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        resnet(keras.Input((32, 32, 3)), **options)  # type: ignore[arg-type]
