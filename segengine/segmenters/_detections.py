"""Detectors with boxes, labels, scores and masks, as torchvision's Mask R-CNN is exported to ONNX.

    boxes (n, 4)     x1, y1, x2, y2 in pixels of what was fed
    labels (n,)      from 1 on
    scores (n,)
    masks (n, 1, h, w)   soft, of the whole frame; or (n, 1, m, m) of each box, pasted as torchvision does

Source: torchvision/models/detection (`MaskRCNN`, `paste_masks_in_image`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segengine.engines import Engine
from segengine.instances.pasting import THRESHOLD, held, paste, steps
from segengine.networks.scale import Scale
from segengine.segmenters._found import Found
from segengine.segmenters._network import Layout, cast
from segengine.segmenters._overlaps import without_duplicates
from segengine.types import Cell, Pixels

Floats = NDArray[np.float32]
OUTPUTS = ("boxes", "labels", "scores", "masks")
MIN_SCORE, DUPLICATES = 0.5, 1.0
MOST = 1000
"""Objects a window."""


@dataclass(frozen=True, slots=True, eq=False)
class Detections:
    """The head of one such network."""

    engine: Engine
    names: tuple[str, ...]
    """Of the outputs: boxes, labels, scores, and masks where there are any."""
    classes: int
    """Without background."""
    scale: Scale
    layout: Layout
    size: Cell | None = None
    """(height, width) that frames are resized to; None: they are fed as they are."""
    min_score: float = MIN_SCORE
    duplicates: float = DUPLICATES

    @property
    def provenance(self) -> str:
        """The engine's version and instruction set."""
        return self.engine.provenance

    def find(self, window: Pixels) -> list[Found]:
        """The objects of a window (y, x, band), the best first."""
        size = window.shape[0], window.shape[1]
        fed = self._fed(window)
        raw = self.engine.run(cast(fed, self.engine.dtype))
        axes = (1, 2) if fed.ndim == 4 else (0, 1)
        taken = fed.shape[axes[0] + self._first : axes[0] + self._first + 2]
        boxes, labels, scores, *masks = (raw[name] for name in self.names)
        boxes, labels, scores = boxes.reshape(-1, 4), labels.reshape(-1), scores.reshape(-1)
        good = (scores >= self.min_score) & np.isfinite(boxes).all(axis=1)
        good &= (labels >= 1) & (labels <= self.classes)
        order = np.argsort(-scores, kind="stable")
        order = order[good[order]]
        kinds = np.rint(labels).astype(np.int64)
        kept = without_duplicates(
            boxes[order].astype(np.float64), kinds[order], self.duplicates, MOST
        )
        grown = self._grown(size)
        ratio = np.array([grown[0] / taken[0], grown[1] / taken[1]] * 2, np.float32)
        found = []
        for i in order[kept]:
            box = boxes[i][[1, 0, 3, 2]].astype(np.float32) * ratio
            small = masks[0].reshape(len(boxes), *masks[0].shape[-2:])[i] if masks else None
            corner, mask = _mask(small, box, taken, grown)
            mask = mask[: max(0, size[0] - corner[0]), : max(0, size[1] - corner[1])]
            if mask.any():
                y1, x1, y2, x2 = box.tolist()
                own = (x1, y1, x2 - x1, y2 - y1)
                found.append(Found(int(kinds[i]), float(scores[i]), own, corner, mask))
        return found

    @property
    def _first(self) -> int:
        return 1 if self.layout == "nchw" else 0

    def _grown(self, size: Cell) -> Cell:
        """The size that is fed, in pixels of the window: with what is padded."""
        return size if self.size is not None else self._padded(size)

    def _padded(self, size: Cell) -> Cell:
        shape = self.engine.input_shape
        first = len(shape) - 3 + self._first
        y, x = (own or n for own, n in zip(shape[first : first + 2], size, strict=True))
        return y, x

    def _fed(self, window: Pixels) -> Floats:
        """The scaled pixels, in the axes that the network has."""
        import cv2

        image = self.scale.apply(window)
        if self.size is not None and image.shape[:2] != self.size:
            planes = [cv2.resize(b, self.size[::-1]) for b in np.moveaxis(image, -1, 0)]
            image = np.stack(planes, axis=-1)
        elif self.size is None:
            spare = [
                b - a for a, b in zip(image.shape, self._padded(image.shape[:2]), strict=False)
            ]
            if any(spare):
                image = np.pad(image, ((0, spare[0]), (0, spare[1]), (0, 0)))
        moved = np.moveaxis(image, -1, 0) if self.layout == "nchw" else image
        return np.ascontiguousarray(moved[None] if len(self.engine.input_shape) == 4 else moved)


def _mask(
    soft: Floats | None, box: Floats, taken: tuple[int, ...], size: Cell
) -> tuple[Cell, NDArray[np.bool_]]:
    """Corner and mask on a window of a size; without masks the box is one. `taken`: what was fed."""
    if soft is None:
        low, high = np.rint(box[:2]).astype(int), np.rint(box[2:]).astype(int)
        low, high = (np.clip(corner, 0, size) for corner in (low, high))
        height, width = np.maximum(high - low, 0).tolist()
        return (int(low[0]), int(low[1])), np.ones((height, width), np.bool_)
    if soft.shape != taken:
        return paste(soft, box, size)
    if soft.shape == size:
        shown = soft >= THRESHOLD
    else:
        y, x = (steps(a, b, 0, b) for a, b in zip(taken, size, strict=True))
        shown = held(soft, y, x) >= THRESHOLD
    rows, cols = np.flatnonzero(shown.any(axis=1)), np.flatnonzero(shown.any(axis=0))
    if not len(rows):
        return (0, 0), shown[:0, :0]
    return (int(rows[0]), int(cols[0])), shown[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1]
