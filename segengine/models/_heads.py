"""Heads that turn a feature map into one value a class: FCN, PSP, DeepLab v3 and EncNet.

Each takes features (n, h, w, c) and gives a tuple, first the logits (n, h, w, class). Widths are
those of FastFCN (Wu et al. 2019), with dropout 0.1 before the last convolution; resizing is
bilinear with aligned corners.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keras import layers

from segengine.models._torch import batch_norm, conv, relu
from segengine.models.layers.adaptive_pool import AdaptiveAveragePooling
from segengine.models.layers.aligned_resize import AlignedResize
from segengine.models.layers.encoding import Encoding


def conv_bn_relu(x: Any, filters: int, kernel: int, name: str, *, dilation: int = 1) -> Any:
    """Convolution without bias, batch normalisation, ReLU: `<name>.conv`, `.bn`, `.relu`."""
    x = conv(x, filters, kernel, f"{name}.conv", dilation=dilation)
    return relu(batch_norm(x, f"{name}.bn"), f"{name}.relu")


def fcn(x: Any, classes: int, name: str) -> tuple[Any, ...]:
    """Long et al. 2015: a 3 x 3 convolution to a quarter of the channels, then one a class."""
    x = conv_bn_relu(x, x.shape[-1] // 4, 3, name)
    return (_classify(x, classes, name),)


def psp(x: Any, classes: int, name: str) -> tuple[Any, ...]:
    """Zhao et al. 2017: means over 1, 4, 9 and 36 cells, each a quarter as wide, beside the input."""
    width = x.shape[-1] // 4
    levels = [x]
    for cells in (1, 2, 3, 6):
        level = AdaptiveAveragePooling(cells, name=f"{name}.pool{cells}")(x)
        level = conv_bn_relu(level, width, 1, f"{name}.level{cells}")
        levels.append(AlignedResize(name=f"{name}.resize{cells}")([level, x]))
    x = layers.Concatenate(name=f"{name}.levels")(levels)
    return (_classify(conv_bn_relu(x, width, 3, name), classes, name),)


def deeplab(x: Any, classes: int, name: str) -> tuple[Any, ...]:
    """Chen et al. 2017 (v3) at output stride 8: ASPP of rates 12, 24 and 36, a 3 x 3 convolution."""
    x = layers.Concatenate(name=f"{name}.branches")(aspp(x, (12, 24, 36), name))
    x = conv_bn_relu(x, 256, 1, f"{name}.project")
    x = layers.Dropout(0.5, name=f"{name}.project.dropout")(x)
    return (_classify(conv_bn_relu(x, 256, 3, name), classes, name),)


def aspp(x: Any, rates: Sequence[int], name: str) -> list[Any]:
    """Atrous spatial pyramid pooling: 1 x 1, 3 x 3 at each rate, and the mean of all, 256 wide each."""
    branches = [conv_bn_relu(x, 256, 1, f"{name}.aspp0")]
    branches += [
        conv_bn_relu(x, 256, 3, f"{name}.aspp{i}", dilation=rate) for i, rate in enumerate(rates, 1)
    ]
    mean = layers.GlobalAveragePooling2D(keepdims=True, name=f"{name}.mean")(x)
    mean = conv_bn_relu(mean, 256, 1, f"{name}.image")
    return [*branches, AlignedResize(name=f"{name}.image.resize")([mean, x])]


def encnet(x: Any, classes: int, name: str) -> tuple[Any, ...]:
    """Zhang et al. 2018, "Context encoding": 32 codewords weigh 512 channels.

    Also gives logits (n, class) of which classes are in the image (the paper's SE loss, binary
    cross-entropy weighted 0.2).
    """
    x = conv_bn_relu(x, 512, 1, name)
    codes = conv_bn_relu(x, 512, 1, f"{name}.encode")
    codes = Encoding(32, name=f"{name}.codewords")(codes)
    codes = relu(batch_norm(codes, f"{name}.codewords.bn"))
    code = layers.GlobalAveragePooling1D(name=f"{name}.codewords.mean")(codes)
    gate = layers.Dense(512, "sigmoid", name=f"{name}.gate")(code)
    gate = layers.Reshape((1, 1, 512), name=f"{name}.gate.map")(gate)
    gated = layers.Multiply(name=f"{name}.gated")([x, gate])
    x = relu(layers.Add(name=f"{name}.weighed")([x, gated]))
    present = layers.Dense(classes, name=f"{name}.present")(code)
    return _classify(x, classes, name), present


def _classify(x: Any, classes: int, name: str) -> Any:
    x = layers.Dropout(0.1, name=f"{name}.dropout")(x)
    return conv(x, classes, 1, f"{name}.out", bias=True)
