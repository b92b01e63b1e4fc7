"""Proposals: the RPN's scores and deltas on all anchors to at most `post_nms` regions an image.

matterport: the best `pre_nms` anchors of all levels together, decoded, clipped to the input, and
non-maximum suppression across levels. torchvision: the best `pre_nms` of each level, clipped to the
image in the input, tiny ones dropped, suppression within each level. Logits rank, of matterport's two
the difference: of sure anchors the probability is 1.0, all alike, and their order would be chance.
Between torchvision's levels probabilities rank, and of equal ones the finer level goes first.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from segengine.models.maskrcnn import boxes as bx
from segengine.models.maskrcnn._layer import ConfiguredLayer
from segengine.models.maskrcnn.anchors import anchors

NEVER = -1.0
"""Score of what must not be chosen; scores are probabilities."""
LAST = -1e30
"""In place of the logit of what must not be chosen."""


@keras.saving.register_keras_serializable(package="segengine")
class Proposals(ConfiguredLayer):
    """[image, window, five score maps, five delta maps] -> regions and their scores."""

    def call(self, inputs: Any) -> dict[str, Any]:
        """Regions (n, post_nms, 4) in the preset's units, best first, and scores (n, post_nms).

        `window` (n, 4): the part of each input that is image, in pixels. Score maps (n, h, w,
        logits * ratios), delta maps (n, h, w, 4 * ratios). Where there are fewer regions the rest
        are zeros with a score of -1.
        """
        image, window, *maps = inputs
        config, levels = self.config, len(self.config.anchor_sizes)
        size = tf.shape(image)[1:3]
        scores = [rpn_scores(config, m) for m in maps[:levels]]
        deltas = [rpn_deltas(config, m) for m in maps[levels:]]
        shapes = [tf.unstack(tf.shape(m)[1:3]) for m in maps[:levels]]
        priors = anchors(config, size, shapes)
        if config.matterport:
            scores, deltas = [tf.concat(scores, axis=1)], [tf.concat(deltas, axis=1)]
            priors = [tf.concat(priors, axis=0)]
            inside = tf.tile([[0.0, 0.0, 1.0, 1.0]], [tf.shape(image)[0], 1])
        else:
            inside = bx.window_units(config, window, size)
        best = [self._best(*level) for level in zip(scores, deltas, priors, strict=True)]
        found = [bx.clip(boxes, inside) for boxes, _ in best]
        # One column a level: suppression is within a column. Columns are made equally long.
        longest = tf.reduce_max([tf.shape(score)[1] for _, score in best])
        columns = [_filled(score, longest, LAST) for _, score in best]
        regions = tf.stack([_filled(boxes, longest, 0.0) for boxes in found], axis=2)
        values = tf.stack(columns, axis=2)
        if config.rpn_min_size:
            h, w = bx.sides(regions)
            values = tf.where(tf.minimum(h, w) >= config.rpn_min_size, values, LAST)
        ranks, descending = _ranked(values)
        kept = tf.image.combined_non_max_suppression(
            regions,
            ranks,
            max_output_size_per_class=config.post_nms,
            max_total_size=config.post_nms,
            iou_threshold=config.rpn_iou,
            score_threshold=0.5,
            clip_boxes=False,
        )
        valid = tf.range(config.post_nms)[None] < kept.valid_detections[:, None]
        place = tf.shape(descending)[1] - 1 - tf.cast(kept.nmsed_scores, tf.int32)
        scores = tf.gather(descending, place, axis=1, batch_dims=1)
        return {
            "regions": tf.stop_gradient(tf.where(valid[..., None], kept.nmsed_boxes, 0.0)),
            "scores": tf.stop_gradient(tf.where(valid, scores, NEVER)),
        }

    def _best(self, scores: Any, deltas: Any, priors: Any) -> tuple[Any, Any]:
        """Decoded boxes and ranks of the best `pre_nms` anchors of (n, anchor)."""
        count = tf.minimum(self.config.pre_nms, tf.shape(scores)[1])
        top, index = tf.math.top_k(scores, count)
        moved = tf.gather(deltas, index, axis=1, batch_dims=1)
        boxes = bx.decode(tf.gather(priors, index), moved, self.config.max_log_scale)
        return boxes, top

    def compute_output_shape(self, shapes: Any) -> Any:
        """Fixed numbers of regions."""
        n, count = shapes[0][0], self.config.post_nms
        return {"regions": (n, count, 4), "scores": (n, count)}


def _ranked(values: Any) -> tuple[Any, Any]:
    """Ranks (n, k, level) of logits, the best highest and 0 for none; all probabilities descending,
    of which the rank counts from the end, where a 0 stands for rank 0.

    Logits descend within each level; equal probabilities are in order of level, then of logit.
    TensorFlow's suppression fills up with scores of 0, which would go before negative logits. Whole
    numbers are exact, and no two are alike.
    """
    n, k, levels = (tf.shape(values)[axis] for axis in range(3))
    flat = tf.reshape(tf.transpose(values, (0, 2, 1)), (n, levels * k))
    likely = tf.where(flat > LAST / 2, probability(flat), NEVER)
    order = tf.argsort(likely, direction="DESCENDING", stable=True)
    ranks = tf.cast(levels * k - tf.argsort(order), tf.float32)
    ranks = tf.where(flat > LAST / 2, ranks, 0.0)
    descending = tf.gather(likely, order, axis=1, batch_dims=1)
    ranks = tf.transpose(tf.reshape(ranks, (n, levels, k)), (0, 2, 1))
    return ranks, tf.pad(descending, [[0, 0], [0, 1]])


def probability(logits: Any) -> Any:
    """float32 sigmoids, rounded where torchvision's are: over 16.64 they are 1.0.

    The exponential has more digits, so that no greater logit has a lesser probability.
    """
    return 1 / (1 + tf.cast(tf.exp(-tf.cast(logits, tf.float64)), tf.float32))


def rpn_scores(config: Any, scores: Any) -> Any:
    """(n, anchor) logits, whose sigmoids are the probabilities of an object."""
    if config.matterport:
        both = tf.reshape(scores, (tf.shape(scores)[0], -1, 2))
        return both[..., 1] - both[..., 0]
    return tf.reshape(scores, (tf.shape(scores)[0], -1))


def rpn_deltas(config: Any, deltas: Any) -> Any:
    """(n, anchor, 4) deltas (dy, dx, log dh, log dw)."""
    found = tf.reshape(deltas, (tf.shape(deltas)[0], -1, 4))
    return in_order(config, found) * tf.constant(config.rpn_deviation)


def in_order(config: Any, deltas: Any) -> Any:
    """Deltas (..., 4) as the network gives them, y before x."""
    return deltas if config.matterport else tf.gather(deltas, [1, 0, 3, 2], axis=-1)


def _filled(values: Any, length: Any, filler: float) -> Any:
    """(n, k, ...) made (n, length, ...)."""
    rest = [[0, 0]] * (len(values.shape) - 2)
    return tf.pad(
        values, [[0, 0], [0, length - tf.shape(values)[1]], *rest], constant_values=filler
    )
