"""How far confidence is from accuracy: ECE, MCE (Guo et al. 2017) and the Brier score (Brier 1950).

Each scored pixel counts by its confidence p, the greatest probability, and by whether the class of
that probability is the true one (the first of equal ones). Where probabilities are not stored, p is
the label's as the confidence layer has it, a multiple of 1/254, and the class is the label. With M
bins ((m - 1) / M, m / M] and N pixels:

    ECE         = sum over bins of n_m / N * |correct_m / n_m - mean confidence_m|
    MCE         = greatest |correct_m / n_m - mean confidence_m|
    Brier       = mean over pixels of sum over classes of (p_c - 1 where c is the true class)^2
    label Brier = mean over pixels of (p - 1 where the class is the true one)^2

The state is integers: pixels, correct ones and the fixed-point sums of confidences and of both
squares of each bin, the pixels all of whose probabilities are known, and apart the scored pixels
without a probability (void), which have no confidence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from segengine.fixed_point import to_fixed, to_float
from segengine.metrics._classes import Named, check_shape
from segengine.metrics._frames import needed
from segengine.metrics._options import integer
from segengine.metrics._rows import Rows, add, fixed_mean, ratio, zeros
from segengine.types import CERTAIN, NO_CONFIDENCE, Labels, Metric, Prediction, Truth

_BLOCK = 1 << 20
"""Pixels whose fixed-point terms, up to 2, a float64 sum holds exactly (2^33 each, up to 2^53)."""
_COLUMNS = 6


@dataclass(frozen=True, slots=True)
class Calibration(Named):
    """Confidence against accuracy in bins of equal width."""

    version: ClassVar[int] = 2
    needs: ClassVar[tuple[str, ...]] = ("probabilities", "truth")
    uses: ClassVar[tuple[str, ...]] = ("confidence",)
    lower_is_better: ClassVar[bool] = True
    bins: int = 15
    """Number of bins, as in the paper."""

    def __post_init__(self) -> None:
        Named.__post_init__(self)
        integer("bins", self.bins, 1, 65536)

    def empty(self) -> Rows:
        """Rows of (pixels, correct, confidence, label's square, squares, pixels with squares).

        The last row is of void; sums are fixed-point.
        """
        return zeros(self.bins + 1, _COLUMNS)

    def update(self, state: Rows, prediction: Prediction, truth: Labels | Truth) -> Rows:
        """`state` and the pixels of windows (n, y, x) with probabilities, or else with confidence."""
        flat = shares = None
        if prediction.probabilities is not None or prediction.confidence is None:
            flat = probabilities_of(prediction, len(self.classes))
        else:
            shares = _shares(prediction.confidence).reshape(-1)
        check_shape(prediction.labels, truth)
        true, labels = self.scored(truth).reshape(-1), prediction.labels.reshape(-1)
        table = np.zeros((self.bins + 1, _COLUMNS), np.int64)
        named = self.as_true(np.arange(len(self.classes)))
        for start in range(0, len(true), _BLOCK):
            part = slice(start, start + _BLOCK)
            inside = true[part] >= 0
            of = true[part][inside]
            values = None if flat is None else flat[part][inside]
            if values is not None:
                top = values.argmax(axis=1)
                # in float64 the product with the number of bins is exact, and so is the bin
                confidence = values[np.arange(len(top)), top].astype(np.float64)
                right = named[top] == of
            else:
                assert shares is not None
                confidence = shares[part][inside]
                right = self.as_true(labels[part][inside]) == of
            void = np.isnan(confidence)
            confidence = np.clip(np.where(void, 0, confidence), 0, 1)
            right &= ~void
            place = np.clip(np.ceil(confidence * self.bins).astype(np.intp) - 1, 0, None)
            place[void] = self.bins
            columns: list[Any] = [None, right, to_fixed(confidence)]
            columns.append(to_fixed(np.where(void, 0, (confidence - right) ** 2)))
            if values is not None:
                columns += [to_fixed(np.where(void, 0, _squares(values, named, of))), ~void]
            for column, weight in enumerate(columns):
                table[:, column] += np.bincount(place, weight, self.bins + 1).astype(np.int64)
        return add(state, tuple(tuple(row) for row in table.tolist()))

    def merge(self, a: Rows, b: Rows) -> Rows:
        """Both states' pixels together."""
        return add(a, b)

    def compute(self, state: Rows) -> dict[str, Any]:
        """`ece`, `mce`, `brier`, `label_brier`, and accuracy and mean confidence of each bin.

        None: nothing scored; `brier` also where not all pixels have all their probabilities.
        """
        *bins, void = state
        total, of_label, of_all, known = (sum(row[i] for row in bins) for i in (0, 3, 4, 5))
        gaps = [(n, abs(correct / n - to_float(p, n))) for n, correct, p, *_ in bins if n]
        return {
            "ece": sum(n * gap for n, gap in gaps) / total if total else None,
            "mce": max((gap for _, gap in gaps), default=None),
            "brier": fixed_mean(of_all, total) if known == total else None,
            "label_brier": fixed_mean(of_label, total),
            "bins": [
                {
                    "above": i / self.bins,
                    "to": (i + 1) / self.bins,
                    "pixels": n,
                    "accuracy": ratio(correct, n),
                    "confidence": fixed_mean(p, n),
                }
                for i, (n, correct, p, *_) in enumerate(bins)
            ],
            "void": void[0],
        }


def _shares(confidence: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Probabilities that a confidence layer stands for, NaN for void."""
    return np.where(confidence == NO_CONFIDENCE, np.nan, confidence / CERTAIN)


def _squares(
    values: NDArray[np.float32], named: NDArray[np.int32], true: NDArray[np.int32]
) -> NDArray[np.float64]:
    """(pixel,) squares of each class's error, added up class by class; values (pixel, class)."""
    total = np.zeros(len(values))
    for label, name in enumerate(named.tolist()):
        total += (values[:, label].astype(np.float64) - (true == name)) ** 2
    return total + ~np.isin(true, named)  # of a class that no label stands for


def probabilities_of(prediction: Prediction, classes: int) -> NDArray[np.float32]:
    """Probabilities (pixel, class). Raises ValueError where there are none, or not one a class."""
    found: NDArray[np.float32] = needed(
        prediction.probabilities,
        "probabilities",
        "the prediction has none; use a segmenter that gives them, and keep them in the store",
    )
    expected = (*prediction.labels.shape, classes)
    if found.shape != expected:
        raise ValueError(f"probabilities: their shape is {found.shape}, not {expected}")
    return found.reshape(-1, classes)


_: type[Metric[Rows]] = Calibration
