"""Gaussian filtering of values at scattered points of a few dimensions, on a permutohedral lattice.

Adams, Baek and Davis 2010, "Fast high-dimensional filtering using the permutohedral lattice":

    splat: a point gives its value to the d + 1 corners of the simplex it lies in,
           by its barycentric coordinates
    blur:  along each of the d + 1 directions of the lattice, weights 1/4 1/2 1/4
    slice: a point takes back by the same coordinates

Splatting and slicing are one sparse matrix and its transpose. The vertices are those that a point
touches and all their neighbours: without the latter, which the paper leaves out, what is blurred from
one vertex to the next but one is lost between them, and the result is four times as far from the
Gaussian's. In d dimensions the lattice is that of
integer points of the plane sum(x) = 0 in d + 1 dimensions, scaled so that splat, blur and slice
together have the standard deviation 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Lattice:
    """The lattice of a set of points; filters any values given at those points."""

    slicing: Any
    """(point, vertex) sparse: barycentric coordinates."""
    blurs: tuple[Any, ...]
    """(vertex, vertex) sparse, one a direction."""

    @classmethod
    def of(cls, points: NDArray[np.float64]) -> Self:
        """The lattice of points (m, d), in units of the Gaussian's standard deviation.

        Raises ValueError where the points lie too far apart for 64-bit keys.
        """
        from scipy import sparse

        count, d = points.shape
        corners, weights = _simplices(points)
        reach = 2 * (d + 1)  # of the neighbours' neighbours
        low = corners.min(axis=(0, 1)) - reach
        sizes = [int(n) for n in corners.max(axis=(0, 1)) + reach - low + 1]
        if math.prod(sizes) >= 1 << 63:
            raise ValueError("points lie too many standard deviations apart")
        radix = np.array([math.prod(sizes[i + 1 :]) for i in range(d)], np.int64)
        keys = ((corners - low) @ radix).reshape(-1)
        # along a direction all coordinates go up 1 and one goes down d; that may be the unstored
        steps = [int(radix.sum() - (d + 1) * r) for r in (*radix, 0)]
        touched = _unique(keys)
        vertices = _unique(
            np.concatenate([touched, *(touched + s for s in steps), *(touched - s for s in steps)])
        )
        rows = np.arange(0, count * (d + 1) + 1, d + 1)
        slicing = sparse.csr_array(
            (weights.reshape(-1), np.searchsorted(vertices, keys), rows),
            shape=(count, len(vertices)),
        )
        return cls(slicing, tuple(_blur(vertices, step) for step in steps))

    def filter(self, values: Floats) -> Floats:
        """Values (m, channel) summed with weights of about c exp(-|x_i - x_j|^2 / 2)."""
        spread = self.slicing.T @ values
        for blur in self.blurs:
            spread = blur @ spread
        result: Floats = self.slicing @ spread
        return result


def _unique(keys: NDArray[np.int64]) -> NDArray[np.int64]:
    """Sorted, each once: for many keys three times as fast as `np.unique`, which hashes."""
    ordered = np.sort(keys)
    found: NDArray[np.int64] = ordered[np.append(True, ordered[1:] != ordered[:-1])]
    return found


def _blur(vertices: NDArray[np.int64], step: int) -> Any:
    """1/4, 1/2, 1/4 along a direction; `vertices` are sorted keys, a neighbour's is `step` away."""
    from scipy import sparse

    count = len(vertices)
    place = np.minimum(np.searchsorted(vertices, vertices + step), count - 1)
    (found,) = np.nonzero(vertices[place] == vertices + step)
    quarter = np.full(len(found), 0.25, np.float32)
    ahead = sparse.csr_array((quarter, (found, place[found])), shape=(count, count))
    return (sparse.eye_array(count, dtype=np.float32) * np.float32(0.5) + ahead + ahead.T).tocsr()


def _simplices(points: NDArray[np.float64]) -> tuple[NDArray[np.int64], Floats]:
    """First d coordinates (m, d + 1, d) of the corners around each point, and weights (m, d + 1).

    The nearest point with all coordinates multiples of d + 1 (Conway and Sloane 1998, chapter 20) is
    corner 0. Corner k is above it by k where the point is, and by k - (d + 1) in the k coordinates
    in which the point lies least above it.
    """
    d = points.shape[1]
    elevated = points @ _basis(d)
    zero = np.rint(elevated / (d + 1)).astype(np.int64)
    order = np.argsort(zero * (d + 1) - elevated, axis=1, kind="stable")
    rank = np.argsort(order, axis=1) + zero.sum(axis=1, keepdims=True)
    wrap = (rank < 0).astype(np.int64) - (rank > d)
    zero = (zero + wrap) * (d + 1)
    rank += wrap * (d + 1)

    above = np.take_along_axis(elevated - zero, np.argsort(rank, axis=1), axis=1)
    weights = np.empty(above.shape, np.float32)
    weights[:, :0:-1] = (above[:, :-1] - above[:, 1:]) / (d + 1)
    weights[:, 0] = 1 - (above[:, 0] - above[:, -1]) / (d + 1)
    corner = np.arange(d + 1)[:, None]
    rank = rank[:, None, :d]
    return zero[:, None, :d] + corner - (d + 1) * (rank > d - corner), weights


def _basis(d: int) -> NDArray[np.float64]:
    """(d, d + 1) orthogonal rows in the plane sum = 0, of the length that is one deviation there.

    Splat and slice have variance (d + 1)^2 / 12 each, blur (d + 1)^2 / 2: together 2/3 (d + 1)^2.
    """
    rows = np.tril(np.ones((d, d + 1)))
    n = np.arange(1, d + 1)
    rows[np.arange(d), n] = -n
    rows *= math.sqrt(2 / 3) * (d + 1) / np.sqrt(n * (n + 1))[:, None]
    return rows
