"""Edges that stay straight in their own CRS when only their points are taken to another.

A line between two points is straight on one map and bent on another. Where what lies between the
images of an edge's ends would stray too far from it, further points are put on the edge.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from segengine.instances.polygons import Ring

Points = NDArray[np.float64]
"""(n, 2) x, y."""
Map = Callable[[Points], Points]
_AT = np.array([0.25, 0.5, 0.75])[:, None, None]
"""Where along a piece of an edge it is looked how far it strays."""


def densified(
    rings: Sequence[Ring],
    least: float,
    most: float,
    lonlat: Map,
    back: Map,
    longest: float = np.inf,
) -> list[Ring]:
    """Closed rings with further points, evenly along each edge as many as it needs.

    What lies straight between the longitudes and latitudes of neighbouring points (degrees) strays
    at most `most` from the edge; but no piece gets shorter than `least`, where no number of them
    helps (an edge across a pole), and none stays longer than `longest`: an edge around the earth would
    seem to have no length. All are in units of the rings. `lonlat` takes points (n, 2) there,
    `back` from there.
    """
    points = np.concatenate(rings)
    ends = np.cumsum([len(ring) for ring in rings])
    to_next = np.roll(points, -1, axis=0) - points
    to_next[ends - 1] = 0
    length = np.hypot(*to_next.T)
    pieces = np.maximum(1, np.ceil(length / longest)).astype(np.int64)
    limit = np.maximum(pieces, length // least).astype(np.int64)
    left = np.flatnonzero(limit > pieces)
    while len(left):
        start, step = _cut(points[left], to_next[left], pieces[left])
        firsts = np.cumsum(pieces[left]) - pieces[left]
        worst = np.maximum.reduceat(_stray(start, step, lonlat, back), firsts)
        bent = worst > most
        left, worst = left[bent], worst[bent]
        # a bow is a fourth as high over half the chord; somewhat more, for it bends unevenly
        wanted = np.ceil(pieces[left] * np.sqrt(1.25 * worst / most)).astype(np.int64)
        pieces[left] = np.minimum(wanted, limit[left])
        left = left[wanted < limit[left]]
    dense, _ = _cut(points, to_next, pieces)
    return np.split(dense, np.cumsum(pieces)[ends - 1][:-1])


def _cut(start: Points, step: Points, pieces: NDArray[np.int64]) -> tuple[Points, Points]:
    """Start and extent of each of the pieces that edges are cut into."""
    inside = np.arange(pieces.sum()) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    each = np.repeat(step, pieces, axis=0) / np.repeat(pieces, pieces)[:, None]
    return np.repeat(start, pieces, axis=0) + inside[:, None] * each, each


def _stray(start: Points, step: Points, lonlat: Map, back: Map) -> NDArray[np.float64]:
    """(n,) greatest distance from an edge of what is straight between the images of its ends."""
    first = lonlat(start)
    along = lonlat(start + step) - first
    along[:, 0] = (along[:, 0] + 180) % 360 - 180  # the short way across the antimeridian
    seen = back((first + _AT * along).reshape(-1, 2)).reshape(len(_AT), -1, 2) - start
    aside = step[:, 0] * seen[..., 1] - step[:, 1] * seen[..., 0]
    distance: NDArray[np.float64] = np.abs(aside).max(axis=0) / np.hypot(*step.T)
    return distance
