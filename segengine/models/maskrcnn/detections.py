"""The box head's output to detections, and the mask head's to one mask a detection.

matterport: a region has its best class only. torchvision: a region counts for every class that
scores enough. Both suppress within each class and keep the best `max_detections` of an image.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from segengine.models.maskrcnn import boxes as bx
from segengine.models.maskrcnn._layer import ConfiguredLayer
from segengine.models.maskrcnn.proposals import NEVER, in_order


@keras.saving.register_keras_serializable(package="segengine")
class Detections(ConfiguredLayer):
    """[image, window, regions, valid, class logits, deltas] -> boxes, classes, scores, valid."""

    def call(self, inputs: Any) -> dict[str, Any]:
        """Boxes (n, d, 4), classes (n, d) int32, scores (n, d), valid (n, d), best first.

        `window` (n, 4) in pixels: boxes are clipped to it. `regions` (n, k, 4), `valid` (n, k);
        logits (m, classes) and deltas (m, classes * 4) of the m valid ones. What is not valid is 0.
        """
        image, window, regions, valid, logits, deltas = inputs
        config = self.config
        count = tf.shape(regions)
        at = tf.where(valid)
        deltas = in_order(config, tf.reshape(deltas, (-1, config.classes, 4)))
        deltas *= tf.constant(config.box_deviation)
        scores = tf.nn.softmax(logits)
        starts = tf.boolean_mask(regions, valid)
        shape = tf.shape(image)[1:3]
        owner = tf.gather(bx.window_units(config, window, shape), at[:, 0])
        if config.matterport:
            best = tf.argmax(scores, axis=1, output_type=tf.int32)
            deltas = tf.gather(deltas, best, axis=1, batch_dims=1)[:, None]
            mine = tf.one_hot(best, config.classes, on_value=True, off_value=False)
            chosen = mine & (scores >= config.min_score)
        else:
            chosen = scores > config.min_score
        found = bx.decode(starts[:, None], deltas, config.max_log_scale)
        found = bx.clip(found, owner)
        if config.detection_min_size:
            h, w = bx.sides(found)
            chosen &= tf.minimum(h, w) >= config.detection_min_size
        # The background is dropped: column c is class c + 1. matterport's box serves every class.
        scores = tf.where(chosen, scores, NEVER)[:, 1:]
        found = found if config.matterport else found[:, 1:]
        ranks = _scattered(at, scores, NEVER, count, (config.classes - 1,))
        columns = 1 if config.matterport else config.classes - 1
        kept = tf.image.combined_non_max_suppression(
            _scattered(at, found, 0.0, count, (columns, 4)),
            ranks,
            max_output_size_per_class=config.max_detections,
            max_total_size=config.max_detections,
            iou_threshold=config.detection_iou,
            score_threshold=NEVER / 2,
            clip_boxes=False,
        )
        real = tf.range(config.max_detections)[None] < kept.valid_detections[:, None]
        return {
            "boxes": tf.where(real[..., None], kept.nmsed_boxes, 0.0),
            "classes": tf.where(real, tf.cast(kept.nmsed_classes, tf.int32) + 1, 0),
            "scores": tf.where(real, kept.nmsed_scores, 0.0),
            "valid": real,
        }

    def compute_output_shape(self, shapes: Any) -> Any:
        """Fixed numbers of detections."""
        n, count = shapes[0][0], self.config.max_detections
        flat = (n, count)
        return {"boxes": (n, count, 4), "classes": flat, "scores": flat, "valid": flat}

    def compute_output_spec(self, inputs: Any) -> Any:
        """Shapes and dtypes; classes are int32, `valid` bool."""
        shapes = self.compute_output_shape([x.shape for x in inputs])
        dtypes = {"boxes": "float32", "classes": "int32", "scores": "float32", "valid": "bool"}
        return {name: keras.KerasTensor(shapes[name], dtype) for name, dtype in dtypes.items()}


@keras.saving.register_keras_serializable(package="segengine")
class OwnMasks(ConfiguredLayer):
    """[mask logits (m, s, s, classes), classes (n, d), valid (n, d)] -> (n, d, s, s) probabilities."""

    def call(self, inputs: Any) -> Any:
        """Each valid detection's mask of its own class; zeros where there is none."""
        logits, classes, valid = inputs
        own = tf.boolean_mask(classes, valid)
        masks = tf.sigmoid(tf.gather(logits, own, axis=3, batch_dims=1))
        at = tf.where(valid)
        shape = tf.concat([tf.shape(valid), tf.shape(logits)[1:3]], axis=0)
        return tf.scatter_nd(at, masks, tf.cast(shape, tf.int64))

    def compute_output_shape(self, shapes: Any) -> Any:
        """Of all detections, valid or not."""
        logits, classes, _ = shapes
        return (*classes, *logits[1:3])

    def compute_output_spec(self, inputs: Any) -> Any:
        """float32."""
        return keras.KerasTensor(self.compute_output_shape([x.shape for x in inputs]), "float32")


def _scattered(at: Any, values: Any, filler: float, count: Any, tail: tuple[int, ...]) -> Any:
    """Values (m, *tail) at their places (m, 2) of (n, k, *tail), `filler` elsewhere."""
    shape = tf.concat([count[:2], tail], axis=0)
    return tf.tensor_scatter_nd_update(tf.fill(shape, filler), tf.cast(at, tf.int32), values)
