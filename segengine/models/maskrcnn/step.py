"""One look at a batch in training: the five losses of a network, differentiable, as one graph.

What anchors should say follows from the truth alone and comes with the batch; what regions should
say follows from the network's own proposals and is drawn inside of the graph, by NumPy.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from segengine.models.maskrcnn import losses
from segengine.models.maskrcnn.anchors import anchors
from segengine.models.maskrcnn.config import STRIDES, Config
from segengine.models.maskrcnn.proposals import Proposals
from segengine.models.maskrcnn.targets import (
    MINI,
    Truths,
    anchor_targets,
    region_targets,
)

POST_NMS = 2000
"""Proposals an image in training."""


class Batch(NamedTuple):
    """n images and what they should give; t objects, as many as the image with most has."""

    images: Any
    """(n, height, width, band) float32, as the network takes them."""
    windows: Any
    """(n, 4) float32, the part of each that is image, in pixels."""
    match: Any
    """(n, anchor) int8: 1 object, -1 background, 0 does not count."""
    deltas: Any
    """(n, anchor, 4) float32."""
    counts: Any
    """(n,) int64 objects; the rest of the next four is filling."""
    boxes: Any
    """(n, t, 4) float32 in the preset's units."""
    classes: Any
    """(n, t) int32"""
    masks: Any
    """(n, t, MINI, MINI) float32"""
    crowd: Any
    """(n, t) bool"""
    seed: Any
    """int64: what draws the regions."""


def signature(config: Config, size: tuple[int | None, int | None] = (None, None)) -> Batch:
    """A batch's tensor specs: of one graph for batches of any length."""

    def spec(dtype: Any, *shape: int | None) -> Any:
        return tf.TensorSpec((None, *shape), dtype)

    return Batch(
        spec(tf.float32, *size, config.bands),
        spec(tf.float32, 4),
        spec(tf.int8, None),
        spec(tf.float32, None, 4),
        spec(tf.int64),
        spec(tf.float32, None, 4),
        spec(tf.int32, None),
        spec(tf.float32, None, MINI, MINI),
        spec(tf.bool, None),
        tf.TensorSpec((), tf.int64),
    )


def make_batch(
    config: Config,
    images: NDArray[np.float32],
    windows: NDArray[np.float32],
    truths: Sequence[Truths],
    rng: np.random.Generator,
) -> Batch:
    """Images as the network takes them and their objects; `rng` draws the anchors that count."""
    height, width = images.shape[1:3]
    shapes = [(-(-height // stride), -(-width // stride)) for stride in STRIDES]
    priors = np.concatenate(anchors(config, (height, width), shapes))
    drawn = [anchor_targets(config, priors, truth, rng) for truth in truths]
    match, deltas = (np.stack(part) for part in zip(*drawn, strict=True))
    most = max(len(truth.boxes) for truth in truths)

    def filled(name: str) -> NDArray[Any]:
        values = [getattr(truth, name) for truth in truths]
        rests = [[(0, most - len(v)), *[(0, 0)] * (v.ndim - 1)] for v in values]
        return np.stack([np.pad(v, rest) for v, rest in zip(values, rests, strict=True)])

    return Batch(
        images,
        np.asarray(windows, np.float32),
        match,
        deltas,
        np.array([len(truth.boxes) for truth in truths], np.int64),
        filled("boxes"),
        filled("classes"),
        filled("masks"),
        filled("crowd"),
        np.int64(rng.integers(1 << 62)),
    )


def training_losses(
    model: keras.Model, config: Config, batch: Batch, training: bool = True
) -> dict[str, Any]:
    """`rpn_class`, `rpn_box`, `class`, `box`, `mask`: scalars. Their sum is what is minimised."""
    layer = model.get_layer
    training = training and config.train_norm
    maps = layer("backbone")(batch.images, training=training)
    scores, deltas = zip(*(layer("rpn_model")(m) for m in maps), strict=True)
    propose = Proposals(dataclasses.replace(config, post_nms=POST_NMS))
    proposed = propose([batch.images, batch.windows, *scores, *deltas])
    regions, used, classes, box_deltas, masks = _region_targets(config, proposed, batch)
    squares = layer("box_align")([batch.images, regions, used, *maps[:4]])
    logits, found = layer("box_head")(squares, training=training)
    positive = classes > 0
    squares = layer("mask_align")([batch.images, regions, positive, *maps[:4]])
    mask_logits = layer("mask_head")(squares, training=training)
    of_used, of_positive = (tf.boolean_mask(classes, kept) for kept in (used, positive))
    return {
        "rpn_class": losses.rpn_class_loss(config, batch.match, _flat(scores)),
        "rpn_box": losses.rpn_box_loss(config, batch.match, batch.deltas, _flat(deltas)),
        "class": losses.class_loss(of_used, tf.ones_like(of_used, tf.bool), logits),
        "box": losses.box_loss(config, of_used, tf.boolean_mask(box_deltas, used), found),
        "mask": losses.mask_loss(of_positive, tf.boolean_mask(masks, positive), mask_logits),
    }


def _flat(maps: Sequence[Any]) -> Any:
    """Maps (n, h, w, c) of all levels as (n, values)."""
    count = tf.shape(maps[0])[0]
    return tf.concat([tf.reshape(m, (count, -1)) for m in maps], axis=1)


def _region_targets(config: Config, proposed: dict[str, Any], batch: Batch) -> list[Any]:
    """Regions, used, classes, deltas and masks as in `RegionTargets`, (n, k, ...) each."""

    def draw(
        regions: Any, scores: Any, counts: Any, boxes: Any, classes: Any, masks: Any, crowd: Any,
        seed: Any,
    ) -> list[NDArray[Any]]:  # fmt: skip
        found = []
        for i, count in enumerate(counts):
            truth = Truths(*(part[i, :count] for part in (boxes, classes, masks, crowd)))
            rng = np.random.default_rng([int(seed), i])
            drawn = region_targets(config, regions[i], scores[i] >= 0, truth, rng)
            found.append([np.asarray(getattr(drawn, f.name)) for f in dataclasses.fields(drawn)])
        return [np.stack(part) for part in zip(*found, strict=True)]

    count, side = config.train_regions, 2 * config.mask_pool
    kinds = [
        (tf.float32, (4,)),
        (tf.bool, ()),
        (tf.int32, ()),
        (tf.float32, (4,)),
        (tf.float32, (side, side)),
    ]
    drawn = tf.numpy_function(
        draw,
        [proposed["regions"], proposed["scores"], *batch[4:]],
        [dtype for dtype, _ in kinds],
    )
    return [
        tf.ensure_shape(values, (None, count, *tail))
        for values, (_, tail) in zip(drawn, kinds, strict=True)
    ]
