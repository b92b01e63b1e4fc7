"""Precision, recall and F1 of every class over thresholds of its probability; AP, AUC, best F1.

At a threshold t a pixel is taken for a class where its probability is at least t. Of each class the
state counts true and other pixels between the thresholds 0, 1 / (levels - 1) ... 1: integers, from
which every curve follows. The areas are those of these thresholds, that is of probabilities rounded
down to a level, and for them equal scikit-learn's:

    average precision = sum over falling thresholds of (recall_i - recall_(i-1)) precision_i
    AUC = area under recall over FP / (FP + TN), by trapezoids (ROC)

Void (NaN) is below every threshold: no step of the precision curve reaches it, and the ROC curve
ends with it at (1, 1). A class without a true pixel has no recall, AP or AUC (None), one without
another pixel no AUC, one that no label stands for no figure; means leave them out. Where nothing is
taken, precision is None.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from segengine.metrics._classes import Named, check_shape
from segengine.metrics._options import integer
from segengine.metrics._rows import over_classes, ratio
from segengine.metrics.calibration import probabilities_of
from segengine.types import Labels, Metric, Prediction, Truth

Counts = NDArray[np.int64]
"""(true class, 2, levels + 1): other and true pixels, by the thresholds their probability reaches."""
_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class ThresholdCurves(Named):
    """Counts of every class's probabilities between equally spaced thresholds."""

    version: ClassVar[int] = 1
    needs: ClassVar[tuple[str, ...]] = ("probabilities", "truth")
    levels: int = 101
    """Thresholds from 0 to 1."""

    def __post_init__(self) -> None:
        Named.__post_init__(self)
        integer("levels", self.levels, 2, 65536)

    def empty(self) -> Counts:
        """The counts of no pixels."""
        return np.zeros((len(self.truth_classes), 2, self.levels + 1), np.int64)

    def update(self, state: Counts, prediction: Prediction, truth: Labels | Truth) -> Counts:
        """`state` and the pixels of windows (n, y, x) with probabilities (n, y, x, class)."""
        flat = probabilities_of(prediction, len(self.classes))
        check_shape(prediction.labels, truth)
        true = self.scored(truth).reshape(-1)
        found = state.copy()
        for start in range(0, len(flat), _BLOCK):
            part = slice(start, start + _BLOCK)
            inside = true[part] >= 0
            values, of = flat[part][inside], true[part][inside]
            for index, t in enumerate(self.stands_for()):
                if t is not None:
                    # in float64 the product is exact, and so is the level
                    scaled = np.clip(values[:, index].astype(np.float64), 0, 1) * (self.levels - 1)
                    reached = np.nan_to_num(np.floor(scaled), nan=-1).astype(np.intp) + 1
                    joint = (of == t) * (self.levels + 1) + reached
                    counts = np.bincount(joint, minlength=2 * (self.levels + 1))
                    found[t] += counts.reshape(2, -1)
        return found

    def merge(self, a: Counts, b: Counts) -> Counts:
        """Both states' pixels together."""
        return a + b

    def compute(self, state: Counts) -> dict[str, Any]:
        """The thresholds, and of each class its curves, areas, best F1 and its lowest threshold."""
        figures = [_figures(others, trues, self.levels) for others, trues in state.tolist()]
        averaged = ("average_precision", "auc", "best_f1")
        thresholds = [i / (self.levels - 1) for i in range(self.levels)]
        return {"thresholds": thresholds, **over_classes(self.truth_classes, figures, averaged)}


def _figures(others: list[int], trues: list[int], levels: int) -> dict[str, Any]:
    """Figures of one class from its pixels between thresholds."""
    true, other = sum(trues), sum(others)
    tp, fp = [_reaching(counts, levels) for counts in (trues, others)]
    precision = [ratio(a, a + b) for a, b in zip(tp, fp, strict=True)]
    recall = [ratio(a, true) for a in tp]
    f1 = [ratio(2 * a, true + a + b) for a, b in zip(tp, fp, strict=True)]
    best = max((f for f in f1 if f is not None), default=None) if true else None
    falling = [(0, 0), *zip(reversed(tp), reversed(fp), strict=True)]
    steps = [(a - a0) * a / (a + b) for (a0, _), (a, b) in pairwise(falling) if a > a0]
    roc = sum((b - b0) * (a + a0) for (a0, b0), (a, b) in pairwise([*falling, (true, other)]))
    return {
        "average_precision": math.fsum(steps) / true if true else None,
        "auc": roc / (2 * true * other) if true and other else None,
        "best_f1": best,
        "best_threshold": None if best is None else f1.index(best) / (levels - 1),
        "precision": precision,
        "recall": recall,
        "f1": f1,
    }


def _reaching(counts: list[int], levels: int) -> list[int]:
    """Pixels at or above each threshold."""
    reaching = np.cumsum(np.array(counts[::-1]))[::-1]
    return [int(n) for n in reaching[1:][:levels]]


_: type[Metric[Counts]] = ThresholdCurves
