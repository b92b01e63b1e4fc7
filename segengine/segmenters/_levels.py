"""Threshold levels from a histogram: Otsu, multi-level Otsu, triangle, Li.

Pure functions of the occupied bins: `counts` (m,) positive integers, `values` (m,) ascending gray,
the mean of each bin.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]
Values = NDArray[np.float64]


def multiotsu(counts: Counts, values: Values, classes: int) -> list[int]:
    """Last bin of each class but the brightest, where the variance between classes is greatest.

    Otsu (1979), doi:10.1109/TSMC.1979.4310076; Liao, Chen and Chung (2001) for several levels. The
    classes are runs of bins, and the best start of the last run moves only upwards as bins are
    added (the objective is Monge), so a divide-and-conquer over the ends finds the optimum in
    O(classes m log m), all ends of one depth at once. Equal optima: the lowest. Fewer bins than
    classes: each bin is a class and the brightest classes stay empty.
    """
    bins = len(counts)
    if bins < classes:
        return [min(level, bins - 1) for level in range(classes - 1)]
    weight = np.concatenate(([0], np.cumsum(counts))).astype(np.float64)
    # Centred, so that no variance drowns in the square of a great mean.
    centre = float(counts @ values) / weight[-1]
    moment = np.concatenate(([0.0], np.cumsum(counts * (values - centre))))
    score = np.zeros(bins + 1)
    score[1:] = moment[1:] ** 2 / weight[1:]
    starts = []
    for runs in range(2, classes):
        score, start = _extend(score, weight, moment, runs)
        starts.append(start)
    # Of the last run only the start that suits all bins is asked for: each is looked at.
    last = slice(classes - 1, bins)
    gain = (moment[-1] - moment[last]) ** 2 / (weight[-1] - weight[last])
    levels = [classes - 2 + int(np.argmax(score[last] + gain))]
    for start in reversed(starts):
        levels.append(int(start[levels[-1] + 1]) - 1)
    return levels[::-1]


def _extend(
    score: Values, weight: Values, moment: Values, runs: int
) -> tuple[Values, NDArray[np.int64]]:
    """Best score of the first i bins in `runs` runs, and where the last run starts, for every i.

    `score` (m+1,) is that for one run less; entries with fewer bins than runs mean nothing.
    """
    size = len(score)
    best, start = np.zeros(size), np.full(size, runs - 1, np.int64)
    first, last = np.array([runs]), np.array([size])  # half-open spans of ends still to decide
    low, high = np.array([runs - 1]), np.array([size - 2])  # where their last run can start
    while len(first):
        middle = (first + last) // 2
        lengths = np.minimum(high, middle - 1) - low + 1
        offsets = np.concatenate(([0], np.cumsum(lengths)[:-1]))
        candidates = np.arange(lengths.sum()) + np.repeat(low - offsets, lengths)
        ends = np.repeat(middle, lengths)
        gain = (moment[ends] - moment[candidates]) ** 2 / (weight[ends] - weight[candidates])
        total = score[candidates] + gain
        greatest = np.maximum.reduceat(total, offsets)
        winners = np.where(total == np.repeat(greatest, lengths), candidates, size)
        chosen = np.minimum.reduceat(winners, offsets)
        best[middle], start[middle] = greatest, chosen
        above = np.stack((middle + 1, last, chosen, high))
        below = np.stack((first, middle, low, chosen))
        spans = np.concatenate((below, above), axis=1)
        first, last, low, high = spans[:, spans[0] < spans[1]]
    return best, start


def triangle(counts: Counts) -> int:
    """Level of the bin farthest below the line from the peak to the end of the longer tail.

    Zack, Rogers and Latt (1977), doi:10.1177/25.7.70454. `counts` (m,) of equally wide bins, empty
    ones too, from the first to the last occupied one. Exact in integers; the bin nearest to the end
    of the tail wins a tie, the peak of the lowest bin one between peaks.
    """
    peak = int(np.argmax(counts))
    if flipped := peak < len(counts) - 1 - peak:
        counts, peak = counts[::-1], len(counts) - 1 - peak
    if peak == 0:
        return 0
    distance = int(counts[peak]) * np.arange(peak) - peak * counts[:peak]
    level = int(np.argmax(distance))
    return len(counts) - 1 - level if flipped else level


def li(counts: Counts, values: Values, tolerance: float) -> float:
    """Gray at which the cross entropy between the image and its two class means is least.

    Li and Lee (1993); found by the iteration of Li and Tam (1998),
    doi:10.1016/S0167-8655(98)00057-9, from the mean until it moves by no more than `tolerance`.
    Grays count from the least value, so that the logarithm exists.
    """
    shifted = values - values[0]
    weight, moment = np.cumsum(counts).astype(np.float64), np.cumsum(counts * shifted)
    level = float(moment[-1] / weight[-1])
    for _ in range(10_000):  # a partition of bins never comes back; a bound against rounding
        split = int(np.searchsorted(shifted, level, side="right"))
        if split in (0, len(values)):
            break
        dark = float(moment[split - 1] / weight[split - 1])
        bright = float((moment[-1] - moment[split - 1]) / (weight[-1] - weight[split - 1]))
        if dark == 0:
            break
        previous, level = level, (dark - bright) / (math.log(dark) - math.log(bright))
        if abs(level - previous) <= tolerance:
            break
    return level + float(values[0])


def dense(counts: Counts, values: Values) -> Counts:
    """One bin for each integer gray from the first value to the last."""
    out = np.zeros(int(values[-1] - values[0]) + 1, np.int64)
    out[(values - values[0]).astype(np.int64)] = counts
    return out


def spread(counts: Counts, lows: Values, tops: Values, size: int) -> tuple[Counts, Values]:
    """`size` equally wide bins from the first low to the last top, and the top of each.

    The pixels of a bin are spread evenly over its width; each new bin's count is rounded.
    """
    edges = np.linspace(lows[0], tops[-1], size + 1)
    below = np.concatenate(([0], np.cumsum(counts)))
    # Gray at which each number of pixels is reached; it stays from a top to the next low.
    grays = np.stack((lows, tops), axis=1).ravel()
    reached = np.stack((below[:-1], below[1:]), axis=1).ravel()
    cumulative = np.rint(np.interp(edges, grays, reached)).astype(np.int64)
    return np.diff(cumulative), edges[1:]


def spread_whole(counts: Counts, lows: Values, tops: Values, size: int) -> tuple[Counts, Values]:
    """As `spread`, of whole numbers: a bin for each, or, of more than 65,536, some `size` bins.

    Each bin holds equally many numbers; else those with one more would stand out as peaks.
    """
    first, last = np.ceil(lows), np.floor(tops)
    span = int(last[-1] - first[0]) + 1
    width = 1 if span <= 1 << 16 else -(-span // size)
    edges = first[0] - 0.5 + width * np.arange(-(-span // width) + 1)
    grays = np.stack((first - 0.5, last + 0.5), axis=1).ravel()
    below = np.concatenate(([0], np.cumsum(counts)))
    reached = np.stack((below[:-1], below[1:]), axis=1).ravel()
    cumulative = np.rint(np.interp(edges, grays, reached)).astype(np.int64)
    return np.diff(cumulative), edges[1:] - 0.5
