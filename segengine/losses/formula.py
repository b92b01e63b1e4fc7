"""What all losses have in common: options, the two ways to use one, and the three shapes of formula.

PixelLoss    a value for each pixel                                  sums and counts merge
RegionLoss   a ratio of sums over an image, for each class           sums merge, divided once
ImageLoss    a value for each image, whole objects in view           needs whole images
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeGuard

from segengine.losses._statistic import ImageStatistic, PixelStatistic, RegionStatistic
from segengine.losses.scored import Array, Scored
from segengine.types import Metric

_REDUCTIONS = ("sum_over_batch_size", "sum", "mean", "mean_with_sample_weight", "none", None)


def is_number(value: object) -> TypeGuard[float]:
    """A finite number, and no truth value."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss(ABC):
    """A loss: its options, and its formula over arrays of NumPy or of Keras.

    Raises ValueError, with a message that starts with the option's name, for an option out of range.
    """

    name: ClassVar[str]
    """As it is registered."""
    group: ClassVar[str]
    """What it compares: distribution, region, boundary or compound."""
    elementwise: ClassVar[bool] = False
    """Each channel is a yes-or-no question of its own, also where there are several."""
    jit: ClassVar[bool] = True
    """XLA can compile it; else a model that trains with it needs `jit_compile=False`."""

    from_logits: bool = False
    """Predictions are logits: a sigmoid makes probabilities of one channel, a softmax of several."""
    label_smoothing: float = 0.0
    """Share of the truth that is spread over all classes, as in Keras."""
    reduction: str | None = "sum_over_batch_size"
    """As in Keras: sum_over_batch_size, mean, mean_with_sample_weight, sum, none or None."""
    class_weights: Sequence[float] | None = None
    """One a class: what its terms are multiplied by; the sum of weights is not divided out.

    A channel alone takes two, of background and foreground (where the loss looks at both)."""
    ignore: int | None = None
    """Label of integer truth whose pixels are not scored; they count neither in sums nor in means."""

    def __post_init__(self) -> None:
        weights = self.class_weights
        object.__setattr__(self, "class_weights", None if weights is None else tuple(weights))
        self.check()

    def check(self) -> None:
        """Raise ValueError for an option out of range."""
        self.check_number("label_smoothing", most=1)
        if self.reduction not in _REDUCTIONS:
            allowed = ", ".join(str(r) for r in _REDUCTIONS)
            raise ValueError(f"reduction: must be one of {allowed}, got {self.reduction!r}")
        for weight in self.class_weights or ():
            if not (is_number(weight) and weight >= 0):
                raise ValueError(f"class_weights: must be numbers of at least 0, got {weight!r}")
        for option in (f.name for f in dataclasses.fields(self) if f.type == "bool"):
            if not isinstance(getattr(self, option), bool):
                raise ValueError(f"{option}: must be true or false, got {getattr(self, option)!r}")

    def check_number(self, option: str, most: float = math.inf, above: bool = False) -> None:
        """Raise ValueError for an option that is no number in 0 to `most`, or is not above 0."""
        value = getattr(self, option)
        if not (is_number(value) and 0 <= value <= most and (value > 0 or not above)):
            bounds = f"in 0 to {most:g}" if most < math.inf else "of at least 0"
            kind = "above 0" if above else bounds
            raise ValueError(f"{option}: must be a number {kind}, got {value!r}")

    def options(self) -> dict[str, Any]:
        """Every option with its value, as JSON has it."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}

    @abstractmethod
    def keras(self) -> Any:
        """The `keras.losses.Loss` for training; imports Keras."""

    @abstractmethod
    def statistic(self, classes: Sequence[str]) -> Metric[Any]:
        """The fold for aggregation over probabilities (n, y, x, class) of these classes.

        Probabilities are what is stored, so `from_logits` and `reduction` do not matter there, and
        neither does `ignore`: what is no class is not scored.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Formula(Loss):
    """A loss with a formula of its own."""

    def keras(self) -> Any:
        """The `keras.losses.Loss` for training; imports Keras."""
        from segengine.losses._keras import FormulaLoss

        return FormulaLoss(self)

    @abstractmethod
    def values(self, scored: Scored) -> tuple[Array, Array]:
        """Values, 0 where not scored, and the same shape of ones and zeros: what is scored."""

    def check_channels(self, channels: int) -> None:
        """Raise ValueError where the options do not fit so many channels."""
        self.weights(channels)

    def weights(self, channels: int) -> tuple[float, ...]:
        """`class_weights`, one a channel; all 1 without."""
        if self.class_weights is None:
            return (1.0,) * channels
        expected = max(channels, 2)
        if len(self.class_weights) != expected:
            raise ValueError(
                f"class_weights: {self.name} needs {expected} here, got {len(self.class_weights)}"
            )
        return tuple(self.class_weights[-channels:])

    def mean_over_classes(self, figures: Array) -> Array:
        """(n, class) -> (n,), with class weights."""
        weights = self.weights(int(figures.shape[-1]))
        return sum(figures[:, k] * w for k, w in enumerate(weights)) / len(weights)


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelLoss(Formula):
    """A loss of single pixels; with reduction "none" (n, y, x)."""

    summed: ClassVar[bool] = False
    """A pixel's value is the sum over classes; else the mean, as of Keras's binary losses."""

    @property
    def whole(self) -> bool:
        """The formula looks at the whole image."""
        return False

    @abstractmethod
    def terms(self, scored: Scored) -> Array:
        """(n, y, x, class), without class weights, for pixels scored or not."""

    def weighted(self, scored: Scored) -> Array:
        """`terms` times class weights."""
        terms = self.terms(scored)
        if self.class_weights is None:
            return terms
        if scored.classes == 1:
            background, foreground = self.class_weights
            return terms * (background + (foreground - background) * scored.hard)
        return scored.xp.stack(
            [terms[..., k] * w for k, w in enumerate(self.weights(scored.classes))], axis=-1
        )

    def values(self, scored: Scored) -> tuple[Array, Array]:
        """(n, y, x) both."""
        terms, valid = self.weighted(scored), scored.valid[..., 0]
        over = scored.xp.sum if self.summed else scored.xp.mean
        return over(terms, axis=-1) * valid, valid

    def statistic(self, classes: Sequence[str]) -> PixelStatistic:
        """Sum and count of pixels."""
        return PixelStatistic(self, tuple(classes), self.whole)


