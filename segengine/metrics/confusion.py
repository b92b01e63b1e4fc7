"""Pixel accuracy, precision, recall, IoU and Dice of every class, from one integer confusion table.

The state is int64 (P + 1, T): pixels by predicted class and true class. Its last row counts void,
the pixels that have a true class and no label: a miss of that class, never background. Pixels
without a true class (void in the truth, or any value that is no class) are not scored.

With TP, FP and FN of a class over all scored pixels:

    precision = TP / (TP + FP)        recall = TP / (TP + FN)
    IoU = TP / (TP + FP + FN)         Dice = 2 TP / (2 TP + FP + FN)

With p and t the pixels of each class predicted and true, c those that agree and N all scored,

    kappa = (N c - p.t) / (N^2 - p.t)                              (Cohen 1960)
    MCC = (N c - p.t) / sqrt((N^2 - p.p) (N^2 - t.t))              (Gorodkin 2004, R_K)

with void, and labels that no true class belongs to, as one more predicted class. Kappa is None and
MCC 0 where its divisor is 0, as in scikit-learn; products are exact.

`mean_*` is the mean over classes, `frequency_weighted_*` the mean weighted by true pixels. A class
that is neither in the truth nor predicted has no figure (None) and is left out of the means; one
that is in only one of the two has 0 where its ratio would be 0 / 0, as in scikit-learn.

Labels without names (`cluster 3`, `level 1`) are matched to the true classes one to one, so that
most pixels agree (Kuhn 1955, "The Hungarian method"), on the table of the whole run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from segengine.metrics._assignment import best_pairs
from segengine.metrics._classes import Classed, by_name, check_shape, labels_of
from segengine.types import Labels, Metric, Prediction, Truth

Table = NDArray[np.int64]
"""(P + 1, T) pixels by predicted class (last row: void) and true class."""
Matching = Mapping[int, int | None]
"""True class of each predicted class; None where there is none for it."""

_RATIOS = ("precision", "recall", "iou", "dice")


@dataclass(frozen=True, slots=True)
class Confusion(Classed):
    """The confusion table of labels against truth, as a fold over windows."""

    version: ClassVar[int] = 1
    needs: ClassVar[tuple[str, ...]] = ("truth",)

    def empty(self) -> Table:
        """The table of no pixels."""
        return np.zeros((len(self.classes) + 1, len(self.truth_classes)), np.int64)

    def update(self, state: Table, prediction: Prediction, truth: Labels | Truth) -> Table:
        """`state` and the pixels of one window; `truth` (n, y, x) integers."""
        labels, true = prediction.labels, labels_of(truth)
        check_shape(labels, true)
        return state + count_pairs(labels, true, len(self.classes), len(self.truth_classes))

    def merge(self, a: Table, b: Table) -> Table:
        """The table of both."""
        return a + b

    def match(self, state: Table) -> dict[int, int | None]:
        """The true class each predicted class stands for.

        By name where names are shared, the rest in order where both have equally many; by greatest
        agreement where the labels have no names, or none in common.
        """
        found = by_name(self.classes, self.truth_classes)
        if found is None:
            return _best_agreement(state[: len(self.classes)])
        return dict(enumerate(found))

    def scores(
        self, states: Table, matching: Matching | None = None
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Pixel accuracy and mean IoU of many tables (..., P + 1, T) at once; NaN: nothing scored.

        Without a `matching`, that of their sum.
        """
        if matching is None:
            matching = self.match(states.reshape(-1, *states.shape[-2:]).sum(axis=0))
        counts = _Counts.of(states, matching)
        return _ratio(counts.tp.sum(-1), counts.truth.sum(-1)), _mean(counts.ratios()["iou"])

    def compute(self, state: Table, matching: Matching | None = None) -> dict[str, Any]:
        """Every figure as JSON values; None where nothing was scored.

        `matching`: that of the whole run, for the table of one frame or scene; else its own.
        """
        if matching is None:
            matching = self.match(state)
        counts = _Counts.of(state, matching)
        ratios = counts.ratios()
        return {
            "pixel_accuracy": _json(_ratio(counts.tp.sum(), counts.truth.sum())),
            "kappa": counts.kappa(),
            "mcc": counts.mcc(),
            **{f"mean_{name}": _json(_mean(values)) for name, values in ratios.items()},
            **{
                f"frequency_weighted_{name}": _json(_mean(values, counts.truth))
                for name, values in ratios.items()
            },
            "classes": {
                name: {
                    **{ratio: _json(values[i]) for ratio, values in ratios.items()},
                    "pixels": int(counts.truth[i]),
                }
                for i, name in enumerate(self.truth_classes)
            },
            "confusion": {
                "rows": list(self.truth_classes),
                "columns": [*self.classes, "void"],
                "counts": state.T.tolist(),
            },
            "matching": self._named(matching),
        }

    def _named(self, matching: Matching) -> dict[str, str | None] | None:
        """The matching by name; None where every class keeps its name."""
        named = {
            self.classes[p]: None if t is None else self.truth_classes[t]
            for p, t in matching.items()
        }
        return None if all(p == t for p, t in named.items()) else named


