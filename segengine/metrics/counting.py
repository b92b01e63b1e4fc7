"""Counting: how many objects of each class a frame has, and how far that is from the truth.

An object is a row of `objects` where there are any (the only place for objects that overlap), else
an instance id, its class that of its first pixel in raster order. Crowds count as no object.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from segengine.metrics import _keyed
from segengine.metrics._classes import Classed, Named
from segengine.metrics._frames import column, crowd_of, each, instance_classes, needed
from segengine.metrics._keyed import Entries
from segengine.metrics._options import number
from segengine.metrics._rows import Rows, add, mean, over_classes, ratio, zeros
from segengine.types import Labels, Metric, Prediction, Truth


@dataclass(frozen=True, slots=True)
class Counting(Named):
    """Error of the number of objects of each class in a frame: MAE, RMSE and bias.

    With e = predicted - true number in a frame: MAE = mean |e|, RMSE = sqrt(mean e^2), bias =
    mean e, over all frames, those without any included. A class with no object in any frame on
    either side has no figure (None) and is left out of the means.
    """

    version: ClassVar[int] = 1
    needs: ClassVar[tuple[str, ...]] = ("instances", "objects", "truth", "truth_instances")
    whole: ClassVar[bool] = True
    lower_is_better: ClassVar[bool] = True
    min_score: float = 0.0
    """Least score of a predicted object that counts."""

    def __post_init__(self) -> None:
        Named.__post_init__(self)
        object.__setattr__(self, "min_score", number("min_score", self.min_score, 0, 1))

    def empty(self) -> Rows:
        """Rows of (frames, sum of |e|, of e, of e^2, objects predicted, true)."""
        return zeros(len(self.truth_classes), 6)

    def update(self, state: Rows, prediction: Prediction, truth: Labels | Truth) -> Rows:
        """`state` and whole frames (n, y, x) with instances or objects on both sides."""
        for found, true in each(prediction, truth):
            ours = _counts(self.as_true(_predicted(found, self.min_score)), len(self.truth_classes))
            theirs = _counts(_true(self, true), len(self.truth_classes))
            state = add(
                state,
                tuple(
                    (1, abs(p - t), p - t, (p - t) ** 2, p, t)
                    for p, t in zip(ours, theirs, strict=True)
                ),
            )
        return state

    def merge(self, a: Rows, b: Rows) -> Rows:
        """Both states' frames together."""
        return add(a, b)

    def compute(self, state: Rows) -> dict[str, Any]:
        """Figures of each class, in objects a frame, and their means over classes."""
        figures = [
            {
                "mae": ratio(absolute, frames) if seen else None,
                "rmse": (squares / frames) ** 0.5 if seen else None,
                "bias": ratio(signed, frames) if seen else None,
                "predicted": predicted,
                "true": true,
                "frames": frames,
            }
            for frames, absolute, signed, squares, predicted, true in state
            for seen in [predicted + true > 0]
        ]
        return over_classes(self.truth_classes, figures, ("mae", "rmse", "bias"))


@dataclass(frozen=True, slots=True)
class ObjectCounts(Classed):
    """Number of objects of each class in each frame; needs no truth."""

    version: ClassVar[int] = 1
    needs: ClassVar[tuple[str, ...]] = ("instances", "objects")
    whole: ClassVar[bool] = True
    per_frame: ClassVar[bool] = False
    min_score: float = 0.0
    """Least score of an object that counts."""

    def __post_init__(self) -> None:
        Classed.__post_init__(self)
        object.__setattr__(self, "min_score", number("min_score", self.min_score, 0, 1))

    def empty(self) -> Entries:
        """The counts of no frame."""
        return ()

    def update(
        self, state: Entries, prediction: Prediction, truth: Labels | Truth | None = None
    ) -> Entries:
        """`state` and whole frames (n, y, x) with instances or objects."""
        first = _keyed.next_frame(state)
        added = []
        for i, (found, _) in enumerate(each(prediction, prediction.labels)):
            labels = _predicted(found, self.min_score)
            added.append(("", first + i, _counts(labels.astype(np.int64), len(self.classes))))
        return _keyed.merge(state, tuple(added))

    def locate(self, state: Entries, scene: str, frame: int) -> Entries:
        """The state of one frame, with its place."""
        return _keyed.locate(state, scene, frame)

    def merge(self, a: Entries, b: Entries) -> Entries:
        """Both states' frames, in order of scene and frame."""
        return _keyed.merge(a, b)

    def compute(self, state: Entries) -> dict[str, Any]:
        """Of each class all objects, the mean and the greatest number in a frame; every frame's."""
        figures: list[dict[str, Any]] = []
        for index in range(len(self.classes)):
            counts = [entry[2][index] for entry in state]
            figures.append(
                {
                    "objects": sum(counts),
                    "mean": mean(counts),
                    "most": max(counts, default=None),
                }
            )
        return {
            "objects": sum(f["objects"] for f in figures),
            "classes": dict(zip(self.classes, figures, strict=True)),
            "frames": [
                {"scene": scene, "frame": frame, "counts": list(counts)}
                for scene, frame, counts in state
            ],
        }


def _predicted(prediction: Prediction, min_score: float) -> NDArray[Any]:
    """The label of each object of one frame."""
    if prediction.objects is not None:
        labels = column(prediction.objects, "class")
        return labels[column(prediction.objects, "score") >= np.float32(min_score)]
    ids = needed(prediction.instances, "instances", "the prediction has none, nor objects")
    return instance_classes(ids, prediction.labels)[1]


def _true(metric: Named, truth: Truth) -> NDArray[np.int64]:
    """The true class of each object of one frame, crowds left out."""
    if truth.objects is not None:
        found = column(truth.objects, "class")[~crowd_of(truth.objects)]
    else:
        ids = needed(truth.instances, "truth", "it has no instances, nor objects")
        found = instance_classes(ids, truth.labels)[1]
    return metric.scored(found).astype(np.int64)


def _counts(classes: NDArray[Any], count: int) -> tuple[int, ...]:
    """How many there are of each class; what is none is not counted."""
    inside = classes[(classes >= 0) & (classes < count)]
    return tuple(np.bincount(inside, minlength=count).tolist())


_: tuple[type[Metric[Rows]], type[Metric[Entries]]] = (Counting, ObjectCounts)
