"""A state of Python integers, one row a class: sums that neither overflow nor round."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from segengine.fixed_point import to_float

Rows = tuple[tuple[int, ...], ...]
"""Integers by row and column."""


def zeros(rows: int, columns: int) -> Rows:
    """The sum of nothing."""
    return ((0,) * columns,) * rows


def add(a: Rows, b: Rows) -> Rows:
    """The sum, place by place."""
    return tuple(
        tuple(x + y for x, y in zip(left, right, strict=True))
        for left, right in zip(a, b, strict=True)
    )


def ratio(a: int, b: int) -> float | None:
    """a / b; None where b is 0.

    >>> ratio(1, 4), ratio(0, 0)
    (0.25, None)
    """
    return a / b if b else None


def fixed_mean(total: int, count: int) -> float | None:
    """The mean of `count` fixed-point terms; None of none."""
    return to_float(total, count) if count else None


def mean(values: Iterable[float | None]) -> float | None:
    """The mean of what is not None; None where there is nothing.

    >>> mean([1.0, None, 2.0]), mean([None])
    (1.5, None)
    """
    present = [value for value in values if value is not None]
    return math.fsum(present) / len(present) if present else None


def over_classes(
    names: Iterable[str], figures: Iterable[Mapping[str, Any]], averaged: Iterable[str]
) -> dict[str, Any]:
    """`mean_*` of each averaged figure over the classes that have it, and every class's figures."""
    classes = dict(zip(names, (dict(f) for f in figures), strict=True))
    means = {f"mean_{key}": mean(f[key] for f in classes.values()) for key in averaged}
    return {**means, "classes": classes}
