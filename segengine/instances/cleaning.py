"""Components made clean: smoothed, their holes filled, specks dropped, what touches split.

    labels --> kinds: of which class a pixel's object is --> holes filled --> components --> split

Void is neither object nor hole: a hole that has void beside it is none, as nobody knows how far it goes;
nor is one between objects of several classes. The mask itself stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from segengine.compiled import compiled
from segengine.instances.along import boxes_of, figures_of, look_up
from segengine.instances.splitting import LARGEST, Split, split

VOID = 0xFFFF
"""Kind of a pixel without a label. 0 is that of no object, i + 1 that of an object of class i."""
BITS = 20
"""Of a weight of the Gaussian: their sums are integers that a double holds exactly, in any order."""
STRIP = 256
"""Rows that are smoothed at once."""
FEW = 12
"""Classes up to which looking for each is faster than finding out which there are."""
MOST = np.iinfo(np.uint16).max
"""Number that fits into 16 bits."""
PIXELS = 1 << 19
"""Of holes that may be filled, from which loading Numba is worth it."""
_BESIDE = ((-1, 0), (0, -1), (0, 1), (1, 0), (-1, -1), (-1, 1), (1, -1), (1, 1))
Kinds = NDArray[np.uint16]
Ids = NDArray[Any]
"""Of 16 or 32 bits."""
Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Cleaning:
    """What is done to the components of a mask."""

    classes: tuple[int, ...]
    """Labels that are objects."""
    connectivity: int = 1
    """1: pixels that share an edge are connected; 2: a corner too. Of holes as of objects."""
    smooth: float = 0.0
    """Sigma of a Gaussian, in pixels; 0: none."""
    holes: int = 0
    """Largest hole that is filled, in pixels."""
    min_area: int = 0
    """Smallest object that stays, in pixels."""
    split: str = ""
    """watershed, distance, hmaxima; empty: not."""
    min_distance: int = 5
    """Between seeds, in pixels."""
    height: float = 1.0
    """Of seeds above the way to a higher one, in pixels."""

    @property
    def reach(self) -> int:
        """Pixels beyond itself that a pixel's kind depends on."""
        return int(4 * self.smooth + 0.5)

    def of(self, ids: Ids, count: int, whole: NDArray[np.bool_] | None = None) -> Split:
        """The components 1 .. count of a map, split as is asked."""
        return split(
            ids,
            count,
            self.split,
            min_distance=self.min_distance,
            height=self.height,
            connectivity=self.connectivity,
            whole=whole,
        )


Sides = tuple[bool, bool, bool, bool]
"""Whether a frame goes on above, below, left and right of a window."""
WHOLE: Sides = (False, False, False, False)


class Cleaned(NamedTuple):
    """A window's components. Numbers 1 .. n; entry 0 of an array is nothing's."""

    ids: Ids
    """(y, x)"""
    kind: Kinds
    """(n + 1,) class + 1 of an object; 0: a hole that may be filled."""
    open: NDArray[np.bool_]
    """(n + 1,) what lies beyond the window decides on it: all holes, and the objects that touch a side
    where the frame goes on, or such a hole. What is not open is done."""
    whole: NDArray[np.bool_]
    """(n + 1,) too large to be split."""
    meetings: NDArray[np.int64]
    """(m, 2) open holes, and the objects beside them."""


def kinds_of(
    labels: NDArray[Any], void: int, cleaning: Cleaning, inner: tuple[slice, slice]
) -> Kinds:
    """Of which class's object each pixel (y, x) of `inner` is, by labels (y, x) with void.

    `labels` must reach `cleaning.reach` pixels beyond `inner`, but for the frame's border, where the
    Gaussian sees the frame reflected (SciPy's mode `reflect`).
    """
    table = np.zeros(int(np.iinfo(labels.dtype).max) + 1, np.uint16)
    for label in cleaning.classes:
        table[label] = label + 1
    table[void] = VOID
    if not cleaning.reach:
        kinds: Kinds
        if labels.dtype == np.uint8 and labels[inner].size:
            import cv2

            kinds = np.asarray(cv2.LUT(labels[inner], table), np.uint16)
        else:
            kinds = table[labels[inner]]
        return kinds
    core = labels[inner]
    found = np.where(core == void, np.uint16(VOID), np.uint16(0))
    for label in cleaning.classes:
        for rows, near in _smoothed(labels, label, cleaning, inner):
            part = found[rows]
            part[near & (part != VOID)] = label + 1
    return found


