"""DeepMask and SharpMask: published counts, the whole networks against PyTorch, dense passes."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers
from numpy.typing import NDArray

from segengine.models import deepmask, sharpmask
from segengine.models._resnet import resnet
from segengine.models._torch import load_torch_state

from .named_weights import give_named_weights, parameters

FIXTURES = Path(__file__).parent / "fixtures"


def test_published_parameter_counts() -> None:
    model = deepmask.build()
    assert sum(parameters(model, p) for p in ("conv1", "bn1", "layer")) == 8_543_296
    assert parameters(model, "vector") == 6_554_112
    assert parameters(model, "mask") == 1_608_768
    assert parameters(model, "score.") == 526_337
    assert [tuple(o.shape) for o in model.outputs] == [(None, 112, 112, 1), (None, 1)]
    model = sharpmask.build()
    assert parameters(model, "h") == 1_090_466
    assert parameters(model, "v") - parameters(model, "vector") == 1_660_050
    assert parameters(model, "last") == 19
    assert [tuple(o.shape) for o in model.outputs] == [(None, 160, 160, 1), (None, 1)]


def test_equals_pytorch() -> None:
    found = np.load(FIXTURES / "deepmask.npz")
    patches = found["pixels"].astype(np.float32) / 255
    model = deepmask.build(activation=None)
    load_torch_state(model, give_named_weights(model))
    masks, scores = model(patches, training=False)
    thin = np.asarray(masks).transpose(0, 3, 1, 2)[..., ::7, ::7]
    np.testing.assert_allclose(thin, found["mask"], rtol=0, atol=1e-4)
    np.testing.assert_allclose(scores, found["score"], rtol=0, atol=1e-4)

    model = sharpmask.build(activation=None)
    load_torch_state(model, give_named_weights(model))
    masks, scores = model(patches, training=False)
    thin = np.asarray(masks).transpose(0, 3, 1, 2)[..., ::9, ::9]
    np.testing.assert_allclose(thin, np.load(FIXTURES / "sharpmask.npz")["mask"], atol=1e-4)
    np.testing.assert_allclose(scores, found["score"], rtol=0, atol=1e-4)


def test_a_dense_pass_scores_a_patch_every_16_pixels() -> None:
    """Equal to each patch by itself, where the trunk does not see beyond a patch's border."""
    model = deepmask.build(activation=None)
    up = model.get_layer("bottom_up")
    for layer in up.layers:
        if isinstance(layer, keras.layers.Conv2D) and layer.kernel_size[0] in (3, 7):
            kernel = np.asarray(layer.kernel)
            centre = np.zeros_like(kernel)
            middle = kernel.shape[0] // 2
            centre[middle, middle] = 3 * kernel[middle, middle]
            layer.kernel.assign(centre)
    image = np.random.default_rng(0).random((208, 240, 3), np.float32)
    vectors, scores = up(image[None])
    assert vectors.shape == (1, 2, 4, 512)
    assert scores.shape == (1, 2, 4, 1)
    patches = [image[16 * i :, 16 * j :][:192, :192] for i in range(2) for j in range(4)]
    expected = np.asarray(model(np.stack(patches))[1]).reshape(2, 4)
    assert np.ptp(expected) > 1e-3
    np.testing.assert_allclose(scores[0, ..., 0], expected, atol=1e-6)


def test_sharpmask_keeps_the_trunk_it_is_given(tmp_path: Path) -> None:
    base = deepmask.build()
    base.save_weights(tmp_path / "base.weights.h5")
    model = sharpmask.build(trunk=str(tmp_path / "base.weights.h5"))
    patch = np.random.default_rng(0).random((1, 192, 192, 3), np.float32)
    np.testing.assert_array_equal(model(patch)[1], base(patch)[1])
    trained = {v.path.partition("/")[0][:1] for v in model.trainable_variables}
    assert trained == {"h", "v", "l"}


def as_safetensors(state: Mapping[str, NDArray[np.float32]]) -> bytes:
    """The published format: the header's length, a JSON header, and the tensors one after another."""
    header, end = {}, 0
    for name, tensor in state.items():
        start, end = end, end + tensor.nbytes
        header[name] = {"dtype": "F32", "shape": tensor.shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + b"".join(v.tobytes() for v in state.values())


def test_a_trunk_that_learned_imagenet(tmp_path: Path) -> None:
    """From a whole ResNet-50 in torchvision's names, read without torch."""
    image = keras.Input((None, None, 3))
    whole = keras.Model(image, layers.Dense(10, name="fc")(resnet(image)["c5"]), name="resnet50")
    state = give_named_weights(whole)
    (tmp_path / "r.safetensors").write_bytes(as_safetensors(state))
    model = deepmask.build(trunk=str(tmp_path / "r.safetensors"))
    up = model.get_layer("bottom_up")
    load_torch_state(whole, state)
    shared = [layer for layer in whole.layers if layer.weights and "layer4" not in layer.name]
    assert len(shared) == 87
    for layer in shared[:-1]:
        for a, b in zip(layer.get_weights(), up.get_layer(layer.name).get_weights(), strict=True):
            np.testing.assert_array_equal(a, b, err_msg=layer.name)
    with pytest.raises(ValueError, match=r"^trunk: .*r.safetensors: does not fit the trunk: "):
        deepmask.build(bands=4, trunk=str(tmp_path / "r.safetensors"))
    with pytest.raises(ValueError, match=r"^trunk: /nowhere.pth: there is no file"):
        deepmask.build(trunk="/nowhere.pth")


@pytest.mark.parametrize("architecture", [deepmask, sharpmask])
def test_a_saved_model_is_plain_keras(architecture, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    model = architecture.build(bands=1)
    patch = np.random.default_rng(0).random((1, 192, 192, 1), np.float32)
    model.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras")
    for a, b in zip(again(patch), model(patch), strict=True):
        np.testing.assert_array_equal(a, b)


def test_options_are_checked() -> None:
    with pytest.raises(ValueError, match=r"^classes: its objects have no class"):
        deepmask.build(classes=2)
    with pytest.raises(ValueError, match=r"^size: its patches have 192 x 192 pixels"):
        sharpmask.build(size=(160, 160))
    with pytest.raises(ValueError, match=r"^weights: there is no file"):
        sharpmask.build(trunk="/nowhere.h5")
