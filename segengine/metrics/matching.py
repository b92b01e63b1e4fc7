"""Matching at IoU thresholds, as StarDist reports it: precision, recall, F1, scores of the matches.

At each threshold as many true and found objects of a class are matched, each at most once, as reach it
(IoU >= threshold), of all such matchings the one whose pairs have the greatest IoU in sum.

    precision = TP / (TP + FP)      accuracy = TP / (TP + FP + FN)      mean_matched_score = sum of IoU / TP
    recall = TP / (TP + FN)         f1 = 2 TP / (2 TP + FP + FN)        mean_true_score = sum of IoU / true
    panoptic_quality = sum of IoU / (TP + FP / 2 + FN / 2)              sums over all matches

The figures are those of all frames together, as of `matching_dataset` with `by_image=False`; those of a
class without an object on either side are None. Void and crowds of the truth count as nothing.
Source: Schmidt et al. 2018, "Cell detection with star-convex polygons"; stardist, `matching.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from segengine.fixed_point import to_fixed, to_float, total
from segengine.metrics._assignment import best_pairs
from segengine.metrics._classes import Named
from segengine.metrics._frames import each
from segengine.metrics._objects import Pairs, pairs
from segengine.metrics._options import number
from segengine.metrics._rows import Rows, add, zeros
from segengine.types import Labels, Metric, Prediction, Truth

_ONE = 1 << 32
"""What an IoU of 1 is in fixed point."""


@dataclass(frozen=True, slots=True)
class Matching(Named):
    """Matches of each class at each threshold."""

    version: ClassVar[int] = 1
    needs: ClassVar[tuple[str, ...]] = ("instances", "truth", "truth_instances")
    uses: ClassVar[tuple[str, ...]] = ("truth_objects",)
    whole: ClassVar[bool] = True
    thresholds: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    """Least IoU of a match."""

    def __post_init__(self) -> None:
        Named.__post_init__(self)
        given: object = self.thresholds
        if not isinstance(given, list | tuple) or not given:
            raise ValueError(f"thresholds: must be a list of numbers, not {given!r}")
        found = tuple(number("thresholds", one, 0.01, 1) for one in given)
        object.__setattr__(self, "thresholds", found)

    def empty(self) -> Rows:
        """Rows of (TP, FP, FN, sum of IoU in fixed point), a class's thresholds together."""
        return zeros(len(self.truth_classes) * len(self.thresholds), 4)

    def update(self, state: Rows, prediction: Prediction, truth: Labels | Truth) -> Rows:
        """`state` and whole frames (n, y, x) with instance ids on both sides."""
        for found, true in each(prediction, truth):
            state = add(state, self._frame(pairs(self, found, true)))
        return state

    def merge(self, a: Rows, b: Rows) -> Rows:
        """Both states' frames together."""
        return add(a, b)

    def compute(self, state: Rows) -> dict[str, Any]:
        """At each threshold the figures of all classes together; those of each class beside."""
        count = len(self.thresholds)
        rows = [state[i : i + count] for i in range(0, len(state), count)]
        whole = [tuple(map(sum, zip(*column, strict=True))) for column in zip(*rows, strict=True)]
        return {
            "thresholds": [self._figures(i, row) for i, row in enumerate(whole)],
            "classes": {
                name: {"thresholds": [self._figures(i, row) for i, row in enumerate(own)]}
                for name, own in zip(self.truth_classes, rows, strict=True)
            },
        }

    def _frame(self, frame: Pairs) -> Rows:
        iou = frame.common / frame.union
        rows = []
        for kind in range(len(self.truth_classes)):
            own = np.flatnonzero(frame.true[frame.first] == kind)
            true = int(np.count_nonzero(frame.true == kind))
            found = int(np.count_nonzero(frame.found == kind))
            for threshold in self.thresholds:
                kept = own[_matched(frame.first[own], frame.second[own], iou[own], threshold)]
                hits = len(kept)
                rows.append((hits, found - hits, true - hits, total(to_fixed(iou[kept]))))
        return tuple(rows)

    def _figures(self, place: int, row: tuple[int, ...]) -> dict[str, Any]:
        tp, fp, fn, score = row
        counts = {"threshold": self.thresholds[place], "tp": tp, "fp": fp, "fn": fn}
        if not tp + fp + fn:
            return counts | dict.fromkeys(_FIGURES)
        true = tp + fn
        values = (
            tp / (tp + fp) if tp else 0.0,
            tp / true if tp else 0.0,
            tp / (tp + fp + fn),
            2 * tp / (2 * tp + fp + fn),
            to_float(score, true) if true else 0.0,
            to_float(score, tp) if tp else 0.0,
            2 * to_float(score, 2 * tp + fp + fn),
        )
        return counts | dict(zip(_FIGURES, values, strict=True))


_FIGURES = (
    "precision", "recall", "accuracy", "f1", "mean_true_score", "mean_matched_score", "panoptic_quality",
)  # fmt: skip


def _matched(
    first: NDArray[np.int64], second: NDArray[np.int64], iou: NDArray[np.float64], threshold: float
) -> NDArray[np.int64]:
    """Which pairs are matched."""
    reached = np.flatnonzero(iou >= threshold)
    rivals = [np.bincount(side[reached]).max(initial=0) for side in (first, second)]
    if max(rivals) < 2:  # nothing to choose: above one half always so
        return reached
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    width = int(first.max()) + 1
    nodes = width + int(second.max()) + 1
    links = coo_array((np.ones(len(first)), (first, second + width)), shape=(nodes, nodes))
    parts = connected_components(links, directed=False)[1][first]
    kept = []
    order = np.argsort(parts, kind="stable")
    for own in np.split(order, np.flatnonzero(np.diff(parts[order])) + 1):
        kept += _of_part(own, first, second, iou, threshold)
    return np.sort(np.array(kept, np.int64))


def _of_part(
    own: NDArray[np.int64],
    first: NDArray[np.int64],
    second: NDArray[np.int64],
    iou: NDArray[np.float64],
    threshold: float,
) -> list[int]:
    """The matched pairs among those of objects that hang together."""
    rows, row = np.unique(first[own], return_inverse=True)
    columns, column = np.unique(second[own], return_inverse=True)
    # a pair more that reaches the threshold is worth more than all that the others can add
    worth = 2 * min(len(rows), len(columns)) * _ONE
    gains = np.zeros((len(rows), len(columns)), np.int64)
    gains[row, column] = to_fixed(iou[own]) + np.where(iou[own] >= threshold, worth, 0)
    chosen = best_pairs(gains)
    return [
        int(pair)
        for pair, a, b in zip(own, row, column, strict=True)
        if chosen.get(int(a)) == int(b) and iou[pair] >= threshold
    ]


_: type[Metric[Rows]] = Matching
