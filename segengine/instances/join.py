"""Objects that several windows saw a part of, made one: matched where the windows overlap.

        A's shard | B's shard          every window labels `BAND` pixels beyond its own shard, so
            ######|######              both see the same few columns around their border. Objects of
            ##### | #####              one class that share at least half of the smaller one's
             band: 2 x BAND            pixels there are one object; where that is only a few pixels,
                                       each must be what the other shares most with.

Where windows do not overlap (connected components need no context), objects of one class that touch
across the border, straight or diagonally, are one. Where windows cannot differ, as an object is a function
of the pixels around it, those that share a single pixel are one. All are a union-find over border summaries
a few pixels wide; no map is held in memory.

An object wider than the overlap is seen whole by no window. Where two windows agree on it around their
border it becomes one all the same; where they do not, it stays in pieces, and each that a window saw
go on beyond its shard is flagged as cut.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from segengine.types import Cell

Ids = NDArray[np.int32]
BAND = 2
"""Pixels beyond its shard that a window's summary holds, on each side."""
SHARE = 0.5
"""Least share of the smaller object's pixels in the band that two windows must agree on."""
CERTAIN = 4 * BAND * BAND
"""Pixels of the band on which two objects are one though one of them shares more with another: as
many as an object has there that is as wide as the band. Below it each must be the other's best."""


FEW = 1 << 16
"""Pairs that are grouped without SciPy."""
STRIP = 1 << 20
"""Pixels that are counted, or given other numbers, at a time."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A window's objects, numbered 1 .. n; entry i - 1 of an array is object i's."""

    first: NDArray[np.int64]
    """(n,) its first pixel in the shard as a raster index of the frame; -1: none lies there."""
    area: NDArray[np.int64]
    """(n,) its pixels in the shard."""
    label: NDArray[np.uint16]
    """(n,) its class."""
    score: NDArray[np.float32]
    """(n,)"""
    top: Ids
    """(band, x) ids around the shard's upper border; without overlap (1, x), the first row."""
    bottom: Ids
    left: Ids
    """(band, y) ids around its left border, one row a column of the frame."""
    right: Ids
    over: NDArray[np.bool_]
    """(4, n) whether it goes on beyond the shard's upper, lower, left and right border."""


class Joined(NamedTuple):
    """The objects of a frame, numbered 1 .. n by first pixel in raster order."""

    ids: dict[Cell, NDArray[np.uint32]]
    """For each window the frame's id of its object i at entry i; 0: another window's business."""
    label: NDArray[np.uint16]
    """(n,) the class of the part with the most pixels."""
    score: NDArray[np.float32]
    """(n,) the best of its parts'."""
    parts: NDArray[np.int32]
    """(n,) windows that saw it."""
    cut: NDArray[np.bool_]
    """(n,) True where a window saw it go on beyond its shard, and the neighbour has no part of it."""


def see(
    ids: NDArray[Any],
    labels: NDArray[Any],
    inner: tuple[slice, slice],
    origin: Cell,
    width: int,
    *,
    score: NDArray[np.float32] | None = None,
    band: int = BAND,
    valid: NDArray[np.bool_] | None = None,
) -> tuple[Seen, Ids, NDArray[Any]]:
    """Summary of a window, its ids (y, x) in the shard, dense from 1, and the id each stood for.

    `ids`, `labels` (y, x) of all that was labelled; `inner`: the shard's part of it, whose first
    pixel is `origin` in a frame `width` pixels wide. `score` of the ids 0 .. max. `band` 0: windows
    do not overlap. `valid` (y, x): pixels elsewhere join parts of an object, and are none of its own.
    """
    dense, values = renumber(ids)
    count = len(values) - 1
    core = dense[inner]
    if valid is not None:
        core = np.where(valid[inner], core, np.int32(0))
    place = first_pixels(core, count)
    rows, columns = np.divmod(place, core.shape[1])
    first = np.where(place < 0, -1, (rows + origin[0]) * width + columns + origin[1])
    anywhere = first_pixels(dense, count)
    label = labels.reshape(-1)[anywhere]
    best = np.ones(count + 1, np.float32) if score is None else score[values]
    top, bottom, left, right = map(np.ascontiguousarray, _bands(dense, inner, band))
    seen = Seen(
        first=first[1:],
        area=areas_of(core, count)[1:],
        label=label[1:].astype(np.uint16),
        score=best[1:].astype(np.float32),
        top=top,
        bottom=bottom,
        left=left,
        right=right,
        over=_over(dense, inner, band, count),
    )
    return seen, core, values


