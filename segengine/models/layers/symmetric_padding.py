"""Padding by mirrored values, the border's own included: `np.pad` mode "symmetric"."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="segengine")
class SymmetricPadding(keras.layers.Layer):
    """(n, h, w, c) to (n, h + 2 width, w + 2 width, c)."""

    def __init__(self, width: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if width < 1:
            raise ValueError(f"width: must be at least 1, not {width!r}")
        self.width = width

    def call(self, inputs: Any) -> Any:
        """The padded inputs."""
        sides = (self.width, self.width)
        return ops.pad(inputs, ((0, 0), sides, sides, (0, 0)), mode="symmetric")

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Height and width grown by twice the padding."""
        n, height, width, channels = input_shape
        grow = 2 * self.width
        return (
            n,
            None if height is None else height + grow,
            None if width is None else width + grow,
            channels,
        )

    def get_config(self) -> dict[str, Any]:
        """The padding, for a saved model."""
        return {**super().get_config(), "width": self.width}
