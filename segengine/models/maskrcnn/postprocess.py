"""Detections to instances in the image's own pixels: boxes scaled back, masks pasted.

matterport (`unmold_detections`, `unmold_mask`): the box is rounded to whole pixels and the mask
resized to it, zero outside; 0.5 and above is the object. torchvision (`paste_masks_in_image`): the
mask gets a border of zeros, the box grows alike and is cut to whole pixels; the soft mask is cut at
0.5 as its documentation does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segengine.instances.pasting import THRESHOLD, paste, resized, steps
from segengine.models.maskrcnn.config import Config
from segengine.models.maskrcnn.preprocess import Prepared

_SHIFT = np.array([0.0, 0.0, 1.0, 1.0])
"""matterport's normalised boxes end in their last pixel, not behind it."""
Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Cutout:
    """Where an instance lies: a mask and its corner."""

    y: int
    x: int
    mask: NDArray[np.bool_]
    """(height, width), inside the image."""


@dataclass(frozen=True, slots=True)
class Instance:
    """One object found in an image."""

    box: tuple[float, float, float, float]
    """y1, x1, y2, x2 in pixels of the image; whole numbers with matterport."""
    label: int
    """Class."""
    score: float
    cutout: Cutout


def instances(
    config: Config, prepared: Prepared, outputs: Mapping[str, Any], row: int = 0
) -> list[Instance]:
    """The instances of one image, best first; `outputs` of the network, `row` its place in them."""
    boxes, classes, scores, masks = (
        np.asarray(outputs[name])[row] for name in ("boxes", "classes", "scores", "masks")
    )
    count = int((classes > 0).sum())
    back = _boxes_matterport if config.matterport else _boxes_torchvision
    found = []
    boxes = back(prepared, boxes[:count])
    for i, box in enumerate(boxes):
        if config.matterport:
            if (box[2] - box[0]) * (box[3] - box[1]) <= 0:  # dropped, as published
                continue
            cutout = _paste_matterport(masks[i], box, prepared.shape)
        else:
            cutout = _paste_torchvision(masks[i], box, prepared.shape)
        y1, x1, y2, x2 = map(float, box)
        found.append(Instance((y1, x1, y2, x2), int(classes[i]), float(scores[i]), cutout))
    return found


def to_units(config: Config, prepared: Prepared, boxes: Floats) -> Floats:
    """Boxes (k, 4) in the image's own pixels to the preset's units, as `instances` goes back."""
    if not config.matterport:
        y1, x1, y2, x2 = prepared.window
        sides = np.array([y2 - y1, x2 - x1] * 2, np.float32)
        return np.asarray(boxes * (sides / np.array(prepared.shape * 2)), np.float32)
    corner, extent = _window(prepared)
    h, w = prepared.shape
    relative = (boxes - _SHIFT) / np.maximum([h - 1, w - 1] * 2, 1)
    return np.asarray(corner + relative * extent, np.float32)


def _window(prepared: Prepared) -> tuple[Floats, Floats]:
    """Corner and extent of the image in the padded input, normalised, twice each."""
    height, width = prepared.image.shape[:2]
    window = (np.array(prepared.window) - _SHIFT) / np.array([height - 1, width - 1] * 2)
    window = window.astype(np.float32)
    return np.tile(window[:2], 2), np.tile(window[2:] - window[:2], 2)


def _boxes_matterport(prepared: Prepared, boxes: Floats) -> NDArray[np.int64]:
    """Normalised boxes of the padded input to whole pixels of the image."""
    corner, extent = _window(prepared)
    relative = (boxes - corner) / extent
    h, w = prepared.shape
    return np.around(relative * np.array([h - 1, w - 1] * 2) + _SHIFT).astype(np.int64)


def _boxes_torchvision(prepared: Prepared, boxes: Floats) -> Floats:
    y1, x1, y2, x2 = prepared.window
    sides = np.array([y2 - y1, x2 - x1] * 2, np.float32)
    return boxes * (np.array(prepared.shape * 2, np.float32) / sides)


def _paste_matterport(mask: Floats, box: NDArray[np.int64], shape: tuple[int, int]) -> Cutout:
    y1, x1, y2, x2 = box.tolist()
    rows, cols = slice(max(y1, 0), min(y2, shape[0])), slice(max(x1, 0), min(x2, shape[1]))
    # skimage clips what a resize gives to the range of what it was given.
    soft = np.maximum(
        resized(
            np.pad(mask, 1),
            steps(mask.shape[0], y2 - y1, rows.start - y1, rows.stop - y1) + 1,
            steps(mask.shape[1], x2 - x1, cols.start - x1, cols.stop - x1) + 1,
        ),
        mask.min(),
    )
    return Cutout(rows.start, cols.start, soft >= THRESHOLD)


def _paste_torchvision(mask: Floats, box: Floats, shape: tuple[int, int]) -> Cutout:
    (y, x), pasted = paste(mask, box, shape)
    return Cutout(y, x, pasted)
