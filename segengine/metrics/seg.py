"""SEG of the Cell Tracking Challenge: mean Jaccard index of the true objects.

A true object R and a found one S match where S has more than half of R's pixels: at most one has.

    SEG = mean over all true objects of |R and S| / |R or S|, 0 where none matches

Objects of one class are compared. `all` is the mean over the objects of all classes. A class without a
true object has no figure (None). Void and crowds of the truth count as nothing; what is found where
nothing is costs nothing.
Source: Maska et al. 2014, "A benchmark for comparison of cell tracking algorithms".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from segengine.fixed_point import to_fixed, total
from segengine.metrics._classes import Named
from segengine.metrics._frames import each
from segengine.metrics._objects import Pairs, pairs
from segengine.metrics._rows import Rows, add, fixed_mean, over_classes, zeros
from segengine.types import Labels, Metric, Prediction, Truth


@dataclass(frozen=True, slots=True)
class Seg(Named):
    """Jaccard indices of the true objects."""

    version: ClassVar[int] = 1
    needs: ClassVar[tuple[str, ...]] = ("instances", "truth", "truth_instances")
    uses: ClassVar[tuple[str, ...]] = ("truth_objects",)
    whole: ClassVar[bool] = True

    def empty(self) -> Rows:
        """Rows of (true objects, matched ones, sum of their Jaccard indices in fixed point)."""
        return zeros(len(self.truth_classes), 3)

    def update(self, state: Rows, prediction: Prediction, truth: Labels | Truth) -> Rows:
        """`state` and whole frames (n, y, x) with instance ids on both sides."""
        for found, true in each(prediction, truth):
            state = add(state, self._frame(pairs(self, found, true)))
        return state

    def merge(self, a: Rows, b: Rows) -> Rows:
        """Both states' frames together."""
        return add(a, b)

    def compute(self, state: Rows) -> dict[str, Any]:
        """SEG of each class, their mean, and that of all objects."""
        figures = [
            {"seg": fixed_mean(jaccard, true), "matched": matched, "true": true}
            for true, matched, jaccard in state
        ]
        true, _, jaccard = map(sum, zip(*state, strict=True))
        return {
            "all": fixed_mean(jaccard, true),
            **over_classes(self.truth_classes, figures, ("seg",)),
        }

    def _frame(self, frame: Pairs) -> Rows:
        near = np.flatnonzero(2 * frame.common > frame.sizes[frame.first])
        jaccard = to_fixed(frame.common[near] / frame.union[near])
        kinds = frame.true[frame.first[near]]
        return tuple(
            (
                int(np.count_nonzero(frame.true == kind)),
                int(np.count_nonzero(kinds == kind)),
                total(jaccard[kinds == kind]),
            )
            for kind in range(len(self.truth_classes))
        )


_: type[Metric[Rows]] = Seg
