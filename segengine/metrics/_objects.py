"""True and found objects of a frame that may match: pairs of one class, with what they share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segengine.metrics._classes import Named
from segengine.metrics._frames import column, crowd_of, needed
from segengine.metrics._segments import Segments, shared
from segengine.types import Prediction, Truth


@dataclass(frozen=True, slots=True)
class Pairs:
    """The objects of a frame; one of another class is another object."""

    true: NDArray[np.int64]
    """(object,) class of each true object."""
    found: NDArray[np.int64]
    """(object,) class of each found one."""
    sizes: NDArray[np.int64]
    """(object,) pixels of each true one."""
    first: NDArray[np.int64]
    """(pair,) the true object of each two that share pixels."""
    second: NDArray[np.int64]
    """(pair,) the found one."""
    common: NDArray[np.int64]
    """(pair,) pixels that both have."""
    union: NDArray[np.int64]
    """(pair,) pixels that either has, but for void in the truth."""


def pairs(metric: Named, prediction: Prediction, truth: Truth) -> Pairs:
    """Those of a frame. Void and crowds of the truth are no objects, nor is what lies in them by more
    than half; what of a found object lies there does not count."""
    ids = needed(prediction.instances, "instances", "the prediction has none")
    true_ids = needed(truth.instances, "truth", "it has no instances")
    ours = Segments.of(metric.as_true(prediction.labels), ids)
    theirs = Segments.of(metric.scored(truth), true_ids)
    first, second, common = shared(theirs, ours)
    beside = theirs.classes < 0
    if truth.objects is not None:
        crowds = column(truth.objects, "id")[crowd_of(truth.objects)]
        beside |= np.isin(theirs.ids, crowds[crowds > 0])
    lost = np.bincount(second, weights=common * beside[first], minlength=len(ours.keys))
    void = lost.astype(np.int64)
    true = (theirs.ids > 0) & ~beside
    found = (ours.ids > 0) & (ours.classes >= 0) & (2 * void <= ours.sizes)
    both = true[first] & found[second] & (theirs.classes[first] == ours.classes[second])
    first, second, common = first[both], second[both], common[both]
    union = theirs.sizes[first] + ours.sizes[second] - void[second] - common
    return Pairs(
        true=theirs.classes[true],
        found=ours.classes[found],
        sizes=theirs.sizes[true],
        first=_numbered(true)[first],
        second=_numbered(found)[second],
        common=common,
        union=union,
    )


def _numbered(kept: NDArray[np.bool_]) -> NDArray[Any]:
    return np.cumsum(kept) - 1
