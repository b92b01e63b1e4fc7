"""Intervals of a difference between two sides that saw the same frames: the paired bootstrap.

Frames are drawn with replacement, the same ones for both sides, and the figure is computed of what was
drawn: Efron and Tibshirani, 1993, "An Introduction to the Bootstrap", chapters 6 and 13 (percentiles).
The draws are those of `scipy.stats.bootstrap` with `method="percentile"` and the same generator.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

DRAWS = 999
CONFIDENCE = 0.95
TOGETHER = 1 << 22
"""Frames drawn at a time."""


def draws(frames: int, seed: int, count: int = DRAWS) -> Iterator[NDArray[np.int64]]:
    """How often each frame is drawn, (frames,), `count` times over."""
    chance = np.random.default_rng(seed)
    done = 0
    while done < count:
        some = min(count - done, max(1, TOGETHER // max(1, frames)))
        for row in chance.integers(0, frames, (some, frames)):
            yield np.bincount(row, minlength=frames)
        done += some


def interval(values: NDArray[np.float64]) -> tuple[float, float] | None:
    """The percentiles of a figure's draws; None where one of them has no figure."""
    if not values.size or not np.isfinite(values).all():
        return None
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(values, [tail, 100 - tail])
    return float(low), float(high)
