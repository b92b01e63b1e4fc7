"""Detections to true objects of one frame, by the rules of COCO's evaluation.

In order of falling score, at each IoU threshold and for each range of areas, a detection takes the
true object of greatest IoU that reaches the threshold and is not taken (a crowd can be taken by
many): one that counts, if there is any, before one that is ignored; of equal IoU the last.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

THRESHOLDS = np.linspace(0.5, 0.95, 10)
AREAS = ((0.0, 1e10), (0.0, 32.0**2), (32.0**2, 96.0**2), (96.0**2, 1e10))
"""Square pixels, both ends included: all, small, medium, large."""
_REACHED = np.minimum(THRESHOLDS, 1 - 1e-10)[:, None]

Bool = NDArray[np.bool_]
Floats = NDArray[np.float64]


def outside(areas: Floats) -> Bool:
    """(range, object) whether an object's area is outside of each range."""
    low, high = np.array(AREAS).T[:, :, None]
    return np.asarray((areas < low) | (areas > high))


def match(ious: Floats, crowd: Bool, ignored: Bool) -> tuple[Bool, Bool]:
    """Which detections are matched, and which of those to an ignored object: (range, threshold, d).

    ious (d, g), those of a class in order of falling score, 0 between classes; crowd (g,); ignored
    (range, g).
    """
    shape = (len(AREAS), len(THRESHOLDS), len(ious))
    matched, lost = np.zeros(shape, np.bool_), np.zeros(shape, np.bool_)
    near = ious >= _REACHED[0]
    choices, rivals = near.sum(axis=1), near.sum(axis=0)
    target = near.argmax(axis=1) if near.size else np.zeros(len(ious), np.intp)
    # Most detections have one object to take, and no other wants it: these need no turns.
    alone = choices == 1
    alone[alone] &= (rivals[target[alone]] == 1) | crowd[target[alone]]
    at = np.flatnonzero(alone)
    matched[..., at] = ious[at, target[at]] >= _REACHED
    lost[..., at] = matched[..., at] & ignored[:, None, target[at]]
    turns = np.flatnonzero((choices > 0) & ~alone)
    if turns.size:
        wanted = np.flatnonzero(near[turns].any(axis=0))
        found = _in_turn(ious[np.ix_(turns, wanted)], crowd[wanted], ignored[:, wanted])
        matched[..., turns], lost[..., turns] = found
    return matched, lost


def _in_turn(ious: Floats, crowd: Bool, ignored: Bool) -> tuple[Bool, Bool]:
    """As `match`, one detection after the other."""
    count, objects = ious.shape
    shape = (len(AREAS), len(THRESHOLDS), count)
    matched, lost = np.zeros(shape, np.bool_), np.zeros(shape, np.bool_)
    # Preference, ascending: ignored objects first, then by IoU, then by place (the sort is stable).
    wide = (count, len(AREAS), objects)
    order = np.lexsort(
        (np.broadcast_to(ious[:, None], wide), np.broadcast_to(~ignored, wide)), axis=-1
    )
    rank = np.argsort(order, axis=-1)
    free = np.ones((len(AREAS), len(THRESHOLDS), objects), np.bool_)
    ranges, thresholds = np.indices(shape[:2])
    for d in range(count):
        best = np.where(free & (ious[d] >= _REACHED), rank[d][:, None], -1)
        target = best.argmax(axis=-1)
        taken = best[ranges, thresholds, target] >= 0
        matched[..., d] = taken
        lost[..., d] = taken & ignored[ranges, target]
        free[ranges, thresholds, target] &= ~taken | crowd[target]
    return matched, lost
