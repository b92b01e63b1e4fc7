"""Maps of numbers by their runs along the rows: of objects these are few, and NumPy is fast with them.

Maps of many runs, of noise, are measured by compiled loops, for which Numba is loaded: 110 MB.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from segengine.compiled import compiled

RUNS = 1 << 19
"""Of a map, from which loading Numba is worth it."""
STRIP = 1 << 18
"""Pixels that are looked up at a time: what a processor holds near."""
Ids = NDArray[np.int32]
Array = NDArray[Any]


def look_up(ids: Array, table: Array, out: Array) -> None:
    """Fill out (y, x), which may be ids, with what the table has of each id."""
    step = max(1, STRIP // max(1, ids.shape[1]))
    for top in range(0, len(ids), step):
        strip = ids[top : top + step]
        flat = np.ascontiguousarray(strip).reshape(-1)
        if not flat.size:
            continue
        starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
        if len(starts) > flat.size // 4:
            out[top : top + step] = table[strip]
            continue
        values = table[flat[starts]].astype(out.dtype, copy=False)
        each = np.diff(starts, append=flat.size)
        out[top : top + step] = np.repeat(values, each).reshape(strip.shape)


class Runs(NamedTuple):
    """A map by its runs along the rows, each of which ends with its row."""

    shape: tuple[int, int]
    starts: NDArray[np.int64]
    """(run,) raster index of its first pixel."""
    numbers: NDArray[Any]
    """(run,) what the map has there."""

    @property
    def each(self) -> NDArray[np.int64]:
        """(run,) pixels."""
        return np.diff(self.starts, append=self.shape[0] * self.shape[1])

    def map(self) -> NDArray[Any]:
        """The map."""
        return np.repeat(self.numbers, self.each).reshape(self.shape)

    def look_up(self, table: Array, out: Array) -> None:
        """Fill out (y, x) with what the table has of each number, strip by strip."""
        height, width = self.shape
        values, each = table[self.numbers], self.each
        step = max(1, STRIP // max(1, width))
        tops = np.arange(0, height, step)
        bounds = [*np.searchsorted(self.starts, tops * width).tolist(), len(self.starts)]
        for top, (first, last) in zip(tops.tolist(), pairwise(bounds), strict=True):
            strip = out[top : top + step]
            strip[...] = np.repeat(values[first:last], each[first:last]).reshape(strip.shape)


def runs_of(ids: NDArray[Any]) -> Runs | None:
    """Those of a map (y, x); None: they are so many that a map is better."""
    height, width = ids.shape
    flat = np.ascontiguousarray(ids).reshape(-1)
    begins = np.ones(flat.size, np.bool_)
    np.not_equal(flat[1:], flat[:-1], out=begins[1:])
    begins.reshape(ids.shape)[:, :1] = True
    starts = np.flatnonzero(begins)
    return None if len(starts) > RUNS else Runs((height, width), starts, flat[starts])


class Figures(NamedTuple):
    """Of the numbers 0 .. n of a map; what is said of 0 is nothing."""

    area: NDArray[np.int64]
    """(n + 1,) pixels."""
    first: NDArray[np.int64]
    """(n + 1,) raster index of the first pixel; -1: there is none."""
    boxes: NDArray[np.int64]
    """(n + 1, 4) top, left, bottom and right, the latter two not included."""


def figures_of(
    ids: Ids, count: int, boxed: NDArray[np.bool_] | bool = True, runs: Runs | None = None
) -> Figures:
    """Those of the numbers 1 .. count of a map (y, x), in one pass; boxes of those `boxed`, of all or none.

    runs: the map's, where they are known.
    """
    boxes = np.zeros((count + 1, 4), np.int64)
    boxes[:, :2] = 1 << 40
    found = Figures(np.zeros(count + 1, np.int64), np.full(count + 1, -1, np.int64), boxes)
    runs = runs or runs_of(ids)
    if runs is None:
        _measure(ids, found.area, found.first, found.boxes)
        return found
    number, starts, each = runs.numbers, runs.starts, runs.each
    found.area[:] = np.bincount(number, each, count + 1)
    found.area[0] = 0
    # of several assignments to one place the last stands: backwards, the first pixel's
    found.first[number[::-1]] = starts[::-1]
    found.first[0] = -1
    if boxed is False:
        return found
    some = np.flatnonzero(number if boxed is True else boxed[number])
    number, starts, each = number[some], starts[some], each[some]
    rows = starts // max(1, ids.shape[1])
    cols = starts - rows * ids.shape[1]
    boxes[number[::-1], 0] = rows[::-1]
    boxes[number, 2] = rows + 1
    np.minimum.at(boxes[:, 1], number, cols)
    np.maximum.at(boxes[:, 3], number, cols + each)
    return found


def boxes_of(ids: Ids, count: int) -> NDArray[np.int64]:
    """(count + 1, 4) top, left, bottom and right of each id, the latter two not included."""
    return figures_of(ids, count).boxes


@compiled
def _measure(ids: Array, area: Array, first: Array, boxes: Array) -> None:
    """Fill area and first, and widen boxes to hold each pixel; run by run."""
    rows, cols = ids.shape
    for y in range(rows):
        start = 0
        while start < cols:
            number, stop = ids[y, start], start + 1
            while stop < cols and ids[y, stop] == number:
                stop += 1
            if number != 0:
                if area[number] == 0:
                    first[number] = y * cols + start
                area[number] += stop - start
                boxes[number, 0] = min(boxes[number, 0], y)
                boxes[number, 1] = min(boxes[number, 1], start)
                boxes[number, 2] = max(boxes[number, 2], y + 1)
                boxes[number, 3] = max(boxes[number, 3], stop)
            start = stop
