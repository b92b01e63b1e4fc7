"""Boundary F1 of each class at tolerances, as in the DAVIS benchmark (Perazzi et al. 2016).

A boundary pixel differs from its right, lower or lower right neighbour; the frame's border is no
boundary. One is matched where a boundary pixel of the other side is within the tolerance r,
Euclidean. Of each frame and class

    precision = matched / predicted boundary pixels    recall = matched / true boundary pixels
    F1 = 2 precision recall / (precision + recall)

`f1` is the mean over frames, `pooled_f1` that of all frames' boundary pixels together. A frame where
a class has a boundary on one side only counts as 0 (and in `missed` or `false`, by the side that
lacks it); one where it has none on either side is not counted (DAVIS counts it as 1). Pixels that
are not scored are of no class on either side. Frames are measured whole.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from segengine.fixed_point import to_fixed, total
from segengine.metrics._classes import Named
from segengine.metrics._contours import Bool, crack, distances
from segengine.metrics._frames import class_boxes
from segengine.metrics._options import number
from segengine.metrics._rows import Rows, add, fixed_mean, over_classes, ratio, zeros
from segengine.types import Labels, Metric, Prediction, Truth

_COLUMNS = 8  # frames, missed, false, F1 (fixed), and of each side matched and all boundary pixels


@dataclass(frozen=True, slots=True)
class BoundaryF1(Named):
    """Boundary pixels of every class that the other side's are near to."""

    version: ClassVar[int] = 1
    needs: ClassVar[tuple[str, ...]] = ("truth",)
    whole: ClassVar[bool] = True
    tolerances: tuple[float, ...] = (0.008,)
    """Below 1: share of the frame's diagonal, rounded up to pixels; from 1: pixels."""

    def __post_init__(self) -> None:
        Named.__post_init__(self)
        found = tuple(number("tolerances", tolerance, 0) for tolerance in self.tolerances)
        if not found or len(set(found)) != len(found):
            raise ValueError(f"tolerances: at least one, and no two alike, not {found}")
        object.__setattr__(self, "tolerances", found)

    def empty(self) -> Rows:
        """Rows of integers, one a class and tolerance."""
        return zeros(len(self.truth_classes) * len(self.tolerances), _COLUMNS)

    def update(self, state: Rows, prediction: Prediction, truth: Labels | Truth) -> Rows:
        """`state` and whole frames (n, y, x)."""
        predicted, true = self.both(prediction.labels, truth)
        radii = self._radii(true.shape[1], true.shape[2])
        found = [list(row) for row in state]
        for p, t in zip(predicted, true, strict=True):
            for index, a, b in class_boxes(p, t):
                for i, row in enumerate(_measured(crack(a), crack(b), radii)):
                    place = index * len(radii) + i
                    found[place] = [x + y for x, y in zip(found[place], row, strict=True)]
        return tuple(tuple(row) for row in found)

    def merge(self, a: Rows, b: Rows) -> Rows:
        """Both states' frames together."""
        return add(a, b)

    def compute(self, state: Rows) -> dict[str, Any]:
        """Figures of each tolerance, the means over classes and those of each class; `mean_f1` is
        that of the first tolerance.
        """
        step = len(self.tolerances)
        found = {
            f"{tolerance:.12g}": over_classes(
                self.truth_classes,
                [_figures(row) for row in state[i::step]],
                ("f1", "pooled_f1"),
            )
            for i, tolerance in enumerate(self.tolerances)
        }
        return {"mean_f1": next(iter(found.values()))["mean_f1"], "tolerances": found}

    def _radii(self, height: int, width: int) -> list[float]:
        diagonal = math.hypot(height, width)
        return [t if t >= 1 else math.ceil(t * diagonal) for t in self.tolerances]


def _measured(a: Bool, b: Bool, radii: list[float]) -> list[tuple[int, ...]]:
    """One frame's row of a class at each radius."""
    sides = [int(np.count_nonzero(side)) for side in (a, b)]
    if not any(sides):
        return [(0,) * _COLUMNS for _ in radii]
    if not all(sides):
        missed, false = int(not sides[0]), int(not sides[1])
        return [(1, missed, false, 0, 0, sides[0], 0, sides[1]) for _ in radii]
    away = distances(a, b), distances(b, a)
    rows: list[tuple[int, ...]] = []
    for radius in radii:
        near = [int(np.count_nonzero(d <= radius)) for d in away]
        f1 = total(to_fixed([_f1(near[0] / sides[0], near[1] / sides[1])]))
        rows.append((1, 0, 0, f1, near[0], sides[0], near[1], sides[1]))
    return rows


def _f1(precision: float, recall: float) -> float:
    both = precision + recall
    return 2 * precision * recall / both if both else 0.0


def _figures(row: tuple[int, ...]) -> dict[str, Any]:
    frames, missed, false, f1, near_true, predicted, near_predicted, true = row
    return {
        "f1": fixed_mean(f1, frames),
        "pooled_f1": _f1(near_true / max(predicted, 1), near_predicted / max(true, 1))
        if frames
        else None,
        "pooled_precision": ratio(near_true, predicted),
        "pooled_recall": ratio(near_predicted, true),
        "frames": frames,
        "missed": missed,
        "false": false,
    }


_: type[Metric[Rows]] = BoundaryF1
