"""Precision over recall of detections that are matched already, and COCO's 12 figures of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segengine.metrics._matching import AREAS, THRESHOLDS

DETECTIONS = 100
"""Most detections of a frame and class."""
RECALLS = np.linspace(0.0, 1.0, 101)
_AREAS = ("small", "medium", "large")
_COUNT = len(THRESHOLDS)
_AT50, _AT75 = 0, 5
"""Places of the IoU thresholds 0.5 and 0.75."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Detections:
    """Detections in order of their frames, in each frame and class by falling score."""

    classes: NDArray[np.integer[Any]]
    place: NDArray[np.int64]
    """Among those of its frame and class, from 0."""
    scores: Floats
    matched: NDArray[np.uint64]
    """A bit for each range of areas and IoU threshold."""
    ignored: NDArray[np.uint64]

    def by_class(self, count: int) -> Iterator[Detections]:
        """Those of each class, by falling score; equal ones stay in order."""
        order = np.lexsort((-self.scores, self.classes))
        ends = np.cumsum(np.bincount(self.classes, minlength=count))
        for part in np.split(order, ends[:-1]):
            yield self[part]

    def right(self, area: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """(threshold, d) true positives and false positives in a range of areas."""
        bits = np.arange(area * _COUNT, (area + 1) * _COUNT, dtype=np.uint64)[:, None]
        matched, ignored = (((b >> bits) & np.uint64(1)) > 0 for b in (self.matched, self.ignored))
        return matched & ~ignored, ~matched & ~ignored

    def __getitem__(self, rows: NDArray[Any]) -> Detections:
        return Detections(
            self.classes[rows],
            self.place[rows],
            self.scores[rows],
            self.matched[rows],
            self.ignored[rows],
        )


def summary(
    classes: Sequence[str], truths: NDArray[np.int64], detections: Detections
) -> dict[str, Any]:
    """The 12 figures, and AP and AR of each class. truths: (class, range) numbers of true objects."""
    k = len(classes)
    # -1 where there is no true object; the axes in pycocotools' order, so that means are its own
    precision = np.full((len(AREAS), _COUNT, len(RECALLS), k), -1.0)
    recall = np.full((len(AREAS), _COUNT, k), -1.0)
    fewer = {1: np.full((_COUNT, k), -1.0), 10: np.full((_COUNT, k), -1.0)}
    for index, mine in enumerate(detections.by_class(k)):
        for area, wanted in enumerate(truths[index].tolist()):
            if wanted:
                right, wrong = mine.right(area)
                precision[area, ..., index] = _precision(right, wrong, wanted)
                recall[area, :, index] = right.sum(axis=1) / wanted
                if not area:
                    for most, found in fewer.items():
                        found[:, index] = right[:, mine.place < most].sum(axis=1) / wanted
    return {
        "ap": _mean(precision[0]),
        "ap50": _mean(precision[0, _AT50]),
        "ap75": _mean(precision[0, _AT75]),
        **{f"ap_{name}": _mean(precision[i]) for i, name in enumerate(_AREAS, 1)},
        **{f"ar_{most}": _mean(found) for most, found in fewer.items()},
        f"ar_{DETECTIONS}": _mean(recall[0]),
        **{f"ar_{name}": _mean(recall[i]) for i, name in enumerate(_AREAS, 1)},
        "classes": {
            name: {
                "ap": _mean(precision[0, ..., i]),
                "ap50": _mean(precision[0, _AT50, :, i]),
                "ap75": _mean(precision[0, _AT75, :, i]),
                f"ar_{DETECTIONS}": _mean(recall[0, :, i]),
                "truths": int(truths[i, 0]),
            }
            for i, name in enumerate(classes)
        },
    }


def _precision(right: NDArray[np.bool_], wrong: NDArray[np.bool_], wanted: int) -> Floats:
    """(threshold, recall) the greatest precision at each recall or above; 0 where it is not reached."""
    tp, fp = (np.cumsum(side, axis=1).astype(np.float64) for side in (right, wrong))
    values = tp / (fp + tp + np.spacing(1))
    falling = np.maximum.accumulate(values[:, ::-1], axis=1)[:, ::-1]
    found = np.zeros((len(tp), len(RECALLS)))
    for row, reached, precise in zip(found, tp / wanted, falling, strict=True):
        at = np.searchsorted(reached, RECALLS, side="left")
        at = at[: np.searchsorted(at, len(precise))]
        row[: len(at)] = precise[at]
    return found


def _mean(values: Floats) -> float | None:
    present = values[values > -1]
    return float(np.mean(present)) if present.size else None
