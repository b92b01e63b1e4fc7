"""Expected calibration error: how far confidence is from accuracy (Guo et al. 2017).

Each scored pixel counts by its greatest probability p, the confidence, and by whether the class of
that probability is the true one (the first of equal ones). With M bins ((m - 1) / M, m / M]:

    ECE = sum over bins of n_m / N * |correct_m / n_m - mean confidence_m|
    MCE = greatest |correct_m / n_m - mean confidence_m|

The state is integers: pixels, correct ones and the fixed-point sum of confidences of each bin, and
the scored pixels without a probability (void), which have no confidence and are reported apart.
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
from segengine.types import Labels, Metric, Prediction, Truth

_BLOCK = 1 << 20
"""Pixels whose fixed-point confidences a float64 sum holds exactly (2^32 each, below 2^53)."""


@dataclass(frozen=True, slots=True)
class Calibration(Named):
    """Confidence against accuracy in bins of equal width."""

    version: ClassVar[int] = 1
    needs: ClassVar[tuple[str, ...]] = ("probabilities", "truth")
    lower_is_better: ClassVar[bool] = True
    bins: int = 15
    """Number of bins, as in the paper."""

    def __post_init__(self) -> None:
        Named.__post_init__(self)
        integer("bins", self.bins, 1, 65536)

    def empty(self) -> Rows:
        """Rows of (pixels, correct, fixed-point confidence), the last for void."""
        return zeros(self.bins + 1, 3)

    def update(self, state: Rows, prediction: Prediction, truth: Labels | Truth) -> Rows:
        """`state` and the pixels of windows (n, y, x) with probabilities (n, y, x, class)."""
        flat = probabilities_of(prediction, len(self.classes))
        check_shape(prediction.labels, truth)
        true = self.scored(truth).reshape(-1)
        table = np.zeros((self.bins + 1, 3), np.int64)
        named = self.as_true(np.arange(len(self.classes)))
        for start in range(0, len(flat), _BLOCK):
            part = slice(start, start + _BLOCK)
            inside = true[part] >= 0
            values, of = flat[part][inside], true[part][inside]
            top = values.argmax(axis=1)
            # in float64 the product with the number of bins is exact, and so is the bin
            confidence = values[np.arange(len(top)), top].astype(np.float64)
            void = np.isnan(confidence)
            confidence = np.clip(np.where(void, 0, confidence), 0, 1)
            place = np.clip(np.ceil(confidence * self.bins).astype(np.intp) - 1, 0, None)
            place[void] = self.bins
            for column, weight in enumerate(
                (None, (named[top] == of) & ~void, to_fixed(confidence))
            ):
                table[:, column] += np.bincount(place, weight, self.bins + 1).astype(np.int64)
        return add(state, tuple(tuple(row) for row in table.tolist()))

    def merge(self, a: Rows, b: Rows) -> Rows:
        """Both states' pixels together."""
        return add(a, b)

    def compute(self, state: Rows) -> dict[str, Any]:
        """`ece`, `mce` (None: nothing scored), and accuracy and mean confidence of each bin."""
        *bins, void = state
        total = sum(count for count, _, _ in bins)
        gaps = [(n, abs(correct / n - to_float(p, n))) for n, correct, p in bins if n]
        return {
            "ece": sum(n * gap for n, gap in gaps) / total if total else None,
            "mce": max((gap for _, gap in gaps), default=None),
            "bins": [
                {
                    "above": i / self.bins,
                    "to": (i + 1) / self.bins,
                    "pixels": n,
                    "accuracy": ratio(correct, n),
                    "confidence": fixed_mean(p, n),
                }
                for i, (n, correct, p) in enumerate(bins)
            ],
            "void": void[0],
        }


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
