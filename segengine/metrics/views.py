"""Single figures of the confusion table: accuracy, IoU, Dice, precision, recall, kappa, MCC.

Each is a view of `confusion`, whose state it shares and whose formulas and rules it keeps: classes
that are absent have no figure (None) and are left out of means, void on a true pixel is a miss, and
labels without names are matched to true classes by agreement, on the table of the whole run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from segengine.metrics._classes import Classed
from segengine.metrics.confusion import Confusion, Matching, Table
from segengine.types import Labels, Metric, Prediction, Truth


@dataclass(frozen=True, slots=True)
class _View(Classed):
    """Some of the figures of a confusion table."""

    version: ClassVar[int] = Confusion.version
    needs: ClassVar[tuple[str, ...]] = Confusion.needs
    figures: ClassVar[tuple[str, ...]] = ()
    """Keys of `Confusion.compute`."""
    per_class: ClassVar[str] = ""
    """Key of each class there; empty: the figure is one of all classes."""

    @property
    def base(self) -> Confusion:
        """The metric whose state this one shares."""
        return Confusion(self.classes, self.truth_classes)

    def empty(self) -> Table:
        """The table of no pixels."""
        return self.base.empty()

    def update(self, state: Table, prediction: Prediction, truth: Labels | Truth) -> Table:
        """`state` and the pixels of windows (n, y, x)."""
        return self.base.update(state, prediction, truth)

    def merge(self, a: Table, b: Table) -> Table:
        """The table of both."""
        return a + b

    def match(self, state: Table) -> dict[int, int | None]:
        """The true class each predicted class stands for."""
        return self.base.match(state)

    def compute(self, state: Table, matching: Matching | None = None) -> dict[str, Any]:
        """The figure of all, and that of every class where there is one; None: nothing scored."""
        every = self.base.compute(state, matching)
        found = {key: every[key] for key in self.figures}
        if self.per_class:
            found["classes"] = {
                name: {self.per_class: values[self.per_class]}
                for name, values in every["classes"].items()
            }
        return found


@dataclass(frozen=True, slots=True)
class PixelAccuracy(_View):
    """Share of the scored pixels whose label is the true one."""

    figures: ClassVar[tuple[str, ...]] = ("pixel_accuracy",)


@dataclass(frozen=True, slots=True)
class Iou(_View):
    """TP / (TP + FP + FN) of each class, and their mean (Jaccard)."""

    figures: ClassVar[tuple[str, ...]] = ("mean_iou",)
    per_class: ClassVar[str] = "iou"


@dataclass(frozen=True, slots=True)
class FrequencyWeightedIou(_View):
    """The IoU of the classes, weighted by their true pixels."""

    figures: ClassVar[tuple[str, ...]] = ("frequency_weighted_iou",)
    per_class: ClassVar[str] = "iou"


@dataclass(frozen=True, slots=True)
class Dice(_View):
    """2 TP / (2 TP + FP + FN) of each class, and their mean (F1)."""

    figures: ClassVar[tuple[str, ...]] = ("mean_dice",)
    per_class: ClassVar[str] = "dice"


@dataclass(frozen=True, slots=True)
class Precision(_View):
    """TP / (TP + FP) of each class, and their mean."""

    figures: ClassVar[tuple[str, ...]] = ("mean_precision",)
    per_class: ClassVar[str] = "precision"


@dataclass(frozen=True, slots=True)
class Recall(_View):
    """TP / (TP + FN) of each class, and their mean."""

    figures: ClassVar[tuple[str, ...]] = ("mean_recall",)
    per_class: ClassVar[str] = "recall"


@dataclass(frozen=True, slots=True)
class Kappa(_View):
    """Agreement beyond chance (Cohen 1960)."""

    figures: ClassVar[tuple[str, ...]] = ("kappa",)


@dataclass(frozen=True, slots=True)
class Mcc(_View):
    """Matthews' correlation coefficient of many classes (Gorodkin 2004)."""

    figures: ClassVar[tuple[str, ...]] = ("mcc",)


_: type[Metric[Table]] = _View
