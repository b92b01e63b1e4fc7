"""Closed regions between edges: a watershed of the gradient.

Flooding as Meyer's (Beucher and Meyer 1993): flat ground, the 4-connected pieces where the gradient
is low, grows uphill until the floods meet, and where they meet stays a line. The water rises in
steps, each of which takes in as many of a frame's pixels; at one step it spreads pixel by pixel, on
the pixels of even y + x and on the others by turns, so that all of a turn flood at once. The order
of the flooding spans the frame, so a frame must be whole.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segengine.compiled import compiled
from segengine.types import Color, Pixels, Prediction

Array = NDArray[Any]
_STEPS = 256
"""Levels of the water above the flat ground."""
COLORS: tuple[Color, ...] = ((24, 26, 34), (104, 160, 214))
"""Of what is no region, and of regions."""
_CLOSED = 1 << 14
"""Level of what cannot be flooded: the border, flooded pixels and lines."""


def of_frames(pixels: Pixels, ids_of: Callable[[Pixels], NDArray[Any]]) -> Prediction:
    """Labels and ids (n, y, x) of frames (n, y, x, band): 1 and an id in a region, 0 elsewhere."""
    ids = np.empty(pixels.shape[:-1], np.uint32)
    for frame, out in zip(pixels, ids, strict=True):
        out[:] = ids_of(frame)
    return Prediction((ids > 0).view(np.uint8), instances=ids)


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
    return numbered(np.ascontiguousarray(_flooded(relief, seeds)))


def numbered(ids: NDArray[Any]) -> NDArray[np.uint32]:
    """Ids (y, x), contiguous, numbered by first pixel from 1 on; 0 stays."""
    out = np.empty(ids.shape, np.uint32)
    _number(ids.reshape(-1), np.zeros(int(ids.max(initial=0)) + 1, np.uint32), out.reshape(-1))
    return out


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
    flat = level.reshape(-1)
    places = np.flatnonzero(flat != _CLOSED)
    steps = flat[places]
    begins = np.concatenate(([0], np.cumsum(np.bincount(steps, minlength=1))))
    _rise(ids.reshape(-1), flat, across, places[np.argsort(steps, kind="stable")], begins)
    return inside


def _steps(heights: NDArray[Any]) -> NDArray[np.int64]:
    """(m,) at which step the water reaches each height."""
    if not len(heights):
        return np.zeros(0, np.int64)
    ascending = np.sort(heights)
    places = np.linspace(0, len(heights) - 1, _STEPS + 1).astype(np.int64)
    return np.searchsorted(np.unique(ascending[places[1:]]), heights)


@compiled
def _rise(ids: Array, level: Array, across: int, places: Array, begins: Array) -> None:
    """Flood ids (place,), step by step, where the level (place,) is not closed.

    `places` are those by their step, whose first are at `begins` (step + 1,).
    """
    beside = (-1, 1, -across, across)
    shore, later = np.empty(len(places), np.int64), np.empty(len(places), np.int64)
    for step in range(len(begins) - 1):
        size = 0
        for at in range(begins[step], begins[step + 1]):
            place = places[at]
            if level[place] == step:
                for side in beside:
                    if ids[place + side]:
                        shore[size] = place
                        size += 1
                        level[place] = _CLOSED
                        break
        while size:
            count = 0
            for parity in range(2):
                for at in range(size):
                    place = shore[at]
                    if place & 1 == parity:
                        # The one region that it touches, or none: then it is line.
                        region = 0
                        for side in beside:
                            other = ids[place + side]
                            if other and region == 0:
                                region = other
                            elif other and other != region:
                                region = -1
                        if region > 0:
                            ids[place] = region
                            later[count] = place
                            count += 1
            size = 0
            for at in range(count):
                for side in beside:
                    place = later[at] + side
                    if level[place] <= step:
                        shore[size] = place
                        size += 1
                        level[place] = _CLOSED


@compiled
def _number(ids: Array, number: Array, out: Array) -> None:
    """The same partition (place,) numbered 1, 2, ... as ids are met; 0 stays. `number` (id,) is 0."""
    last = 0
    for place in range(len(ids)):
        region = ids[place]
        if region:
            if number[region] == 0:
                last += 1
                number[region] = last
            out[place] = number[region]
        else:
            out[place] = 0