def _smoothed(
    labels: NDArray[Any], label: int, cleaning: Cleaning, inner: tuple[slice, slice]
) -> Iterable[tuple[slice, NDArray[np.bool_]]]:
    """Strips of `inner` and where the blurred mask of a label exceeds one half."""
    import cv2

    reach = cleaning.reach
    kernel = gaussian(cleaning.smooth)
    half = kernel.sum() ** 2 / 2
    height, width = labels.shape
    rows, cols = inner
    left, right = max(0, reach - cols.start), max(0, cols.stop + reach - width)
    across = slice(max(0, cols.start - reach), min(width, cols.stop + reach))
    order = np.pad(np.arange(height), reach, mode="symmetric")
    for start in range(rows.start, rows.stop, STRIP):
        stop = min(start + STRIP, rows.stop)
        there = labels[order[start : stop + 2 * reach], across] == label
        if not there.any():
            continue
        strip = there.astype(np.float64)
        if left or right:
            strip = np.pad(strip, ((0, 0), (left, right)), mode="symmetric")
        blurred = cv2.sepFilter2D(strip, cv2.CV_64F, kernel, kernel, borderType=cv2.BORDER_CONSTANT)
        near = blurred[reach : reach + stop - start, reach : reach + cols.stop - cols.start] > half
        yield slice(start - rows.start, stop - rows.start), near


def gaussian(sigma: float) -> NDArray[np.float64]:
    """(2 r + 1,) weights of a Gaussian up to 4 sigma, integers of `BITS` bits together, about."""
    radius = int(4 * sigma + 0.5)
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    rounded: NDArray[np.float64] = np.rint(weights / weights.sum() * (1 << BITS))
    return rounded


def clean(kinds: Kinds, cleaning: Cleaning, goes_on: Sides = WHOLE) -> Cleaned:
    """The components of a window's kinds (y, x), which are changed where holes are filled."""
    places, holes, count = _fill(kinds, cleaning, goes_on)
    ids, kind = _components(kinds, cleaning.connectivity, [c + 1 for c in cleaning.classes])
    objects = len(kind) - 1
    open_ = np.zeros(objects + 1, np.bool_)
    _mark_border(ids, goes_on, open_)
    meetings = np.zeros((0, 2), np.int64)
    if count:
        if objects + count > MOST:
            ids = ids.astype(np.int32, copy=False)
        ids.reshape(-1)[places] = holes + np.int32(objects)
        kind = np.concatenate([kind, np.zeros(count, np.uint16)])
        open_ = np.concatenate([open_, np.ones(count, np.bool_)])
        meetings = _meetings(ids, places, objects, cleaning.connectivity)
        open_[meetings[:, 1]] = True
    return _finished(ids, kind, open_, meetings, cleaning)


def clean_frame(
    labels: NDArray[Any], void: int, cleaning: Cleaning
) -> tuple[NDArray[np.uint32], NDArray[np.uint16], NDArray[np.bool_]]:
    """Ids (y, x) of a whole frame by first pixel in raster order, by its labels (y, x) with void.

    And of each id, entry 0 of none, its class, and whether it was too large to be split.
    """
    kinds = kinds_of(labels, void, cleaning, (slice(0, labels.shape[0]), slice(0, labels.shape[1])))
    found = clean(kinds, cleaning)
    order = 1 + np.argsort(figures_of(found.ids, len(found.kind) - 1, boxed=False).first[1:])
    numbers = np.zeros(len(found.kind), np.uint32)
    numbers[order] = np.arange(1, len(found.kind), dtype=np.uint32)
    order = np.concatenate([[0], order])
    ids = np.empty(found.ids.shape, np.uint32)
    look_up(found.ids, numbers, ids)
    return ids, classes_of(found.kind[order]), found.whole[order]


def classes_of(kind: Kinds) -> NDArray[np.uint16]:
    """Classes of objects by their kinds; 0 of what is none."""
    found: NDArray[np.uint16] = np.maximum(kind, 1) - np.uint16(1)
    return found


