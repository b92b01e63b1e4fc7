"""Shapes in masks, by SciPy: distances to outlines, and how well objects were found.

Maps are (n, y, x, class); each image and class is looked at by itself. Distances are Euclidean, in
pixels. A mask that is empty or full has no outline: its distances are 0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segengine.types import Bool

Floats = NDArray[np.floating[Any]]
Map = NDArray[np.float64]


def most_probable(probability: Floats) -> Bool:
    """What is predicted: p > 0.5 of one channel, the most probable (first) of several classes."""
    classes = probability.shape[-1]
    if classes == 1:
        return probability > 0.5
    best: Bool = probability.argmax(axis=-1)[..., None] == np.arange(classes)
    return best


def signed_distance(truth: Floats) -> Map:
    """Outside a mask the distance to it, inside 1 minus the distance to its outside: <= 0 inside.

    Kervadec et al. 2019; 0 on the innermost rim of the mask.
    """
    return _each(_signed, truth > 0.5)


def distance(values: Floats) -> Map:
    """Distance to the nearest pixel on the other side of the outline of `values` > 0.5."""
    return _each(_unsigned, values > 0.5)


def contour_distance(truth: Floats, probability: Floats, valid: Floats) -> Map:
    """On the contour of the predicted mask its distance to the contour of the true one, else 0.

    A contour is what of a mask has a 4-neighbour in the image outside it. 0 too where the truth has none.
    """
    return _each(_between_contours, truth > 0.5, most_probable(probability) & (valid > 0))


def iou_weights(
    truth: Floats, probability: Floats, terms: Floats, valid: Floats, eta: float
) -> Map:
    """Weights of Wu et al. 2019: IoU^eta of its object at a true pixel, 1 elsewhere.

    Normalised so that the sum of weight times `terms` over the true pixels is that of `terms`.
    """
    scored = valid > 0
    weights = _each(_best_iou, (truth > 0.5) & scored, most_probable(probability) & scored) ** eta
    positive = (truth > 0.5) & scored
    plain = np.where(positive, terms, 0).sum(axis=(1, 2), keepdims=True, dtype=np.float64)
    moved = np.where(positive, weights * terms, 0).sum(axis=(1, 2), keepdims=True)
    found = moved > 0
    weights = np.where(found, weights * (plain / np.where(found, moved, 1)), 1)
    return np.where(positive, weights, 1.0)


def _each(function: Callable[..., Map], *masks: Bool) -> Map:
    """A function of (y, x) masks, for every image and class of masks (n, y, x, class)."""
    images, _, _, classes = masks[0].shape
    out = np.zeros(masks[0].shape)
    for image in range(images):
        for k in range(classes):
            out[image, ..., k] = function(*(mask[image, ..., k] for mask in masks))
    return out


def _signed(mask: Bool) -> Map:
    inside, outside = _both_sides(mask)
    return outside - np.maximum(inside - 1, 0)


def _unsigned(mask: Bool) -> Map:
    inside, outside = _both_sides(mask)
    return inside + outside


def _both_sides(mask: Bool) -> tuple[Map, Map]:
    from scipy import ndimage

    if mask.all() or not mask.any():
        nowhere = np.zeros(mask.shape)
        return nowhere, nowhere
    return ndimage.distance_transform_edt(mask), ndimage.distance_transform_edt(~mask)


def _contour(mask: Bool) -> Bool:
    from scipy import ndimage

    # the image's border is no contour: an object may go on beyond it
    inner: Bool = ndimage.binary_erosion(mask, border_value=1)
    return mask & ~inner


def _between_contours(truth: Bool, predicted: Bool) -> Map:
    from scipy import ndimage

    target = _contour(truth)
    if not target.any():
        return np.zeros(truth.shape)
    away: Map = ndimage.distance_transform_edt(~target)
    return np.where(_contour(predicted), away, 0)


def _best_iou(truth: Bool, predicted: Bool) -> Map:
    """At each true pixel the best IoU of its component with a predicted one, else 0."""
    from scipy import ndimage

    diagonal = np.ones((3, 3), np.int64)
    objects, count = ndimage.label(truth, diagonal)
    found, others = ndimage.label(predicted, diagonal)
    pairs = np.bincount((objects * (others + 1) + found).reshape(-1))
    pairs = np.pad(pairs, (0, (count + 1) * (others + 1) - len(pairs)))
    table = pairs.reshape(count + 1, others + 1)
    both = table[1:, 1:]
    union = table[1:].sum(axis=1)[:, None] + table[:, 1:].sum(axis=0) - both
    best = np.zeros(count + 1)
    best[1:] = (both / union).max(axis=1, initial=0)
    out: Map = best[objects]
    return out
