"""Weighted sums of other losses.

compound:
  - {loss: dice, weight: 0.5}
  - {loss: focal, weight: 0.5, gamma: 3}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from segengine import registry
from segengine.errors import JobError
from segengine.losses._statistic import CompoundStatistic, FramedCompoundStatistic
from segengine.losses.formula import Loss, is_number
from segengine.types import Framed

_COMMON = ("from_logits", "label_smoothing", "class_weights", "ignore")


@dataclass(frozen=True, slots=True)
class Part:
    """One loss of a sum."""

    weight: float
    loss: Loss


@dataclass(frozen=True, slots=True, kw_only=True)
class Compound(Loss):
    """Sum of weight times loss.

    Each loss is reduced by itself, over pixels or images, then the sum is taken. The common options
    hold for each loss that does not set its own; `reduction` is the sum's.

    Under sharding: the statistic sees whole frames where one of the losses must.
    """

    name: ClassVar[str] = "compound"
    group: ClassVar[str] = "compound"
    losses: Sequence[str | Mapping[str, Any]] = ()
    """Each a name, or a mapping of `loss` (its name), `weight` (1 if not given) and its own options."""

    def check(self) -> None:
        """Raise ValueError for an option out of range, of any of the losses too."""
        Loss.check(self)
        object.__setattr__(self, "losses", tuple(_mapping(item) for item in self.losses))
        if not self.losses:
            raise ValueError("losses: at least one is needed, such as {loss: dice, weight: 0.5}")
        try:
            _ = self.parts
        except JobError as error:
            raise ValueError(f"losses: {error}") from error

    @property
    def parts(self) -> tuple[Part, ...]:
        """The losses, built."""
        return tuple(self._part(_mapping(item)) for item in self.losses)

    def keras(self) -> Any:
        """The `keras.losses.Loss` for training; imports Keras."""
        from segengine.losses._keras import WeightedSum

        return WeightedSum(self)

    def statistic(self, classes: Sequence[str]) -> CompoundStatistic:
        """The folds of all the losses, side by side."""
        folds = tuple(part.loss.statistic(classes) for part in self.parts)
        names = tuple(part.loss.name for part in self.parts)
        weights = tuple(part.weight for part in self.parts)
        compound = CompoundStatistic(names, weights, folds)
        if compound.whole or not any(isinstance(fold, Framed) for fold in folds):
            return compound
        return FramedCompoundStatistic(names, weights, folds)

    def _part(self, item: Mapping[str, Any]) -> Part:
        own = {option: value for option, value in item.items() if option not in ("loss", "weight")}
        if "loss" not in item:
            raise ValueError("losses: each needs the name of its `loss`")
        if "reduction" in own:
            raise ValueError("losses: `reduction` is an option of compound, not of its losses")
        common = {option: getattr(self, option) for option in _COMMON}
        options = {**common, **own, "reduction": self.reduction}
        weight = item.get("weight", 1.0)
        if not is_number(weight):
            raise ValueError(
                f"losses: the weight of {item['loss']} must be a number, got {weight!r}"
            )
        return Part(float(weight), registry.create("losses", item["loss"], options))


def _mapping(item: object) -> dict[str, Any]:
    if isinstance(item, Mapping):
        return dict(item)
    if isinstance(item, str):
        return {"loss": item}
    raise ValueError(f"losses: each must be a name or a mapping, got {item!r}")