def _finished(
    ids: Ids, kind: Kinds, open_: NDArray[np.bool_], meetings: NDArray[np.int64], how: Cleaning
) -> Cleaned:
    """Small ones that are not open dropped, the others split, all numbered anew."""
    if how.min_area > 1 and not open_[1:].all():
        area = figures_of(ids, len(kind) - 1, boxed=False).area
        kept = open_ | (area >= how.min_area)
        kept[0] = False
        ids, numbers = renumbered_by(ids, kept)
        kind, open_ = kind[kept_first(kept)], open_[kept_first(kept)]
        meetings = numbers[meetings].astype(np.int64).reshape(-1, 2)
    whole = np.zeros(len(kind), np.bool_)
    if not how.split or open_[1:].all():
        return Cleaned(ids, kind, open_, whole, meetings)
    # those that are done are split; the open ones stand behind them
    ids = ids.astype(np.int32, copy=False)
    whole |= too_large(ids, len(kind) - 1) & ~open_
    at = np.flatnonzero(open_[ids])
    opened = ids.reshape(-1)[at]
    done, old = renumbered_by(ids, ~open_ & (np.arange(len(kind)) > 0))
    count = int(old.max())
    back = np.flatnonzero(old)
    parts, owner = how.of(done, count, np.concatenate([[False], whole[back]]))
    source = np.concatenate([[0], back])[owner]
    later = np.flatnonzero(open_)
    numbers = np.zeros(len(kind), np.int32)
    numbers[later] = np.arange(len(source), len(source) + len(later))
    parts.reshape(-1)[at] = numbers[opened]
    every = np.concatenate([source, later])
    return Cleaned(
        parts, kind[every], open_[every], whole[every], numbers[meetings].astype(np.int64)
    )


