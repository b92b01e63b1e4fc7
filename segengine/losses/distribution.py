"""Losses of single pixels: squared error, cross-entropies, focal.

y is the truth, p the probability, both in 0 to 1; a pixel's value is the mean over its channels, or
for categorical losses the sum over its classes. Logarithms take p clipped to [1e-7, 1 - 1e-7] as in
Keras; from logits they are exact. The statistic is the sum and the count of pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from segengine.losses.formula import Loss, PixelLoss, is_number
from segengine.losses.scored import Array, Scored


def cross_entropy(scored: Scored, positives: float | Array = 1.0) -> Array:
    """-(w y log p + (1 - y) log(1 - p)), a channel at a time; w weights `positives`."""
    y = scored.truth
    return -(positives * y * scored.log_probability() + (1 - y) * scored.log_complement())


@dataclass(frozen=True, slots=True, kw_only=True)
class MeanSquaredError(PixelLoss):
    """Mean squared error: mean of (y - p)^2 (Brier 1950).

    Over exclusive classes it is the mean over classes as in Keras, not Brier's sum.
    """

    name: ClassVar[str] = "mse"
    group: ClassVar[str] = "distribution"

    def terms(self, scored: Scored) -> Array:
        """(y - p)^2"""
        return (scored.truth - scored.probability) ** 2


@dataclass(frozen=True, slots=True, kw_only=True)
class BinaryCrossentropy(PixelLoss):
    """Binary cross-entropy: -(y log p + (1 - y) log(1 - p)).

    Each of several channels is a question of its own (a sigmoid each, also from logits). The
    statistic of exactly two classes asks for the second one only: that is what one channel learns.
    """

    name: ClassVar[str] = "bce"
    group: ClassVar[str] = "distribution"
    elementwise: ClassVar[bool] = True

    def terms(self, scored: Scored) -> Array:
        """-(y log p + (1 - y) log(1 - p))"""
        return cross_entropy(scored)


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightedBinaryCrossentropy(BinaryCrossentropy):
    """Weighted binary cross-entropy: -(beta y log p + (1 - y) log(1 - p)).

    `beta` weights positives only, as `pos_weight` of PyTorch: above 1 there are fewer misses, below
    1 fewer false alarms.
    """

    name: ClassVar[str] = "weighted_bce"
    beta: float = 1.0

    def check(self) -> None:
        """Raise ValueError for an option out of range."""
        Loss.check(self)
        self.check_number("beta", above=True)

    def terms(self, scored: Scored) -> Array:
        """-(beta y log p + (1 - y) log(1 - p))"""
        return cross_entropy(scored, self.beta)


@dataclass(frozen=True, slots=True, kw_only=True)
class BalancedCrossentropy(BinaryCrossentropy):
    """Balanced cross-entropy: -(beta y log p + (1 - beta) (1 - y) log(1 - p)).

    Xie and Tu 2015, "Holistically-nested edge detection". `beta` is a number in 0 to 1, or "auto":
    1 - positives / (H W), for each image and class (printed as "1 - y H*W" where the fraction bar
    was lost; sample code often takes a given number only). An image without positives, or of
    nothing else, then has the loss 0, as the formula says.

    Under sharding: with "auto" the statistic sees whole frames, so that beta is the frame's, never
    that of a shard.
    """

    name: ClassVar[str] = "balanced_ce"
    beta: float | Literal["auto"] = "auto"

    def check(self) -> None:
        """Raise ValueError for an option out of range."""
        Loss.check(self)
        beta = self.beta
        if beta != "auto" and not (is_number(beta) and 0 <= beta <= 1):
            raise ValueError(f"beta: must be auto or a number in 0 to 1, got {beta!r}")

    @property
    def whole(self) -> bool:
        """Only the whole image says what its beta is."""
        return self.beta == "auto"

    def terms(self, scored: Scored) -> Array:
        """-(beta y log p + (1 - beta) (1 - y) log(1 - p))"""
        beta: Array = self.beta
        if self.whole:
            beta = (1 - scored.image_mean(scored.hard))[:, None, None, :]
        y = scored.truth
        positives = beta * y * scored.log_probability()
        return -(positives + (1 - beta) * (1 - y) * scored.log_complement())


@dataclass(frozen=True, slots=True, kw_only=True)
class CategoricalCrossentropy(PixelLoss):
    """Categorical cross-entropy: -sum over classes of y log p; truth one-hot or integer.

    Probabilities are taken as they are; Keras first divides them by their sum, which changes the
    gradient with respect to them by a constant and the one with respect to logits not at all.
    """

    name: ClassVar[str] = "categorical_ce"
    group: ClassVar[str] = "distribution"
    summed: ClassVar[bool] = True

    def check_channels(self, channels: int) -> None:
        """Raise ValueError where the options do not fit so many channels."""
        if channels == 1:
            raise ValueError(f"{self.name}: needs at least two classes; for one channel use bce")
        PixelLoss.check_channels(self, channels)

    def terms(self, scored: Scored) -> Array:
        """-y log p"""
        return -scored.truth * scored.log_probability()


@dataclass(frozen=True, slots=True, kw_only=True)
class SparseCategoricalCrossentropy(CategoricalCrossentropy):
    """Categorical cross-entropy of integer truth: -log p of the true class.

    The mean is over the scored pixels only, so that a shard carries a sum and a count; the mean over
    all pixels is a different number wherever `ignore` is used.
    """

    name: ClassVar[str] = "sparse_categorical_ce"


@dataclass(frozen=True, slots=True, kw_only=True)
class Focal(PixelLoss):
    """Focal loss: -alpha_t (1 - p_t)^gamma log p_t.

    Lin et al. 2017, "Focal loss for dense object detection". One channel: p_t = p and alpha_t =
    alpha where y is 1, else 1 - p and 1 - alpha. Several exclusive classes: the sum of -alpha_c y_c
    (1 - p_c)^gamma log p_c, where alpha_c is 1 - alpha for class 0, the background, and alpha for
    the others, so that two classes say what one channel says; or `alpha` is one number a class.

    Popular versions lack the minus, or multiply by (1 - p_t) gamma in place of the power; Keras's
    binary focal loss applies no alpha unless told to, its categorical one the same to all classes.
    """

    name: ClassVar[str] = "focal"
    group: ClassVar[str] = "distribution"
    summed: ClassVar[bool] = True
    alpha: float | Sequence[float] = 0.25
    gamma: float = 2.0

    def check(self) -> None:
        """Raise ValueError for an option out of range."""
        Loss.check(self)
        self.check_number("gamma")
        if isinstance(self.alpha, list | tuple):
            object.__setattr__(self, "alpha", tuple(self.alpha))
            if not all(is_number(alpha) and alpha >= 0 for alpha in self.alpha):
                raise ValueError(f"alpha: must be numbers of at least 0, got {self.alpha}")
        else:
            self.check_number("alpha", most=1)

    def check_channels(self, channels: int) -> None:
        """Raise ValueError where the options do not fit so many channels."""
        PixelLoss.check_channels(self, channels)
        self._alphas(channels)

    def terms(self, scored: Scored) -> Array:
        """-alpha_t (1 - p_t)^gamma log p_t"""
        xp, y = scored.xp, scored.truth
        log_p, log_q = scored.log_probability(), scored.log_complement()
        # a power by way of the logarithm: exact from logits, finite gradients for any gamma
        of_class = -y * xp.exp(self.gamma * log_q) * log_p
        alphas = self._alphas(scored.classes)
        if scored.classes > 1:
            return xp.stack([of_class[..., k] * a for k, a in enumerate(alphas)], axis=-1)
        of_rest = -(1 - y) * xp.exp(self.gamma * log_p) * log_q
        return alphas[0] * of_class + (1 - alphas[0]) * of_rest

    def _alphas(self, channels: int) -> tuple[float, ...]:
        alpha = self.alpha
        if isinstance(alpha, int | float):
            return (alpha,) if channels == 1 else (1 - alpha,) + (alpha,) * (channels - 1)
        if channels == 1:
            raise ValueError("alpha: one channel takes one number, got one a class")
        if len(alpha) != channels:
            raise ValueError(f"alpha: {channels} classes need as many, got {len(alpha)}")
        return tuple(alpha)
