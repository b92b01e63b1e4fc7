"""Closed regions between edges: a watershed of the gradient.

Flooding as Meyer's (Beucher and Meyer 1993): flat ground, the 4-connected pieces where the gradient
is low, grows uphill until the floods meet, and where they meet stays a line. The water rises in
steps, each of which takes in as many of a frame's pixels; at one step it spreads pixel by pixel, on
the pixels of even y + x and on the others by turns, so that all of a turn flood at once. The order
of the flooding spans the frame, so a frame must be whole.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_STEPS = 256
"""Levels of the water above the flat ground."""
_CLOSED = 1 << 14
"""Level of what cannot be flooded: the border, flooded pixels and lines."""


def regions(relief: NDArray[Any], limit: float, least: int) -> NDArray[np.uint32]:
    """Ids (y, x) of the regions of a relief (y, x), numbered by first pixel; 0 on the lines.

    A 4-connected piece of relief <= `limit` with at least `least` pixels is the seed of a region.
    Where no piece is so large, all are seeds; where there is none, the lowest pixels are. Each
    region is 4-connected, and no two regions touch along a pixel's side.
    """
    lost = np.isnan(relief)
    if lost.any():
        relief = np.where(lost, np.inf, relief)
    seeds = _seeds(relief <= limit, least)
    if not seeds.any():
        seeds = _seeds(relief == relief.min(), 1)
    return _numbered(_flooded(relief, seeds))


def _seeds(flat: NDArray[np.bool_], least: int) -> NDArray[np.int32]:
    """Ids of the 4-connected pieces, 0 outside; without the small ones unless all are small."""
    import cv2

    _, pieces, stats, _ = cv2.connectedComponentsWithStats(flat.view(np.uint8), connectivity=4)
    large = stats[:, cv2.CC_STAT_AREA] >= least
    large[0] = False
    ids = np.asarray(pieces, np.int32)
    if not large.any():
        return ids
    kept = np.where(large, np.arange(len(large), dtype=np.int32), 0)
    return kept.take(ids)


def _flooded(relief: NDArray[Any], seeds: NDArray[np.int32]) -> NDArray[np.int32]:
    """The seeds grown over a relief until they meet."""
    height, width = seeds.shape
    # A border of pixels that stay dry; in rows of odd length y + x is even where the place is.
    across = width + 2 + (width + 1) % 2
    ids = np.zeros((height + 2, across), np.int32)
    inside = ids[1:-1, 1 : width + 1]
    inside[:] = seeds
    level = np.full(ids.shape, _CLOSED, np.int16)
    dry = seeds == 0
    level[1:-1, 1 : width + 1][dry] = _steps(relief[dry])
    _rise(ids.reshape(-1), level.reshape(-1), across)
    return inside


def _steps(heights: NDArray[Any]) -> NDArray[np.int64]:
    """(m,) at which step the water reaches each height."""
    if not len(heights):
        return np.zeros(0, np.int64)
    ascending = np.sort(heights)
    places = np.linspace(0, len(heights) - 1, _STEPS + 1).astype(np.int64)
    return np.searchsorted(np.unique(ascending[places[1:]]), heights)


def _rise(ids: NDArray[np.int32], level: NDArray[np.int16], across: int) -> None:
    """Flood ids (place,), step by step, where the level (place,) is not closed."""
    dry = np.flatnonzero(level != _CLOSED)
    steps = level[dry]
    by_step = np.split(dry[np.argsort(steps, kind="stable")], np.cumsum(np.bincount(steps))[:-1])
    beside = np.array([[-1], [1], [-across], [across]])
    turn = np.zeros(len(ids), np.int32)  # of equal places the one whose turn is kept here counts
    for step, places in enumerate(by_step):
        places = places[level.take(places) == step]
        shore = places[ids.take(places + beside).any(axis=0)]
        level[shore] = _CLOSED
        while len(shore):
            odd = (shore & 1).astype(np.bool_)
            wet = np.concatenate(
                [_spread(ids, part, beside) for part in (shore[~odd], shore[odd]) if len(part)]
            )
            near = (wet + beside).reshape(-1)
            near = near[level.take(near) <= step]
            order = np.arange(len(near), dtype=np.int32)
            turn[near] = order
            shore = near[turn.take(near) == order]
            level[shore] = _CLOSED


def _spread(
    ids: NDArray[np.int32], places: NDArray[np.intp], beside: NDArray[np.intp]
) -> NDArray[np.intp]:
    """Flood those places, none beside another, that touch one region; the others become line."""
    around = ids.take(places + beside).view(np.uint32)
    most = around.max(axis=0)
    around -= np.uint32(1)  # dry ones become the greatest
    one = around.min(axis=0) == most - np.uint32(1)
    wet: NDArray[np.intp] = places[one]
    ids[wet] = most[one].view(np.int32)
    return wet


def _numbered(ids: NDArray[np.int32]) -> NDArray[np.uint32]:
    """The same partition numbered 1, 2, ... by first pixel in raster order; 0 stays."""
    flat = ids.ravel()
    # Where a run of equal ids begins: the first pixel of each is one of these places.
    begins = np.flatnonzero(np.diff(flat, prepend=-1))
    found = flat[begins]
    first = np.full(int(found.max(initial=0)) + 1, flat.size)
    # Of equal indices the last assignment holds: backwards, the first pixel.
    first[found[::-1]] = begins[::-1]
    occurring = np.flatnonzero(first < flat.size)
    occurring = occurring[occurring != 0]
    order = occurring[np.argsort(first[occurring])]
    number = np.zeros(len(first), np.uint32)
    number[order] = np.arange(1, len(order) + 1, dtype=np.uint32)
    return number.take(ids)
