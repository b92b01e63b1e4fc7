"""What a loss formula sees: truth and prediction as arrays of one namespace, NumPy's or Keras's.

A formula is written in the functions that `numpy` and `keras.ops` share (`log`, `where`, `sum` ...),
so that training and aggregation compute the same thing, in float32 and in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Array = Any
"""An array of the namespace in use: a NumPy array or a Keras tensor."""

LOW = 1e-7
"""Least probability in a logarithm: Keras's epsilon."""
HIGH = 1 - 2**-23
"""Greatest probability in a logarithm: 1 - 1e-7 as float32 has it, so that both precisions agree."""


@dataclass(frozen=True, slots=True)
class Scored:
    """Truth and prediction of n images; every map is (n, y, x, class) unless said otherwise."""

    xp: Any
    """`numpy` or `keras.ops`."""
    hard: Array
    """The truth as given: 1 where the pixel is of the class, else 0 (or soft); 0 where not valid."""
    truth: Array
    """The truth after label smoothing."""
    probability: Array
    valid: Array
    """(n, y, x, 1), 1 where the pixel is scored, else 0."""
    on_host: Callable[..., Array]
    """`on_host(function, *maps)`: a map that a NumPy function makes of maps; no gradient flows."""
    log_p: Array | None = None
    """The logarithm of `probability`, where logits gave a better one than `probability` can."""
    log_q: Array | None = None
    """The same for 1 - `probability`."""

    @property
    def classes(self) -> int:
        """Length of the class axis."""
        return int(self.probability.shape[-1])

    def clipped(self) -> Array:
        """Probabilities in [LOW, HIGH]; there is no gradient outside, as in Keras."""
        return self.xp.clip(self.probability, LOW, HIGH)

    def log_probability(self) -> Array:
        """log p, finite."""
        return self.xp.log(self.clipped()) if self.log_p is None else self.log_p

    def log_complement(self) -> Array:
        """log(1 - p), finite."""
        return self.xp.log(1.0 - self.clipped()) if self.log_q is None else self.log_q

    def image_sum(self, terms: Array) -> Array:
        """(n, class) sum over the scored pixels of an image."""
        return self.xp.sum(self.valid * terms, axis=(1, 2))

    def image_mean(self, terms: Array) -> Array:
        """(n, class) mean over the scored pixels of an image; 0 where there are none."""
        return self.image_sum(terms) / self.xp.maximum(self.xp.sum(self.valid, axis=(1, 2)), 1.0)

    def images(self) -> Array:
        """(n,) 1 where an image has a scored pixel, else 0."""
        return self.xp.max(self.valid, axis=(1, 2, 3))


def smoothed(hard: Array, smoothing: float, elementwise: bool) -> Array:
    """Truth (..., class) after Keras's label smoothing.

    y (1 - s) + s / 2 for yes-or-no channels, y (1 - s) + s / classes for exclusive classes.
    """
    ways = 2 if elementwise else int(hard.shape[-1])
    return hard * (1.0 - smoothing) + smoothing / ways if smoothing else hard


def ratio(xp: Any, numerator: Array, denominator: Array) -> Array:
    """numerator / denominator, and 0 (with no gradient) where the denominator is 0."""
    some = denominator > 0
    return xp.where(some, numerator / xp.where(some, denominator, 1.0), 0.0)
