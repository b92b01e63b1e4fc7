"""Runs down the columns of maps: strips of columns turned into rows, of which NumPy finds the runs.

Maps of very many runs, of noise, are left to compiled loops, for which Numba is loaded: 110 MB.
`segengine.instances.rle` says what runs are.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from segengine.compiled import compiled
from segengine.instances.join import renumber

RUNS = 1 << 20
"""Of a map from which loading Numba is worth it."""
STRIP = 1 << 19
"""Pixels that are turned at a time: what a processor holds near."""
SMALL = 1 << 14
"""Pixels up to which NumPy turns them as fast as OpenCV."""
_TURNS = {1: np.uint8, 2: np.uint16, 4: np.int32}
"""Types that OpenCV turns, by their bytes."""
Array = NDArray[Any]


def runs_down(ids: NDArray[Any]) -> tuple[NDArray[np.int64], ...]:
    """Owner, column, first row and length of each run of a map (y, x), by owner, column and row."""
    if ids.dtype == np.bool_:
        ids = ids.view(np.uint8)
    if not ids.size:
        return tuple(np.zeros((4, 0), np.int64))
    tall, wide = ids.shape
    found: list[tuple[NDArray[Any], ...]] = []
    step, total = max(1, STRIP // tall), 0
    for left in range(0, wide, step):
        turned = _turned(ids[:, left : left + step])
        begins = np.ones(turned.shape, np.bool_)
        np.not_equal(turned[:, 1:], turned[:, :-1], out=begins[:, 1:])
        starts = np.flatnonzero(begins)
        total += len(starts)
        if total > RUNS:
            return _of_many(ids)
        owner = turned.reshape(-1)[starts]
        shown = np.flatnonzero(owner)
        begin, end = starts[shown], np.append(starts, turned.size)[shown + 1]
        found.append((owner[shown], begin + left * tall, end - begin))
    owner, starts, length = (np.concatenate(each) for each in zip(*found, strict=True))
    order = _order(owner)
    starts = starts[order]
    column = starts // tall
    return owner[order].astype(np.int64), column, starts - column * tall, length[order]


def _turned(part: NDArray[Any]) -> NDArray[Any]:
    """Some columns of a map as rows."""
    kind = _TURNS.get(part.itemsize)
    if part.size <= SMALL or kind is None or part.strides[1] != part.itemsize:
        return np.ascontiguousarray(part.T)
    import cv2

    return np.asarray(cv2.transpose(part.view(kind))).view(part.dtype)


def _order(owner: NDArray[Any]) -> NDArray[np.int64]:
    """Of runs by their owners, those of one as they are."""
    if int(owner.max(initial=0)) > np.iinfo(np.uint16).max:
        owner, values = renumber(owner)
        if len(values) > 1 << 16:
            return np.argsort(owner, kind="stable")
    # NumPy sorts numbers of 16 bits by counting them
    return np.argsort(owner.astype(np.uint16), kind="stable")


def _of_many(ids: NDArray[Any]) -> tuple[NDArray[np.int64], ...]:
    """As `runs_down`."""
    each = np.zeros(ids.shape[1], np.int64)
    _count(ids, each)
    next_ = np.cumsum(each) - each
    owner = np.zeros(int(each.sum()), ids.dtype)
    top, length = np.zeros((2, len(owner)), np.int64)
    _place(ids, next_, owner, top, length)
    order = _order(owner)
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
