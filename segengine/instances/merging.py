"""Regions of linked pixels that go over any number of windows, and the small ones merged, exactly.

        A's shard | B's shard         a window sees one row and one column of its lower and right
            11112 | 2 2               neighbour: what it numbers there is what the neighbour numbers
            11332 | 4 4               there, pixel by pixel, and so the numbers of both are one region
                    ^ seen by A, too

A region smaller than asked is merged with the neighbour whose mean value is nearest, as in Orfeo
ToolBox' LSMSSmallRegionsMerging: first all regions of one pixel, then all of two, and so on; those of
one size at once, by what they were before. Of equally near ones the one that begins first counts.

Sizes and sums of values are integers, so that nothing depends on the cut. A window tells of each region
its size and sums, and of small ones what they touch; no map is held in memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from segengine.compiled import compiled
from segengine.types import Cell, Connected

Ids = NDArray[np.int32]
Array = NDArray[Any]
NEVER = np.iinfo(np.int64).max
_RECENT = 1 << 16
"""Pairs that are remembered, so that few are told twice."""


@dataclass(frozen=True, slots=True)
class Parcels:
    """A window's parts of regions, numbered 1 .. n; entry i - 1 of an array is number i's."""

    first: NDArray[np.int64]
    """(n,) its first pixel in the shard as a raster index of the frame; -1: none lies there."""
    area: NDArray[np.int64]
    """(n,) its pixels in the shard."""
    sums: NDArray[np.int64]
    """(n, band) its values in the shard, added up."""
    meetings: Ids
    """(m, 2) numbers that touch and are not one, of which one may be small; some often."""
    top: Ids
    """(x,) numbers along the shard's first row."""
    left: Ids
    below: Ids
    """(x,) numbers along the first row below the shard; (0,) where the frame ends."""
    right: Ids


class Merged(NamedTuple):
    """What becomes of the numbers of a window; entry i is that of number i."""

    ids: NDArray[np.uint32]
    """The frame's id, by first pixel in raster order; 0: none."""
    parts: NDArray[np.bool_]
    """Other windows have pixels of it too."""


def parcels_of(
    found: Connected,
    valid: NDArray[np.bool_],
    inner: tuple[slice, slice],
    origin: Cell,
    width: int,
    least: int,
) -> tuple[Parcels, Ids]:
    """Summary of a window, and its numbers (y, x) in the shard; 0 where it is not valid (y, x).

    `found` of one frame, and valid, hold more than the shard, which is their part `inner` and begins at
    `origin` in a frame `width` pixels wide. `least`: pixels from which on a region is not small.
    """
    rows, cols = inner
    height, across = rows.stop - rows.start, cols.stop - cols.start
    seen = slice(rows.start, rows.stop + 1), slice(cols.start, cols.stop + 1)
    there = np.array(valid[seen])
    there[height:, across:] = False  # the corner is what neither side sees
    links = np.ascontiguousarray(found.links[0][seen])
    ids = np.zeros(there.shape, np.int32)
    count = _number(links, there, ids, np.zeros(ids.size + 1, np.int32))
    core = np.ascontiguousarray(ids[:height, :across])
    values = np.ascontiguousarray(found.values[0])
    area, place = np.zeros(count, np.int64), np.full(count, -1, np.int64)
    sums = np.zeros((count, values.shape[-1]), np.int64)
    _measure(core, values, rows.start, cols.start, area, place, sums)
    down, along = np.divmod(place, across)
    nothing = np.zeros(0, np.int32)
    parcels = Parcels(
        first=np.where(place < 0, -1, (down + origin[0]) * width + along + origin[1]),
        area=area,
        sums=sums,
        meetings=_meetings(ids, (height, across), area, least),
        top=core[0].copy(),
        left=core[:, 0].copy(),
        below=ids[height, :across].copy() if len(ids) > height else nothing,
        right=ids[:height, across].copy() if len(ids[0]) > across else nothing,
    )
    return parcels, core


