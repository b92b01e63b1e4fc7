"""The five losses of Mask R-CNN, each a mean over what counts, 0 where nothing does.

Cross entropy for classes, smooth L1 (Girshick 2015, equation 3) for deltas, and binary cross entropy
of the true class's mask only (He et al. 2017, section 3).
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from segengine.models.maskrcnn.config import Config
from segengine.models.maskrcnn.proposals import in_order


def rpn_class_loss(config: Config, match: Any, scores: Any) -> Any:
    """`match` (n, anchor) 1, -1 or 0 (does not count); `scores` (n, anchor * logits) as they come."""
    counts = match != 0
    truth = tf.boolean_mask(match, counts) == 1
    if config.matterport:
        logits = tf.boolean_mask(tf.reshape(scores, (*_sizes(match), 2)), counts)
        logits = logits[:, 1] - logits[:, 0]  # the softmax of two is the sigmoid of the difference
    else:
        logits = tf.boolean_mask(tf.reshape(scores, _sizes(match)), counts)
    return _mean(
        tf.nn.sigmoid_cross_entropy_with_logits(tf.cast(truth, tf.float32), logits), tf.size(logits)
    )


def rpn_box_loss(config: Config, match: Any, truth: Any, deltas: Any) -> Any:
    """Over positive anchors; `truth` (n, anchor, 4) and `deltas` (n, anchor * 4) as they come."""
    positive = match == 1
    found = in_order(config, tf.reshape(deltas, (*_sizes(match), 4)))
    return _smooth_l1(tf.boolean_mask(truth, positive), tf.boolean_mask(found, positive))


def class_loss(classes: Any, used: Any, logits: Any) -> Any:
    """Over used regions; `classes` (k,), `logits` (k, class)."""
    each = tf.nn.sparse_softmax_cross_entropy_with_logits(classes, logits)
    each = tf.boolean_mask(each, used)
    return _mean(each, tf.size(each))


def box_loss(config: Config, classes: Any, truth: Any, deltas: Any) -> Any:
    """Over positive regions, of the true class's deltas; `truth` (k, 4), `deltas` (k, class * 4)."""
    found = in_order(config, tf.reshape(deltas, (-1, config.classes, 4)))
    found = tf.gather(found, classes, axis=1, batch_dims=1)
    return _smooth_l1(tf.boolean_mask(truth, classes > 0), tf.boolean_mask(found, classes > 0))


def mask_loss(classes: Any, truth: Any, logits: Any) -> Any:
    """Over positive regions; `truth` (k, s, s) 0 or 1, `logits` (k, s, s, class)."""
    found = tf.gather(logits, classes, axis=3, batch_dims=1)
    each = tf.nn.sigmoid_cross_entropy_with_logits(truth, found)
    each = tf.boolean_mask(each, classes > 0)
    return _mean(each, tf.size(each))


def _sizes(match: Any) -> tuple[Any, Any]:
    """Images and anchors; in a graph neither may be known."""
    shape = tf.shape(match)
    return shape[0], shape[1]


def _smooth_l1(truth: Any, found: Any) -> Any:
    off = tf.abs(truth - found)
    each = tf.where(off < 1, 0.5 * off**2, off - 0.5)
    return _mean(each, tf.size(each))


def _mean(values: Any, count: Any) -> Any:
    return tf.math.divide_no_nan(tf.reduce_sum(values), tf.cast(count, tf.float32))
