"""Temperature scaling: probabilities that are as sure as they are right.

    q_c = p_c^(1 / T) / sum over classes of p^(1 / T)         T = scale * H^entropy

as dividing logits by T before a softmax, of which only the probabilities are left (Guo et al. 2017).
H is the entropy of p over that of equal ones, from 0 to 1, so that where a network is sure, it may be
sharpened, and where it is not, softened (Balanya, Maroñas and Ramos 2022); with `entropy` 0 there is
one temperature. What is the greatest stays the greatest: no label changes.

Both numbers minimise the negative log-likelihood of the true classes, by damped Newton steps on sums
of fixed-point terms: they do not depend on how or in which order the pixels came.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from segengine.fixed_point import to_fixed, to_float, total

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
LEAST, MOST = 1 / 64, 64.0
"""What temperatures are cut off at."""
ENOUGH = 100
"""Pixels without which nothing is fitted."""
_FLOOR = float(np.finfo(np.float32).tiny)
"""Stands for a probability that float32 has no number for."""
_SURE = 2.0**-24
"""Least entropy that is told from none."""
_STEPS = 100
_RIDGE = 1e-12
_LIMITS = (math.log(LEAST), -2.0), (math.log(MOST), 2.0)
"""Least and greatest (log scale, entropy)."""
_BLOCK = 1 << 18
"""Pixels that are worked on at once."""


@dataclass(frozen=True, slots=True)
class Temperature:
    """Of probabilities, by their entropy."""

    scale: float
    """Temperature where all classes are equally probable."""
    entropy: float = 0.0
    """Power of the entropy that it goes with."""

    @classmethod
    def of(cls, value: Any) -> Self | None:
        """From a job: a number, or {scale: v, entropy: v}; None or 1: none. Raises ValueError."""
        if value is None or isinstance(value, cls):
            return value
        given = dict(value) if isinstance(value, Mapping) else {"scale": value}
        known = [f.name for f in fields(cls)]
        if not set(given) <= set(known) or "scale" not in given:
            raise ValueError(
                f"temperature: must be a number or {{scale: v, entropy: v}}, not {value!r}"
            )
        for name, number in given.items():
            low, high = (LEAST, MOST) if name == "scale" else (_LIMITS[0][1], _LIMITS[1][1])
            real = isinstance(number, int | float) and not isinstance(number, bool)
            if not real or not low <= number <= high:
                raise ValueError(
                    f"temperature: {name} must be from {low:g} to {high:g}, not {number!r}"
                )
        found = cls(**{name: float(number) for name, number in given.items()})
        return None if found == cls(1.0) else found

    def as_json(self) -> dict[str, float]:
        """As `of` takes it."""
        return asdict(self)

    def apply(self, values: Floats) -> Floats:
        """Probabilities (..., class) at their temperatures; NaN stays.

        >>> Temperature(2.0).apply(np.float32([[0.8, 0.2]])).round(3).tolist()
        [[0.6669999957084656, 0.3330000042915344]]
        """
        flat = values.reshape(-1, values.shape[-1])
        found = np.empty_like(flat)
        for start in range(0, len(flat), _BLOCK):
            part = slice(start, start + _BLOCK)
            logs, entropy = _logs(flat[part])
            powers = _powers(logs, self._inverse(entropy))
            powers[flat[part] <= 0] = 0  # what is impossible stays so
            whole = powers.sum(axis=-1, keepdims=True)
            whole[whole == 0] = 1  # nothing is known
            found[part] = powers / whole
        return found.reshape(values.shape)

    def _inverse(self, entropy: Doubles) -> Doubles:
        """1 / T of logarithms of entropies."""
        most = math.log(MOST)
        return np.exp(-np.clip(math.log(self.scale) + self.entropy * entropy, -most, most))


def fit(values: Floats, true: NDArray[np.intp]) -> Temperature:
    """The likeliest temperature of probabilities (pixel, class), from true classes (pixel,).

    Raises ValueError where there are too few pixels, or none is labelled wrong, so that no
    temperature is the best.
    """
    if len(values) < ENOUGH:
        raise ValueError(
            f"{len(values)} pixels have a probability and a true class; {ENOUGH} are needed"
        )
    if bool((values.argmax(axis=-1) == true).all()):
        raise ValueError(
            "every pixel is labelled right: nothing tells how sure the others should be"
        )
    at = np.zeros(2)
    fold = _fold(values, true, at)
    for _ in range(_STEPS):
        step = -np.linalg.solve(fold.curve + _RIDGE * np.trace(fold.curve) * np.eye(2), fold.slope)
        tried = at
        for halving in range(20):
            tried = np.clip(at + step / 2**halving, *_LIMITS)
            better = _fold(values, true, tried)
            if better.loss < fold.loss:
                break
        else:
            break
        moved = float(np.abs(tried - at).max())
        at, fold = tried, better
        if moved < 1e-9:
            break
    return Temperature(math.exp(at[0]), float(at[1]))


class _Fold(NamedTuple):
    """What all pixels add up to."""

    loss: int
    """Negative log-likelihood, fixed-point."""
    slope: Doubles
    """(2,) of its mean by (log scale, entropy)."""
    curve: Doubles
    """(2, 2) Fisher's information."""


def _fold(values: Floats, true: NDArray[np.intp], at: Doubles) -> _Fold:
    temperature = Temperature(math.exp(at[0]), float(at[1]))
    loss, sums = 0, [0] * 5
    for start in range(0, len(values), _BLOCK):
        part = slice(start, start + _BLOCK)
        logs, entropy = _logs(values[part])
        inverse = temperature._inverse(entropy)
        powers = _powers(logs, inverse)
        whole = powers.sum(axis=-1)
        shares = powers / whole[:, None]
        chosen = logs[np.arange(len(logs)), true[part]]
        mean = (shares * logs).sum(axis=-1)
        spread = inverse**2 * (shares * (logs - mean[:, None]) ** 2).sum(axis=-1)
        slope = -inverse * (mean - chosen)
        best = logs.max(axis=-1)
        loss += total(to_fixed(np.log(whole) + inverse * (best - chosen)))
        terms = (slope, slope * entropy, spread, spread * entropy, spread * entropy**2)
        sums = [a + total(to_fixed(term)) for a, term in zip(sums, terms, strict=True)]
    a, b, c, d, e = (to_float(value, len(values)) for value in sums)
    return _Fold(loss, np.array([a, b]), np.array([[c, d], [d, e]]))


def likelihood(values: Floats, true: NDArray[np.intp]) -> float:
    """Mean negative logarithm of the true classes' probabilities; values (pixel, class)."""
    chosen = np.maximum(values[np.arange(len(values)), true], _FLOOR).astype(np.float64)
    return to_float(total(to_fixed(-np.log(chosen))), len(values))


def _logs(values: Floats) -> tuple[Doubles, Doubles]:
    """Logarithms of (pixel, class), and of each pixel's entropy over that of equal probabilities."""
    exact = values.astype(np.float64)
    logs = np.log(np.maximum(exact, _FLOOR))
    entropy = -(exact * logs).sum(axis=-1) / math.log(max(2, values.shape[-1]))
    return logs, np.log(np.clip(entropy, _SURE, 1))


def _powers(logs: Doubles, inverse: Doubles) -> Doubles:
    """(pixel, class) p^inverse over the greatest, which is 1."""
    found: Doubles = np.exp((logs - logs.max(axis=-1, keepdims=True)) * inverse[:, None])
    return found
