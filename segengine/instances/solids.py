"""Objects of a volume: which objects of a slice go on in the next.

    slice z      objects as run lengths down the columns      |  one of a class touches one of the same
    slice z + 1  theirs                                       |  class in the next slice: one solid

Two objects touch where a voxel of one has a neighbour in the other: below it alone (`connectivity` 1),
diagonally by one axis too (2), or by both (3), as SciPy's `generate_binary_structure` and scikit-image's
`label` count it. Where the objects of a slice are its regions, connected as far, solids are the regions
of the volume. One pass over the slices in order; memory is that of two slices' runs, and a few numbers
an object.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from segengine.instances.rle import stretches

VERSION = 1
"""Raised when other solids can come of the same objects."""
Ints = NDArray[np.int64]


class _Runs(NamedTuple):
    """Runs of voxels down the columns of a slice, in order of their starts."""

    start: Ints
    """Column times height, plus the first row."""
    stop: Ints
    of: Ints
    """Which object of the slice."""


@dataclass(slots=True)
class Solids:
    """Takes the slices of one volume in order, and tells the solids at the end."""

    height: int
    """Of a slice, in pixels."""
    connectivity: int = 1
    _before: _Runs | None = None
    _number: int = -2
    """Of the slice before."""
    _first: int = 0
    """Of the objects of the slice before, counted through all slices."""
    _kinds: list[Ints] = field(default_factory=list)
    _sums: list[NDArray[np.float64]] = field(default_factory=list)
    _frames: list[Ints] = field(default_factory=list)
    _links: list[Ints] = field(default_factory=list)

    def step(self, number: int, kinds: Sequence[int], rles: Sequence[str], new: bool) -> None:
        """The objects of slice `number`: their classes and COCO's counts. `new`: nothing goes on here.

        Raises ValueError for counts that are damaged.
        """
        runs, counts = _runs(rles, self.height)
        count = len(kinds)
        first = self._first + (len(self._kinds[-1]) if self._kinds else 0)
        own = np.asarray(kinds, np.int64)
        if self._before is not None and number == self._number + 1 and not new:
            above, below = _touching(self._before, runs, self.height, self.connectivity)
            same = self._kinds[-1][above] == own[below]
            pairs = np.stack([above[same] + self._first, below[same] + first], axis=1)
            self._links.append(np.unique(pairs, axis=0))
        self._before, self._number, self._first = runs, number, first
        self._kinds.append(own)
        self._sums.append(counts)
        self._frames.append(np.full(count, number, np.int64))

    def found(self) -> Found:
        """All of them, numbered from 1 by the first of their objects."""
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        kinds = _joined(self._kinds)
        links = np.concatenate([np.zeros((0, 2), np.int64), *self._links])
        each = np.ones(len(links), np.int8)
        graph = coo_array((each, (links[:, 0], links[:, 1])), shape=(len(kinds), len(kinds)))
        _, labels = connected_components(graph, directed=False)
        _, first, numbers = np.unique(labels, return_index=True, return_inverse=True)
        order = np.empty(len(first), np.int64)
        order[np.argsort(first)] = np.arange(len(first))
        sums = np.concatenate([np.zeros((0, 3)), *self._sums])
        return Found(order[numbers], kinds, _joined(self._frames), sums)


@dataclass(frozen=True, slots=True)
class Found:
    """The solids of a volume; entry i is that of object i, counted through all slices."""

    solid: Ints
    """From 0 on."""
    kind: Ints
    frame: Ints
    sums: NDArray[np.float64]
    """(object, 3) its pixels, and the sums of their rows and columns."""

    def rows(self, boxes: NDArray[np.float64]) -> list[dict[str, Any]]:
        """Class, first and last slice, voxels, centre and box of each solid; `boxes` are its objects'
        (object, 4) x, y, width, height."""
        count = int(self.solid.max()) + 1 if len(self.solid) else 0
        order = np.argsort(self.solid, kind="stable")
        starts = np.searchsorted(self.solid[order], np.arange(count))
        frame = self.frame[order]
        sums = np.add.reduceat(self.sums[order], starts) if count else self.sums[:0]
        depth = self.sums[:, 0] * self.frame
        middle = np.bincount(self.solid, depth, count)
        low = np.minimum.reduceat(boxes[order, :2], starts) if count else boxes[:0, :2]
        high = boxes[order, :2] + boxes[order, 2:]
        high = np.maximum.reduceat(high, starts) if count else high
        stops = np.append(starts, len(order))[1:]
        return [
            {
                "class": int(self.kind[order[a]]),
                "first": int(frame[a]),
                "last": int(frame[b - 1]),
                "voxels": int(total[0]),
                "centre": [value / max(1.0, total[0]) for value in (deep, total[1], total[2])],
                "box": [*left_top[::-1], *right_bottom[::-1]],
                "members": order[a:b],
            }
            for a, b, total, deep, left_top, right_bottom in zip(
                starts.tolist(), stops.tolist(), sums.tolist(), middle.tolist(),
                low.astype(int).tolist(), high.astype(int).tolist(), strict=True,
            )
        ]  # fmt: skip


def _joined(parts: list[Ints]) -> Ints:
    return np.concatenate([np.zeros(0, np.int64), *parts])


def _runs(rles: Sequence[str], height: int) -> tuple[_Runs, NDArray[np.float64]]:
    """The runs of a slice, and of each object its pixels and the sums of their rows and columns."""
    parts = [stretches(text, height) for text in rles]
    of = np.repeat(np.arange(len(parts)), [len(part[0]) for part in parts]).astype(np.int64)
    column, top, bottom = (_joined([part[i] for part in parts]) for i in range(3))
    long = bottom - top
    sums = [long, (top + bottom - 1) * long / 2, column * long]
    counts = np.stack([np.bincount(of, each, len(parts)) for each in sums], axis=1)
    order = np.argsort(column * height + top, kind="stable")
    start = column * height + top
    return _Runs(start[order], (start + long)[order], of[order]), counts.astype(np.float64)


def _touching(above: _Runs, below: _Runs, height: int, connectivity: int) -> tuple[Ints, Ints]:
    """Objects of two slices that touch, in pairs; some more than once."""
    pairs = []
    ends = np.maximum.accumulate(below.stop)  # objects that a network finds may overlap
    for aside in (0,) if connectivity == 1 else (-1, 0, 1):
        reach = int(connectivity == 3 or (connectivity == 2 and aside == 0))
        column = above.start // height
        # a run of one column, moved to another, and longer by a voxel at each end, stays in it
        low = np.maximum(above.start - reach, column * height) + aside * height
        high = np.minimum(above.stop + reach, (column + 1) * height) + aside * height
        # of all that begin before it ends, those that end after it begins
        first = np.searchsorted(ends, low, side="right")
        last = np.searchsorted(below.start, high, side="left")
        count = np.maximum(last - first, 0)
        places = np.repeat(first - np.cumsum(count) + count, count) + np.arange(count.sum())
        meet = below.stop[places] > np.repeat(low, count)
        pairs.append((np.repeat(above.of, count)[meet], below.of[places[meet]]))
    return _joined([a for a, _ in pairs]), _joined([b for _, b in pairs])
