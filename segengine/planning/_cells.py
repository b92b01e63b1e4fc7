"""Boxes of rows and columns on the lattice of a map: the first of each, and those after the last."""

from __future__ import annotations

from collections.abc import Sequence

from segengine.mosaics import Cells
from segengine.tiling import round_up


def moved_by(box: Cells, by: Cells) -> Cells:
    return tuple(a - b for a, b in zip(box, by, strict=True))  # type: ignore[return-value] # four


def hull(boxes: Sequence[Cells]) -> Cells:
    tops, lefts, bottoms, rights = zip(*boxes, strict=True)
    return min(tops), min(lefts), max(bottoms), max(rights)


def whole_shards(box: Cells, side: int) -> Cells:
    """A box in whole shards: nights whose scenes lie a little aside are to need no map each."""
    top, left, bottom, right = box
    return top // side * side, left // side * side, round_up(bottom, side), round_up(right, side)


def without(box: Cells, other: Cells) -> list[Cells]:
    """What of a box another one leaves, in at most four."""
    top, left, bottom, right = box
    high, low = max(top, other[0]), min(bottom, other[2])
    first, last = max(left, other[1]), min(right, other[3])
    if high >= low or first >= last:
        return [box]
    parts = [
        (top, left, high, right),
        (low, left, bottom, right),
        (high, left, low, first),
        (high, last, low, right),
    ]
    return [part for part in parts if part[0] < part[2] and part[1] < part[3]]
