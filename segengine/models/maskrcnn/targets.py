"""What the heads should say: targets for anchors and regions, and small masks to keep them in.

Anchors (Ren et al. 2015, section 3.1.2): positive from an IoU of 0.7 with an object, or where none
is nearer to an object; negative below 0.3 with all. Regions (Girshick 2015, section 2.3): positive
from 0.5. Crowds, boxes around many objects, make nothing positive, and nothing they touch negative.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from segengine.models.maskrcnn.config import Config

Floats = NDArray[np.float32]
ANCHORS = 256
"""Anchors that count in an image, at most half of them positive."""
POSITIVE = {"matterport": 0.33, "torchvision": 0.25}
"""Share of the regions that count in an image that may be positive."""
MINI = 56
"""Side of a small mask."""
CROWDED = 0.001
"""IoU with a crowd from which on a region is not negative."""


@dataclass(frozen=True, slots=True)
class Truths:
    """The objects of one image; boxes in the preset's units."""

    boxes: NDArray[np.float32]
    """(object, 4)"""
    classes: NDArray[np.int32]
    """(object,) from 1 on."""
    masks: NDArray[np.float32]
    """(object, MINI, MINI) 0 or 1: each within its box."""
    crowd: NDArray[np.bool_]
    """(object,)"""


@dataclass(frozen=True, slots=True)
class RegionTargets:
    """The regions of one image that count, filled up with zeros to a fixed number."""

    regions: Any
    """(k, 4)"""
    used: Any
    """(k,) bool; the rest is filling."""
    classes: Any
    """(k,) int32, 0 background."""
    deltas: Any
    """(k, 4) y before x, over the config's deviation."""
    masks: Any
    """(k, 28, 28) 0 or 1; zeros where the class is 0."""


def mini_masks(masks: NDArray[np.bool_], boxes: NDArray[Any]) -> NDArray[np.float32]:
    """Masks (object, y, x) cut to their boxes in whole pixels and resized to (object, MINI, MINI).

    Bilinear, 0 outside the box, a half and above is the object.
    """
    found = np.zeros((len(masks), MINI, MINI), np.float32)
    for i, (y1, x1, y2, x2) in enumerate(np.asarray(boxes).astype(np.int64).tolist()):
        padded = np.pad(masks[i, y1:y2, x1:x2].astype(np.float32), 1)
        grid = (padded.shape[0] - 1, padded.shape[1] - 1)
        half = 0.5 / MINI
        # pixel centres of the small mask, in the box with its border of zeros
        ends = [
            (half * (side - 1) + 0.5) / side if low else ((1 - half) * (side - 1) + 0.5) / side
            for low in (True, False)
            for side in grid
        ]
        crop = tf.image.crop_and_resize(padded[None, ..., None], [ends], [0], (MINI, MINI))
        found[i] = np.asarray(crop)[0, ..., 0] >= 0.5
    return found