def kept_first(kept: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Places of those that are kept, behind 0."""
    return np.concatenate([[0], np.flatnonzero(kept)])


def renumbered_by(ids: Ids, kept: NDArray[np.bool_]) -> tuple[Ids, Ids]:
    """Ids (y, x) of those that are kept, 1 .. n in their order, in place, and the number of each."""
    numbers = np.where(kept, np.cumsum(kept, dtype=np.int32), np.int32(0)).astype(np.int32)
    if not kept[1:].all():
        look_up(ids, numbers, ids)
    return ids, numbers


def too_large(ids: Ids, count: int) -> NDArray[np.bool_]:
    """(count + 1,) whose bounding box has more pixels than can be split."""
    found = np.zeros(count + 1, np.bool_)
    if ids.size > LARGEST:
        boxes = boxes_of(ids, count)
        sides = boxes[:, 2:] - boxes[:, :2]
        found = sides[:, 0] * sides[:, 1] > LARGEST
        found[0] = False
    return found


def _fill(kinds: Kinds, cleaning: Cleaning, goes_on: Sides) -> tuple[NDArray[np.int64], Ids, int]:
    """Fill the holes that are known to be; pixels and numbers of those that others decide on, how many."""
    if not cleaning.holes:
        return np.zeros(0, np.int64), np.zeros(0, np.int32), 0
    count, ids = _connected((kinds == 0).view(np.uint8), cleaning.connectivity)
    small = figures_of(ids, count - 1, boxed=False).area <= cleaning.holes
    small[0] = False
    inside = np.empty(ids.shape, np.bool_)
    look_up(ids, small, inside)
    places = np.flatnonzero(inside)
    del inside
    number = ids.reshape(-1)[places].astype(np.int32)
    low, high = np.full(count, VOID + 1, np.int32), np.zeros(count, np.int32)
    if len(places) > PIXELS:
        _beside(ids.astype(np.int32), kinds, small, cleaning.connectivity, low, high)
    else:
        for which, other in _around(places, kinds, cleaning.connectivity):
            np.minimum.at(low, number[which], other)
            np.maximum.at(high, number[which], other)
    maybe = small & (high < VOID) & (low >= high)  # at most one class is beside it
    beyond = np.zeros(count, np.bool_)
    _mark_border(ids, goes_on, beyond)
    filled = (maybe & ~beyond & (high > 0))[number]
    kinds.reshape(-1)[places[filled]] = high[number[filled]]
    opened = maybe & beyond
    numbers = np.cumsum(opened, dtype=np.int32)
    later = opened[number]
    return places[later], numbers[number[later]], int(numbers[-1])


def _around(
    places: NDArray[np.int64], values: NDArray[Any], connectivity: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[Any]]]:
    """What of a map (y, x) lies beside some places and is not 0, direction by direction: beside which."""
    rows, cols = values.shape
    y, x = np.divmod(places, cols)
    flat = values.reshape(-1)
    for down, along in _BESIDE[: 4 * connectivity]:
        there = (y + down >= 0) & (y + down < rows) & (x + along >= 0) & (x + along < cols)
        which = np.flatnonzero(there)
        other = flat[places[which] + (down * cols + along)]
        some = other != 0
        yield which[some], other[some]


def _mark_border(ids: Ids, goes_on: Sides, found: NDArray[np.bool_]) -> None:
    """Mark the ids that touch a side where the frame goes on."""
    for side, line in zip(goes_on, (ids[0], ids[-1], ids[:, 0], ids[:, -1]), strict=True):
        if side:
            found[line] = True
    found[0] = False


def _components(kinds: Kinds, connectivity: int, values: Sequence[int]) -> tuple[Ids, Kinds]:
    """Connected regions of one kind, numbered from 1, and the kind of each; `values`: kinds there may be.

    Of the numbers that fit there are 16 bits: half the memory, and done sooner.
    """
    ids: Ids | None = None
    kind: list[NDArray[np.uint16]] = [np.zeros(1, np.uint16)]
    total = 0
    for value in values if len(values) <= FEW else _present(kinds):
        here = (kinds == value).view(np.uint8)
        count, found = _connected(here, connectivity)
        if count == 1:
            continue
        if ids is None:
            ids = found
        else:
            if total + count > MOST:
                ids, found = ids.astype(np.int32, copy=False), found.astype(np.int32, copy=False)
            elif ids.dtype != found.dtype:
                found = found.astype(ids.dtype)
            np.add(found, ids.dtype.type(total), out=ids, where=here.view(np.bool_))
        kind.append(np.full(count - 1, value, np.uint16))
        total += count - 1
    if ids is None:
        ids = np.zeros(kinds.shape, np.uint16)
    return ids, np.concatenate(kind)


def _connected(here: NDArray[np.uint8], connectivity: int) -> tuple[int, Ids]:
    """How many regions of a mask (y, x) there are, and 0; and the number of each pixel."""
    import cv2

    try:
        found = cv2.connectedComponents(here, connectivity=4 * connectivity, ltype=cv2.CV_16U)
    except cv2.error:  # it has met more
        found = cv2.connectedComponents(here, connectivity=4 * connectivity)
    return int(found[0]), np.asarray(found[1])


def _present(kinds: Kinds) -> list[int]:
    """The kinds there are, but those of no object; of strips, as NumPy makes an index of 64 bits of all."""
    present = np.zeros(VOID + 1, np.bool_)
    for start in range(0, len(kinds), STRIP):
        present[kinds[start : start + STRIP]] = True
    present[[0, VOID]] = False
    found: list[int] = np.flatnonzero(present).tolist()
    return found


@compiled
def _beside(
    ids: Array, kinds: Array, small: Array, connectivity: int, low: Array, high: Array
) -> None:
    """Fill low and high with the kinds beside each small region."""
    rows, cols = ids.shape
    for y in range(rows):
        for x in range(cols):
            number = ids[y, x]
            if not small[number]:
                continue
            for v in range(max(0, y - 1), min(rows, y + 2)):
                for u in range(max(0, x - 1), min(cols, x + 2)):
                    other = kinds[v, u]
                    if other == 0 or (connectivity == 1 and v != y and u != x):
                        continue
                    low[number] = min(low[number], other)
                    high[number] = max(high[number], other)


def _meetings(
    ids: Ids, places: NDArray[np.int64], objects: int, connectivity: int
) -> NDArray[np.int64]:
    """(m, 2) numbers above `objects`, whose pixels are `places`, and those up to it beside them."""
    number = ids.reshape(-1)[places].astype(np.int64)
    found = [np.zeros((0, 2), np.int64)]
    for which, other in _around(places, ids, connectivity):
        mine = other <= objects
        found.append(np.stack([number[which][mine], other[mine].astype(np.int64)], axis=1))
    pairs: NDArray[np.int64] = np.unique(np.concatenate(found), axis=0)
    return pairs
