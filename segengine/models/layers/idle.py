"""Weights that a published network holds and never uses."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="segengine")
class IdleConvolution(keras.layers.Layer):
    """Passes (n, h, w, c) on, and holds a 1 x 1 convolution to one channel that has no effect.

    With it a model's parameters are those of the published one, in number and by name. Their
    gradient is zero.
    """

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        self.kernel = self.add_weight(shape=(1, 1, input_shape[-1], 1), name="kernel")
        self.bias = self.add_weight(shape=(1,), initializer="zeros", name="bias")

    def call(self, inputs: Any) -> Any:
        # a weight without any gradient would make Keras warn in every training
        nothing = 0.0 * (ops.sum(self.kernel) + ops.sum(self.bias))
        return inputs + ops.cast(nothing, inputs.dtype)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return input_shape
