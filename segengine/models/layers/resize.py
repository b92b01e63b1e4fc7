"""Bilinear resizing to the size of another tensor, or by a factor.

Sample points are pixel centres, `(i + 0.5) * in / out - 0.5`, clamped at the border, without
antialiasing: torch's `interpolate(mode="bilinear", align_corners=False)`.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import keras
from keras import ops

Shape = tuple[int | None, ...]


@keras.saving.register_keras_serializable(package="segengine")
class ResizeLike(keras.layers.Layer):
    """[x (n, a, b, c), like (n, h, w, any)] -> x at the size of `like`, (n, h, w, c)."""

    def call(self, inputs: list[Any]) -> Any:
        x, like = inputs
        height, width = ops.shape(like)[1:3]
        return _resized(x, height, width)

    def compute_output_shape(self, input_shape: list[Shape]) -> Shape:
        x, like = input_shape
        return (x[0], like[1], like[2], x[3])


@keras.saving.register_keras_serializable(package="segengine")
class ResizeBy(keras.layers.Layer):
    """x (n, h, w, c) -> (n, floor(h * ratio), floor(w * ratio), c).

    `ratio` is the fraction nearest to `factor` with a denominator of at most 64. Raises ValueError
    where that is not above 0.
    """

    def __init__(self, factor: float, **options: Any) -> None:
        super().__init__(**options)
        self.factor = float(factor)
        self.ratio = Fraction(factor).limit_denominator(64)
        if not self.ratio > 0:
            raise ValueError(f"factor: must be above 1/128, not {factor!r}")

    def call(self, inputs: Any) -> Any:
        _, height, width, _ = ops.shape(inputs)
        return _resized(inputs, self._scaled(height), self._scaled(width))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        n, height, width, channels = input_shape
        sizes = (None if size is None else self._scaled(size) for size in (height, width))
        return (n, *sizes, channels)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "factor": self.factor}

    def _scaled(self, size: Any) -> Any:
        return size * self.ratio.numerator // self.ratio.denominator


def _resized(x: Any, height: Any, width: Any) -> Any:
    """x (n, a, b, c) -> (n, height, width, c).

    Keras' own compares the size with 0, which cannot be done while a window of any size is traced.
    """
    import tensorflow as tf

    return tf.cast(tf.image.resize(x, (height, width)), x.dtype)