def merge(windows: Mapping[Cell, Parcels], least: int, drops: bool) -> dict[Cell, Merged]:
    """The regions of a frame from its windows' summaries; of one that is missing counts what others saw.

    Regions of fewer than `least` pixels are merged, or with `drops` they get no id. One that touches
    nothing stays as it is.
    """
    cells = sorted(windows)
    sizes = [len(windows[c].first) for c in cells]
    starts = np.cumsum([0, *sizes])
    base = dict(zip(cells, starts[:-1].tolist(), strict=True))
    every = [windows[c] for c in cells]
    if not starts[-1]:
        return {c: Merged(np.zeros(1, np.uint32), np.zeros(1, np.bool_)) for c in cells}
    first = np.concatenate([w.first for w in every])
    area, sums = (np.concatenate([getattr(w, name) for w in every]) for name in ("area", "sums"))
    first[first < 0] = NEVER
    size, start = area.copy(), first.copy()
    same = np.concatenate([np.zeros((0, 2), np.int64), *_seams(windows, base)])
    parent = np.arange(starts[-1], dtype=np.int64)
    _unite(parent, same, size, sums, start)
    if least > 1 and not drops:
        pairs = [windows[c].meetings.astype(np.int64) + (base[c] - 1) for c in cells]
        _merge(parent, np.concatenate(pairs), size, sums, start, least)
    _flatten(parent)
    roots = np.flatnonzero((parent == np.arange(len(parent))) & (size >= (least if drops else 1)))
    ids = np.zeros(len(parent), np.uint32)
    ids[roots[np.argsort(start[roots])]] = np.arange(1, len(roots) + 1, dtype=np.uint32)
    cell = np.repeat(np.arange(len(cells)), sizes)
    held = np.unique(parent[area > 0] * len(cells) + cell[area > 0]) // len(cells)
    several = np.bincount(held, minlength=len(parent)) > 1
    decided = {}
    for at, (here, count) in enumerate(zip(cells, sizes, strict=True)):
        group = parent[starts[at] : starts[at] + count]
        decided[here] = Merged(
            np.concatenate([np.zeros(1, np.uint32), ids[group]]),
            np.concatenate([np.zeros(1, np.bool_), several[group]]),
        )
    return decided


def merged_frames(
    found: Connected, valid: NDArray[np.bool_], least: int, drops: bool
) -> NDArray[np.uint32]:
    """Ids (n, y, x) of the regions of whole frames, where valid (n, y, x)."""
    out = np.zeros(valid.shape, np.uint32)
    for i, ids in enumerate(out):
        height, width = ids.shape
        frame = Connected(found.links[i : i + 1], found.values[i : i + 1])
        inner = slice(0, height), slice(0, width)
        parcels, numbers = parcels_of(frame, valid[i], inner, (0, 0), width, least)
        ids[:] = merge({(0, 0): parcels}, least, drops)[0, 0].ids[numbers]
    return out


def _seams(windows: Mapping[Cell, Parcels], base: Mapping[Cell, int]) -> list[NDArray[np.int64]]:
    """Pairs of numbers among all that two windows give to one pixel."""
    found = []
    for (row, column), here in windows.items():
        sides = (((row + 1, column), here.below, "top"), ((row, column + 1), here.right, "left"))
        for other, mine, name in sides:
            if other in windows and len(mine):
                theirs = getattr(windows[other], name)
                both = (mine > 0) & (theirs > 0)
                pairs = np.stack([mine[both], theirs[both]], axis=1).astype(np.int64)
                found.append(pairs + np.array([base[row, column] - 1, base[other] - 1]))
    return found


