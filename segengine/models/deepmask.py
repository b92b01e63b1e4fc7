"""DeepMask: for a patch, the mask of the object in its centre, and whether there is one.

Pinheiro et al. 2015, "Learning to segment object candidates", on the ResNet-50 trunk of Pinheiro
et al. 2016. The fully connected layers are convolutions, so that one pass over a whole image scores
a patch every 16 pixels; masks are then made of the best only. Two models in one:

    bottom_up   image (n, h, w, band) -> vectors (n, gy, gx, 512), scores (n, gy, gx, 1)
    top_down    vectors (p, 512) -> masks (p, 112, 112, 1)

Both give logits. gy = h / 16 - 11: a patch is 160 x 160 pixels, seen with 16 more on each side.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import keras
from keras import layers

from segengine.models._build import Size, check, final, load_weights
from segengine.models._torch import EPSILON, load_torch_state, max_pool, read_state, relu
from segengine.models.layers.symmetric_padding import SymmetricPadding
from segengine.networks.bundles import check_finite

PATCH = 160
"""Side of the patch that a mask covers, in pixels."""
BORDER = 16
"""Context on each side of it."""
STRIDE = 16
"""Distance of neighbouring patches, in pixels."""
CELLS = PATCH // STRIDE
"""Side of a patch in the trunk's last map."""
INPUT = PATCH + 2 * BORDER

OBJECT = 92
"""Longer side of the object that a patch is for, in pixels: 128 of 224, as published."""

Backbone = Literal["resnet50", "resnet14"]
_BLOCKS = {"resnet50": (3, 4, 6), "resnet14": (1, 1, 1)}
"""Of the trunk's stages conv2 to conv4; the latter is not published, and learns in minutes."""
_STRIDES = (1, 2, 2)


def build(
    bands: int = 3,
    classes: int = 1,
    size: Size = (None, None),
    weights: str | None = None,
    *,
    backbone: Backbone = "resnet50",
    train_norm: bool = False,
    trunk: str | None = None,
    activation: str | None = "auto",
) -> keras.Model:
    """DeepMask for patches (n, 192, 192, bands): masks (n, 112, 112, 1) and scores (n, 1).

    Both float32, sigmoids unless `activation` is None. `size` is (None, None) or (192, 192): for
    images of another size take `model.get_layer("bottom_up")` and `"top_down"`. Objects have no
    class: `classes` is 1. The trunk's batch normalisation is frozen unless `train_norm`, without which
    nothing is learned from random weights. `trunk`: what the trunk begins with, torchvision's weights
    of a ResNet-50 that learned ImageNet, `.pth` or `.safetensors`. Raises ValueError for a value it
    does not know.
    """
    check_patches(bands, classes, size, train_norm)
    image = keras.Input((None, None, bands), name="image")
    features = resnet_trunk(image, backbone, train_norm)
    up = keras.Model(image, heads(features["c4"]), name="bottom_up")
    vector = keras.Input((512,), name="vector")
    mask = layers.Dense(56 * 56, name="mask")(vector)
    mask = layers.Reshape((56, 56, 1), name="mask.map")(mask)
    mask = layers.UpSampling2D(2, interpolation="bilinear", name="mask.up")(mask)
    down = keras.Model(vector, mask, name="top_down")

    patch = keras.Input((INPUT, INPUT, bands), name="patch")
    vectors, scores = up(patch)
    logits = down(layers.Reshape((512,), name="vectors")(vectors))
    outputs = [final(logits, 1, activation), final_score(scores, activation)]
    model = keras.Model(patch, outputs, name="deepmask")
    if trunk is not None:
        _load_trunk(keras.Model(image, features["c4"], name="the trunk"), trunk)
    load_weights(model, weights)
    return model


def _load_trunk(model: keras.Model, file: str) -> None:
    """Fill the trunk from a whole ResNet-50 of torchvision, whose last stage it has not."""
    names = {layer.name for layer in model.layers}
    try:
        if not isinstance(file, str):
            raise ValueError("give the path of a file")
        state = read_state(file)
        load_torch_state(model, {k: v for k, v in state.items() if k.rpartition(".")[0] in names})
        check_finite(model)
    except ValueError as error:
        raise ValueError(f"trunk: {file}: {str(error).removeprefix('state: ')}") from error


