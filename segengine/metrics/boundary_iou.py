"""Boundary IoU of each class: the IoU of the bands inside its contours (Cheng et al. 2021).

The band of a mask is what is within d pixels of its contour, the frame's border being contour too:
the mask without its erosion by a 3 x 3 square, d times, as the authors' code has it, with
d = max(1, round(dilation * diagonal of the frame)).

    boundary IoU = |band of truth & band of prediction| / |band of truth | band of prediction|

`boundary_iou` is the mean over frames, `pooled_boundary_iou` that of all frames' pixels together. A
frame where a class is on one side only counts as 0 (and in `missed` or `false`); one where it is on
neither is not counted. Pixels that are not scored are of no class on either side. Frames are
measured whole.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from segengine.fixed_point import to_fixed, total
from segengine.metrics._classes import Named
from segengine.metrics._frames import class_boxes
from segengine.metrics._options import number
from segengine.metrics._rows import Rows, add, fixed_mean, over_classes, ratio, zeros
from segengine.types import Labels, Metric, Prediction, Truth


@dataclass(frozen=True, slots=True)
class BoundaryIou(Named):
    """Pixels in the bands inside every class's contours, on both sides and on either."""

    version: ClassVar[int] = 1
    needs: ClassVar[tuple[str, ...]] = ("truth",)
    whole: ClassVar[bool] = True
    dilation: float = 0.02
    """Width of the band as a share of the frame's diagonal; the authors use 0.005 for Cityscapes."""

    def __post_init__(self) -> None:
        Named.__post_init__(self)
        object.__setattr__(self, "dilation", number("dilation", self.dilation, 0, 1))

    def empty(self) -> Rows:
        """Rows of (frames, missed, false, IoU in fixed point, pixels of both, of either)."""
        return zeros(len(self.truth_classes), 6)

    def update(self, state: Rows, prediction: Prediction, truth: Labels | Truth) -> Rows:
        """`state` and whole frames (n, y, x)."""
        predicted, true = self.both(prediction.labels, truth)
        width = max(1, round(self.dilation * math.hypot(*true.shape[1:])))
        found = [list(row) for row in state]
        for p, t in zip(predicted, true, strict=True):
            for index, a, b in class_boxes(p, t):
                ours, theirs = band(a, width), band(b, width)
                both = int(np.count_nonzero(ours & theirs))
                either = int(np.count_nonzero(ours | theirs))
                missed, false = int(not ours.any()), int(not theirs.any())
                row = (1, missed, false, total(to_fixed([both / either])), both, either)
                found[index] = [x + y for x, y in zip(found[index], row, strict=True)]
        return tuple(tuple(row) for row in found)

    def merge(self, a: Rows, b: Rows) -> Rows:
        """Both states' frames together."""
        return add(a, b)

    def compute(self, state: Rows) -> dict[str, Any]:
        """Figures of each class, and their means over classes; None: in no frame."""
        figures = [
            {
                "boundary_iou": fixed_mean(iou, frames),
                "pooled_boundary_iou": ratio(both, either),
                "frames": frames,
                "missed": missed,
                "false": false,
            }
            for frames, missed, false, iou, both, either in state
        ]
        return over_classes(self.truth_classes, figures, ("boundary_iou", "pooled_boundary_iou"))


def band(mask: NDArray[np.bool_], width: int) -> NDArray[np.bool_]:
    """Pixels of a mask (y, x) up to `width` pixels, in chessboard distance, from outside it."""
    import cv2

    side = 2 * width + 1
    inner = cv2.erode(
        mask.astype(np.uint8),
        np.ones((side, side), np.uint8),
        borderType=cv2.BORDER_CONSTANT,
        borderValue=0,
    )
    return mask & ~inner.astype(np.bool_)


_: type[Metric[Rows]] = BoundaryIou
