"""Boxes that overlap: their IoU, and which go because a better one has nearly the same."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Boxes = NDArray[np.float64]
"""(n, 4) x1, y1, x2, y2 in pixels."""


def ious(box: NDArray[np.float64], others: Boxes) -> NDArray[np.float64]:
    """(n,) intersection over union of a box (4,) with each of the others; 0 where both are empty."""
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    both = np.clip(high - low, 0, None).prod(axis=1)
    areas = (others[:, 2:] - others[:, :2]).prod(axis=1)
    union = areas + (box[2:] - box[:2]).prod() - both
    found: NDArray[np.float64] = np.zeros(len(others))
    np.divide(both, union, out=found, where=union > 0)
    return found


def without_duplicates(
    boxes: Boxes, labels: NDArray[np.int64], overlap: float, most: int
) -> list[int]:
    """Which boxes stay, of boxes in the order of their worth: `most` at most.

    One goes whose IoU with a better one of its label that stays is greater than `overlap`.
    """
    kept: list[int] = []
    for i in range(len(boxes)):
        if len(kept) == most:
            break
        same = [k for k in kept if labels[k] == labels[i]]
        if overlap >= 1 or not same or not (ious(boxes[i], boxes[same]) > overlap).any():
            kept.append(i)
    return kept