def check_patches(bands: int, classes: int, size: Size, train_norm: bool) -> None:
    """Refuse options that a network of patches cannot have."""
    check(bands, classes, size)
    if classes != 1:
        raise ValueError(f"classes: its objects have no class, so 1, not {classes!r}")
    if tuple(size) not in ((None, None), (INPUT, INPUT)):
        raise ValueError(f"size: its patches have {INPUT} x {INPUT} pixels, not {size!r}")
    if not isinstance(train_norm, bool):
        raise ValueError(f"train_norm: must be true or false, not {train_norm!r}")


def resnet_trunk(inputs: Any, backbone: object, train_norm: bool) -> dict[str, Any]:
    """A ResNet to conv4, mirrored at its borders: `stem`, `c2`, `c3`, `c4` at strides 2 to 16."""
    if not isinstance(backbone, str) or backbone not in _BLOCKS:
        raise ValueError(f"backbone: must be one of {', '.join(_BLOCKS)}, not {backbone!r}")

    def norm(x: Any, name: str) -> Any:
        # frozen as published: weights that are given bring better statistics than a few patches
        return layers.BatchNormalization(epsilon=EPSILON, trainable=train_norm, name=name)(x)

    x = symmetric_conv(inputs, 64, 7, "conv1", stride=2, bias=False)
    x = relu(norm(x, "bn1"), "relu")
    features = {"stem": x}
    x = max_pool(x, "maxpool")
    for stage, (blocks, stride) in enumerate(zip(_BLOCKS[backbone], _STRIDES, strict=True), 1):
        for block in range(blocks):
            name = f"layer{stage}.{block}"
            x = _bottleneck(x, 32 << stage, stride if block == 0 else 1, block == 0, norm, name)
        features[f"c{stage + 1}"] = x
    return features


def heads(c4: Any) -> tuple[Any, Any]:
    """Vectors (n, gy, gx, 512) and score logits (n, gy, gx, 1) of all patches of an image.

    No activation stands between a vector and the mask made of it: together they are one linear
    map of low rank.
    """
    x = layers.Cropping2D(BORDER // STRIDE, name="crop")(c4)
    x = relu(symmetric_conv(x, 128, 1, "reduce"), "reduce.relu")
    vectors = symmetric_conv(x, 512, CELLS, "vector", pad=False)
    x = layers.Dropout(0.5, name="score.dropout0")(vectors)
    x = relu(layers.Dense(1024, name="score.0")(x), "score.relu")
    x = layers.Dropout(0.5, name="score.dropout1")(x)
    return vectors, layers.Dense(1, name="score.1")(x)


def final_score(scores: Any, activation: str | None) -> Any:
    """Score logits (n, 1, 1, 1) of patches as the output (n, 1)."""
    scores = layers.Reshape((1,), name="scores")(scores)
    kind = "sigmoid" if activation else "linear"
    return layers.Activation(kind, dtype="float32", name="score")(scores)


def symmetric_conv(
    x: Any,
    filters: int,
    kernel: int,
    name: str,
    *,
    stride: int = 1,
    bias: bool = True,
    pad: bool = True,
) -> Any:
    """A convolution that sees the image mirrored beyond its border, where it is padded."""
    if pad and kernel > 1:
        x = SymmetricPadding(kernel // 2, name=f"{name}_pad")(x)
    return layers.Conv2D(filters, kernel, strides=stride, use_bias=bias, name=name)(x)


def _bottleneck(
    x: Any, filters: int, stride: int, project: bool, norm: Callable[[Any, str], Any], name: str
) -> Any:
    """As `_resnet`'s, with mirrored borders."""
    y = symmetric_conv(x, filters, 1, f"{name}.conv1", bias=False)
    y = relu(norm(y, f"{name}.bn1"), f"{name}.relu1")
    y = symmetric_conv(y, filters, 3, f"{name}.conv2", stride=stride, bias=False)
    y = relu(norm(y, f"{name}.bn2"), f"{name}.relu2")
    y = norm(symmetric_conv(y, 4 * filters, 1, f"{name}.conv3", bias=False), f"{name}.bn3")
    if project:
        x = symmetric_conv(x, 4 * filters, 1, f"{name}.downsample.0", stride=stride, bias=False)
        x = norm(x, f"{name}.downsample.1")
    return relu(layers.Add(name=f"{name}.add")([x, y]), f"{name}.out")
