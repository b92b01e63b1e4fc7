"""PyTorch's conventions in Keras: padding, batch normalisation, and its state dicts by name.

A layer built here is called as torchvision calls its module (`layer1.0.conv2`), so that a state
dict's tensors find their layers without a table.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers
from numpy.typing import NDArray

from segengine.models._build import leaves
from segengine.models._safetensors import read_safetensors
from segengine.models._torchfile import read_torch
from segengine.models.layers.dilated import DilatedConvolution

EPSILON = 1e-5
"""Of a batch normalisation, as torch's default."""
MOMENTUM = 0.9
"""Torch's default of 0.1, in Keras' sense."""


def conv(
    x: Any,
    filters: int,
    kernel: int,
    name: str,
    *,
    stride: int = 1,
    dilation: int = 1,
    bias: bool = False,
) -> Any:
    """A square convolution with an odd kernel, padded by `dilation * (kernel - 1) / 2` on all sides.

    TensorFlow's "same" pads so too where the stride is 1; where it is 2 it would pad an even size
    at the bottom and right only.
    """
    padding = "same"
    if stride > 1 and kernel > 1:
        x = layers.ZeroPadding2D(dilation * (kernel // 2), name=f"{name}_pad")(x)
        padding = "valid"
    convolution = DilatedConvolution if dilation > 1 else layers.Conv2D
    return convolution(
        filters,
        kernel,
        strides=stride,
        dilation_rate=dilation,
        padding=padding,
        use_bias=bias,
        # by fan-out, as torchvision's ResNets, a layer to few channels would begin with huge values
        kernel_initializer="he_normal",
        name=name,
    )(x)


def batch_norm(x: Any, name: str) -> Any:
    """Batch normalisation with torch's defaults."""
    return layers.BatchNormalization(momentum=MOMENTUM, epsilon=EPSILON, name=name)(x)


def relu(x: Any, name: str | None = None) -> Any:
    """max(x, 0)."""
    return layers.ReLU(name=name)(x)


def max_pool(x: Any, name: str, *, stride: int = 2) -> Any:
    """3 x 3 maximum of values that are not negative, padded by 1 on all sides."""
    x = layers.ZeroPadding2D(1, name=f"{name}_pad")(x)
    return layers.MaxPooling2D(3, stride, name=name)(x)


_SUFFIXES = {
    "kernel": "weight",
    "gamma": "weight",
    "beta": "bias",
    "bias": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}


def read_state(path: str | Path) -> dict[str, NDArray[Any]]:
    """The tensors of a torch state dict by name, from `.pth` or `.safetensors`, without unpickling.

    Raises ValueError where it cannot be read.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    return read_safetensors(path) if path.suffix == ".safetensors" else read_torch(path)


def load_torch_state(model: keras.Model, state: Mapping[str, NDArray[Any]]) -> None:
    """Give the model the tensors of a torch state dict, as arrays by name.

    A layer takes `<its name>.weight`, `.bias`, `.running_mean` and `.running_var`; convolution
    kernels are turned from (out, in, y, x) to (y, x, in, out), dense ones transposed.
    `num_batches_tracked` is left out. Raises ValueError that names the tensors that are missing,
    left over or of another shape; the model is then unchanged.
    """
    found: list[tuple[Any, NDArray[Any]]] = []
    wrong: list[str] = []
    left = {name for name in state if not name.endswith(".num_batches_tracked")}
    for layer in leaves(model):
        for variable in layer.weights:
            name = f"{layer.name}.{_SUFFIXES.get(variable.name, variable.name)}"
            if name not in state:
                wrong.append(f"{name} is missing")
                continue
            left.discard(name)
            value = _as_keras(np.asarray(state[name]), layer)
            if value.shape != tuple(variable.shape):
                shape = tuple(np.shape(state[name]))
                wrong.append(f"{name} has shape {shape}, for {tuple(variable.shape)} here")
            else:
                found.append((variable, value))
    wrong += [f"{name} is of no layer" for name in sorted(left)]
    if wrong:
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise ValueError(f"state: does not fit {model.name}: {'; '.join(wrong[:5])}{more}")
    for variable, value in found:
        variable.assign(value)


def _as_keras(tensor: NDArray[Any], layer: Any) -> NDArray[Any]:
    if tensor.ndim == 4:
        # depthwise kernels are (channel, 1, y, x) there and (y, x, channel, 1) here
        axes = (2, 3, 0, 1) if isinstance(layer, layers.DepthwiseConv2D) else (2, 3, 1, 0)
        return tensor.transpose(axes)
    return tensor.T if tensor.ndim == 2 else tensor
