"""Runs down the columns of large maps, and their text, by compiled loops: several times as fast as NumPy.

`segengine.instances.rle` says what they are, and finds those of few pixels without loading Numba.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segengine.compiled import compiled
from segengine.instances.join import renumber

PIXELS = 1 << 21
"""Of a map from which loading Numba is worth it."""
RUNS = 1 << 16
"""The same of runs that are written."""
Array = NDArray[Any]


def runs_down(ids: NDArray[Any]) -> tuple[NDArray[np.int64], ...]:
    """Owner, column, first row and length of each run of a map (y, x), by owner, column and row."""
    each = np.zeros(ids.shape[1], np.int64)
    _count(ids, each)
    next_ = np.cumsum(each) - each
    owner = np.zeros(int(each.sum()), ids.dtype)
    top, length = np.zeros((2, len(owner)), np.int64)
    _place(ids, next_, owner, top, length)
    dense, values = renumber(owner)
    few = len(values) <= 1 << 16
    # NumPy sorts numbers of 16 bits by counting them
    order = np.argsort(dense.astype(np.uint16) if few else dense, kind="stable")
    column = np.repeat(np.arange(len(each)), each)
    return owner[order].astype(np.int64), column[order], top[order], length[order]


@compiled
def _count(ids: Array, each: Array) -> None:
    """Add the runs of each column."""
    rows, cols = ids.shape
    for y in range(rows):
        for x in range(cols):
            if ids[y, x] != 0 and (y == 0 or ids[y, x] != ids[y - 1, x]):
                each[x] += 1


@compiled
def _place(ids: Array, next_: Array, owner: Array, top: Array, length: Array) -> None:
    """Fill the runs of each column from its place `next_` on; row by row, as the map lies in memory."""
    rows, cols = ids.shape
    for y in range(rows):
        for x in range(cols):
            if y > 0:
                if ids[y, x] == ids[y - 1, x]:
                    continue
                if ids[y - 1, x] != 0:
                    length[next_[x] - 1] = y - top[next_[x] - 1]
            if ids[y, x] != 0:
                owner[next_[x]], top[next_[x]] = ids[y, x], y
                next_[x] += 1
    for x in range(cols):
        if rows > 0 and ids[rows - 1, x] != 0:
            length[next_[x] - 1] = rows - top[next_[x] - 1]


def texts_of(
    begin: NDArray[np.int64], end: NDArray[np.int64], each: NDArray[np.int64], total: int
) -> list[str]:
    """Compressed counts of objects of which each has so many runs, in a frame of `total` pixels."""
    widest = total.bit_length() // 5 + 1  # groups of a difference of two runs
    out = np.empty((2 * len(begin) + len(each)) * widest, np.uint8)
    ends = np.zeros(len(each) + 1, np.int64)
    _write(begin, end, each, total, out, ends)
    text, places = out[: ends[-1]].tobytes().decode("ascii"), ends.tolist()
    return [text[start:stop] for start, stop in pairwise(places)]


@compiled
def _write(begin: Array, end: Array, each: Array, total: int, out: Array, ends: Array) -> None:
    """Fill out with the texts, and ends with where each begins and the last ends."""
    run, at = 0, 0
    for i in range(len(each)):
        stop, place, zeros, ones, first = run + each[i], 0, 0, 0, True
        while run < stop:
            start, last = begin[run], end[run]
            run += 1
            while run < stop and begin[run] == last:  # it goes on in the next column
                last = end[run]
                run += 1
            # of the first two runs of zeros none has one before it that counts
            at = _group(start - place - zeros, out, at)
            at = _group(last - start - ones, out, at)
            zeros, ones = 0 if first else start - place, last - start
            place, first = last, False
        if place < total or each[i] == 0:
            at = _group(total - place - zeros, out, at)
        ends[i + 1] = at


@compiled
def _group(value: int, out: Array, at: int) -> int:
    """Write a number in groups of five bits, the last of which has its sign; where the next one goes."""
    more = True
    while more:
        low = value & 0x1F
        value >>= 5
        more = value != (-1 if low & 0x10 else 0)
        out[at] = low + (0x20 if more else 0) + 48
        at += 1
    return at
