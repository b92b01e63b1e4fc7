"""How much of each pixel a polygon covers, summed by class; in whole numbers.

An edge is cut where it crosses from row to row and from column to column:

    |     |  __/|     |      left of it nothing is covered, right of it the height of the piece,
    |-----|_/---|-----|      in the pixel itself a trapezium
    |    _|/    |     |

Places are whole numbers of 2**-30 pixels and a crossing is a function of its edge and its line alone,
so that coverages do not depend on where a mask is cut, and those of polygons that share an edge add up
to what both cover. The coverage of a pixel is a whole number of 2**-28, its area on the ground one of
a unit of the scene's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segengine.compiled import compiled

Array = NDArray[Any]
BITS = 28
"""Binary digits of a coverage."""
_SIDE = 30
"""Binary digits of a place within a pixel."""
_BAND = 1 << 16
"""Pixels whose coverages are worked out at a time."""
FARTHEST = 1 << 31
"""Pixels that a place may be away from a scene's corner."""


@dataclass(frozen=True, slots=True)
class Outlines:
    """Polygons on the pixels of a scene."""

    zones: NDArray[np.int64]
    """(n,) which of the user's polygons each is, or is a part of."""
    xs: NDArray[np.int64]
    """(point,) places along columns, in 2**-30 pixels."""
    ys: NDArray[np.int64]
    """(point,) and along rows."""
    rings: NDArray[np.int64]
    """(ring + 1,) where each ring begins; a ring ends with its first point."""
    signs: NDArray[np.int64]
    """(ring,) 1 where what lies right of an edge that goes down a column is inside, else -1."""
    firsts: NDArray[np.int64]
    """(n + 1,) with which ring each polygon begins."""
    boxes: NDArray[np.int64]
    """(n, 4) first row, last row + 1, first column, last column + 1."""

    @classmethod
    def of(
        cls,
        zones: NDArray[np.int64],
        points: NDArray[np.float64],
        rings: NDArray[np.int64],
        outer: NDArray[np.bool_],
        firsts: NDArray[np.int64],
    ) -> Outlines:
        """From points (point, 2) x, y in pixels; `outer` (ring,): False for a hole."""
        snapped = np.rint(np.ldexp(points, _SIDE)).astype(np.int64)
        xs, ys = np.ascontiguousarray(snapped[:, 0]), np.ascontiguousarray(snapped[:, 1])
        twice = _twice_areas(points, rings)
        signs = np.where((twice > 0) == outer, -1, 1).astype(np.int64)
        starts = rings[firsts[:-1]]
        low = np.stack([np.minimum.reduceat(v, starts) for v in (ys, xs)], axis=1)
        high = np.stack([np.maximum.reduceat(v, starts) for v in (ys, xs)], axis=1)
        boxes = np.empty((len(zones), 4), np.int64)
        boxes[:, 0::2] = low >> _SIDE
        boxes[:, 1::2] = -((-high) >> _SIDE)
        return cls(zones=zones, xs=xs, ys=ys, rings=rings, signs=signs, firsts=firsts, boxes=boxes)

    def meeting(self, rows: slice, cols: slice) -> NDArray[np.int64]:
        """Which of them may cover a pixel of a window."""
        top, bottom, left, right = self.boxes.T
        found = (top < rows.stop) & (bottom > rows.start)
        return np.flatnonzero(found & (left < cols.stop) & (right > cols.start))


def _twice_areas(points: NDArray[np.float64], rings: NDArray[np.int64]) -> NDArray[np.float64]:
    """(ring,) twice the area, positive where x turns to y."""
    near = points - np.repeat(points[rings[:-1]], np.diff(rings), axis=0)
    cross = near[:-1, 0] * near[1:, 1] - near[1:, 0] * near[:-1, 1]
    cross = np.append(cross, 0.0)
    cross[rings[1:] - 1] = 0  # from a ring's end to the next one's begin
    return np.add.reduceat(cross, rings[:-1])


def pixels_of(outlines: Outlines) -> NDArray[np.float64]:
    """(n,) area of each polygon in pixels, whether the scene is there or not."""
    points = np.ldexp(np.stack([outlines.xs, outlines.ys], axis=1).astype(np.float64), -_SIDE)
    # a ring's sign says which way it goes around, so that a hole's area is taken away
    inside = -outlines.signs * _twice_areas(points, outlines.rings) / 2
    return np.asarray(np.add.reduceat(inside, outlines.firsts[:-1]), np.float64)


