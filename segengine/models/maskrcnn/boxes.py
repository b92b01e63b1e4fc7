"""Box arithmetic: coding as deltas, clipping, and the pyramid level of a region.

Deltas are (dy, dx, log dh, log dw) relative to a box's centre and size (Girshick et al. 2014,
"Rich feature hierarchies", appendix C).
"""

from __future__ import annotations

import math
from typing import Any

import tensorflow as tf

from segengine.models.maskrcnn.config import Config


def decode(boxes: Any, deltas: Any, max_log_scale: float = math.inf) -> Any:
    """Boxes (..., 4) moved and scaled by deltas (..., 4); the log scale is clipped from above."""
    size = boxes[..., 2:] - boxes[..., :2]
    centre = boxes[..., :2] + 0.5 * size
    scale = deltas[..., 2:]
    if max_log_scale < math.inf:
        scale = tf.minimum(scale, max_log_scale)
    centre += deltas[..., :2] * size
    half = 0.5 * size * tf.exp(scale)
    return tf.concat([centre - half, centre + half], axis=-1)


def encode(boxes: Any, truth: Any) -> Any:
    """The deltas (..., 4) that `decode` makes `truth` of `boxes` with; both of positive size."""
    size, true_size = boxes[..., 2:] - boxes[..., :2], truth[..., 2:] - truth[..., :2]
    centre, true_centre = boxes[..., :2] + 0.5 * size, truth[..., :2] + 0.5 * true_size
    return tf.concat([(true_centre - centre) / size, tf.math.log(true_size / size)], axis=-1)


def clip(boxes: Any, window: Any) -> Any:
    """Boxes (n, ..., 4) inside windows (n, 4)."""
    extra = len(boxes.shape) - 2
    window = tf.reshape(window, tf.concat([tf.shape(window)[:1], [1] * extra, [4]], axis=0))
    low, high = window[..., :2], window[..., 2:]
    corners = (tf.clip_by_value(part, low, high) for part in (boxes[..., :2], boxes[..., 2:]))
    return tf.concat(list(corners), axis=-1)


def sides(boxes: Any) -> tuple[Any, Any]:
    """Heights and widths (...)."""
    return boxes[..., 2] - boxes[..., 0], boxes[..., 3] - boxes[..., 1]


def iou(a: Any, b: Any) -> Any:
    """Intersection over union of boxes (m, 4) with boxes (k, 4) -> (m, k); 0 where both are empty."""
    a, b = a[:, None], b[None]
    overlap = tf.maximum(tf.minimum(a[..., 2:], b[..., 2:]) - tf.maximum(a[..., :2], b[..., :2]), 0)
    common = overlap[..., 0] * overlap[..., 1]
    (ah, aw), (bh, bw) = sides(a), sides(b)
    return tf.math.divide_no_nan(common, ah * aw + bh * bw - common)


def window_units(config: Config, window: Any, size: Any) -> Any:
    """Pixel windows (n, 4) of inputs of `size` (height, width) in the units of the preset's boxes.

    torchvision's boxes are pixels. matterport's are normalised: (y1, x1, y2 - 1, x2 - 1) over
    (height - 1, width - 1), so that the last pixel, not its end, is at 1.
    """
    window = tf.cast(window, tf.float32)
    if not config.matterport:
        return window
    h, w = (tf.cast(side, tf.float32) for side in (size[0], size[1]))
    return (window - [0.0, 0.0, 1.0, 1.0]) / tf.stack([h - 1, w - 1, h - 1, w - 1])


def levels(config: Config, boxes: Any, size: Any) -> Any:
    """Which of P2 ... P5 (0 to 3) each box (m, 4) is pooled from (Lin et al. 2017, equation 1)."""
    h, w = sides(boxes)
    root = tf.sqrt(tf.maximum(h * w, 0))
    if config.matterport:
        area = tf.cast(size[0] * size[1], tf.float32)
        found = 4 + tf.round(_log2(root / (224.0 / tf.sqrt(area))))
    else:
        found = tf.floor(4 + _log2(root / 224.0) + 1e-6)
    return tf.cast(tf.clip_by_value(found, 2, 5), tf.int32) - 2


def _log2(x: Any) -> Any:
    return tf.math.log(x) / math.log(2.0)
