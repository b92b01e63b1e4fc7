"""Seeds for regions that grow, and which of the grown regions are one.

On a grid, the seed of each square is the pixel where the frame is most even: where the squared differences
between the neighbours on both sides, across and along, are least; on ties the one nearest to the square's
middle, then the first. Its colour is the mean of it and its four neighbours.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from segengine.compiled import compiled
from segengine.segmenters._growing import grow, planes
from segengine.segmenters._squares import View
from segengine.types import Cell, Pixels

Array = NDArray[Any]


def grown_from_grid(
    values: NDArray[np.float32], view: View, spacing: int, limit: float, reach: int
) -> NDArray[np.int32]:
    """Ids (y, x), numbered by square, of values (band, y, x); 0 where no region came."""
    rows, cols = view.bounds(0, spacing), view.bounds(1, spacing)
    origins = view.origins(0, spacing), view.origins(1, spacing)
    squares = (len(rows) - 1) * (len(cols) - 1)
    colors = np.full((squares + 1, len(values)), np.nan, np.float32)
    ids = _nobody(values)
    _most_even(values, rows, cols, *origins, spacing, ids, colors)
    grow(values, ids, colors, limit, reach)
    return np.maximum(ids, 0, out=ids)


def grown_from(
    values: NDArray[np.float32], seeds: NDArray[np.int64], limit: float, reach: int
) -> NDArray[np.int32]:
    """The same from seeds (seed, 2) at y and x, numbered in their order; those outside grow nothing."""
    ids = _nobody(values)
    colors = np.full((len(seeds) + 1, len(values)), np.nan, np.float32)
    for number, (y, x) in enumerate(seeds.tolist(), 1):
        if y < ids.shape[0] and x < ids.shape[1] and ids[y, x] == 0:
            ids[y, x] = number
            colors[number] = values[:, y, x]
    grow(values, ids, colors, limit, reach)
    return np.maximum(ids, 0, out=ids)


def flood(frame: Pixels, seed: Cell, limit: float, out: NDArray[np.uint32]) -> None:
    """The same from one seed (y, x) of a frame (y, x, band), without end: out (y, x) is 1 there, else 0."""
    import cv2

    (y, x), (height, width) = seed, out.shape
    alike = np.zeros(out.shape, np.uint8)
    if y < height and x < width:
        # Small whole numbers need no copy: as float32 they are what they are.
        plain = frame.dtype.kind in "iu" and frame.dtype.itemsize <= 2
        values = np.moveaxis(frame, -1, 0) if plain else planes(frame)
        _alike(values, values[:, y, x].astype(np.float32), limit, alike)
        if alike[y, x]:  # no NaN
            cv2.floodFill(alike, None, (x, y), (2,))
    np.equal(alike, 2, out=out)


def merged(
    values: NDArray[np.float32],
    ids: NDArray[np.int32],
    limit: float,
    rows: tuple[int, int],
    cols: tuple[int, int],
) -> NDArray[np.int32]:
    """The ids (y, x), those one that touch along a side and whose mean colours are as near as `limit`.

    Only where they touch between `rows` and `cols` counts; `limit`: greatest squared distance.
    """
    count = int(ids.max(initial=0))
    means = np.full((count + 1, len(values)), np.nan, np.float32)
    _colors(values, ids, means)
    root = np.arange(count + 1, dtype=np.int32)
    _merge(ids, means, limit, rows[0], rows[1], cols[0], cols[1], root)
    return root[ids]


def _nobody(values: NDArray[np.float32]) -> NDArray[np.int32]:
    """(y, x): -1 where a value is NaN, else 0."""
    return np.where(np.isnan(values).any(axis=0), np.int32(-1), np.int32(0))


@compiled
def _most_even(
    values: Array, rows: Array, cols: Array, tops: Array, lefts: Array, spacing: int,
    ids: Array, colors: Array,
) -> None:  # fmt: skip
    """Set the seed of each square in ids (y, x), and its colour in colors (square + 1, band)."""
    bands, height, width = values.shape
    across = len(cols) - 1
    for i in range(len(rows) - 1):
        for j in range(across):
            least, near, row, column = np.float32(np.inf), 0, -1, -1
            for y in range(rows[i], rows[i + 1]):
                up, down = max(y - 1, 0), min(y + 1, height - 1)
                for x in range(cols[j], cols[j + 1]):
                    if ids[y, x] != 0:
                        continue
                    left, right = max(x - 1, 0), min(x + 1, width - 1)
                    uneven = np.float32(0)
                    for band in range(bands):
                        a = values[band, down, x] - values[band, up, x]
                        b = values[band, y, right] - values[band, y, left]
                        uneven += a * a + b * b
                    if uneven <= least:
                        v, u = 2 * (y - tops[i]) - spacing, 2 * (x - lefts[j]) - spacing
                        off = v * v + u * u
                        if uneven < least or off < near or row < 0:
                            least, near, row, column = uneven, off, y, x
            if row < 0:
                continue
            number = i * across + j + 1
            ids[row, column] = number
            up, down = max(row - 1, 0), min(row + 1, height - 1)
            left, right = max(column - 1, 0), min(column + 1, width - 1)
            for band in range(bands):
                total = values[band, row, column] + values[band, up, column]
                total += values[band, down, column]
                total += values[band, row, left] + values[band, row, right]
                colors[number, band] = total / np.float32(5)


@compiled
def _alike(values: Array, color: Array, limit: float, out: Array) -> None:
    """Set out (y, x) to 1 where the squared distance to a colour is not beyond the limit."""
    bands, height, width = values.shape
    far = np.empty(width, np.float32)
    bound = np.float32(limit)
    for y in range(height):
        far[:] = 0
        for band in range(bands):
            line = values[band, y]
            middle = color[band]
            for x in range(width):
                off = np.float32(line[x]) - middle
                far[x] += off * off
        row = out[y]
        for x in range(width):
            row[x] = far[x] <= bound


@compiled
def _colors(values: Array, ids: Array, means: Array) -> None:
    """Fill means (id, band) with the mean of its pixels, added up in raster order."""
    bands = len(values)
    sums = np.zeros((len(means), bands), np.float64)
    counts = np.zeros(len(means), np.int64)
    for y in range(ids.shape[0]):
        for x in range(ids.shape[1]):
            number = ids[y, x]
            if number:
                counts[number] += 1
                for band in range(bands):
                    sums[number, band] += values[band, y, x]
    for number in range(1, len(means)):
        if counts[number]:
            for band in range(bands):
                means[number, band] = sums[number, band] / counts[number]


@compiled
def _root(root: Array, number: int) -> int:
    """The number that stands for all that are one with a number."""
    while root[number] != number:
        root[number] = root[root[number]]
        number = root[number]
    return number


@compiled
def _merge(
    ids: Array, means: Array, limit: float, top: int, bottom: int, left: int, right: int, root: Array
) -> None:  # fmt: skip
    """Fill root (id,) with the number that stands for all that are one."""
    bound = np.float32(limit)
    for y in range(top, bottom):
        for x in range(left, right):
            here = ids[y, x]
            if here == 0:
                continue
            for side in range(2):
                v, u = y + side, x + 1 - side
                if v >= bottom or u >= right:
                    continue
                there = ids[v, u]
                if there == 0 or there == here:
                    continue
                a, b = _root(root, here), _root(root, there)
                if a == b:
                    continue
                far = np.float32(0)
                for band in range(means.shape[1]):
                    off = means[here, band] - means[there, band]
                    far += off * off
                if far <= bound:
                    root[max(a, b)] = min(a, b)
    for number in range(len(root)):
        root[number] = _root(root, number)