def renumber(ids: NDArray[Any]) -> tuple[Ids, NDArray[Any]]:
    """Ids (y, x) as 1 .. n in their order, and the id behind each number; 0 stays, whether there or not.

    A table of the ids in use: several times as fast as sorting the pixels, which is left to ids too
    far apart.
    """
    top = int(ids.max(initial=0))
    if top > 4 * ids.size + (1 << 16):
        values, inverse = np.unique(ids, return_inverse=True)
        dense: Ids = inverse.reshape(ids.shape).astype(np.int32)
        return (dense, values) if values[0] == 0 else (dense + 1, np.concatenate([[0], values]))
    used = np.zeros(top + 1, np.bool_)
    used[ids.reshape(-1)] = used[0] = True
    numbers = np.cumsum(used, dtype=np.int32) - np.int32(1)
    return numbers[ids], np.flatnonzero(used)


def areas_of(ids: NDArray[Any], count: int) -> NDArray[np.int64]:
    """(count + 1,) pixels of each number; of strips, as NumPy makes numbers of 64 bits to count them."""
    flat, found = ids.reshape(-1), np.zeros(count + 1, np.int64)
    for start in range(0, flat.size, STRIP):
        found += np.bincount(flat[start : start + STRIP], minlength=count + 1)
    return found


def first_pixels(dense: Ids, count: int) -> NDArray[np.int64]:
    """(count + 1,) raster index of each number's first pixel; -1: it has none."""
    flat = dense.reshape(-1)
    found = np.full(count + 1, -1, np.int64)
    # only where a run begins: many times fewer than pixels
    starts = np.flatnonzero(np.concatenate([[True], flat[1:] != flat[:-1]]))[: flat.size]
    # of several assignments to one place the last stands: backwards, the first pixel's
    found[flat[starts[::-1]]] = starts[::-1]
    return found


def _bands(ids: Ids, inner: tuple[slice, slice], band: int) -> tuple[Ids, Ids, Ids, Ids]:
    """top, bottom, left, right; a side at the frame's border has what there is."""
    rows, cols = inner
    if not band:
        core = ids[inner]
        return core[:1], core[-1:], core[:, :1].T, core[:, -1:].T
    height, width = ids.shape

    def around(edge: int, size: int) -> slice:
        return slice(max(0, edge - band), min(size, edge + band))

    return (
        ids[around(rows.start, height), cols],
        ids[around(rows.stop, height), cols],
        ids[rows, around(cols.start, width)].T,
        ids[rows, around(cols.stop, width)].T,
    )


def _over(ids: Ids, inner: tuple[slice, slice], band: int, count: int) -> NDArray[np.bool_]:
    """(4, count) which objects have pixels within `band` on either side of each of four borders."""
    (rows, cols), core = inner, ids[inner]
    sides = (
        (core[:band], ids[max(0, rows.start - band) : rows.start, cols]),
        (core[-band:], ids[rows.stop : rows.stop + band, cols]),
        (core[:, :band], ids[rows, max(0, cols.start - band) : cols.start]),
        (core[:, -band:], ids[rows, cols.stop : cols.stop + band]),
    )
    found = np.zeros((2, 4, count + 1), np.bool_)
    for side, parts in enumerate(sides):
        for there, part in zip(found, parts, strict=True):
            there[side, part.reshape(-1)] = True
    over: NDArray[np.bool_] = found[0] & found[1]
    return over[:, 1:]


