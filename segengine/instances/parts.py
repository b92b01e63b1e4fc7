"""Clean components that lie in several windows of a frame, made whole: what a window cannot decide.

                 | a hole that goes on beyond the window is filled where all of it, in all windows,
        ###   ###|###      is small enough and lies in objects of one class; they are one then, too
        ##  o  ##|oo ##    an object's area is that of all its parts
        ###   ###|###      it is split as a whole, where it is not larger than a worker's memory
                 |

A union-find over border lines and over the holes and objects that meet; no map is held in memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from segengine.instances.along import Runs, figures_of
from segengine.instances.cleaning import Cleaned, Cleaning, Sides
from segengine.instances.join import groups_of
from segengine.instances.splitting import LARGEST
from segengine.types import Cell

Ids = NDArray[np.int32]
NEVER = np.iinfo(np.int64).max
_SIDES = ((1, 0, "bottom", "top"), (0, 1, "right", "left"))


@dataclass(frozen=True, slots=True)
class Parts:
    """A window's components, numbered 1 .. n; entry i - 1 of an array is number i's."""

    origin: Cell
    """The window's first pixel in the frame."""
    first: NDArray[np.int64]
    """(n,) its first pixel as a raster index of the frame."""
    area: NDArray[np.int64]
    """(n,) pixels."""
    kind: NDArray[np.uint16]
    """(n,) class + 1; 0: a hole."""
    open: NDArray[np.bool_]
    """(n,) what lies beyond the window decides on it."""
    whole: NDArray[np.bool_]
    """(n,) too large to be split."""
    boxes: NDArray[np.int64]
    """(open, 4) top, left, bottom and right in the frame of those that are open, in their order."""
    meetings: NDArray[np.int64]
    """(m, 2) numbers of open holes, and of the objects beside them."""
    top: Ids
    """(x,) numbers along the first row; (0,) where the frame does not go on above."""
    bottom: Ids
    left: Ids
    right: Ids


def parts_of(
    found: Cleaned, goes_on: Sides, origin: Cell, width: int, runs: Runs | None = None
) -> Parts:
    """Summary of a window whose first pixel is `origin` in a frame `width` pixels wide.

    runs: of its ids, where they are known.
    """
    ids, count = found.ids, len(found.kind) - 1
    figures = figures_of(ids, count, found.open, runs)
    rows, columns = np.divmod(figures.first[1:], ids.shape[1])
    boxes = figures.boxes[found.open] + np.array([*origin, *origin])
    nothing = np.zeros(0, np.int32)
    lines = (ids[0], ids[-1], ids[:, 0], ids[:, -1])
    top, bottom, left, right = (
        line.astype(np.int32) if on else nothing for on, line in zip(goes_on, lines, strict=True)
    )
    return Parts(
        origin=origin,
        first=(rows + origin[0]) * width + columns + origin[1],
        area=figures.area[1:],
        kind=found.kind[1:],
        open=found.open[1:],
        whole=found.whole[1:],
        boxes=boxes,
        meetings=found.meetings,
        top=top,
        bottom=bottom,
        left=left,
        right=right,
    )


class Linked(NamedTuple):
    """The components of a frame: groups of the windows' numbers."""

    base: dict[Cell, int]
    """Where each window's numbers begin among all; they are sorted by cell."""
    group: NDArray[np.int64]
    """(all,) the group of each number; -1: dropped."""
    first: NDArray[np.int64]
    """(group,) first pixel."""
    kind: NDArray[np.uint16]
    """(group,) class + 1."""
    boxes: NDArray[np.int64]
    """(group, 4) of those that are split by `split_groups`; of others 0."""
    split: NDArray[np.bool_]
    """(group,) it is yet to be split."""
    whole: NDArray[np.bool_]
    """(group,) it is too large to be split."""
    windows: NDArray[np.int64]
    """(group,) how many windows hold parts of it."""

    def groups(self, cell: Cell, count: int) -> NDArray[np.int64]:
        """(count + 1,) the group of each of a window's numbers; -1 of 0."""
        start = self.base[cell]
        return np.concatenate([[-1], self.group[start : start + count]])


