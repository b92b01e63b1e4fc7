"""Canny's edges inside a network, equal to OpenCV's on 8-bit images.

Canny 1986, "A computational approach to edge detection", in the arithmetic of `cv2.Canny` (3 x 3
Sobel with the border repeated, L1 norm, of several bands the one with the greatest norm), all in
integers: rounding cannot move an edge. No gradient passes.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

_TAN_22 = round(np.tan(np.pi / 8) * (1 << 15))
"""The sectors of a gradient's direction end at tan 22.5 and tan 67.5 = tan 22.5 + 2, times 2^15."""


@keras.saving.register_keras_serializable(package="segengine")
class Canny(keras.layers.Layer):
    """(n, h, w, band) to (n, h, w, 1): 1.0 on an edge, else 0.0.

    `white` is the input's value of white: inputs are scaled to 0 to 255 and rounded. A pixel above
    `high` starts an edge, and 8-connected ones above `low` continue it. That is found by repeated
    dilation, as often as the longest path from a start is long.
    """

    def __init__(self, low: int = 10, high: int = 100, white: float = 1.0, **kwargs: Any) -> None:
        # positions and gradients do not fit a half float
        super().__init__(**{**kwargs, "dtype": "float32"})
        if not 0 <= low <= high:
            raise ValueError(f"low: must be from 0 to high = {high!r}, not {low!r}")
        if not white > 0:
            raise ValueError(f"white: must be above 0, not {white!r}")
        self.low, self.high, self.white = low, high, white

    def call(self, inputs: Any) -> Any:
        """The edges, float32."""
        scaled = ops.cast(inputs, "float32") * (255.0 / self.white)
        pixels = ops.cast(ops.clip(ops.round(scaled), 0, 255), "int32")
        dy, dx = _sobel(pixels)
        thin, strength = _thinned(dx, dy)
        candidates = ops.cast(thin & (strength > self.low), "float32")
        starts = ops.cast(thin & (strength > self.high), "float32")
        return ops.stop_gradient(_grown(starts, candidates))

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """One channel at the inputs' size."""
        return (*input_shape[:-1], 1)

    def get_config(self) -> dict[str, Any]:
        """The thresholds and white, for a saved model."""
        own = {"low": self.low, "high": self.high, "white": self.white}
        return {**super().get_config(), **own}


def _sobel(pixels: Any) -> tuple[Any, Any]:
    """Derivatives along y and x (n, h, w, 1), of the band where the sum of magnitudes is greatest."""
    x = ops.concatenate([pixels[:, :1], pixels, pixels[:, -1:]], axis=1)
    x = ops.concatenate([x[:, :, :1], x, x[:, :, -1:]], axis=2)
    across = x[:, :, 2:] - x[:, :, :-2]
    dx = across[:, :-2] + 2 * across[:, 1:-1] + across[:, 2:]
    down = x[:, 2:] - x[:, :-2]
    dy = down[:, :, :-2] + 2 * down[:, :, 1:-1] + down[:, :, 2:]
    if pixels.shape[-1] == 1:
        return dy, dx
    band = ops.argmax(ops.abs(dx) + ops.abs(dy), axis=-1, keepdims=True)
    return ops.take_along_axis(dy, band, axis=-1), ops.take_along_axis(dx, band, axis=-1)


def _thinned(dx: Any, dy: Any) -> tuple[Any, Any]:
    """Where the magnitude is greatest across the edge (bool), and the magnitude; (n, h, w, 1)."""
    x, y = ops.abs(dx), ops.abs(dy)
    strength = x + y
    around = ops.pad(strength, ((0, 0), (1, 1), (1, 1), (0, 0)))
    height, width = ops.shape(strength)[1:3]

    def at(down: int, right: int) -> Any:
        return around[:, 1 + down : 1 + down + height, 1 + right : 1 + right + width]

    flat, steep = x * _TAN_22, x * (_TAN_22 + (2 << 15))
    y = y * (1 << 15)
    level = (strength > at(0, -1)) & (strength >= at(0, 1))
    upright = (strength > at(-1, 0)) & (strength >= at(1, 0))
    falling = (strength > at(-1, -1)) & (strength > at(1, 1))
    rising = (strength > at(-1, 1)) & (strength > at(1, -1))
    # the signs differ: as the sign bit of the exclusive or, so 0 counts as positive
    slanted = ops.where((dx < 0) != (dy < 0), rising, falling)
    return ops.where(y < flat, level, ops.where(y > steep, upright, slanted)), strength


def _grown(starts: Any, candidates: Any) -> Any:
    """Candidates that are 8-connected to a start."""

    def more(edges: Any, before: Any) -> Any:
        return ops.any(edges != before)

    def dilated(edges: Any, before: Any) -> tuple[Any, Any]:
        return ops.max_pool(edges, 3, 1, padding="same") * candidates, edges

    edges, _ = ops.while_loop(more, dilated, (starts * candidates, ops.zeros_like(starts)))
    return edges
