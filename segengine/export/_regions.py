"""The 4-connected regions of a frame's classes, whole across shards, in memory of some rows.

The frame is gone through in bands of rows. What has ended above a band's last row is given away at
once; of what goes on only its corners and sums are kept. Bands depend on the frame's width alone, so
that regions, their numbers and their order do not depend on how the store is cut.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segengine.export._rings import Corners, corners, outlines
from segengine.fixed_point import to_fixed, to_float
from segengine.ground import Ground
from segengine.instances.polygons import Polygon
from segengine.types import Labels

_PIXELS = 1 << 21
"""Of a band, about."""
_UNKNOWN = np.iinfo(np.int64).min // 2
"""Added to an area of which a part cannot be told."""


@dataclass(frozen=True, slots=True)
class Region:
    """A region."""

    number: int
    """In the order of first pixels; some are left out."""
    label: int
    area: int
    """Pixels."""
    metres: float | None
    """Square metres; None: unknown."""
    probability: float | None
    """Mean, of its class over its pixels; None: not stored."""
    polygon: Polygon
    """In pixels of the frame."""


@dataclass(slots=True)
class _Open:
    """A region that goes on below."""

    label: int
    area: int = 0
    ground: int = 0
    fixed: int = 0
    corners: list[Corners] = field(default_factory=list)

    def add(self, other: _Open) -> None:
        self.area += other.area
        self.ground += other.ground
        self.fixed += other.fixed
        self.corners += other.corners


def regions(
    size: tuple[int, int],
    void: int,
    labels: Callable[[slice], Labels],
    ground: Ground | None = None,
    probabilities: Callable[[int, slice], NDArray[np.float32]] | None = None,
) -> Iterator[Region]:
    """The regions of a frame of a size; `labels` reads rows, `probabilities` those of a class."""
    height, width = size
    band = 1 << max(4, (_PIXELS // max(1, width)).bit_length() - 1)
    above = _Above(np.zeros(width, np.int64), np.full(width, void))
    open_: dict[int, _Open] = {}
    base = 0
    for top in range(0, height + 1, band):
        rows = slice(top, min(top + band, height))
        found = labels(rows)
        if top + band > height:  # below the frame is nothing
            found = np.concatenate([found, np.full((1, width), void, found.dtype)])
        parts = _parts(found, void)
        sums = _sums(found, parts, rows, ground, probabilities)
        ids, merged = above.joined(found, parts, base)
        for old, new in merged:
            gone = open_.pop(old)
            open_.setdefault(new, _Open(gone.label)).add(gone)
        before = list(open_)
        turns = corners(np.concatenate([above.ids[None], ids[parts]]), top)
        for number, own in sums.items():
            open_.setdefault(int(ids[number]), _Open(own.label)).add(own)
        last = ids[parts[-1]]
        going = set(np.unique(last).tolist())
        closed = sorted(number for number in open_ if number not in going)
        lasting = np.isin(turns.owner, [*before, *going])
        for number, some in _split(turns.of(lasting)):
            open_[number].corners.append(some)
        ended = [open_.pop(number) for number in closed]
        known = probabilities is not None
        yield from _regions(closed, ended, turns.of(~lasting), ground, known)
        above, base = _Above(last, found[-1]), base + int(parts.max(initial=0))


@dataclass(frozen=True, slots=True)
class _Above:
    """The last row of a band."""

    ids: NDArray[np.int64]
    labels: NDArray[Any]

    def joined(
        self, labels: Labels, parts: NDArray[np.int64], base: int
    ) -> tuple[NDArray[np.int64], list[tuple[int, int]]]:
        """Numbers of the parts below, (part,) from 0 for none; which numbers of above became others.

        Those of above are brought up to date.
        """
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        ids = np.arange(int(parts.max(initial=0)) + 1, dtype=np.int64) + base
        ids[0] = 0
        meet = (self.ids > 0) & (parts[0] > 0) & (labels[0] == self.labels)
        if not meet.any():
            return ids, []
        pairs = np.unique(np.stack([self.ids[meet], ids[parts[0][meet]]]), axis=1)
        nodes, places = np.unique(pairs, return_inverse=True)
        first, second = places.reshape(pairs.shape)
        links = coo_array((np.ones(len(first)), (first, second)), shape=(len(nodes), len(nodes)))
        _, group = connected_components(links, directed=False)
        least = np.full(group.max() + 1, np.iinfo(np.int64).max)
        np.minimum.at(least, group, nodes)
        new = least[group]
        below = nodes > base
        ids[nodes[below] - base] = new[below]
        changed = {
            old: to
            for old, to in zip(nodes[~below].tolist(), new[~below].tolist(), strict=True)
            if old != to
        }
        for old, to in changed.items():
            self.ids[self.ids == old] = to
        return ids, list(changed.items())


def _parts(labels: Labels, void: int) -> NDArray[np.int64]:
    """4-connected parts of rows, numbered from 1 by first pixel; 0 is void."""
    from skimage.measure import label

    found: Any = label(labels, background=void, connectivity=1)  # type: ignore[no-untyped-call]
    parts: NDArray[np.int64] = found.astype(np.int64)
    return parts


def _sums(
    labels: Labels,
    parts: NDArray[np.int64],
    rows: slice,
    ground: Ground | None,
    probabilities: Callable[[int, slice], NDArray[np.float32]] | None,
) -> dict[int, _Open]:
    """What is added up of each part."""
    count = int(parts.max(initial=0))
    area = np.bincount(parts.reshape(-1), minlength=count + 1)
    kinds = np.zeros(count + 1, np.int64)
    kinds[parts] = labels
    height = rows.stop - rows.start
    own = parts[:height]
    metres, fixed = np.zeros(count + 1, np.int64), np.zeros(count + 1, np.int64)
    if ground is not None:
        for left in range(0, own.shape[1], ground.strip):
            weights = ground.rows(rows.start, rows.stop, left)
            weights = np.where(weights < 0, _UNKNOWN // (1 << 20), weights)
            part = own[:, left : left + ground.strip]
            np.add.at(metres, part, np.broadcast_to(weights[:, None], part.shape))
    if probabilities is not None and height:
        for kind in np.unique(kinds[1:]).tolist():
            here = (labels[:height] == kind) & (own > 0)
            terms = np.nan_to_num(probabilities(kind, rows)[here])
            np.add.at(fixed, own[here], to_fixed(terms))
    return {
        number: _Open(kind, *sums)
        for number, kind, *sums in zip(
            range(1, count + 1),
            kinds[1:].tolist(),
            area[1:].tolist(),
            metres[1:].tolist(),
            fixed[1:].tolist(),
            strict=True,
        )
    }


def _split(found: Corners) -> Iterator[tuple[int, Corners]]:
    """By region."""
    numbers, starts = np.unique(found.owner, return_index=True)
    for number, (start, stop) in zip(
        numbers.tolist(), itertools.pairwise([*starts.tolist(), len(found.owner)]), strict=True
    ):
        yield number, found.of(slice(start, stop))


def _regions(
    numbers: list[int], ended: list[_Open], turns: Corners, ground: Ground | None, probable: bool
) -> Iterator[Region]:
    """Regions that have ended; `turns`: corners that are not kept with them."""
    kept = [
        part._replace(owner=np.full(len(part.owner), number))  # it may have been another's
        for number, each in zip(numbers, ended, strict=True)
        for part in each.corners
    ]
    polygons = outlines(Corners.joined([turns, *kept]))
    unit = None if ground is None else ground.exponent
    for number, each in zip(numbers, ended, strict=True):
        known = unit is not None and each.ground >= 0
        yield Region(
            number=number,
            label=each.label,
            area=each.area,
            metres=math.ldexp(each.ground, unit or 0) if known else None,
            probability=to_float(each.fixed, each.area) if probable else None,
            polygon=polygons[number],
        )