def join(windows: Mapping[Cell, Seen], *, overlap: bool, agreed: bool = False) -> Joined:
    """The objects of a frame from its windows' summaries; a window that is missing joins nothing.

    `agreed`: overlapping windows cannot differ, so that objects which share a pixel are one.
    """
    cells = sorted(windows)
    sizes = [len(windows[c].first) for c in cells]
    base = dict(zip(cells, np.cumsum([0, *sizes])[:-1].tolist(), strict=True))
    total = int(sum(sizes))
    if not total:
        empty = np.zeros(1, np.uint32)
        none = np.zeros(0, np.int32)
        return Joined(
            dict.fromkeys(cells, empty),
            none.astype(np.uint16),
            none.astype(np.float32),
            none,
            none.astype(np.bool_),
        )
    label = np.concatenate([windows[c].label for c in cells])
    over = np.concatenate([windows[c].over for c in cells], axis=1)
    edges = [np.zeros((0, 2), np.int64)]
    meetings = []
    for cell, here in windows.items():
        for other, mine, theirs in _borders(cell, here, windows, overlap):
            met, one = _shared(mine, theirs, agreed) if overlap else _touching(mine, theirs)
            met = met + np.array([base[cell] - 1, base[other] - 1])
            edges.append(met[one])
            meetings.append((met, (1, 0) if other[0] > cell[0] else (3, 2)))
    chosen = np.concatenate(edges)
    chosen = chosen[label[chosen[:, 0]] == label[chosen[:, 1]]]
    group = groups_of(total, chosen)
    for met, sides in meetings:  # what goes on in the neighbour is not cut there
        same = met[group[met[:, 0]] == group[met[:, 1]]]
        over[sides[0], same[:, 0]] = over[sides[1], same[:, 1]] = False
    cut: NDArray[np.bool_] = np.logical_or.reduce(over)
    return _numbered(windows, cells, sizes, group, label, cut)


def groups_of(count: int, pairs: NDArray[np.int64]) -> NDArray[np.int64]:
    """(count,) the group of each, by which pairs of them are one; numbered by their first members.

    Few pairs are not worth loading SciPy's graphs: a fifth of a second, and 35 MB.
    """
    if len(pairs) > FEW:
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        ones = np.ones(len(pairs), np.bool_)
        graph = coo_array((ones, (pairs[:, 0], pairs[:, 1])), (count, count))
        return np.asarray(connected_components(graph, directed=False)[1], np.int64)
    above: dict[int, int] = {}

    def first_of(member: int) -> int:
        first = member
        while (up := above.get(first, first)) != first:
            first = up
        while member != first:
            above[member], member = first, above[member]
        return first

    for pair in pairs.tolist():
        low, high = sorted(map(first_of, pair))
        above[high] = low
    first = np.arange(count)
    first[list(above)] = [first_of(member) for member in above]
    numbers: NDArray[np.int64] = np.cumsum(first == np.arange(count)) - 1
    return numbers[first]


def _borders(
    cell: Cell, here: Seen, windows: Mapping[Cell, Seen], overlap: bool
) -> list[tuple[Cell, Ids, Ids]]:
    """The neighbours to the right and below, and both sides' ids along the common border."""
    row, column = cell
    found: list[tuple[Cell, Ids, Ids]] = []
    right, below = windows.get((row, column + 1)), windows.get((row + 1, column))
    if right is not None:
        found.append(((row, column + 1), here.right, right.left))
    if below is not None:
        found.append(((row + 1, column), here.bottom, below.top))
    if overlap:
        return found  # an object across a corner is seen by the two windows beside it
    for side, mine, theirs in ((1, -1, 0), (-1, 0, -1)):
        corner = windows.get((row + 1, column + side))
        if corner is not None:
            other = (row + 1, column + side)
            found.append((other, here.bottom[:, [mine]], corner.top[:, [theirs]]))
    return found


