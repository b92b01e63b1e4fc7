"""What both presets' comparisons with another implementation share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from segengine.models.maskrcnn.config import Config
from segengine.models.maskrcnn.postprocess import Instance, instances
from segengine.models.maskrcnn.preprocess import prepare

from . import stages
from .drawn import sample

TOLERANCE = 1e-4
"""Greatest difference; of boxes, as a share of the image."""


def check_stages(
    model: Any, config: Config, photo: np.ndarray, wanted: Mapping[str, np.ndarray], name: str
) -> None:
    """Every stage of the network within the tolerance."""
    prepared = prepare(config, photo)
    side = 1 if config.matterport else max(prepared.image.shape[:2])
    regions, detected = wanted[f"{name}/regions"], wanted[f"{name}/detected"]
    found = stages.run(model, config, prepared, regions, detected)
    assert len(found) == 23
    theirs, ours = regions[regions.any(1)], found["regions"][found["regions"].any(1)]
    assert len(theirs) == len(ours)
    assert stages.nearest(theirs, ours).max() <= TOLERANCE * side
    for stage, values in found.items():
        if stage != "regions":
            error = np.abs(sample(stage, values) - wanted[f"{name}/{stage}"]).max()
            assert error <= TOLERANCE, f"{name}: {stage} differs by {error}"


def check_detections(
    found: list[Instance], photo: np.ndarray, wanted: Mapping[str, np.ndarray], name: str
) -> int:
    """How many of the detections wanted are there: class, score, box and mask."""
    boxes, classes, scores = (wanted[f"{name}/{key}"] for key in ("boxes", "classes", "scores"))
    shape = (len(boxes), *photo.shape[:2])
    masks, near = (
        np.unpackbits(wanted[f"{name}/{key}"], count=int(np.prod(shape))).reshape(shape) > 0
        for key in ("masks", "near")
    )
    assert len(boxes) > 10
    assert masks.any(axis=(1, 2)).sum() > 10
    hits = 0
    for i, box in enumerate(boxes):
        for one in found:
            same_box = np.abs(np.array(one.box) - box).max() <= TOLERANCE * max(photo.shape)
            if same_box and one.label == classes[i] and abs(one.score - scores[i]) <= TOLERANCE:
                full = np.zeros(photo.shape[:2], bool)
                y, x, mask = one.cutout.y, one.cutout.x, one.cutout.mask
                full[y : y + mask.shape[0], x : x + mask.shape[1]] = mask
                # A soft value within 1e-4 of the threshold may fall on either side, and a side of a
                # box that ends within a rounding of a whole pixel too, with which all of a mask moves.
                same_cut = np.array_equal(cut(np.float32(one.box)), cut(box))
                hits += not (same_cut and ((full != masks[i]) & ~near[i]).any())
                break
    return hits


def cut(box: np.ndarray) -> np.ndarray:
    """Whole pixels between which torchvision pastes the mask of a box, 28 x 28 and a border."""
    half = (box[2:] - box[:2]) * np.float32(0.5) * np.float32(30 / 28)
    centre = (box[2:] + box[:2]) * np.float32(0.5)
    return np.concatenate([centre - half, centre + half]).astype(int)


def detect(model: Any, config: Config, photo: np.ndarray) -> list[Instance]:
    """The instances of a photo."""
    prepared = prepare(config, photo)
    window = np.array([prepared.window], np.float32)
    return instances(config, prepared, model({"image": prepared.image[None], "window": window}))
