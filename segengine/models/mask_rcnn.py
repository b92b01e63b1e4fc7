"""Mask R-CNN with a feature pyramid: boxes, classes, scores and a mask for each object."""

from __future__ import annotations

from typing import Any

import keras

from segengine.models.maskrcnn.config import preset as preset_config
from segengine.models.maskrcnn.network import network


def build(
    bands: int = 3,
    classes: int | None = None,
    size: tuple[int | None, int | None] = (None, None),
    weights: str | None = None,
    preset: str = "matterport",
    backbone: str | None = None,
    **options: Any,
) -> keras.Model:
    """Mask R-CNN as one of two published networks, or a variation of it.

    `preset`: `matterport` (the Mask_RCNN project: ResNet-101, 81 classes, 64,158,584 values in 690
    tensors) or `torchvision` (`maskrcnn_resnet50_fpn`: ResNet-50, 91 classes, 44,454,513 parameters
    and 53,120 moving statistics). `classes` counts the background; None or 1: the preset's number.
    `backbone`: resnet101, resnet50, resnet26 or resnet14. `weights`: `coco` (matterport's file,
    fetched once), or a path to a file of the preset's format: Mask_RCNN's `.h5`, torchvision's
    `.pth` or `.safetensors`, or what `save_weights` wrote (`.weights.h5`). `options`: any field of
    `maskrcnn.config.Config`.

    Inputs and outputs: see `maskrcnn.network.network`; `maskrcnn.preprocess` and
    `maskrcnn.postprocess` go from images to instances. Raises ValueError that names an option, or
    the tensors that a weight file lacks, has too many, or has in another shape.
    """
    count = None if classes in (None, 1) else classes
    config = preset_config(preset, count, backbone, bands, **options)
    for side in size:
        if side is not None and side < 64:
            raise ValueError(f"size: sides must be 64 or more, not {side}")
    model = network(config, size)
    if weights is not None:
        from segengine.models.maskrcnn.download import resolve
        from segengine.models.maskrcnn.weights import load

        load(model, config, resolve(weights))
    return model
