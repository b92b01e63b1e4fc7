"""MobileNetV2 whose last stages are dilated instead of strided.

Sandler et al. 2018, "MobileNetV2", section 6.3: the network of `keras.applications`, with its layer
names and weights; where a block gives up its stride, the depthwise convolutions after it are
dilated by it.
"""

from __future__ import annotations

import re
from typing import Any

import keras

from segengine.models._encoder import application

_STRIDED = (1, 3, 6, 13)
"""Blocks with stride 2, at 1/2 of the size and on."""


def mobilenetv2(inputs: Any, output_stride: int, weights: str | None = None) -> dict[str, Any]:
    """Features of inputs (n, h, w, band): `c2` (n, h/4, w/4, 144), `c5` (..., 320).

    `c2` is inside the last block at 1/4, where Chen et al. 2018 (DeepLab v3+) take it; `c5` the last
    block's output at 1/`output_stride` (8, 16 or 32). weights: None or "imagenet".
    """
    source = application("MobileNetV2", keras.Input(inputs.shape[1:]), weights)
    rates = _rates(output_stride)

    def dilated(layer: Any) -> Any:
        config = layer.get_config()
        found = re.fullmatch(r"block_(\d+)_(pad|depthwise)", layer.name)
        if found is not None:
            block = int(found[1])
            stride, rate = rates[block]
            if found[2] == "depthwise":
                config |= {"dilation_rate": rate}
            if block in _STRIDED and stride == 1:
                config |= {"padding": 0} if found[2] == "pad" else {"strides": 1, "padding": "same"}
        return type(layer).from_config(config)

    network = keras.models.clone_model(source, input_tensors=[inputs], clone_function=dilated)
    network.set_weights(source.get_weights())
    return {
        "c2": network.get_layer("block_2_depthwise_relu").output,
        "c5": network.get_layer("block_16_project_BN").output,
    }


def _rates(output_stride: int) -> dict[int, tuple[int, int]]:
    """Stride and dilation of each block's depthwise convolution.

    >>> _rates(16)[13], _rates(16)[14], _rates(8)[13], _rates(8)[16]
    ((1, 1), (1, 2), (1, 2), (1, 4))
    """
    if output_stride not in (8, 16, 32):
        raise ValueError(f"output_stride: must be 8, 16 or 32, not {output_stride!r}")
    found = {}
    reached, rate = 2, 1
    for block in range(1, 17):
        stride = 2 if block in _STRIDED else 1
        if stride == 2 and reached == output_stride:
            found[block] = (1, rate)
            rate *= 2
        else:
            found[block] = (stride, rate)
            reached *= stride
    return found
