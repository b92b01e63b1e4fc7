"""Panoptic quality of each class, with SQ and RQ (Kirillov et al. 2019).

A segment is the pixels of one class and instance id; those of a class without an id are one segment
(stuff). A predicted and a true segment of one class match where their IoU is above 0.5, strictly,
which makes matches unique. The union leaves out what of the predicted segment is void in the truth.

    PQ = SQ * RQ = sum of IoU / (TP + FP / 2 + FN / 2)      SQ = sum of IoU / TP
    RQ = TP / (TP + FP / 2 + FN / 2)

Void in the truth is every pixel without a true class. Crowds (rows of the truth's objects with
`crowd`) match nothing and are no misses; an unmatched predicted segment that lies by more than half
in void or in a crowd of its class is dropped, as in COCO's evaluation, for which only the last crowd
of a class in a frame counts there. A label that stands for no true class is void.

    all, things, stuff      means over classes, as panopticapi gives them, and how many there are (n)

A thing is a class whose true segments have ids (one without true segments: whose found ones have),
unless `things` names them. Background is no class: what is found on it is wrong, but it has no figure
of its own, unless `background: true`. A class in no frame on either side has no figure (None) and is
left out of the means. The state holds TP, FP, FN, the sum of IoU in fixed point, and how many true
and found segments have ids. Frames are measured whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from segengine.asked import background
from segengine.fixed_point import to_fixed, to_float, total
from segengine.metrics._classes import Named
from segengine.metrics._frames import column, crowd_of, each, needed
from segengine.metrics._rows import Rows, add, mean, over_classes, zeros
from segengine.metrics._segments import Segments, shared
from segengine.types import Labels, Metric, Prediction, Truth

_MEANS = ("pq", "sq", "rq")


@dataclass(frozen=True, slots=True)
class PanopticQuality(Named):
    """Matched segments and their IoU."""

    version: ClassVar[int] = 2
    needs: ClassVar[tuple[str, ...]] = ("instances", "truth", "truth_instances")
    uses: ClassVar[tuple[str, ...]] = ("truth_objects",)
    """What is taken where there is any: it says which instances are crowds."""
    whole: ClassVar[bool] = True
    background: bool = False
    """Background is a class like any other."""
    things: tuple[str, ...] | None = None
    """Classes that are things; None: those whose segments have ids."""

    def __post_init__(self) -> None:
        Named.__post_init__(self)
        if not isinstance(self.background, bool):
            raise ValueError(f"background: must be true or false, not {self.background!r}")
        if self.things is not None:
            object.__setattr__(self, "things", tuple(self.things))
            strange = [name for name in self.things or () if name not in self.truth_classes]
            if strange:
                known = ", ".join(self.truth_classes)
                raise ValueError(f"things: {strange[0]!r} is no class of the truth; it has {known}")

    def empty(self) -> Rows:
        """Rows of (TP, FP, FN, sum of IoU in fixed point, true and found segments with ids)."""
        return zeros(len(self.truth_classes), 6)

    def update(self, state: Rows, prediction: Prediction, truth: Labels | Truth) -> Rows:
        """`state` and whole frames (n, y, x) with instance ids on both sides."""
        for found, true in each(prediction, truth):
            state = add(state, self._frame(found, true))
        return state

    def merge(self, a: Rows, b: Rows) -> Rows:
        """Both states' frames together."""
        return add(a, b)

    def compute(self, state: Rows) -> dict[str, Any]:
        """PQ, SQ and RQ of each class, and their means over all, over things and over stuff."""
        left = () if self.background else background(self.truth_classes)
        rows = {
            name: (_figures(row[:4]), self._is_thing(name, row))
            for i, (name, row) in enumerate(zip(self.truth_classes, state, strict=True))
            if i not in left
        }
        whole = over_classes(rows, (figures for figures, _ in rows.values()), _MEANS)
        groups = {
            "all": [figures for figures, _ in rows.values()],
            "things": [figures for figures, thing in rows.values() if thing],
            "stuff": [figures for figures, thing in rows.values() if not thing],
        }
        classes = whole.pop("classes")
        return {**whole, **{k: _mean_of(v) for k, v in groups.items()}, "classes": classes}

    def _is_thing(self, name: str, row: tuple[int, ...]) -> bool:
        if self.things is not None:
            return name in self.things
        tp, _, fn, _, true, found = row
        return true > 0 or (not tp + fn and found > 0)

    def _frame(self, prediction: Prediction, truth: Truth) -> Rows:
        ids = needed(prediction.instances, "instances", "the prediction has none")
        true_ids = needed(truth.instances, "truth", "it has no instances")
        ours = Segments.of(self.as_true(prediction.labels), ids)
        theirs = Segments.of(self.scored(truth), true_ids)
        t, p, at = shared(theirs, ours)
        crowd = np.zeros(len(theirs.keys), np.bool_)
        if truth.objects is not None:
            crowds = column(truth.objects, "id")[crowd_of(truth.objects)]
            crowd = np.isin(theirs.ids, crowds[crowds > 0])
            last = _last_of_each(crowds, theirs, crowd)
        else:
            last = crowd
        void = np.zeros(len(ours.keys), np.int64)
        np.add.at(void, p[theirs.classes[t] < 0], at[theirs.classes[t] < 0])
        same = (theirs.classes[t] == ours.classes[p]) & (ours.classes[p] >= 0)
        excused = void.copy()
        np.add.at(excused, p[same & last[t]], at[same & last[t]])

        union = ours.sizes[p] - void[p] + theirs.sizes[t] - at
        matched = same & ~crowd[t] & (2 * at > union)
        left = (ours.classes >= 0) & (2 * excused <= ours.sizes)
        left[p[matched]] = False
        missed = (theirs.classes >= 0) & ~crowd
        missed[t[matched]] = False
        iou = to_fixed(at[matched] / union[matched])
        return tuple(
            (
                int(np.count_nonzero(theirs.classes[t[matched]] == c)),
                int(np.count_nonzero(ours.classes[left] == c)),
                int(np.count_nonzero(theirs.classes[missed] == c)),
                total(iou[theirs.classes[t[matched]] == c]),
                int(np.count_nonzero((theirs.classes == c) & (theirs.ids > 0))),
                int(np.count_nonzero((ours.classes == c) & (ours.ids > 0))),
            )
            for c in range(len(self.truth_classes))
        )


def _last_of_each(
    crowds: NDArray[Any], segments: Segments, crowd: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Of the crowds of each class the one that comes last in the table; crowds: ids in its order."""
    place = {int(name): i for i, name in enumerate(crowds.tolist())}
    found = np.zeros_like(crowd)
    for kind in np.unique(segments.classes[crowd]).tolist():
        own = np.flatnonzero(crowd & (segments.classes == kind))
        found[max(own.tolist(), key=lambda i: place[int(segments.ids[i])])] = True
    return found


def _mean_of(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over the classes that have figures, and their number."""
    scored = [row for row in rows if row["pq"] is not None]
    return {**{key: mean(row[key] for row in scored) for key in _MEANS}, "n": len(scored)}


def _figures(row: tuple[int, ...]) -> dict[str, Any]:
    tp, fp, fn, iou = row
    counts = {"tp": tp, "fp": fp, "fn": fn}
    if not tp + fp + fn:
        return {"pq": None, "sq": None, "rq": None, **counts}
    halves = 2 * tp + fp + fn
    return {
        "pq": 2 * to_float(iou, halves),
        "sq": to_float(iou, tp) if tp else 0.0,
        "rq": 2 * tp / halves,
        **counts,
    }


_: type[Metric[Rows]] = PanopticQuality
