"""A network run stage by stage, for comparison with what others gave."""

from __future__ import annotations

from typing import Any

import numpy as np

from segengine.models.maskrcnn.anchors import anchors
from segengine.models.maskrcnn.config import Config
from segengine.models.maskrcnn.preprocess import Prepared


def run(
    model: Any, config: Config, prepared: Prepared, regions: np.ndarray, detected: np.ndarray
) -> dict[str, np.ndarray]:
    """Every stage by name for one image.

    What follows the choice of regions starts from the regions (k, 4) and detected boxes (d, 4)
    given, so that two equally good ones in another order do not count as a difference.
    """
    image, window = prepared.image[None], np.array([prepared.window], np.float32)
    layer = model.get_layer
    found: dict[str, Any] = {"input": image}
    maps = layer("backbone")(image)
    rpn = [layer("rpn_model")(m) for m in maps]
    for level, (m, (scores, deltas)) in enumerate(zip(maps, rpn, strict=True), start=2):
        found |= {f"p{level}": m, f"rpn_scores{level}": scores, f"rpn_deltas{level}": deltas}
    found["anchors"] = np.concatenate(
        anchors(config, image.shape[1:3], [m.shape[1:3] for m in maps])
    )
    scores, deltas = zip(*rpn, strict=True)
    proposed = layer("proposals")([image, window, *scores, *deltas])
    found["regions"] = proposed["regions"][layer("valid_regions")(proposed["scores"])]

    def align(name: str, boxes: np.ndarray) -> Any:
        return layer(name)([image, boxes[None], np.ones((1, len(boxes)), bool), *maps[:4]])

    found["box_align"] = align("box_align", regions)
    found["class_logits"], found["box_deltas"] = layer("box_head")(found["box_align"])
    found["mask_align"] = align("mask_align", detected)
    found["mask_logits"] = layer("mask_head")(found["mask_align"])
    return {name: np.asarray(value) for name, value in found.items()}


def nearest(given: np.ndarray, found: np.ndarray) -> np.ndarray:
    """(k,) for each box given the greatest difference to the nearest of those found."""
    return np.abs(given[:, None] - found[None]).max(axis=2).min(axis=1)