def tally(
    labels: Array,
    weights: NDArray[np.float64],
    corner: tuple[int, int],
    outlines: Outlines,
    chosen: NDArray[np.int64],
    classes: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """What the chosen polygons hold of each class, then of void, in labels (y, x).

    (chosen, class + 1) sums of coverages, in 2**-28 pixels, and of coverages times `weights` (y, x),
    each product rounded to a whole number. `corner`: row and column of the first pixel in the scene.
    """
    shape = (len(chosen), classes + 1)
    counts, grounds = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    buffer = np.empty(max(_BAND, labels.shape[1] + 1), np.int64)
    o = outlines
    _tally(
        np.ascontiguousarray(labels),
        weights,
        *corner,
        o.xs,
        o.ys,
        o.rings,
        o.signs,
        o.firsts,
        o.boxes,
        chosen,
        buffer,
        counts,
        grounds,
    )
    return counts, grounds


@compiled
def _tally(
    labels: Array,
    weights: Array,
    top: int,
    left: int,
    xs: Array,
    ys: Array,
    rings: Array,
    signs: Array,
    firsts: Array,
    boxes: Array,
    chosen: Array,
    buffer: Array,
    counts: Array,
    grounds: Array,
) -> None:
    void = counts.shape[1] - 1
    full = 1 << 28
    half = 1 << 32
    for q in range(len(chosen)):
        p = chosen[q]
        first_row = max(boxes[p, 0], top)
        last_row = min(boxes[p, 1], top + labels.shape[0])
        first = max(boxes[p, 2], left)
        last = min(boxes[p, 3], left + labels.shape[1])
        wide = last - first
        if first_row >= last_row or wide <= 0:
            continue
        step = max(1, len(buffer) // (wide + 1))
        for band in range(first_row, last_row, step):
            end = min(last_row, band + step)
            buffer[: (end - band) * (wide + 1)] = 0
            for ring in range(firsts[p], firsts[p + 1]):
                for i in range(rings[ring], rings[ring + 1] - 1):
                    _edge(
                        xs[i], ys[i], xs[i + 1], ys[i + 1], signs[ring], band, end, first, last, buffer
                    )  # fmt: skip
            for row in range(band, end):
                covered = 0
                at = (row - band) * (wide + 1)
                for c in range(wide):
                    covered += buffer[at + c]
                    part = (covered + half) >> 33
                    if part <= 0:
                        continue
                    part = min(part, full)
                    y, x = row - top, first + c - left
                    label = min(int(labels[y, x]), void)
                    counts[q, label] += part
                    grounds[q, label] += int(np.rint(part * weights[y, x]))


@compiled
def _edge(
    x0: int, y0: int, x1: int, y1: int, sign: int, band: int, end: int, first: int, last: int,
    buffer: Array,
) -> None:  # fmt: skip
    """Add what an edge changes of the coverages of rows [band, end) and columns [first, last).

    What is added at a pixel counts for all that are right of it too.
    """
    if y0 == y1:
        return
    if y0 > y1:  # the same cuts, whichever way it goes
        x0, y0, x1, y1, sign = x1, y1, x0, y0, -sign
    wide = last - first
    for row in range(max(band, y0 >> 30), min(end, ((y1 - 1) >> 30) + 1)):
        above, below = max(y0, row << 30), min(y1, (row + 1) << 30)
        xa, xb = x0, x1
        if above > y0:
            xa = x0 + int(np.rint((x1 - x0) * ((above - y0) / (y1 - y0))))
        if below < y1:
            xb = x0 + int(np.rint((x1 - x0) * ((below - y0) / (y1 - y0))))
        height = below - above
        low, high = min(xa, xb), max(xa, xb)
        at = (row - band) * (wide + 1)
        m, end_m = low >> 30, high >> 30
        start, done = low, 0
        if m < first:
            start = first << 30
            done = height
            if end_m >= first:
                done = int(np.rint(height * ((start - low) / (high - low))))
            buffer[at] += sign * (done << 31)
            m = first
        while m <= end_m and m < last:
            stop, until = high, height
            if m < end_m:
                stop = (m + 1) << 30
                until = int(np.rint(height * ((stop - low) / (high - low))))
            rise = until - done
            own = rise * ((2 << 30) - (start - (m << 30)) - (stop - (m << 30)))
            buffer[at + m - first] += sign * own
            buffer[at + m - first + 1] += sign * ((rise << 31) - own)
            start, done = stop, until
            m += 1
