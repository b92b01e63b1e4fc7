"""All pieces as one keras.Model: a padded input to detections with masks.

image --> backbone --> P2 ... P6 --> rpn_model --> proposals --+
                        P2 ... P5 -- box_align <---------------+
                                         |--> box_head --> detections --+
                        P2 ... P5 -- mask_align <-----------------------+
                                         |--> mask_head --> masks
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from segengine.models.maskrcnn._layer import ConfiguredLayer
from segengine.models.maskrcnn.backbone import backbone
from segengine.models.maskrcnn.config import Config
from segengine.models.maskrcnn.detections import Detections, OwnMasks
from segengine.models.maskrcnn.heads import box_head, mask_head, rpn_head
from segengine.models.maskrcnn.proposals import NEVER, Proposals
from segengine.models.maskrcnn.roialign import PyramidAlign


@keras.saving.register_keras_serializable(package="segengine")
class ValidRegions(ConfiguredLayer):
    """Scores (n, k) -> (n, k) bool: which regions the box head looks at."""

    def call(self, scores: Any) -> Any:
        """matterport's fills up with empty regions at the origin, and classifies those as well."""
        return tf.ones_like(scores, tf.bool) if self.config.matterport else scores > NEVER / 2

    def compute_output_spec(self, scores: Any) -> Any:
        """bool."""
        return keras.KerasTensor(scores.shape, "bool")


def network(config: Config, size: tuple[int | None, int | None] = (None, None)) -> keras.Model:
    """The network for prepared inputs (see `preprocess`).

    Inputs: `image` (n, height, width, bands) float32 and `window` (n, 4), the part of it that is
    image, in pixels. Outputs, d = `max_detections`, best first, zeros where there are fewer:
    `boxes` (n, d, 4) in the preset's units, `classes` (n, d) int32, `scores` (n, d), `masks`
    (n, d, 28, 28) probabilities.
    """
    image = keras.Input((*size, config.bands), name="image")
    window = keras.Input((4,), name="window")
    maps = list(backbone(config, size)(image))
    rpn = rpn_head(config)
    scores, deltas = zip(*(rpn(m) for m in maps), strict=True)
    proposed = Proposals(config, name="proposals")([image, window, *scores, *deltas])
    regions = proposed["regions"]
    looked = ValidRegions(config, name="valid_regions")(proposed["scores"])
    align = PyramidAlign(config, config.box_pool, name="box_align")
    logits, box_deltas = box_head(config)(align([image, regions, looked, *maps[:4]]))
    found = Detections(config, name="detections")(
        [image, window, regions, looked, logits, box_deltas]
    )
    align = PyramidAlign(config, config.mask_pool, name="mask_align")
    squares = align([image, found["boxes"], found["valid"], *maps[:4]])
    masks = OwnMasks(config, name="masks")(
        [mask_head(config)(squares), found["classes"], found["valid"]]
    )
    outputs = {name: found[name] for name in ("boxes", "classes", "scores")}
    return keras.Model(
        {"image": image, "window": window}, {**outputs, "masks": masks}, name="mask_rcnn"
    )
