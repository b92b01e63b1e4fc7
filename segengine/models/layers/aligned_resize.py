"""Bilinear resizing whose corner pixels stay in the corners: "align_corners=True" of PyTorch.

`keras.ops.image.resize` puts sample points half a pixel inside instead. Both axes are matrix
products, so any size can be asked for at run time, and the gradient is the transposed product.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="segengine")
class AlignedResize(keras.layers.Layer):
    """Called on [x, like]: x (n, h, w, c) at the height and width of `like` (n, H, W, any)."""

    def call(self, inputs: list[Any]) -> Any:
        """(n, H, W, c), of the dtype of x."""
        x, like = inputs
        height, width = ops.shape(like)[1:3]
        x = _resize_axis(x, height, 1)
        return _resize_axis(x, width, 2)

    def compute_output_shape(self, input_shape: list[Any]) -> tuple[int | None, ...]:
        """Shape of x with the height and width of `like`."""
        x, like = input_shape
        return (x[0], like[1], like[2], x[3])


def _resize_axis(x: Any, target: Any, axis: int) -> Any:
    source = ops.shape(x)[axis]
    if isinstance(source, int) and isinstance(target, int) and source == target:
        return x
    weights = ops.cast(_weights(source, target), x.dtype)
    subscripts = "nhwc,Hh->nHwc" if axis == 1 else "nhwc,Ww->nhWc"
    return ops.einsum(subscripts, x, weights)


def _weights(source: Any, target: Any) -> Any:
    """(target, source) float32 interpolation weights.

    Output i lies at i (source - 1) / (target - 1) of the input. Its whole part is found in integers:
    in float32 a far pixel's weight would be off by 1e-4.
    """
    steps = ops.maximum(target - 1, 1)
    at = ops.arange(target, dtype="int32") * (source - 1)
    low = (at // steps)[:, None]
    part = ops.cast((at % steps)[:, None], "float32") / ops.cast(steps, "float32")
    column = ops.arange(source, dtype="int32")[None, :]
    here, after = ops.cast(column == low, "float32"), ops.cast(column == low + 1, "float32")
    return here * (1.0 - part) + after * part
