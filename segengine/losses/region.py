"""Losses of areas: Dice, Jaccard, Tversky and their kin, for each image and class.

y is the truth, p the probability; TP = sum of y p, FP = sum of (1 - y) p, FN = sum of y (1 - p),
over (y, x). Ratios are written as 1 - (a + s) / (b + s) = (b - a) / (b + s) with s = `smooth`: the
same number without its cancellation, exactly 0 for a perfect prediction, empty ones included.

The statistic of most is the sums over a frame, whose windows add up: `loss` is the mean over frames,
`pooled` the one value of the sums over all frames. IoU-balanced and Lovasz see whole frames.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from segengine.losses import _shape
from segengine.losses.distribution import cross_entropy
from segengine.losses.formula import ImageLoss, Loss, RegionLoss
from segengine.losses.scored import LOW, Array, Scored, ratio


@dataclass(frozen=True, slots=True, kw_only=True)
class Dice(RegionLoss):
    """Dice loss: 1 - (2 TP + s) / (sum of y + sum of p + s), s = 1.

    Of the coefficient of Dice 1945. `squared` is the variant of Milletari et al. 2016 (V-Net), with
    the sums of y^2 and p^2 below the line. Popular versions lack the factor 2, or "1 -" (and are a
    score to maximise), or the brackets around the denominator.
    """

    name: ClassVar[str] = "dice"
    group: ClassVar[str] = "region"
    smooth: float = 1.0
    squared: bool = False

    def check(self) -> None:
        """Raise ValueError for an option out of range."""
        Loss.check(self)
        self.check_number("smooth")

    def counts(self, scored: Scored) -> tuple[Array, ...]:
        """y p, and what differs: y + p - 2 y p, or (y - p)^2."""
        y, p = scored.truth, scored.probability
        return y * p, (y - p) ** 2 if self.squared else y * (1 - p) + (1 - y) * p

    def figure(self, xp: Any, sums: tuple[Array, ...]) -> Array:
        """The loss of the sums."""
        both, differ = sums
        return ratio(xp, differ, differ + 2 * both + self.smooth)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogCoshDice(Dice):
    """Log-cosh Dice loss: log(cosh(Dice loss)) (Jadon 2020, "A survey of loss functions")."""

    name: ClassVar[str] = "log_cosh_dice"

    def figure(self, xp: Any, sums: tuple[Array, ...]) -> Array:
        """The loss of the sums."""
        return xp.log(xp.cosh(Dice.figure(self, xp, sums)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Jaccard(RegionLoss):
    """Jaccard (IoU) loss: 1 - (TP + s) / (TP + FP + FN + s), s = 1.

    Rahman and Wang 2016, "Optimizing intersection-over-union in deep neural networks".
    """

    name: ClassVar[str] = "jaccard"
    group: ClassVar[str] = "region"
    smooth: float = 1.0

    def check(self) -> None:
        """Raise ValueError for an option out of range."""
        Loss.check(self)
        self.check_number("smooth")

    def counts(self, scored: Scored) -> tuple[Array, ...]:
        """y p, y + p - 2 y p"""
        y, p = scored.truth, scored.probability
        return y * p, y * (1 - p) + (1 - y) * p

    def figure(self, xp: Any, sums: tuple[Array, ...]) -> Array:
        """The loss of the sums."""
        both, differ = sums
        return ratio(xp, differ, differ + both + self.smooth)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tversky(RegionLoss):
    """Tversky loss: 1 - (TP + s) / (TP + alpha FP + beta FN + s), s = 1.

    Salehi et al. 2017: `alpha` 0.3 weights false positives, `beta` 0.7 false negatives. Keras 3.15
    has the two swapped; Jadon 2020 weights false positives with beta. 1 - (TP + 1) / (...) with
    another constant below the line is not 0 for a perfect prediction.
    """

    name: ClassVar[str] = "tversky"
    group: ClassVar[str] = "region"
    alpha: float = 0.3
    beta: float = 0.7
    smooth: float = 1.0

    def check(self) -> None:
        """Raise ValueError for an option out of range."""
        Loss.check(self)
        for option in ("alpha", "beta", "smooth"):
            self.check_number(option)

    def counts(self, scored: Scored) -> tuple[Array, ...]:
        """y p, (1 - y) p, y (1 - p)"""
        y, p = scored.truth, scored.probability
        return y * p, (1 - y) * p, y * (1 - p)

    def figure(self, xp: Any, sums: tuple[Array, ...]) -> Array:
        """The loss of the sums."""
        tp, fp, fn = sums
        wrong = self.alpha * fp + self.beta * fn
        return ratio(xp, wrong, wrong + tp + self.smooth)


@dataclass(frozen=True, slots=True, kw_only=True)
class FocalTversky(Tversky):
    """Focal Tversky loss: (1 - TI)^(1 / gamma), gamma = 4/3, TI the Tversky index with its smooth.

    Abraham and Khan 2018, whose alpha = 0.7 weights false negatives: that is `beta` here, as in
    `tversky`. They sum over classes; here, as for all region losses, it is the mean. Popular versions
    take gamma itself as exponent (give `gamma` 0.75 for their 4/3). Below 1e-7 the loss is 0, since
    the gradient of the root has no bound there.
    """

    name: ClassVar[str] = "focal_tversky"
    gamma: float = 4 / 3

    def check(self) -> None:
        """Raise ValueError for an option out of range."""
        Tversky.check(self)
        self.check_number("gamma", above=True)

    def figure(self, xp: Any, sums: tuple[Array, ...]) -> Array:
        """The loss of the sums."""
        miss = Tversky.figure(self, xp, sums)
        return xp.where(miss > LOW, xp.power(xp.maximum(miss, LOW), 1 / self.gamma), 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class SensitivitySpecificity(RegionLoss):
    """Sensitivity-specificity loss, r = 0.05: the mean squared error of both sides, weighted.

        r sum((y - p)^2 y) / sum(y) + (1 - r) sum((y - p)^2 (1 - y)) / sum(1 - y)

    Brosch et al. 2015. The first part is the sensitivity's (NiftyNet names the two the other way
    round); a side without pixels adds 0. The popular w sensitivity + (1 - w) specificity is a reward,
    and has no gradient where its counts are of thresholded predictions.
    """

    name: ClassVar[str] = "sensitivity_specificity"
    group: ClassVar[str] = "region"
    r: float = 0.05

    def check(self) -> None:
        """Raise ValueError for an option out of range."""
        Loss.check(self)
        self.check_number("r", most=1)

    def counts(self, scored: Scored) -> tuple[Array, ...]:
        """(y - p)^2 y, y, (y - p)^2 (1 - y), 1 - y"""
        y = scored.truth
        error = (y - scored.probability) ** 2
        return error * y, y, error * (1 - y), 1 - y

    def figure(self, xp: Any, sums: tuple[Array, ...]) -> Array:
        """The loss of the sums."""
        missed, positives, false, negatives = sums
        return self.r * ratio(xp, missed, positives) + (1 - self.r) * ratio(xp, false, negatives)


@dataclass(frozen=True, slots=True, kw_only=True)
class IouBalanced(ImageLoss):
    """IoU-balanced cross-entropy: positives weigh as well as their object was found.

        w = IoU^eta sum(CE) / sum(IoU^eta CE) for positives, 1 for negatives; mean of w CE

    Wu, Yang and Wang 2019, eta = 1.5, a loss of detectors' boxes. Here an object is an 8-connected
    component of the true class, its IoU the best one with a component of the predicted class (p >
    0.5; the most probable class where there are several); sums are over the positives of an image
    and class, and w is 1 where none of its objects is found. CE is binary, one class against the
    rest. No gradient flows through w.

    The normaliser keeps the sum over positives: the value is that of the plain cross-entropy, and
    only the gradient moves to objects that are found well. Versions without the normaliser, or with
    TP / (TP + FP + FN) as the whole loss, are others.

    Under sharding: the statistic sees whole frames, and so whole objects.
    """

    name: ClassVar[str] = "iou_balanced"
    group: ClassVar[str] = "region"
    jit: ClassVar[bool] = False
    eta: float = 1.5

    def check(self) -> None:
        """Raise ValueError for an option out of range."""
        Loss.check(self)
        self.check_number("eta")

    def image_values(self, scored: Scored) -> Array:
        """Mean of w CE over pixels and classes."""
        terms = cross_entropy(scored)
        weights = scored.on_host(self._weigh, scored.hard, scored.probability, terms, scored.valid)
        return self.mean_over_classes(scored.image_mean(terms * weights))

    def _weigh(self, hard: Any, probability: Any, terms: Any, valid: Any) -> Any:
        return _shape.iou_weights(hard, probability, terms, valid, self.eta)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lovasz(ImageLoss):
    """Lovasz-softmax loss: the Lovasz extension of the Jaccard loss of a class, on errors |y - p|.

    Berman, Triki and Blaschko 2018. `classes`: the mean over the classes "present" in the truth, or
    over "all"; one channel always counts. `per_image` False takes a batch as one image (in training
    only). It works on probabilities (from logits by sigmoid or softmax); the paper's hinge version for
    logits is another loss. Label smoothing does not apply.

    Under sharding: errors are sorted over the image, so the statistic sees whole frames.
    """

    name: ClassVar[str] = "lovasz"
    group: ClassVar[str] = "region"
    classes: Literal["present", "all"] = "present"
    per_image: bool = True

    def check(self) -> None:
        """Raise ValueError for an option out of range."""
        Loss.check(self)
        if self.classes not in ("present", "all"):
            raise ValueError(f"classes: must be present or all, got {self.classes!r}")

    def values(self, scored: Scored) -> tuple[Array, Array]:
        """(n,) both; (1,) where a batch is one image."""
        images = scored.images()
        if not self.per_image:
            images = scored.xp.max(images, axis=0, keepdims=True)
        return self.image_values(scored) * images, images

    def image_values(self, scored: Scored) -> Array:
        """Mean over classes of the extension: sorted errors times the growth of the Jaccard loss."""
        xp, classes = scored.xp, scored.classes
        images = xp.shape(scored.hard)[0] if self.per_image else 1
        truth = xp.reshape(scored.hard, (images, -1, classes))
        errors = xp.abs(scored.hard - scored.probability) * scored.valid
        errors = xp.reshape(errors, (images, -1, classes))
        # a void pixel has error 0 and is of no class: wherever it is sorted, it adds 0
        order = xp.argsort(-errors, axis=1)
        errors = xp.take_along_axis(errors, order, axis=1)
        truth = xp.take_along_axis(truth, order, axis=1)
        positives = xp.sum(truth, axis=1, keepdims=True)
        found = positives - xp.cumsum(truth, axis=1)
        loss = 1 - found / (positives + xp.cumsum(1 - truth, axis=1))
        growth = xp.concatenate([loss[:, :1], loss[:, 1:] - loss[:, :-1]], axis=1)
        figures = xp.sum(errors * growth, axis=1)
        if self.classes == "all" or classes == 1:
            return self.mean_over_classes(figures)
        present = xp.where(positives[:, 0] > 0, 1.0, 0.0)
        share = xp.maximum(xp.mean(present, axis=-1), 1 / classes)
        return self.mean_over_classes(figures * present) / share
