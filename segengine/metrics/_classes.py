"""The classes on both sides of a metric, and which true class each label stands for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segengine.types import Labels, Truth

_ANONYMOUS = re.compile(r"(cluster|level) \d+")


@dataclass(frozen=True, slots=True)
class Classed:
    """The two options that every metric takes."""

    classes: tuple[str, ...]
    """Names of the labels 0, 1, 2 ..."""
    truth_classes: tuple[str, ...] = ()
    """Names of the truth's values 0, 1, 2 ...; empty: as `classes`."""

    def __post_init__(self) -> None:
        # a list from YAML or JSON is as good as a tuple
        object.__setattr__(self, "classes", tuple(self.classes))
        object.__setattr__(self, "truth_classes", tuple(self.truth_classes) or self.classes)
        for option in ("classes", "truth_classes"):
            found = getattr(self, option)
            if not found:
                raise ValueError(f"{option}: at least one class is needed")
            if len(set(found)) != len(found):
                raise ValueError(f"{option}: each class needs a name of its own, got {found}")


@dataclass(frozen=True, slots=True)
class Named(Classed):
    """A metric of labels whose names say which true class each stands for.

    By name where names are shared, the rest in order where both sides have equally many. What a
    matching by agreement would need (a table of the whole run) is not there when a frame is
    measured, so labels without names (`cluster 3`) or with none in common cannot be measured.
    """

    @property
    def unmet(self) -> str:
        """Why these classes cannot be measured; empty: they can."""
        return unmet(self.classes, self.truth_classes)

    def stands_for(self) -> tuple[int | None, ...]:
        """The true class of each label; None where there is none for it.

        Raises ValueError where the names do not say.
        """
        if self.unmet:
            raise ValueError(f"classes: {self.unmet}")
        found = by_name(self.classes, self.truth_classes)
        return tuple(range(len(self.classes))) if found is None else found

    def as_true(self, labels: Labels) -> NDArray[np.int32]:
        """The true class that each label stands for, -1 for none and for void."""
        table = np.array([-1 if t is None else t for t in self.stands_for()], np.int32)
        return _looked_up(labels, table)

    def scored(self, truth: Labels | Truth) -> NDArray[np.int32]:
        """The true class of each pixel, -1 where it is not scored."""
        return _looked_up(labels_of(truth), np.arange(len(self.truth_classes), dtype=np.int32))

    def both(
        self, labels: Labels, truth: Labels | Truth
    ) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Labels and truth as true classes; a pixel that is not scored is of no class on either."""
        check_shape(labels, truth)
        true = self.scored(truth)
        return np.where(true < 0, np.int32(-1), self.as_true(labels)), true


def unmet(classes: Sequence[str], truths: Sequence[str]) -> str:
    """Why the names of labels do not say which true classes they stand for; empty: they do."""
    if tuple(classes) == tuple(truths) or by_name(classes, truths):
        return ""
    sides = (", ".join(names[:3]) for names in (classes, truths))
    return (
        f"the names of the labels ({next(sides)} ...) do not say which true classes "
        f"({next(sides)} ...) they stand for; `confusion` and its views match by agreement"
    )


def by_name(classes: Sequence[str], truths: Sequence[str]) -> tuple[int | None, ...] | None:
    """The true class of each class: by name where names are shared, the rest in order where both
    have equally many. None where the names do not say: they are numbers, or share nothing.

    >>> by_name(("sky", "road", "car"), ("road", "sky"))
    (1, 0, None)
    """
    shared = set(classes) & set(truths)
    anonymous = all(_ANONYMOUS.fullmatch(name) for name in classes)
    if anonymous or (not shared and len(classes) != len(truths)):
        return None
    place = {name: i for i, name in enumerate(truths)}
    found = [place.get(name) for name in classes]
    if len(classes) == len(truths):
        rest = (i for i, name in enumerate(truths) if name not in shared)
        found = [next(rest) if i is None else i for i in found]
    return tuple(found)


def labels_of(truth: Labels | Truth) -> Labels:
    """The truth's labels (n, y, x)."""
    return truth.labels if isinstance(truth, Truth) else truth


def check_shape(labels: Labels, truth: Labels | Truth) -> None:
    """Raises ValueError where labels and truth are not of the same pixels."""
    shape = labels_of(truth).shape
    if labels.shape != shape:
        raise ValueError(f"truth: its shape is {shape}, that of the labels {labels.shape}")


def _looked_up(labels: Labels, table: NDArray[np.int32]) -> NDArray[np.int32]:
    """`table` at each label, -1 outside of it."""
    last = len(table)
    index = np.where((labels >= 0) & (labels < last), labels, last).astype(np.intp)
    found: NDArray[np.int32] = np.append(table, np.int32(-1))[index]
    return found
