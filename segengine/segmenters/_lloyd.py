"""Weighted k-means: greedy k-means++ starts, Lloyd's iterations, and swaps out of local optima.

The objective is that of `cv2.kmeans`: the weighted sum of squared distances to the nearest centre.
Seeding is k-means++ in the greedy form of section 5 of Arthur and Vassilvitskii, "k-means++: the
advantages of careful seeding" (2007): of a few candidates the one that lowers the objective most.

Everything is elementwise NumPy or a sum in a fixed order: no BLAS, whose products differ in their
last bits with the number of threads. Equal input gives equal centres, bit for bit. Distances are
taken as |c|^2 - 2 c.x + |x|^2, so the points should lie around the origin.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_SCORES = 1 << 15  # distances held at a time; they stay in the cache


@dataclass(frozen=True, slots=True, eq=False)
class Points:
    """Weighted points; at least one."""

    axes: Floats
    """(dimension, point), contiguous along the points."""
    weights: Floats
    """(point,) positive."""

    def __len__(self) -> int:
        return len(self.weights)


@dataclass(frozen=True, slots=True, eq=False)
class Fit:
    """Centres and how well they fit."""

    centres: Floats
    """(cluster, dimension)"""
    inertia: float
    """Weighted sum of squared distances of the points to their nearest centres."""


def seeds(points: Points, clusters: int, rng: np.random.Generator) -> Floats:
    """Greedy k-means++ centres (cluster, dimension); equal ones where points run out."""
    candidates = 2 + int(np.log(clusters))
    chosen = _draw(points.weights, rng, 1)
    squared = _squared(points.axes, points.axes[:, chosen])[0]
    for _ in range(clusters - 1):
        drawn = _draw(squared * points.weights, rng, candidates)
        trial = np.minimum(squared, _squared(points.axes, points.axes[:, drawn]))
        best = int((trial * points.weights).sum(axis=1).argmin())
        squared = trial[best]
        chosen = np.append(chosen, drawn[best])
    return np.ascontiguousarray(points.axes[:, chosen].T)


def lloyd(points: Points, centres: Floats, iterations: int, tolerance: float) -> Fit:
    """Lloyd's iterations, until one lowers the inertia by no more than `tolerance` of it.

    A cluster that lost all its points takes the point that costs most where it is.
    """
    last = np.inf
    while True:
        labels, squared = nearest(points, centres)
        cost = squared * points.weights
        inertia = float(cost.sum())
        if iterations == 0 or inertia >= last * (1 - tolerance):
            return Fit(centres, inertia)
        iterations -= 1
        last = inertia
        centres = _moved(points, labels, centres, cost)


def swapped(points: Points, fit: Fit, trials: int, rng: np.random.Generator) -> Fit:
    """`fit`, or a better one found by moving one centre far away, `trials` times.

    Lloyd's iterations cannot carry a centre from where two share a cluster to where one serves two.
    Each trial puts a centre on a point drawn by its cost, takes away the one that is then missed
    least, iterates twice and keeps the result if it is better (random swap, Franti 2018, with the
    removal chosen as in the local search of Lattanzi and Sohler 2019).
    """
    k = len(fit.centres)
    if k == 1 or trials == 0:
        return fit
    labels, first, second = _two_nearest(points, fit.centres)
    for _ in range(trials):
        added = _draw(first * points.weights, rng, 1)
        offered = _squared(points.axes, points.axes[:, added])[0]
        missed = np.minimum(offered, second) - np.minimum(offered, first)
        removed = int(np.bincount(labels, missed * points.weights, k).argmin())
        centres = fit.centres.copy()
        centres[removed] = points.axes[:, added[0]]
        trial = lloyd(points, centres, 2, 0)
        if trial.inertia < fit.inertia:
            fit = trial
            labels, first, second = _two_nearest(points, fit.centres)
    return fit


def nearest(points: Points, centres: Floats) -> tuple[NDArray[np.intp], Floats]:
    """(point,) index of the nearest centre, lowest on ties, and the squared distance to it."""
    labels = np.empty(len(points), np.intp)
    squared = np.empty(len(points))
    size = max(64, _SCORES // len(centres))
    for start in range(0, len(points), size):
        part = slice(start, start + size)
        axes = points.axes[:, part]
        scores = _scores(axes, centres)
        labels[part] = scores.argmin(axis=0)
        squared[part] = scores.min(axis=0) + (axes**2).sum(axis=0)
    return labels, np.maximum(squared, 0, out=squared)


def _scores(axes: Floats, centres: Floats) -> Floats:
    """(cluster, point) squared distance less |x|^2, which all centres share."""
    scores = np.zeros((len(centres), axes.shape[1]))
    scores += (centres**2).sum(axis=1)[:, None]
    product = np.empty_like(scores)
    for axis, slope in zip(axes, (-2 * centres).T, strict=True):
        scores += np.multiply(slope[:, None], axis, out=product)
    return scores


def _two_nearest(points: Points, centres: Floats) -> tuple[NDArray[np.intp], Floats, Floats]:
    """(point,) index of the nearest centre, and the squared distances to it and to the next."""
    scores = _scores(points.axes, centres)
    labels = scores.argmin(axis=0)
    every = np.arange(len(points))
    norms = (points.axes**2).sum(axis=0)
    first = np.maximum(scores[labels, every] + norms, 0)
    scores[labels, every] = np.inf
    return labels, first, np.maximum(scores.min(axis=0) + norms, 0)


def _moved(points: Points, labels: NDArray[np.intp], centres: Floats, cost: Floats) -> Floats:
    """Each centre at the mean of its points."""
    k = len(centres)
    weight = np.bincount(labels, points.weights, k)
    total = np.stack([np.bincount(labels, a * points.weights, k) for a in points.axes], axis=1)
    taken = weight > 0
    moved = np.where(taken[:, None], total / np.where(taken, weight, 1)[:, None], centres)
    lost = np.flatnonzero(~taken)
    if len(lost):
        worst = np.argsort(-cost, kind="stable")[: len(lost)]
        worst = worst[cost[worst] > 0]
        moved[lost[: len(worst)]] = points.axes[:, worst].T
    return moved


def _draw(mass: Floats, rng: np.random.Generator, n: int) -> NDArray[np.intp]:
    """(n,) indices drawn in proportion to mass; the last one where there is no mass."""
    cumulated = np.cumsum(mass)
    drawn = np.searchsorted(cumulated, rng.random(n) * cumulated[-1], side="right")
    return np.asarray(np.minimum(drawn, len(mass) - 1), np.intp)


def _squared(axes: Floats, centres: Floats) -> Floats:
    """(centre, point) squared distances of axes (dimension, point) to (dimension, centre)."""
    total: Floats = (axes[0] - centres[0][:, None]) ** 2
    for axis, centre in zip(axes[1:], centres[1:], strict=True):
        total += (axis - centre[:, None]) ** 2
    return total
