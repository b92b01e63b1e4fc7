"""One look at a batch in training: the five losses of a network, differentiable."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from segengine.models.maskrcnn import losses
from segengine.models.maskrcnn.anchors import anchors
from segengine.models.maskrcnn.config import Config
from segengine.models.maskrcnn.proposals import Proposals
from segengine.models.maskrcnn.targets import Truths, anchor_targets, region_targets

POST_NMS = 2000
"""Proposals an image in training."""


def training_losses(
    model: keras.Model,
    config: Config,
    images: NDArray[np.float32],
    windows: NDArray[np.float32],
    truths: Sequence[Truths],
    rng: np.random.Generator,
) -> dict[str, Any]:
    """`rpn_class`, `rpn_box`, `class`, `box`, `mask`: scalars for inputs as the network takes them.

    Their sum is what is minimised. Anchors and regions that count are drawn with `rng`.
    """
    layer = model.get_layer
    training = config.train_norm
    maps = layer("backbone")(images, training=training)
    scores, deltas = zip(*(layer("rpn_model")(m) for m in maps), strict=True)
    priors = np.concatenate(anchors(config, images.shape[1:3], [m.shape[1:3] for m in maps]))
    drawn = [anchor_targets(config, priors, truth, rng) for truth in truths]
    match, wanted = (np.stack(part) for part in zip(*drawn, strict=True))
    n = len(images)
    all_scores, all_deltas = (
        tf.concat([tf.reshape(m, (n, -1)) for m in part], axis=1) for part in (scores, deltas)
    )
    propose = Proposals(dataclasses.replace(config, post_nms=POST_NMS))
    proposed = propose([images, windows, *scores, *deltas])
    valid = proposed["scores"] >= 0
    chosen = [
        region_targets(config, proposed["regions"][i], valid[i], truth, rng)
        for i, truth in enumerate(truths)
    ]
    regions, used, classes, box_deltas, masks = (
        np.stack([getattr(one, field.name) for one in chosen])
        for field in dataclasses.fields(chosen[0])
    )
    squares = layer("box_align")([images, regions, used, *maps[:4]])
    logits, found = layer("box_head")(squares, training=training)
    positive = classes > 0
    squares = layer("mask_align")([images, regions, positive, *maps[:4]])
    mask_logits = layer("mask_head")(squares, training=training)
    return {
        "rpn_class": losses.rpn_class_loss(config, match, all_scores),
        "rpn_box": losses.rpn_box_loss(config, match, wanted, all_deltas),
        "class": losses.class_loss(classes[used], np.ones(int(used.sum()), bool), logits),
        "box": losses.box_loss(config, classes[used], box_deltas[used], found),
        "mask": losses.mask_loss(classes[positive], masks[positive], mask_logits),
    }
