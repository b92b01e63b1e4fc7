"""Superpixels as SLIC's (Achanta et al. 2012), the same wherever a frame is cut.

A superpixel begins as a square of the frame, with the mean colour and place of its pixels. In each
iteration a pixel goes to the nearest of the superpixels of the nine squares around it, by

    |colour - colour|^2 + |place - place|^2 (compactness / side)^2        on ties to the first square

and then each superpixel takes the mean of its pixels. So it never leaves the nine squares around its own,
and after n iterations a pixel's depends on the 2 n squares on each side. (The published search is a square
around the centre; scikit-image's as well. There the last pixel of a frame can change the first.)

In the end a superpixel's pieces that are smaller than `least` pixels are given away, pixel by pixel from
their rims inwards (`_growing`), to the neighbours nearest in colour; larger ones are superpixels of their
own. (scikit-image gives a small piece as a whole to the superpixel that it has last met in raster order,
which hangs on all before it.) What is not reached after so many steps, far from any large piece, stays.

Colours are float32 and each superpixel's sums are made in one order, so nothing depends on the window.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from segengine.compiled import compiled
from segengine.segmenters._growing import grow
from segengine.segmenters._squares import View

Array = NDArray[Any]
_ANYWHERE = np.inf


def halo(side: int, iterations: int) -> int:
    """Pixels that decide on one: squares of the search, pieces in them, and steps of the giving away."""
    squares = 2 * iterations + 2  # and the last one is up to half a square longer
    return squares * side + side // 2 + 1 + steps(side)


def steps(side: int) -> int:
    """How far small pieces are given away from their rims."""
    return 2 * side


def superpixels(
    values: NDArray[np.float32],
    view: View,
    side: int,
    compactness: float,
    iterations: int,
    least: int,
) -> NDArray[np.int32]:
    """Ids (y, x) from 1 on of values (band, y, x); 0 where one is NaN."""
    rows, cols = view.bounds(0, side), view.bounds(1, side)
    origins = view.origins(0, side), view.origins(1, side)
    labels = np.full(values.shape[1:], -1, np.int32)
    # A superpixel's mean colour, then its mean place from where its square begins; of one that has
    # never had a pixel NaN, which nothing is near to.
    centres = np.full(((len(rows) - 1) * (len(cols) - 1), len(values) + 2), np.nan, np.float32)
    _squares(values, rows, cols, labels)
    _means(values, rows, cols, *origins, labels, centres)
    weight = (compactness / side) ** 2
    ahead, after = np.array([view.cut(0), view.cut(1)]).T
    for turn in range(iterations):
        # Nothing counts any more so near to where the window is cut.
        skip = 2 * turn + 1
        low, high = ahead * skip, np.array([len(rows), len(cols)]) - 1 - after * skip
        if turn:
            _means(values, rows, cols, *origins, labels, centres)
        _assign(values, rows, cols, *origins, centres, weight, low, high, labels)
    return _connected(values, labels, centres, least, steps(side))


def _connected(
    values: Array, labels: NDArray[np.int32], centres: Array, least: int, most: int
) -> NDArray[np.int32]:
    """Ids of the large pieces (y, x), grown over the small ones."""
    pieces = np.zeros(labels.shape, np.int32)
    stack = np.empty(labels.size, np.int32)
    sizes = np.zeros(labels.size + 1, np.int32)
    owner = np.zeros(labels.size + 1, np.int32)
    count = _pieces(labels, pieces, stack, sizes, owner)
    del stack
    small = sizes[: count + 1] < least
    small[0] = False
    if not small.any():
        return pieces
    number = np.arange(count + 1, dtype=np.int32)
    ids = np.where(small, np.int32(0), number)[pieces]
    ids[pieces == 0] = -1
    colors = np.ascontiguousarray(centres[owner[: count + 1], : len(values)])
    grow(values, ids, colors, _ANYWHERE, most)
    return np.where(ids == 0, pieces, np.maximum(ids, 0))


@compiled
def _squares(values: Array, rows: Array, cols: Array, labels: Array) -> None:
    """Begin: the label of each pixel is its square, in raster order; -1 where a value is NaN."""
    across = len(cols) - 1
    for i in range(len(rows) - 1):
        for j in range(across):
            for y in range(rows[i], rows[i + 1]):
                for x in range(cols[j], cols[j + 1]):
                    known = True
                    for band in range(len(values)):
                        known &= values[band, y, x] == values[band, y, x]
                    labels[y, x] = i * across + j if known else -1


@compiled
def _means(
    values: Array, rows: Array, cols: Array, tops: Array, lefts: Array, labels: Array, centres: Array
) -> None:  # fmt: skip
    """Fill centres (square, band + 2) with the means of their pixels; those of none stay as they are."""
    bands, across = len(values), len(cols) - 1
    sums = np.zeros((len(centres), bands + 2), np.float64)
    counts = np.zeros(len(centres), np.int64)
    for i in range(len(rows) - 1):
        for j in range(across):
            for y in range(rows[i], rows[i + 1]):
                x = cols[j]
                while x < cols[j + 1]:  # a run of one label at a time
                    label, start = labels[y, x], x
                    x += 1
                    while x < cols[j + 1] and labels[y, x] == label:
                        x += 1
                    if label < 0:
                        continue
                    for band in range(bands):
                        line = values[band, y]
                        total = 0.0
                        for u in range(start, x):
                            total += line[u]
                        sums[label, band] += total
                    size = x - start
                    sums[label, bands] += size * (y - tops[label // across])
                    middle = 0.5 * (start + x - 1) - lefts[label % across]
                    sums[label, bands + 1] += size * middle
                    counts[label] += size
    for label in range(len(centres)):
        if counts[label]:
            for k in range(bands + 2):
                centres[label, k] = sums[label, k] / counts[label]


@compiled
def _assign(
    values: Array, rows: Array, cols: Array, tops: Array, lefts: Array, centres: Array, weight: float,
    low: Array, high: Array, labels: Array,
) -> None:  # fmt: skip
    """Give each pixel of the squares from `low` to `high` (y, x) to the nearest of nine."""
    bands, down, across = len(values), len(rows) - 1, len(cols) - 1
    share = np.float32(weight)
    longest = 0
    for j in range(across):
        longest = max(longest, cols[j + 1] - cols[j])
    far, least = np.empty(longest, np.float32), np.empty(longest, np.float32)
    best = np.empty(longest, np.int32)
    for i in range(low[0], high[0]):
        for j in range(low[1], high[1]):
            start, stop = cols[j], cols[j + 1]
            wide = stop - start
            for y in range(rows[i], rows[i + 1]):
                for x in range(wide):
                    least[x] = np.float32(np.inf)
                    best[x] = -1
                for a in range(max(0, i - 1), min(down, i + 2)):
                    for b in range(max(0, j - 1), min(across, j + 2)):
                        label = a * across + b
                        off = np.float32(y - tops[a]) - centres[label, bands]
                        along = off * off * share
                        middle, shift = centres[label, bands + 1], start - lefts[b]
                        if bands == 3:  # the same sums in one go
                            red, green = values[0, y, start:stop], values[1, y, start:stop]
                            blue = values[2, y, start:stop]
                            c0, c1, c2 = centres[label, 0], centres[label, 1], centres[label, 2]
                            for x in range(wide):
                                off = np.float32(x + shift) - middle
                                d0, d1, d2 = red[x] - c0, green[x] - c1, blue[x] - c2
                                total = along + off * off * share + d0 * d0 + d1 * d1 + d2 * d2
                                if total < least[x]:
                                    least[x] = total
                                    best[x] = label
                            continue
                        for x in range(wide):
                            off = np.float32(x + shift) - middle
                            far[x] = along + off * off * share
                        for band in range(bands):
                            color = centres[label, band]
                            line = values[band, y, start:stop]
                            for x in range(wide):
                                off = line[x] - color
                                far[x] += off * off
                        for x in range(wide):
                            if far[x] < least[x]:
                                least[x] = far[x]
                                best[x] = label
                for x in range(wide):
                    labels[y, start + x] = best[x]


@compiled
def _pieces(labels: Array, pieces: Array, stack: Array, sizes: Array, owner: Array) -> int:
    """Number the 4-connected pieces of equal labels (y, x) by first pixel; how many there are.

    `sizes` and `owner` (piece,): how many pixels, and whose label. Labels below 0 are nobody's.
    """
    height, width = labels.shape
    count = 0
    for y in range(height):
        for x in range(width):
            label = labels[y, x]
            if label < 0 or pieces[y, x] != 0:
                continue
            count += 1
            pieces[y, x] = count
            stack[0] = y * width + x
            top, size = 1, 0
            while top:
                top -= 1
                size += 1
                v, u = stack[top] // width, stack[top] % width
                if v > 0 and labels[v - 1, u] == label and pieces[v - 1, u] == 0:
                    pieces[v - 1, u] = count
                    stack[top] = (v - 1) * width + u
                    top += 1
                if v + 1 < height and labels[v + 1, u] == label and pieces[v + 1, u] == 0:
                    pieces[v + 1, u] = count
                    stack[top] = (v + 1) * width + u
                    top += 1
                if u > 0 and labels[v, u - 1] == label and pieces[v, u - 1] == 0:
                    pieces[v, u - 1] = count
                    stack[top] = v * width + u - 1
                    top += 1
                if u + 1 < width and labels[v, u + 1] == label and pieces[v, u + 1] == 0:
                    pieces[v, u + 1] = count
                    stack[top] = v * width + u + 1
                    top += 1
            sizes[count] = size
            owner[count] = label
    return count
