"""Anchors: the boxes that the region proposal network starts from, three at each cell of P2 ... P6.

Order: level, row, column, ratio; as the RPN's outputs are flattened. matterport's are centred on
i * stride and exact; torchvision's base boxes are rounded to whole pixels, and its stride is the
input's side // the map's side, which on P6 need not be 64.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from segengine.models.maskrcnn.boxes import window_units
from segengine.models.maskrcnn.config import STRIDES, Config


def base_anchors(config: Config, level: int) -> NDArray[np.float64]:
    """(ratio, 4) anchors of P2 + `level` around the origin, in pixels."""
    side = float(config.anchor_sizes[level])
    root = np.sqrt(np.asarray(config.anchor_ratios))
    if config.matterport:
        heights, widths = side / root, side * root
    else:
        # In float32, as published: what is rounded may lie on a half.
        root = np.sqrt(np.asarray(config.anchor_ratios, np.float32))
        heights, widths = root * np.float32(side), (1 / root) * np.float32(side)
    base = np.stack([-heights, -widths, heights, widths], axis=1) / 2
    return (base if config.matterport else np.round(base)).astype(np.float64)


def anchors(config: Config, size: Any, shapes: Sequence[Any]) -> list[Any]:
    """Anchors (cells * ratios, 4) float32 of each level, in the units of the preset's boxes.

    `size` (height, width) of the network's input; `shapes` (height, width) of P2 ... P6, each may
    be a tensor.
    """
    found = []
    for level, shape in enumerate(shapes):
        steps = []
        for axis in (0, 1):
            stride = STRIDES[level] if config.matterport else size[axis] // shape[axis]
            steps.append(tf.cast(tf.range(shape[axis]) * stride, tf.float64))
        y, x = tf.meshgrid(*steps, indexing="ij")
        corners = tf.reshape(tf.stack([y, x, y, x], axis=-1), (-1, 1, 4))
        boxes = tf.reshape(corners + base_anchors(config, level)[None], (-1, 4))
        found.append(window_units(config, tf.cast(boxes, tf.float32), size))
    return found