def _meetings(ids: Ids, core: tuple[int, int], area: NDArray[np.int64], least: int) -> Ids:
    """(m, 2) numbers beside each other, of which one is in the shard's `core` and may be small."""
    if least < 2:
        return np.zeros((0, 2), np.int32)
    found = np.empty((core[0] * core[1] // 4 + 1024, 2), np.int32)
    recent = np.zeros((_RECENT, 2), np.int32)
    count = _meet(ids, *core, area, least, recent, found)
    if count > len(found):
        found = np.empty((count, 2), np.int32)
        recent[:] = 0
        _meet(ids, *core, area, least, recent, found)
    return found[:count].copy()


@compiled
def _root(parent: Array, number: int) -> int:
    """What a number is one with in the end; the way there gets shorter."""
    while parent[number] != number:
        parent[number] = parent[parent[number]]
        number = parent[number]
    return number


@compiled
def _number(links: Array, valid: Array, ids: Array, parent: Array) -> int:
    """Fill ids (y, x) with 1 .. n by first pixel in raster order; how many. `parent` is 0."""
    rows, cols = ids.shape
    last = 0
    for y in range(rows):
        for x in range(cols):
            if not valid[y, x]:
                continue
            found = 0
            if x > 0 and valid[y, x - 1] and links[y, x - 1] & 1:
                found = ids[y, x - 1]
            if y > 0 and valid[y - 1, x] and links[y - 1, x] & 2:
                above = ids[y - 1, x]
                if found == 0:
                    found = above
                elif found != above:
                    a, b = _root(parent, found), _root(parent, above)
                    # the earlier is what both are
                    parent[max(a, b)] = min(a, b)
                    found = min(a, b)
            if found == 0:
                last += 1
                parent[last] = last
                found = last
            ids[y, x] = found
    # a root stands before all that are one with it
    count = 0
    for i in range(1, last + 1):
        if parent[i] == i:
            count += 1
            parent[i] = count
        else:
            parent[i] = parent[parent[i]]
    for y in range(rows):
        for x in range(cols):
            ids[y, x] = parent[ids[y, x]]
    return count


@compiled
def _measure(
    ids: Array, values: Array, top: int, left: int, area: Array, first: Array, sums: Array
) -> None:
    """Add up pixels and values of each number, and find the first of its pixels.

    values hold more than ids (y, x): theirs begin at top, left.
    """
    rows, cols = ids.shape
    for y in range(rows):
        for x in range(cols):
            at = ids[y, x] - 1
            if at >= 0:
                if area[at] == 0:
                    first[at] = y * cols + x
                area[at] += 1
                for b in range(values.shape[2]):
                    sums[at, b] += values[top + y, left + x, b]


@compiled
def _meet(
    ids: Array, rows: int, cols: int, area: Array, least: int, recent: Array, found: Array
) -> int:
    """Fill found with pairs; how many there are. `recent` (place, 2): pairs that were just told."""
    count = 0
    for y in range(rows):
        for x in range(cols):
            own = ids[y, x]
            if own == 0:
                continue
            for side in range(2):
                v, u = y + side, x + 1 - side
                if v >= ids.shape[0] or u >= ids.shape[1]:
                    continue
                other = ids[v, u]
                if other == 0 or other == own:
                    continue
                if area[own - 1] >= least and area[other - 1] >= least:
                    continue
                a, b = min(own, other), max(own, other)
                at = (a * 31 + b * 17) % len(recent)
                if recent[at, 0] == a and recent[at, 1] == b:
                    continue
                recent[at, 0], recent[at, 1] = a, b
                if count < len(found):
                    found[count, 0], found[count, 1] = a, b
                count += 1
    return count


@compiled
def _join(parent: Array, a: int, b: int, size: Array, sums: Array, first: Array) -> None:
    """Make root b one with root a."""
    parent[b] = a
    size[a] += size[b]
    first[a] = min(first[a], first[b])
    for band in range(sums.shape[1]):
        sums[a, band] += sums[b, band]


@compiled
def _unite(parent: Array, pairs: Array, size: Array, sums: Array, first: Array) -> None:
    """Make one what pairs (m, 2) say is one."""
    for i in range(len(pairs)):
        a, b = _root(parent, pairs[i, 0]), _root(parent, pairs[i, 1])
        if a != b:
            _join(parent, a, b, size, sums, first)


@compiled
def _flatten(parent: Array) -> None:
    for i in range(len(parent)):
        parent[i] = _root(parent, i)


@compiled
def _merge(parent: Array, pairs: Array, size: Array, sums: Array, first: Array, least: int) -> None:
    """Merge what is smaller than `least`, size by size. Size, sums and first are those of roots."""
    count = len(parent)
    # neighbours, linked: a region's go from `head` by `after` to `tail`
    head, tail = np.full(count, -1, np.int64), np.full(count, -1, np.int64)
    to, after = np.empty(2 * len(pairs), np.int64), np.full(2 * len(pairs), -1, np.int64)
    for i in range(len(pairs)):
        for side in range(2):
            a, b = _root(parent, pairs[i, side]), _root(parent, pairs[i, 1 - side])
            at = 2 * i + side
            to[at] = b
            after[at] = head[a]
            head[a] = at
            if tail[a] < 0:
                tail[a] = at
    # regions of each size; one that has grown is entered again, and its old entry holds no more
    begin = np.full(least, -1, np.int64)
    who, behind = np.empty(2 * count, np.int64), np.empty(2 * count, np.int64)
    entries = 0
    for i in range(count):
        if parent[i] == i and 0 < size[i] < least:
            who[entries], behind[entries] = i, begin[size[i]]
            begin[size[i]] = entries
            entries += 1
    turn, chosen = np.empty(count, np.int64), np.empty(count, np.int64)
    done = np.zeros(count, np.int64)
    for now in range(1, least):
        number = 0
        entry = begin[now]
        while entry >= 0:
            own = who[entry]
            entry = behind[entry]
            if parent[own] != own or size[own] != now or done[own] == now:
                continue
            done[own] = now
            best, nearest = -1, np.inf
            at = head[own]
            while at >= 0:
                other = _root(parent, to[at])
                at = after[at]
                if other == own or size[other] == 0:
                    continue
                apart = 0.0
                for band in range(sums.shape[1]):
                    off = sums[own, band] / size[own] - sums[other, band] / size[other]
                    apart += off * off
                if apart < nearest or (apart == nearest and first[other] < first[best]):
                    best, nearest = other, apart
            if best >= 0:
                turn[number], chosen[number] = own, best
                number += 1
        for i in range(number):
            a, b = _root(parent, turn[i]), _root(parent, chosen[i])
            if a == b:
                continue
            _join(parent, a, b, size, sums, first)
            if head[a] < 0:
                head[a], tail[a] = head[b], tail[b]
            elif head[b] >= 0:
                after[tail[a]] = head[b]
                tail[a] = tail[b]
            if size[a] < least:
                who[entries], behind[entries] = a, begin[size[a]]
                begin[size[a]] = entries
                entries += 1
