"""Mean over a fixed grid of cells, whatever the size: PyTorch's `AdaptiveAvgPool2d`."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="segengine")
class AdaptiveAveragePooling(keras.layers.Layer):
    """(n, h, w, c) to (n, cells, cells, c).

    Cell i of k covers rows floor(i h / k) to ceil((i + 1) h / k), likewise columns; cells overlap
    where k does not divide h.
    """

    def __init__(self, cells: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if cells < 1:
            raise ValueError(f"cells: must be at least 1, not {cells!r}")
        self.cells = cells

    def call(self, inputs: Any) -> Any:
        """The means, of the dtype of the inputs."""
        height, width = ops.shape(inputs)[1:3]
        rows = ops.cast(_weights(height, self.cells), inputs.dtype)
        columns = ops.cast(_weights(width, self.cells), inputs.dtype)
        return ops.einsum("nhwc,ih,jw->nijc", inputs, rows, columns)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """(n, cells, cells, c)."""
        return (input_shape[0], self.cells, self.cells, input_shape[3])

    def get_config(self) -> dict[str, Any]:
        """The number of cells, for a saved model."""
        return {**super().get_config(), "cells": self.cells}


def _weights(size: Any, cells: int) -> Any:
    """(cells, size) float32; each row sums to 1."""
    cell = ops.arange(cells, dtype="int32")[:, None]
    at = ops.arange(size, dtype="int32")[None, :]
    inside = (at >= cell * size // cells) & (at < -(-(cell + 1) * size // cells))
    members = ops.cast(inside, "float32")
    return members / ops.sum(members, axis=1, keepdims=True)
