"""Accuracy and areas from a stratified sample whose strata are the classes of the map.

Olofsson, Foody, Herold, Stehman, Woodcock, Wulder (2014), Good practices for estimating area and
assessing accuracy of land change, Remote Sensing of Environment 148, 42-57,
doi:10.1016/j.rse.2014.02.015. Numbers of formulas are the paper's. An error matrix has a row for each
class of the map and a column for each of the reference, in one order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Z = 1.96
"""Half of a 95 % interval, in standard errors, as in the paper."""
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a sample says of a map and of the ground; NaN where it says nothing."""

    proportions: Floats
    """(map, reference) shares of the whole area, formula 4."""
    accuracy: float
    """Share of the area whose class is right, formula 1."""
    accuracy_se: float
    """Formula 5."""
    users: Floats
    """(class,) of what the map calls so, the share that is, formula 2; NaN: no such stratum."""
    users_se: Floats
    """Formula 6."""
    producers: Floats
    """(class,) of what is so, the share that the map calls so, formula 3; NaN: there is none."""
    producers_se: Floats
    """Formula 7."""
    shares: Floats
    """(class,) of the whole area, by the reference: formulas 8 and 9."""
    shares_se: Floats
    """Formula 10; areas (11) and their standard errors (12) are these times the whole area."""


def estimate(counts: NDArray[np.int64], areas: Floats) -> Estimate:
    """From an error matrix of points (map, reference) and the areas of the map's classes (class,).

    A stratum of no area is left out. Raises ValueError where another has fewer than two points.
    """
    there = areas > 0
    points = counts.sum(axis=1)
    if (points[there] < 2).any():
        raise ValueError("each stratum needs two points")
    weights = np.where(there, areas, 0.0) / areas[there].sum()
    n = np.where(there, points, 1).astype(np.float64)
    within = np.where(there[:, None], counts, 0) / n[:, None]
    p = weights[:, None] * within  # (4)
    free = np.where(there, n - 1, 1.0)
    spread = within * (1 - within) / free[:, None]
    right = np.diag(within)
    users = np.where(there, right, np.nan)  # (2)
    users_variance = np.where(there, np.diag(spread), np.nan)  # (6)
    total = p.sum(axis=0)  # (8), (9)
    known = np.where(total > 0, total, np.nan)
    producers = np.diag(p) / known  # (3)
    own = np.diag(spread)
    others = (weights**2)[:, None] * spread
    np.fill_diagonal(others, 0)
    # (7), its N as shares of the area
    producers_variance = (
        weights**2 * (1 - producers) ** 2 * own + producers**2 * others.sum(axis=0)
    ) / known**2
    return Estimate(
        proportions=p,
        accuracy=float(np.diag(p).sum()),  # (1)
        accuracy_se=float(np.sqrt((weights**2 * own).sum())),  # (5)
        users=users,
        users_se=np.sqrt(users_variance),
        producers=producers,
        producers_se=np.sqrt(producers_variance),
        shares=total,
        shares_se=np.sqrt(((weights**2)[:, None] * spread).sum(axis=0)),  # (10)
    )


def allocated(
    size: int, areas: Sequence[float], spreads: Sequence[float] | None, least: int
) -> list[int]:
    """How many of `size` points each stratum gets: as its area, and with `spreads` times these.

    With `spreads`, the standard deviations of being right in each stratum, it is Neyman's allocation
    (Cochran 1977, 5.25). No stratum with an area gets fewer than `least`; what is left over goes to
    the largest remainders. Raises ValueError where `size` is too small for that.

    >>> allocated(100, [1, 9], None, 2), allocated(100, [1, 9], [0.4, 0.2], 2)
    ([10, 90], [18, 82])
    >>> allocated(10, [1, 999], None, 2)
    [2, 8]
    """
    there = [i for i, area in enumerate(areas) if area > 0]
    if size < least * len(there):
        raise ValueError(f"{len(there)} strata need {least * len(there)} points at least")
    share = {i: areas[i] * (1.0 if spreads is None else spreads[i]) for i in there}
    if not any(share.values()):
        share = {i: areas[i] for i in there}
    found = dict.fromkeys(range(len(areas)), 0)
    left, open_ = size, list(there)
    while True:  # those that would get too few are given the least, the others share the rest
        whole = sum(share[i] for i in open_)
        few = [i for i in open_ if not whole or left * share[i] / whole < least]
        if not few:
            break
        for i in few:
            found[i] = least
        left -= least * len(few)
        open_ = [i for i in open_ if i not in few]
        if not open_:
            break
    exact = {i: left * share[i] / sum(share[j] for j in open_) for i in open_}
    for i in open_:
        found[i] = int(exact[i])
    rest = size - sum(found.values())
    for i in sorted(open_ or there, key=lambda i: found[i] - exact.get(i, 0.0))[:rest]:
        found[i] += 1
    return [found[i] for i in range(len(areas))]
