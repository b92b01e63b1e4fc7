"""Outlines of many regions at once, from the corners at which they turn.

A corner is a point of the grid with a pattern of the four pixels around it that are of the region:
1 upper left, 2 upper right, 4 lower left, 8 lower right. The rings are those of `_polygons`: valid,
along the pixels' edges, and pixels that meet in a corner only stay apart.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from segengine.compiled import compiled
from segengine.instances.polygons import Polygon, simple

FALLING, RISING = 1 | 8, 2 | 4
"""Patterns of a point where a region meets itself in a corner only."""
_TURNS = np.array([bin(p).count("1") % 2 == 1 or p in (FALLING, RISING) for p in range(16)])


class Corners(NamedTuple):
    """Where regions turn; each array (corner,)."""

    owner: NDArray[np.int64]
    """The region's number."""
    y: NDArray[np.int64]
    x: NDArray[np.int64]
    pattern: NDArray[np.int64]

    def of(self, chosen: Any) -> Corners:
        """Some of them."""
        return Corners(*(array[chosen] for array in self))

    @classmethod
    def joined(cls, parts: list[Corners]) -> Corners:
        """All of several, by region, row and column."""
        whole = cls(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))
        return whole.of(np.lexsort((whole.x, whole.y, whole.owner)))


def corners(ids: NDArray[np.int64], top: int) -> Corners:
    """The corners at the points between the rows of regions' numbers (y, x); 0 is none.

    `top`: the row of the points between its first two rows. Left and right of it is nothing.
    """
    wide = np.pad(ids, ((0, 0), (1, 1)))
    around = wide[:-1, :-1], wide[:-1, 1:], wide[1:, :-1], wide[1:, 1:]
    first = around[0]
    busy = np.flatnonzero((first != around[1]) | (first != around[2]) | (first != around[3]))
    y, x = np.divmod(busy, first.shape[1])
    four = np.stack([each.reshape(-1)[busy] for each in around])
    found = []
    for place in range(4):
        own = four[place]
        pattern = ((four == own) << np.arange(4)[:, None]).sum(axis=0)
        seen = pattern & ((1 << place) - 1)  # counted at an earlier place
        kept = np.flatnonzero((own > 0) & (seen == 0) & _TURNS[pattern])
        found.append(Corners(own[kept], y[kept] + top, x[kept], pattern[kept]))
    return Corners.joined(found)


def outlines(found: Corners) -> dict[int, Polygon]:
    """The polygon of each 4-connected region, by its number: exterior, then holes.

    `found`: all corners of the regions, by region, row and column.
    """
    saddle = (found.pattern == FALLING) | (found.pattern == RISING)
    # one visit of a plain corner, two of a saddle: left of it first, right of it second
    visits = np.repeat(np.arange(len(saddle)), 1 + saddle)
    owner, y, x, pattern = found.of(visits)
    twice = saddle[visits]
    right = np.concatenate([[False], visits[1:] == visits[:-1]]) & twice
    below = (right == (pattern == FALLING)) & twice  # whether a saddle's visit goes on downwards
    by_column = np.lexsort((below, y, x, owner))
    partner = np.empty(len(y), np.int64)
    partner[by_column[0::2]], partner[by_column[1::2]] = by_column[1::2], by_column[0::2]
    order, ends = np.empty(len(y), np.int64), np.empty(len(y) // 2 + 1, np.int64)
    count = _follow(partner, (pattern & 8) > 0, order, ends)
    points = np.stack([x, y], axis=1)[order].astype(np.float64)
    knotted, whose = twice[order], owner[order]
    polygons: dict[int, Polygon] = {}
    start = 0
    for end in ends[:count].tolist():
        ring = points[start:end]
        rings = (
            simple(ring.astype(np.int64))
            if knotted[start:end].any()
            else (np.concatenate([ring, ring[:1]]),)
        )
        for each in rings:
            _put(polygons.setdefault(int(whose[start]), []), each.astype(np.float64))
        start = end
    return polygons


def _put(polygon: Polygon, ring: NDArray[np.float64]) -> None:
    x, y = (ring - ring[0]).T
    if x[:-1] @ y[1:] - x[1:] @ y[:-1] > 0:
        polygon.insert(0, ring)
    else:
        polygon.append(ring)


@compiled
def _follow(
    across: NDArray[np.int64],
    below: NDArray[np.bool_],
    order: NDArray[np.int64],
    ends: NDArray[np.int64],
) -> int:
    """Visits in the order of the rings that they make, and where each ends; the number of rings.

    Visits 2 k and 2 k + 1 are the ends of a horizontal edge, a visit and `across` of a vertical one.
    """
    fresh = np.ones(len(across) // 2, np.bool_)
    at, rings = 0, 0
    for start in range(0, len(across), 2):
        if fresh[start // 2]:
            # towards the right where the region is below the edge
            first = start if below[start] else start + 1
            visit = first
            going = True
            while going:
                fresh[visit // 2] = False
                order[at], order[at + 1] = visit, visit ^ 1
                at += 2
                visit = across[visit ^ 1]
                going = visit != first
            ends[rings] = at
            rings += 1
    return rings
