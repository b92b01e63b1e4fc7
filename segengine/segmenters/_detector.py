"""Detectors of the TF Object Detection API: boxes, classes, scores and masks of a whole frame.

Their SavedModels take one frame of uint8 RGB and give, for each of `num_detections` objects, the box
(ymin, xmin, ymax, xmax in parts of the frame), the class from 1 on, the score and a small mask of
the box. The mask is reframed as their `reframe_box_masks_to_image_masks` does it: sampled bilinearly
with aligned corners, and cut at 0.5.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from segengine.engines import Engine
from segengine.segmenters._found import Found, predicted
from segengine.segmenters._network import cast, check_bands
from segengine.types import Color, Pixels, Prediction

NEEDED = frozenset(("detection_boxes", "detection_classes", "detection_scores"))
"""Outputs that tell such a model."""
_CUT = 0.5


@dataclass(frozen=True, slots=True, eq=False)
class Detector:
    """Finds objects on whole frames; where they overlap, the map shows the better score."""

    engine: Engine
    classes: tuple[str, ...]
    """Background, then those of the model from 1 on."""
    bands: tuple[int, ...] | int
    threshold: float
    """Least score that counts."""
    weights: str
    """Digest of the model's files."""
    colors: tuple[Color, ...] = ()

    version: ClassVar[int] = 2
    outputs: ClassVar[tuple[str, ...]] = ("labels", "instances", "objects")
    halo: ClassVar[None] = None
    stride: ClassVar[int] = 1

    @property
    def provenance(self) -> str:
        """The engine's version and instruction set."""
        return self.engine.provenance

    def check_pixels(self, bands: int, dtype: str) -> None:
        """Raise ValueError where pixels of so many bands cannot be labelled."""
        check_bands(self.bands, bands, dtype)

    def segment(self, pixels: Pixels) -> Prediction:
        """Labels and instances (n, y, x) of pixels (n, y, x, band), and one row an object.

        `objects` of more than one frame has a further column, `frame`, from 0 on.
        """
        self.check_pixels(pixels.shape[-1], str(pixels.dtype))
        found = [self._find(frame) for frame in pixels]
        return predicted(found, (pixels.shape[1], pixels.shape[2]), len(self.classes))

    def _find(self, frame: Pixels) -> list[Found]:
        """Objects of one frame (y, x, band), the best first."""
        if not isinstance(self.bands, int):
            frame = frame[..., [band - 1 for band in self.bands]]
        raw = self.engine.run(cast(frame[None].astype(np.float32), self.engine.dtype))
        scores, boxes = raw["detection_scores"][0], raw["detection_boxes"][0]
        labels = np.rint(raw["detection_classes"][0]).astype(int)
        masks = raw.get("detection_masks", raw.get("detection_masks_reframed"))
        count = int(raw["num_detections"].ravel()[0]) if "num_detections" in raw else len(scores)
        found = []
        for i in np.argsort(-scores[:count], kind="stable"):
            if scores[i] < self.threshold or not 0 < labels[i] < len(self.classes):
                continue
            small = np.ones((2, 2), np.float32) if masks is None else masks[0][i]
            corner, mask = paste(small, boxes[i], frame.shape[:2])
            if mask.any():
                y0, x0, y1, x1 = (boxes[i] * np.tile(frame.shape[:2], 2)).tolist()
                box = (x0, y0, x1 - x0, y1 - y0)
                found.append(Found(int(labels[i]), float(scores[i]), box, corner, mask))
        return found


def paste(
    small: NDArray[Any], box: NDArray[Any], size: tuple[int, ...]
) -> tuple[tuple[int, int], NDArray[np.bool_]]:
    """Corner and mask, in pixels, of an object's small mask (y, x) on a frame of a size.

    box: ymin, xmin, ymax, xmax in parts of the frame. A mask of the frame's own size is taken as
    it is.
    """
    if small.shape == tuple(size):
        return (0, 0), np.asarray(small > _CUT)
    rows, wy = _samples(float(box[0]), float(box[2]), small.shape[0], size[0])
    cols, wx = _samples(float(box[1]), float(box[3]), small.shape[1], size[1])
    return (rows.start, cols.start), (wy @ small.astype(np.float64) @ wx.T) > _CUT


def _samples(low: float, high: float, count: int, size: int) -> tuple[slice, NDArray[np.float64]]:
    """Pixels of an axis inside [low, high], and the weights (pixel, count) they are sampled with."""
    if not high > low:
        return slice(0, 0), np.zeros((0, count))
    at = (np.arange(size) / max(size - 1, 1) - low) / (high - low) * (count - 1)
    inside = np.flatnonzero((at >= 0) & (at <= count - 1))
    if not len(inside):
        return slice(0, 0), np.zeros((0, count))
    at = at[inside]
    weights = np.clip(1 - np.abs(at[:, None] - np.arange(count)), 0, None)
    return slice(int(inside[0]), int(inside[-1]) + 1), weights
