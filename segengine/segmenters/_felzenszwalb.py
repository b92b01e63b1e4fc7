"""Felzenszwalb and Huttenlocher's segmentation (2004): neighbours become one, the most alike first.

The edges between 8-neighbours are taken in ascending order of their difference of colour. Two pieces become
one where the difference is below that inside of either, plus `scale` over its size: large pieces need more
evidence. Then pieces below `least` pixels go to a neighbour, in the same order. Each decision hangs on all
edges of the frame that come before, so a frame must be whole.

The order is that of the differences rounded down to 12 binary digits, then that of the pixels: a counting
sort, of which 4 numbers a pixel are all that must be held.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segengine.compiled import compiled
from segengine.segmenters._regions import numbered

Array = NDArray[Any]
_SHIFT = 11
"""Bits of a float32 that do not count for the order."""
_BINS = 1 << 31 - _SHIFT
_WITHIN = 4.0
"""Standard deviations after which a Gaussian is cut, as SciPy's is."""


def pieces(values: NDArray[np.float32], scale: float, sigma: float, least: int) -> NDArray[Any]:
    """Ids (y, x) uint32 of values (band, y, x), by first pixel; 0 where one is NaN."""
    smooth = blurred(values, sigma)
    lost = np.isnan(values).any(axis=0)
    if lost.any():
        smooth[:, lost] = np.nan
    height, width = values.shape[1:]
    ends = np.zeros(_BINS + 1, np.int64)
    _count(smooth, ends[1:])
    np.cumsum(ends, out=ends)
    dtype = np.uint32 if 4 * height * width < 1 << 32 else np.uint64
    order = np.empty(ends[-1], dtype)
    _sort(smooth, ends, order)
    root = np.arange(height * width, dtype=np.int64 if dtype == np.uint64 else np.int32)
    _join(smooth, order, scale, least, root)
    ids = (root + 1).reshape(height, width)
    ids[lost] = 0
    return numbered(ids)


def blurred(values: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    """A Gaussian's mean of values (band, y, x), of those that are no NaN; borders are reflected."""
    if not sigma:
        return values.copy()
    radius = math.ceil(_WITHIN * sigma)
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    weights = (weights / weights.sum()).astype(np.float32)
    out = np.empty_like(values)
    for band, result in zip(values, out, strict=True):
        known = np.isfinite(band)
        if known.all():
            _blur(np.pad(band, radius, "symmetric"), weights, result)
            continue
        share = np.empty_like(band)
        _blur(np.pad(np.where(known, band, np.float32(0)), radius, "symmetric"), weights, result)
        _blur(np.pad(known.astype(np.float32), radius, "symmetric"), weights, share)
        with np.errstate(invalid="ignore"):
            np.divide(result, share, out=result)
    return out


@compiled
def _blur(padded: Array, weights: Array, out: Array) -> None:
    """Fill out (y, x) with the weighted mean of padded (y + size - 1, x + size - 1)."""
    height, width = out.shape
    wide, size = padded.shape[1], len(weights)
    line = np.empty(wide, np.float32)
    total = np.empty(width, np.float32)
    for y in range(height):
        line[:] = 0
        for k in range(size):
            row = padded[y + k]
            for x in range(wide):
                line[x] += weights[k] * row[x]
        total[:] = 0
        for k in range(size):
            part = line[k : k + width]
            for x in range(width):
                total[x] += weights[k] * part[x]
        out[y] = total


@compiled
def _edge(values: Array, y: int, x: int, side: int) -> Any:
    """How unlike a pixel and its neighbour to the right, below, below right or above right are.

    NaN where there is no such neighbour.
    """
    v = y + 1 if side == 1 or side == 2 else y - 1 if side == 3 else y
    u = x if side == 1 else x + 1
    if v < 0 or v >= values.shape[1] or u >= values.shape[2]:
        return np.float32(np.nan)
    total = np.float32(0)
    for band in range(len(values)):
        off = values[band, y, x] - values[band, v, u]
        total += off * off
    return np.float32(math.sqrt(total))


@compiled
def _count(values: Array, counts: Array) -> None:
    """Count edges in bins of their difference."""
    one = np.empty(1, np.float32)
    bits = one.view(np.uint32)
    for y in range(values.shape[1]):
        for x in range(values.shape[2]):
            for side in range(4):
                one[0] = _edge(values, y, x, side)
                if one[0] == one[0]:
                    counts[bits[0] >> _SHIFT] += 1


@compiled
def _sort(values: Array, places: Array, order: Array) -> None:
    """Fill order (edge,) with 4 x pixel + side, by bin, then by pixel, from `places` (bin,) on."""
    one = np.empty(1, np.float32)
    bits = one.view(np.uint32)
    width = values.shape[2]
    for y in range(values.shape[1]):
        for x in range(width):
            for side in range(4):
                one[0] = _edge(values, y, x, side)
                if one[0] == one[0]:
                    key = bits[0] >> _SHIFT
                    order[places[key]] = 4 * (y * width + x) + side
                    places[key] += 1


@compiled
def _root(root: Array, place: Any) -> Any:
    """The pixel that stands for a pixel's piece."""
    while root[place] != place:
        root[place] = root[root[place]]
        place = root[place]
    return place


@compiled
def _join(values: Array, order: Array, scale: float, least: int, root: Array) -> None:
    """Fill root (pixel,) with the pixel that stands for its piece, of edges in their order."""
    width = values.shape[2]
    size = np.ones(len(root), np.int32)
    inside = np.zeros(len(root), np.float32)  # the greatest difference that made it one
    more = np.float32(scale)
    step = np.array([1, width, width + 1, 1 - width])
    for small in range(2):
        for at in range(len(order)):
            edge: Any = np.int64(order[at])
            place, side = edge >> 2, edge & 3
            a, b = _root(root, place), _root(root, place + step[side])
            if a == b:
                continue
            if small:
                if size[a] >= least and size[b] >= least:
                    continue
                off = np.float32(0)
            else:
                off = np.float32(_edge(values, place // width, place % width, side))
                bound = min(
                    inside[a] + more / np.float32(size[a]), inside[b] + more / np.float32(size[b])
                )
                if not off < bound:
                    continue
            if size[a] < size[b]:
                a, b = b, a
            root[b] = a
            size[a] += size[b]
            inside[a] = off
    for place in range(len(root)):
        root[place] = _root(root, place)