def _shared(a: Ids, b: Ids, agreed: bool = False) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Pairs of objects that share a pixel, and which are one by what both windows say of them all."""
    rows, length = min(a.shape[0], b.shape[0]), min(a.shape[1], b.shape[1])
    x, y = a[:rows, :length].reshape(-1), b[:rows, :length].reshape(-1)
    both = (x > 0) & (y > 0)
    if not both.any():
        return np.zeros((0, 2), np.int64), np.zeros(0, np.bool_)
    key = x[both].astype(np.int64) << 32 | y[both]
    found, common = np.unique(key, return_counts=True)
    left, right = found >> 32, found & 0xFFFFFFFF
    if agreed:
        return np.stack([left, right], axis=1), np.ones(len(left), np.bool_)
    least = np.minimum(np.bincount(x)[left], np.bincount(y)[right])
    most = np.zeros(int(left.max()) + 1, np.int64), np.zeros(int(right.max()) + 1, np.int64)
    np.maximum.at(most[0], left, common)
    np.maximum.at(most[1], right, common)
    # a pixel or two of an object, astray on another, must not make both one
    mutual = (common == most[0][left]) & (common == most[1][right])
    chosen = (common >= SHARE * least) & (mutual | (common >= CERTAIN))
    return np.stack([left, right], axis=1), chosen


def _touching(a: Ids, b: Ids) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Pairs of objects that meet across a border, straight or diagonally, of any classes: all."""
    x, y = a.reshape(-1), b.reshape(-1)
    n = min(len(x), len(y))
    found = []
    for shift in (-1, 0, 1):
        left = x[max(0, -shift) : n - max(0, shift)]
        right = y[max(0, shift) : n - max(0, -shift)]
        both = (left > 0) & (right > 0)
        found.append(np.stack([left[both], right[both]], axis=1))
    pairs = np.unique(np.concatenate(found).astype(np.int64), axis=0)
    return pairs, np.ones(len(pairs), np.bool_)


def _numbered(
    windows: Mapping[Cell, Seen],
    cells: list[Cell],
    sizes: list[int],
    group: NDArray[Any],
    label: NDArray[np.uint16],
    cut: NDArray[np.bool_],
) -> Joined:
    first = np.concatenate([windows[c].first for c in cells])
    area = np.concatenate([windows[c].area for c in cells])
    score = np.concatenate([windows[c].score for c in cells])
    own = first >= 0
    count = int(group.max()) + 1
    start = np.full(count, np.iinfo(np.int64).max)
    np.minimum.at(start, group[own], first[own])
    order = np.argsort(start, kind="stable")
    order = order[start[order] < np.iinfo(np.int64).max]
    number = np.zeros(count, np.uint32)
    number[order] = np.arange(1, len(order) + 1, dtype=np.uint32)
    best = np.zeros(count, np.float32)
    np.maximum.at(best, group, score)
    # the class of the largest part: parts by ascending size, so that the last one written is it
    by_size = np.lexsort((-first, area))
    chosen = np.zeros(count, np.uint16)
    chosen[group[by_size]] = label[by_size]
    ids: dict[Cell, NDArray[np.uint32]] = {}
    at = 0
    for cell, size in zip(cells, sizes, strict=True):
        ids[cell] = np.concatenate([[0], number[group[at : at + size]]]).astype(np.uint32)
        at += size
    parts = np.bincount(group, minlength=count).astype(np.int32)
    open_ = np.bincount(group[cut], minlength=count) > 0
    return Joined(ids, chosen[order], best[order], parts[order], open_[order])


def components(labels: NDArray[Any], background: tuple[int, ...]) -> Ids:
    """8-connected regions of equal label (y, x), numbered from 1; `background` labels are 0."""
    import cv2

    found = np.zeros(labels.shape, np.int32)
    count = 0
    for value in np.unique(labels):
        if int(value) in background:
            continue
        here = (labels == value).view(np.uint8)
        n, ids = cv2.connectedComponents(here, connectivity=8)
        np.add(ids, count, out=found, where=here.view(np.bool_))
        count += n - 1
    return found


def renumbered(ids: NDArray[np.uint32]) -> tuple[NDArray[np.uint32], dict[int, int]]:
    """Ids (y, x) numbered by first pixel in raster order, and the new id of each old one."""
    dense, values = renumber(ids)
    first = first_pixels(dense, len(values) - 1)
    new = np.zeros(len(values), np.uint32)
    new[1 + np.argsort(first[1:])] = np.arange(1, len(values))
    return new[dense], dict(zip(values[1:].tolist(), new[1:].tolist(), strict=True))