@dataclass(frozen=True, slots=True, kw_only=True)
class RegionLoss(Formula):
    """A loss of areas: a ratio of sums over (y, x), for each image and class; "none" gives (n,).

    The value of an image is the mean over its classes; that of a batch, the mean over its images.
    """

    @abstractmethod
    def counts(self, scored: Scored) -> tuple[Array, ...]:
        """What is summed over the pixels of an image: maps (n, y, x, class)."""

    @abstractmethod
    def figure(self, xp: Any, sums: tuple[Array, ...]) -> Array:
        """The loss, from the sums of those maps; elementwise over any shape."""

    def values(self, scored: Scored) -> tuple[Array, Array]:
        """(n,) both."""
        sums = tuple(scored.image_sum(count) for count in self.counts(scored))
        return self.mean_over_classes(self.figure(scored.xp, sums)), scored.images()

    def statistic(self, classes: Sequence[str]) -> RegionStatistic:
        """Sums of a frame's windows, figures of frames."""
        return RegionStatistic(self, tuple(classes))


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageLoss(Formula):
    """A loss that must see whole images; with reduction "none" (n,)."""

    @abstractmethod
    def image_values(self, scored: Scored) -> Array:
        """(n,)"""

    def values(self, scored: Scored) -> tuple[Array, Array]:
        """(n,) both."""
        images = scored.images()
        return self.image_values(scored) * images, images

    def statistic(self, classes: Sequence[str]) -> ImageStatistic:
        """Figures of whole frames."""
        return ImageStatistic(self, tuple(classes))
