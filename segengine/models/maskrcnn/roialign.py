"""Regions and pyramid to squares of features: RoIAlign (He et al. 2017, section 3), both kinds.

matterport samples the centre-most point a bin that `tf.image.crop_and_resize` defines. torchvision
(sampling ratio 2, aligned False) averages 2 x 2 samples a bin at a quarter and three quarters, holds
the border's value up to one cell outside the map and takes 0 beyond. Its samples over all bins are a
regular grid, so `crop_and_resize` of a map with its border repeated once takes them, 0 beyond
included, and a mean over 2 x 2 ends it.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from segengine.models.maskrcnn import boxes as bx
from segengine.models.maskrcnn._layer import ConfiguredLayer
from segengine.models.maskrcnn.config import STRIDES, Config

SAMPLES = 2
"""Samples a bin and axis of torchvision's."""


@keras.saving.register_keras_serializable(package="segengine")
class PyramidAlign(ConfiguredLayer):
    """[image, boxes (n, k, 4), valid (n, k), P2, P3, P4, P5] -> (valid boxes, side, side, c)."""

    def __init__(self, config: Config | dict[str, Any], side: int, **kwargs: Any) -> None:
        super().__init__(config, **kwargs)
        self.side = side

    def call(self, inputs: Any) -> Any:
        """Features of the valid boxes only, image by image, in their order."""
        image, boxes, valid, *maps = inputs
        owners = tf.cast(tf.where(valid)[:, 0], tf.int32)
        boxes = tf.stop_gradient(tf.boolean_mask(boxes, valid))
        size = tf.shape(image)[1:3]
        level = bx.levels(self.config, boxes, size)
        indices = [tf.where(level == i)[:, 0] for i in range(len(maps))]
        squares = [
            self._align(m, tf.gather(boxes, at), tf.gather(owners, at), STRIDES[i])
            for i, (m, at) in enumerate(zip(maps, indices, strict=True))
        ]
        order = tf.argsort(tf.concat(indices, axis=0))
        return tf.gather(tf.concat(squares, axis=0), order)

    def _align(self, features: Any, boxes: Any, owners: Any, stride: int) -> Any:
        if self.config.matterport:
            return tf.image.crop_and_resize(features, boxes, owners, (self.side, self.side))
        return roi_align(features, boxes / stride, owners, self.side)

    def get_config(self) -> dict[str, Any]:
        """With the side."""
        return {**super().get_config(), "side": self.side}

    def compute_output_shape(self, shapes: Any) -> Any:
        """Squares of the maps' channels."""
        return (None, self.side, self.side, shapes[-1][-1])


def roi_align(features: Any, boxes: Any, owners: Any, side: int) -> Any:
    """torchvision's `roi_align(sampling_ratio=2, aligned=False)`: (m, side, side, c).

    `features` (n, h, w, c); `boxes` (m, 4) in cells; `owners` (m,) which of the n.
    """
    grid = side * SAMPLES
    start = boxes[:, :2]
    step = tf.maximum(boxes[:, 2:] - start, 1.0) / grid
    first = start + 0.5 * step + 1.0  # the repeated border moves the map by one
    padded = tf.pad(features, [[0, 0], [1, 1], [1, 1], [0, 0]], "SYMMETRIC")
    last = tf.cast(tf.shape(padded)[1:3] - 1, tf.float32)
    ends = tf.concat([first / last, (first + (grid - 1) * step) / last], axis=1)
    samples = tf.image.crop_and_resize(padded, ends, owners, (grid, grid))
    return tf.nn.avg_pool2d(samples, SAMPLES, SAMPLES, "VALID")
