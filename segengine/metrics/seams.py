"""Seam score: whether labels change more often at the borders of windows than elsewhere.

    score = (share of neighbours with different labels across lines `every` pixels apart)
            / (the same share across all other lines)

1 is no seam; what was segmented in tiles that do not fit shows more. Needs no truth. Pairs with void
are not counted; the score is None where no label changes away from the lines.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np

from segengine.metrics._classes import Classed
from segengine.types import Labels, Metric, Prediction, Truth


class Pairs(NamedTuple):
    """Neighbouring pixels, and how many of them differ in label."""

    changes: int = 0
    """Across the lines."""
    pairs: int = 0
    changes_elsewhere: int = 0
    pairs_elsewhere: int = 0


@dataclass(frozen=True, slots=True)
class Seams(Classed):
    """Label changes across lines `every` pixels apart, against those elsewhere."""

    version: ClassVar[int] = 1
    needs: ClassVar[tuple[str, ...]] = ()
    whole: ClassVar[bool] = True
    lower_is_better: ClassVar[bool] = True
    every: int = 256
    """Pixels from one line to the next: the shard, or the step of a network's windows."""

    def __post_init__(self) -> None:
        Classed.__post_init__(self)
        if self.every < 2:
            raise ValueError(f"every: must be at least 2 pixels, got {self.every}")

    def empty(self) -> Pairs:
        """No pairs."""
        return Pairs()

    def update(
        self, state: Pairs, prediction: Prediction, truth: Labels | Truth | None = None
    ) -> Pairs:
        """`state` and the pairs of whole frames (n, y, x)."""
        for axis in (1, 2):
            labels = np.moveaxis(prediction.labels, axis, 1)
            before, after = labels[:, :-1], labels[:, 1:]
            known = (before < len(self.classes)) & (after < len(self.classes))
            differ = known & (before != after)
            border = np.arange(1, labels.shape[1]) % self.every == 0
            per_line = known.sum((0, 2)), differ.sum((0, 2))
            at = [int(count[border].sum()) for count in per_line]
            rest = [int(count[~border].sum()) for count in per_line]
            state = self.merge(state, Pairs(at[1], at[0], rest[1], rest[0]))
        return state

    def merge(self, a: Pairs, b: Pairs) -> Pairs:
        """The pairs of both."""
        return Pairs(*(x + y for x, y in zip(a, b, strict=True)))

    def compute(self, state: Pairs) -> dict[str, Any]:
        """`seam_score`, and the two shares."""
        at = state.changes / state.pairs if state.pairs else None
        rest = state.changes_elsewhere / state.pairs_elsewhere if state.pairs_elsewhere else None
        score = at / rest if at is not None and rest else None
        return {"seam_score": score, "at_lines": at, "elsewhere": rest}


_: type[Metric[Pairs]] = Seams
