"""Sums of float terms that do not depend on order, cut or number of workers: fixed point.

A term is rounded to a multiple of 2^-32 and added as an integer, exactly; no rounded sum is ever
merged. Within an array the integers are int64, above it Python's, which do not overflow.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

BITS = 32
ONE = 1 << BITS
"""The integer that stands for 1.0."""
LIMIT = float(1 << 24)
"""Greatest magnitude of a term: 2^7 of them can be added in int64, and none is infinite."""


def to_fixed(terms: ArrayLike) -> NDArray[np.int64]:
    """Each term as a multiple of 2^-32, ties to even; beyond +-2^24 it is clipped there.

    Raises ValueError for NaN.

    >>> to_fixed([0.5, -1.0]).tolist()
    [2147483648, -4294967296]
    """
    values = np.asarray(terms, np.float64)
    if np.isnan(values).any():
        raise ValueError("a term is NaN")
    return np.rint(np.clip(values, -LIMIT, LIMIT) * ONE).astype(np.int64)


def total(fixed: NDArray[np.int64]) -> int:
    """The sum of fixed-point terms, exactly.

    Each is split in a high and a low half, so that neither sum can overflow below 2^31 terms.

    >>> total(to_fixed([1.0, 2.0]))
    12884901888
    """
    flat = fixed.reshape(-1)
    high = int((flat >> BITS).sum(dtype=np.int64))
    low = int((flat & (ONE - 1)).sum(dtype=np.int64))
    return (high << BITS) + low


def to_float(fixed: int, count: int = 1) -> float:
    """The number that a fixed-point integer stands for, divided by `count`, rounded once.

    >>> to_float(ONE * 3, 4)
    0.75
    """
    return fixed / (ONE * count)