def count_pairs(labels: Labels, truth: Labels, classes: int, truths: int) -> Table:
    """Table (classes + 1, truths) of the pairs (label, true class), pixel by pixel.

    Any label that is no class counts as void; any truth that is no class is not counted.
    """
    p, t = _codes(labels, classes), _codes(truth, truths)
    if p.dtype == t.dtype == np.uint8:
        joint = _joint_histogram(p, t)
    else:
        wide = p.astype(np.int64) * (truths + 1) + t
        joint = np.bincount(wide, minlength=(classes + 1) * (truths + 1))
        joint = joint.reshape(classes + 1, truths + 1)
    table = joint[: classes + 1, :truths].copy()
    table[classes] += joint[classes + 1 :, :truths].sum(axis=0)
    return table


def _codes(labels: Labels, classes: int) -> NDArray[Any]:
    """Labels, flat, as bytes where they fit; what is no class becomes `classes` or greater."""
    flat = labels.reshape(-1)
    if flat.dtype == np.uint8:
        return flat
    inside = (flat >= 0) & (flat < classes)
    dtype = np.uint8 if classes < 256 else np.int64
    return np.where(inside, flat, classes).astype(dtype)


def _joint_histogram(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> Table:
    """(256, 256) counts of the pairs of two flat byte arrays.

    A pair of bytes is one 16-bit number, and OpenCV's 1-D histogram of those is about four times
    as fast as its 2-D one and seven times as fast as `bincount`. It hands counts out as
    float32, which is exact up to 2^24.
    """
    import cv2

    block = 1 << 24
    joint = np.zeros((256, 256), np.int64)
    for start in range(0, a.size, block):
        part = slice(start, start + block)
        pairs = np.ascontiguousarray(cv2.merge([b[part], a[part]])).reshape(1, -1).view("<u2")
        counts = cv2.calcHist([pairs], [0], None, [65536], [0, 65536])
        joint += counts.reshape(256, 256).astype(np.int64)
    return joint


def _best_agreement(agreement: Table) -> dict[int, int | None]:
    pairs = best_pairs(agreement)
    return {p: pairs.get(p) for p in range(len(agreement))}


@dataclass(frozen=True, slots=True)
class _Counts:
    """Pixels of each true class (..., T)."""

    tp: Table
    predicted: Table
    truth: Table

    @classmethod
    def of(cls, states: Table, matching: Matching) -> _Counts:
        tp = np.zeros((*states.shape[:-2], states.shape[-1]), np.int64)
        predicted = np.zeros_like(tp)
        for p, t in matching.items():
            if t is not None:
                tp[..., t] += states[..., p, t]
                predicted[..., t] += states[..., p, :].sum(-1)
        return cls(tp, predicted, states.sum(-2))

    def ratios(self) -> dict[str, NDArray[np.float64]]:
        """Each ratio (..., T); NaN for a class that is absent."""
        union = self.predicted + self.truth - self.tp
        parts: Sequence[Table] = (self.predicted, self.truth, union)
        found = [_ratio(self.tp, np.where(union > 0, np.maximum(n, 1), 0)) for n in parts]
        found.append(_ratio(2 * self.tp, self.predicted + self.truth))
        return dict(zip(_RATIOS, found, strict=True))

    def kappa(self) -> float | None:
        """Cohen's kappa of one table; None where it is 0 / 0."""
        total, agreed, chance, _, _ = self._products()
        return (total * agreed - chance) / below if (below := total**2 - chance) else None

    def mcc(self) -> float | None:
        """Gorodkin's R_K of one table; None where nothing was scored."""
        total, agreed, chance, predicted, truth = self._products()
        below = (total**2 - predicted) * (total**2 - truth)
        if not below:
            return 0.0 if total else None
        # two roots: the product of two exact integers need not fit a float
        roots = math.sqrt(total**2 - predicted) * math.sqrt(total**2 - truth)
        return (total * agreed - chance) / roots

    def _products(self) -> tuple[int, int, int, int, int]:
        """N, c, p.t, p.p, t.t as Python's integers, which do not overflow."""
        predicted, truth = self.predicted.tolist(), self.truth.tolist()
        total = sum(truth)
        rest = total - sum(predicted)
        chance = sum(p * t for p, t in zip(predicted, truth, strict=True))
        squares = sum(p * p for p in predicted) + rest**2
        return total, int(self.tp.sum()), chance, squares, sum(t * t for t in truth)


def _ratio(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.float64]:
    """a / b, NaN where b is 0."""
    result: NDArray[np.float64] = np.divide(
        a, b, out=np.full(np.shape(a), np.nan), where=np.asarray(b) > 0
    )
    return result


def _mean(values: NDArray[np.float64], weights: Table | None = None) -> NDArray[np.float64]:
    """Mean along the last axis of what is not NaN; NaN where there is nothing."""
    present = ~np.isnan(values)
    weight = present.astype(np.float64) if weights is None else np.where(present, weights, 0)
    return _ratio((np.nan_to_num(values) * weight).sum(-1), weight.sum(-1))


def _json(value: NDArray[np.float64]) -> float | None:
    return None if np.isnan(value) else float(value)


_: type[Metric[Table]] = Confusion