def link(windows: Mapping[Cell, Parts], cleaning: Cleaning) -> Linked:
    """The components of a frame from its windows' summaries; a window that is missing is void."""
    cells = sorted(windows)
    sizes = [len(windows[c].first) for c in cells]
    base = dict(zip(cells, np.cumsum([0, *sizes])[:-1].tolist(), strict=True))

    def every(name: str, dtype: Any) -> NDArray[Any]:
        values = [getattr(windows[c], name) for c in cells]
        return np.concatenate([np.zeros(0, dtype), *values]).astype(dtype)

    first, area = every("first", np.int64), every("area", np.int64)
    kind, open_, whole = every("kind", np.uint16), every("open", bool), every("whole", bool)
    hole = kind == 0
    pairs, lost = _across(windows, base, hole, cleaning.connectivity == 2)
    inside = [windows[c].meetings + base[c] - 1 for c in cells if len(windows[c].meetings)]
    same = pairs[(kind[pairs[:, 0]] == kind[pairs[:, 1]])]
    mixed = pairs[hole[pairs[:, 0]] != hole[pairs[:, 1]]]
    mixed = np.where(hole[mixed[:, :1]], mixed, mixed[:, ::-1])  # the hole stands first
    meetings = np.concatenate([np.zeros((0, 2), np.int64), *inside, mixed])
    filled = _filled(hole, kind, area, groups_of(len(first), same), meetings, lost, cleaning.holes)
    joining = meetings[filled[meetings[:, 0]]]
    group = groups_of(len(first), np.concatenate([same, joining]))
    return _decided(
        windows, cells, base, group, (first, area, kind, open_, whole), filled, cleaning
    )