def anchor_targets(
    config: Config, anchors: NDArray[np.float32], truth: Truths, rng: np.random.Generator
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Per anchor 1 (object), -1 (background) or 0 (does not count), and the deltas (anchor, 4).

    `anchors` (anchor, 4) in the preset's units. Deltas are 0 where the anchor is not positive.
    """
    match = np.zeros(len(anchors), np.int8)
    deltas = np.zeros((len(anchors), 4), np.float32)
    boxes = truth.boxes[~truth.crowd]
    free = _free(anchors, truth)
    if not len(boxes):
        match[free] = -1
    else:
        overlaps = _iou(anchors, boxes)
        best = overlaps.max(1)
        match[(best < 0.3) & free] = -1
        nearest = overlaps.max(0)
        match[((overlaps == nearest) & (nearest > 0)).any(1)] = 1
        match[best >= 0.7] = 1
        positive = match == 1
        own = boxes[overlaps[positive].argmax(1)]
        deltas[positive] = _encode(anchors[positive], own, config.rpn_deviation)
    _leave(match, 1, ANCHORS // 2, rng)
    _leave(match, -1, ANCHORS - int((match == 1).sum()), rng)
    deltas[match != 1] = 0
    return match, deltas


def region_targets(
    config: Config, regions: Any, valid: Any, truth: Truths, rng: np.random.Generator
) -> RegionTargets:
    """Regions (k, 4) of one image drawn to be learnt from, where valid (k,).

    torchvision's learns from the true boxes too. matterport's draws two negatives a positive;
    torchvision's fills the number up with negatives.
    """
    count, share = config.train_regions, POSITIVE[config.preset]
    boxes = truth.boxes[~truth.crowd]
    given = np.asarray(regions)[np.asarray(valid)]
    given = given[(given[:, 2:] > given[:, :2]).all(1)]
    if not config.matterport:
        given = np.concatenate([given, boxes])
    overlaps = _iou(given, boxes) if len(boxes) else np.zeros((len(given), 1), np.float32)
    best = overlaps.max(1, initial=0)
    positive = _drawn(np.flatnonzero(best >= 0.5), int(count * share), rng)
    rest = int(len(positive) / share) if config.matterport else count
    rest -= len(positive)
    negative = _drawn(np.flatnonzero((best < 0.5) & _free(given, truth)), rest, rng)
    at = np.concatenate([positive, negative])
    own = overlaps[positive].argmax(1)
    fill = [(0, count - len(positive))]
    deltas = np.zeros((len(positive), 4), np.float32)
    masks = np.zeros((len(positive), 2 * config.mask_pool, 2 * config.mask_pool), np.float32)
    classes = np.zeros(len(positive), np.int32)
    if len(positive):
        chosen, true = given[positive], boxes[own]
        deltas = _encode(chosen, true, config.box_deviation)
        classes = truth.classes[~truth.crowd][own]
        inside = (chosen - np.tile(true[:, :2], 2)) / np.tile(true[:, 2:] - true[:, :2], 2)
        # At 1 itself a rounding error may put the last sample outside, where all is 0.
        inside = np.where(np.abs(inside - 1) < 1e-6, 1 - 1e-6, inside)
        small = truth.masks[~truth.crowd][own][..., None]
        crops = tf.image.crop_and_resize(small, inside, np.arange(len(own)), masks.shape[1:])
        masks = np.round(crops.numpy()[..., 0])
    return RegionTargets(
        np.pad(given[at], [(0, count - len(at)), (0, 0)]).astype(np.float32),
        np.arange(count) < len(at),
        np.pad(classes, fill),
        np.pad(deltas, [*fill, (0, 0)]),
        np.pad(masks, [*fill, (0, 0), (0, 0)]),
    )


def _free(boxes: NDArray[np.float32], truth: Truths) -> NDArray[np.bool_]:
    """(k,) whether a box lies apart from every crowd."""
    if not truth.crowd.any():
        return np.ones(len(boxes), np.bool_)
    return np.asarray(_iou(boxes, truth.boxes[truth.crowd]).max(1) < CROWDED)


def _iou(a: Floats, b: Floats) -> Floats:
    """`boxes.iou` in NumPy, which anchors by the thousand do not have to be copied for."""
    corner = np.maximum(a[:, None, :2], b[None, :, :2])
    sides = np.minimum(a[:, None, 2:], b[None, :, 2:]) - corner
    common = np.prod(np.maximum(sides, 0), axis=-1)
    areas = (np.prod(x[:, 2:] - x[:, :2], axis=-1) for x in (a, b))
    union = np.add.outer(*areas) - common
    return np.divide(common, union, out=np.zeros_like(common), where=union > 0)


def _encode(boxes: Floats, truth: Floats, deviation: tuple[float, ...]) -> Floats:
    """`boxes.encode` in NumPy, over a deviation."""
    size, true_size = boxes[:, 2:] - boxes[:, :2], truth[:, 2:] - truth[:, :2]
    moved = (truth[:, :2] - boxes[:, :2] + 0.5 * (true_size - size)) / size
    found = np.concatenate([moved, np.log(true_size / size)], axis=1)
    return np.asarray(found / np.array(deviation), np.float32)


def _leave(match: NDArray[np.int8], value: int, most: int, rng: np.random.Generator) -> None:
    """Set all but `most` of the anchors with a value to 0."""
    at = np.flatnonzero(match == value)
    match[rng.permutation(at)[most:]] = 0


def _drawn(at: NDArray[np.intp], most: int, rng: np.random.Generator) -> NDArray[np.intp]:
    return rng.permutation(at)[: max(0, most)]
