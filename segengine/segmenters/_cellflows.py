"""Objects of Cellpose beside the flows that made them: which have the flows that their shape would have.

Those lead up the heat that spreads in an object from its middle. Each step all of its pixels take the mean
of their nine neighbours', which are cold outside of it. The number of steps is twice the sides of the
largest object of the window, and at a border the heat of the object there counts, both as in the package:
what stays may depend on what is beside it. Source: Stringer et al. 2021, and version 4 of dynamics.py.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from segengine.compiled import compiled
from segengine.types import Cell

Floats = NDArray[np.float32]
Ids = NDArray[np.int32]
_Places = list[tuple[int, tuple[slice, slice]]]
LENGTH = 5.0
"""Of a flow that moves a pixel by one."""
_MOST = 1 << 37
"""Pixels that are warmed in all steps together, above which it would take longer than a shard may."""
_STEADY = 11
"""Steps, times the square of its shorter side, after which an object's heat does not change any more."""
_LEAST = 1e-60
"""Added to lengths, so that where heat is level nothing flows."""


def consistent(ids: Ids, flows: Floats, threshold: float) -> Ids:
    """Ids (y, x) without those whose flows (2, y, x) differ more from their shape's, in the mean square.

    Raises ValueError where that would take too long: steps are not bounded in the package, only objects, by
    their share of the window.
    """
    from scipy.ndimage import find_objects

    places = [(n, place) for n, place in enumerate(find_objects(ids), 1) if place is not None]
    sides = [sum(side.stop - side.start for side in place) + 2 for _, place in places]
    _require_soon(places, np.bincount(ids.reshape(-1)), 2 * max(sides, default=0))
    heat = np.zeros((ids.shape[0] + 2, ids.shape[1] + 2))
    for number, (rows, cols) in places:
        mask = ids[rows, cols] == number
        pixels = np.stack(np.nonzero(mask), axis=1)
        own = np.zeros((mask.shape[0] + 2, mask.shape[1] + 2))
        _spread(own, pixels, _middle(pixels), 2 * max(sides))
        heat[rows.start : rows.stop + 2, cols.start : cols.stop + 2] += own
    bad = np.zeros(int(ids.max(initial=0)) + 1, np.bool_)
    for number, (rows, cols) in places:
        near = heat[rows.start : rows.stop + 2, cols.start : cols.stop + 2]
        led = np.stack([near[2:, 1:-1] - near[:-2, 1:-1], near[1:-1, 2:] - near[1:-1, :-2]])
        led /= _LEAST + np.sqrt((led**2).sum(axis=0))
        away = ((led - flows[:, rows, cols] / np.float32(LENGTH)) ** 2).sum(axis=0)
        bad[number] = away[ids[rows, cols] == number].mean() > threshold
    found: Ids = np.where(bad[ids], np.int32(0), ids)
    return found


def _require_soon(places: _Places, counts: NDArray[np.int64], steps: int) -> None:
    work = 0
    for number, place in places:
        short = min(side.stop - side.start for side in place)
        work += int(counts[number]) * min(steps, _STEADY * short**2)
    if work > _MOST:
        number, place = max(places, key=lambda one: counts[one[0]])
        high, wide = (side.stop - side.start for side in place)
        raise ValueError(
            f"an object of {wide} x {high} pixels, whose flows take {steps:,} steps to compare with "
            "its shape; set flow_threshold: 0, which keeps all objects, or a smaller window"
        )


def _middle(pixels: NDArray[np.int64]) -> Cell:
    """Of an object's pixels (n, 2) the mean, rounded; where it is none of them, the nearest one.

    They count from its first row and column: halves are rounded to the even number.
    """
    mean = np.round(pixels.sum(axis=0) / len(pixels)).astype(np.int64)
    y, x = pixels[((pixels - mean) ** 2).sum(axis=1).argmin()].tolist()
    return y, x


@compiled
def _spread(heat: NDArray[np.float64], pixels: NDArray[np.int64], middle: Cell, steps: int) -> None:
    """Warm an object's pixels (n, 2) from its middle on; heat (y, x) has a cold border more.

    Terms are added in the package's order: where heat is level, the last bit says where it flows. What
    a step no longer changes has all the heat that more steps would give it.
    """
    cy, cx = middle[0] + 1, middle[1] + 1
    warmed = np.empty(pixels.shape[0])
    for _ in range(steps):
        before = heat[cy, cx]
        heat[cy, cx] += 1.0
        for i in range(pixels.shape[0]):
            y, x = pixels[i, 0] + 1, pixels[i, 1] + 1
            total = heat[y, x] + heat[y - 1, x] + heat[y + 1, x] + heat[y, x - 1] + heat[y, x + 1]
            total += heat[y - 1, x - 1]
            total += heat[y - 1, x + 1]
            total += heat[y + 1, x - 1]
            total += heat[y + 1, x + 1]
            warmed[i] = total / 9.0
        heat[cy, cx] = before
        steady = True
        for i in range(pixels.shape[0]):
            y, x = pixels[i, 0] + 1, pixels[i, 1] + 1
            steady = steady and heat[y, x] == warmed[i]
            heat[y, x] = warmed[i]
        if steady:
            break