def _across(
    windows: Mapping[Cell, Parts], base: Mapping[Cell, int], hole: NDArray[np.bool_], corners: bool
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Pairs of numbers among all that touch across a border, and which holes meet nothing or no window."""
    lost = np.zeros(len(hole), np.bool_)
    found = [np.zeros((0, 2), np.int64)]
    for cell, here in windows.items():
        for other, mine, theirs in _borders(cell, here, windows, corners):
            start = base[cell] - 1
            if theirs is None:
                _lose(lost, mine, start)
                continue
            pairs = _touching(mine, theirs, corners)
            behind = base[other] - 1
            _lose(lost, pairs[pairs[:, 1] == 0, 0], start)
            _lose(lost, pairs[pairs[:, 0] == 0, 1], behind)
            pairs = pairs[(pairs > 0).all(axis=1)]
            found.append(pairs + np.array([start, behind]))
    return np.concatenate(found), lost & hole


def _lose(lost: NDArray[np.bool_], numbers: NDArray[Any], start: int) -> None:
    lost[numbers[numbers > 0].astype(np.int64) + start] = True


def _borders(
    cell: Cell, here: Parts, windows: Mapping[Cell, Parts], corners: bool
) -> Iterator[tuple[Cell, Ids, Ids | None]]:
    """Each neighbour with both sides' numbers along the border; None: there is no such window.

    A border of two windows comes once, from the upper or left one; one without a neighbour as well.
    """
    for down, along, mine, theirs in _SIDES:
        for sign, own, their in ((1, mine, theirs), (-1, theirs, mine)):
            line = getattr(here, own)
            other = (cell[0] + sign * down, cell[1] + sign * along)
            if not len(line):
                continue
            there = windows.get(other)
            if there is None:
                yield other, line, None
            elif sign == 1:
                yield other, line, getattr(there, their)
    if not corners:
        return
    for down, along in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
        edge = here.bottom if down == 1 else here.top
        side = here.right if along == 1 else here.left
        if not (len(edge) and len(side)):
            continue
        other = (cell[0] + down, cell[1] + along)
        corner = edge[[-1 if along == 1 else 0]]
        there = windows.get(other)
        if there is None:
            yield other, corner, None
        elif down == 1:
            yield other, corner, there.top[[0 if along == 1 else -1]]


def _touching(a: Ids, b: Ids, corners: bool) -> NDArray[np.int64]:
    """Pairs of numbers, 0 among them, that meet across a border; with corners: diagonally, too."""
    n = min(len(a), len(b))
    found = []
    for shift in (-1, 0, 1) if corners else (0,):
        left = a[max(0, -shift) : n - max(0, shift)]
        right = b[max(0, shift) : n - max(0, -shift)]
        some = (left > 0) | (right > 0)
        found.append(np.stack([left[some], right[some]], axis=1))
    pairs: NDArray[np.int64] = np.unique(np.concatenate(found).astype(np.int64), axis=0)
    return pairs


def _filled(
    hole: NDArray[np.bool_],
    kind: NDArray[np.uint16],
    area: NDArray[np.int64],
    group: NDArray[np.int64],
    meetings: NDArray[np.int64],
    lost: NDArray[np.bool_],
    most: int,
) -> NDArray[np.bool_]:
    """(all,) holes that are filled: small as a whole, and in objects of one class."""
    count = int(group.max(initial=-1)) + 1
    size = np.bincount(group[hole], area[hole], minlength=count)
    low, high = np.full(count, 1 << 20, np.int64), np.zeros(count, np.int64)
    np.minimum.at(low, group[meetings[:, 0]], kind[meetings[:, 1]])
    np.maximum.at(high, group[meetings[:, 0]], kind[meetings[:, 1]])
    bad = np.bincount(group[lost], minlength=count) > 0
    good = (low == high) & (size <= most) & ~bad
    found: NDArray[np.bool_] = hole & good[group]
    return found


def _decided(
    windows: Mapping[Cell, Parts],
    cells: list[Cell],
    base: dict[Cell, int],
    group: NDArray[np.int64],
    about: tuple[NDArray[Any], ...],
    filled: NDArray[np.bool_],
    cleaning: Cleaning,
) -> Linked:
    first, area, kind, open_, whole = about
    member = (kind > 0) | filled
    count = int(group.max(initial=-1)) + 1
    start = np.full(count, NEVER)
    np.minimum.at(start, group[member], first[member])
    size = np.bincount(group[member], area[member], minlength=count)
    is_open = np.bincount(group[member & open_], minlength=count) > 0
    kept = (start < NEVER) & (~is_open | (size >= cleaning.min_area))
    kept &= np.bincount(group[kind > 0], minlength=count) > 0
    number = np.where(kept, np.cumsum(kept) - 1, -1)
    group = np.where(member, number[group], -1)
    total = int(np.count_nonzero(kept))
    kinds = np.zeros(total, np.uint16)
    objects = (group >= 0) & (kind > 0)
    kinds[group[objects]] = kind[objects]
    boxes = np.zeros((total, 4), np.int64)
    boxes[:, :2] = NEVER
    opened = [windows[c].boxes for c in cells]
    place, box = group[open_], np.concatenate([np.zeros((0, 4), np.int64), *opened])
    box, place = box[place >= 0], place[place >= 0]
    np.minimum.at(boxes[:, :2], place, box[:, :2])
    np.maximum.at(boxes[:, 2:], place, box[:, 2:])
    sides = np.maximum(boxes[:, 2:] - boxes[:, :2], 0)  # 0 of those that are not open
    wide = is_open[kept] & (sides[:, 0] * sides[:, 1] > LARGEST) & bool(cleaning.split)
    too = wide | (np.bincount(group[whole & (group >= 0)], minlength=total) > 0)
    cell_of = np.repeat(np.arange(len(cells)), [len(windows[c].first) for c in cells])
    seen = np.sort(group[group >= 0] * max(1, len(cells)) + cell_of[group >= 0])
    seen = seen[
        np.diff(seen, prepend=-1) > 0
    ]  # as `np.unique`, whose hashes take ten times as long
    held = np.bincount(seen // max(1, len(cells)), minlength=total)
    split = is_open[kept] & ~too & bool(cleaning.split)
    return Linked(base, group, start[kept], kinds, boxes, split, too, held)
