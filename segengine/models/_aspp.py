"""Atrous spatial pyramid pooling: the same features seen through several dilation rates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keras import layers

from segengine.models._torch import batch_norm, conv, relu
from segengine.models.layers import ResizeLike


def aspp_sum(x: Any, classes: int, rates: Sequence[int], name: str) -> Any:
    """DeepLab v2's: a 3 x 3 convolution straight to `classes` for each rate, summed."""
    branches = [
        conv(x, classes, 3, f"{name}.{i}", dilation=rate, bias=True) for i, rate in enumerate(rates)
    ]
    return layers.Add(name=f"{name}.sum")(branches) if len(branches) > 1 else branches[0]


def aspp_pool(x: Any, rates: Sequence[int], dropout: float, name: str, filters: int = 256) -> Any:
    """DeepLab v3's: 1 x 1, 3 x 3 for each rate and the image's mean, concatenated and projected.

    Every convolution is followed by batch normalisation and ReLU. Layers are named as in
    torchvision.
    """
    branches = [unit(x, filters, 1, f"{name}.convs.0")]
    for i, rate in enumerate(rates, 1):
        branches.append(unit(x, filters, 3, f"{name}.convs.{i}", dilation=rate))
    last = f"{name}.convs.{len(rates) + 1}"
    pooled = layers.GlobalAveragePooling2D(keepdims=True, name=f"{last}.0")(x)
    pooled = relu(batch_norm(conv(pooled, filters, 1, f"{last}.1"), f"{last}.2"), f"{last}.3")
    branches.append(ResizeLike(name=f"{last}.resize")([pooled, x]))
    x = layers.Concatenate(name=f"{name}.concat")(branches)
    x = unit(x, filters, 1, f"{name}.project")
    return layers.Dropout(dropout, name=f"{name}.project.3")(x)


def unit(x: Any, filters: int, kernel: int, name: str, dilation: int = 1) -> Any:
    """Convolution, batch normalisation, ReLU: `<name>.0`, `.1`, `.2`."""
    x = batch_norm(conv(x, filters, kernel, f"{name}.0", dilation=dilation), f"{name}.1")
    return relu(x, f"{name}.2")
