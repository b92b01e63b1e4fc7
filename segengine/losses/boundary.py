"""Losses of outlines: they weigh a pixel by its distance to a contour.

Distances are Euclidean, in pixels of the image. They are made of the truth as given (label smoothing
does not reach them), and no gradient flows through them. Void pixels are of no class, true or
predicted. An empty or full mask has no outline: its distances are 0.

Under sharding: the statistic sees whole frames, since the nearest outline may be anywhere in one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from segengine.losses import _shape
from segengine.losses.distribution import cross_entropy
from segengine.losses.formula import ImageLoss, Loss
from segengine.losses.scored import Array, Scored


@dataclass(frozen=True, slots=True, kw_only=True)
class Boundary(ImageLoss):
    """Boundary loss: mean of p phi, phi the signed distance to the true outline.

    Kervadec et al. 2019, "Boundary loss for highly unbalanced segmentation": phi is the distance
    outside the mask, 1 minus the distance inside it, so that the optimum is negative. It is meant
    beside a region loss, with weights that move from that to this (see `compound`). Some write it
    as an integral of distances between outlines, which is what it approximates.

    Under sharding: the statistic sees whole frames, and so whole objects.
    """

    name: ClassVar[str] = "boundary"
    group: ClassVar[str] = "boundary"
    jit: ClassVar[bool] = False

    def image_values(self, scored: Scored) -> Array:
        """Mean of p phi over pixels and classes."""
        phi = scored.on_host(_shape.signed_distance, scored.hard)
        return self.mean_over_classes(scored.image_mean(scored.probability * phi))


@dataclass(frozen=True, slots=True, kw_only=True)
class Hausdorff(ImageLoss):
    """Hausdorff distance loss: mean of (p - y)^2 (d_p^alpha + d_y^alpha), alpha = 2.

    Karimi and Salcudean 2019, by distance transforms: d is the distance to the outline, of p > 0.5
    and of y.

    Under sharding: the statistic sees whole frames, and so whole objects.
    """

    name: ClassVar[str] = "hausdorff"
    group: ClassVar[str] = "boundary"
    jit: ClassVar[bool] = False
    alpha: float = 2.0

    def check(self) -> None:
        """Raise ValueError for an option out of range."""
        Loss.check(self)
        self.check_number("alpha", above=True)

    def image_values(self, scored: Scored) -> Array:
        """Mean over pixels and classes."""
        xp, y, p = scored.xp, scored.hard, scored.probability
        d_p, d_y = (scored.on_host(_shape.distance, values) for values in (p * scored.valid, y))
        weight = xp.power(d_p, self.alpha) + xp.power(d_y, self.alpha)
        return self.mean_over_classes(scored.image_mean((p - y) ** 2 * weight))


@dataclass(frozen=True, slots=True, kw_only=True)
class ShapeAware(ImageLoss):
    """Shape-aware loss: mean of CE + E CE, E the distance of the predicted to the true contour.

    Hayder et al. 2017 as in Jadon's survey 2020: E is, on the contour of the predicted class, the
    distance to the contour of that class's truth, else 0. The survey's "- sum CE - sum E CE" is
    negative where CE is already positive; its index i is of the pixel. CE is binary for one channel,
    categorical for several classes.

    Under sharding: the statistic sees whole frames, and so whole contours.
    """

    name: ClassVar[str] = "shape_aware"
    group: ClassVar[str] = "boundary"
    jit: ClassVar[bool] = False

    def image_values(self, scored: Scored) -> Array:
        """Mean over pixels of the sum over classes."""
        classes = scored.classes
        away = scored.on_host(
            _shape.contour_distance, scored.hard, scored.probability, scored.valid
        )
        weight = 1 + scored.xp.sum(away, axis=-1, keepdims=True)
        categorical = -scored.truth * scored.log_probability()
        terms = cross_entropy(scored) if classes == 1 else categorical
        return self.mean_over_classes(scored.image_mean(weight * terms)) * classes
