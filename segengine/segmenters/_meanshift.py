"""Mean-shift filtering: each pixel moves to the middle of what is near it and like it, and again.

The stable filter of Michel, Youssefi and Grizonnet (2015), that of Orfeo ToolBox' MeanShiftSmoothing
without mode search: every pixel goes its own way, and none looks at where another went. A way of so
many steps goes no further than steps times radius, so that what lies beyond decides nothing.

Place and value count together: a neighbour counts where `(distance / spatial)^2 + (difference /
range)^2 <= 1`. Distances are float32, each by itself; what is added up are integers. Where a pixel is,
is counted from where it began. So no bit depends on where a window lies.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segengine.compiled import compiled

Array = NDArray[Any]
Part = tuple[slice, slice]
FINE = 1024
"""Steps of a radius in which it is told where a pixel ends: in place and in value."""
FAR = float(1 << 23)
"""Most steps of what is no integer of 8 or 16 bits: float32 holds them all."""
_NOWHERE = 3e38
"""Value of what is nobody's neighbour: its square is infinite."""
_LANES = 8
"""Windows are whole vectors wide: loops over them have no rest."""
_AT_ONCE = 4
"""Bands."""


@dataclass(frozen=True, slots=True)
class Filter:
    """How pixels move."""

    spatial: int
    """Radius in pixels."""
    range: float
    """Radius in the units of the pixels."""
    iterations: int
    """Most steps."""
    convergence: float
    """Square of a step, in pixels and units, below which a pixel rests."""

    @property
    def reach(self) -> int:
        """Pixels beyond which nothing decides where a pixel ends."""
        return self.iterations * self.spatial

    def connect(
        self, pixels: NDArray[Any], valid: NDArray[np.bool_], part: Part, near: float, like: float
    ) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
        """Links and values of a part of a frame (y, x, band), where valid (y, x).

        1: a pixel and its right neighbour end within `near` and `like` of the radii, strictly; 2: so do
        it and the lower one. Values are steps, `FINE` a radius.
        """
        rows, cols = part
        shape = rows.stop - rows.start, cols.stop - cols.start
        links = np.zeros(shape, np.uint8)
        values = np.zeros((*shape, pixels.shape[-1]), np.int32)
        if not links.size:
            return links, values
        moved = np.zeros((*shape, 2), np.int32)
        unit = self._unit(pixels.dtype)
        lanes = -(-(2 * self.spatial + 1) // _LANES) * _LANES
        planes, bands = self._planes(pixels, valid, unit, lanes), pixels.shape[-1]
        _shift(
            planes.reshape(-1),
            np.array([bands, *planes.shape[1:], lanes]),
            np.array([rows.start, cols.start]),
            np.ascontiguousarray(valid),
            np.array([self.spatial, self.iterations]),
            np.array([self.range / unit, unit * unit, self.convergence, unit * FINE / self.range]),
            values,
            moved,
        )
        limits = (near * FINE) ** 2, (like * FINE) ** 2
        _link(np.ascontiguousarray(valid[rows, cols]), values, moved, *limits, links)
        return links, values

    def tells(self, dtype: np.dtype[Any]) -> bool:
        """Whether int32 counts the steps of the radius up to all values of a dtype."""
        return not _is_small(dtype) or np.iinfo(dtype).max * (FINE / self.range) < 1 << 31

    def _unit(self, dtype: np.dtype[Any]) -> float:
        """What one step of the planes' whole numbers is worth."""
        return 1.0 if _is_small(dtype) else self.range / FINE

    def _planes(
        self, pixels: NDArray[Any], valid: NDArray[np.bool_], unit: float, lanes: int
    ) -> NDArray[np.float32]:
        """(band, y, x) whole numbers, wider than the frame by a window."""
        height, width, bands = pixels.shape
        shape = -(-bands // _AT_ONCE) * _AT_ONCE, height, width + lanes
        planes = np.zeros(shape, np.float32)
        planes[0, :, width:] = _NOWHERE
        for band in range(bands):
            plane = planes[band, :, :width]
            plane[:] = pixels[..., band]
            if unit != 1:
                with np.errstate(over="ignore"):
                    np.divide(plane, np.float32(unit), out=plane)
                np.nan_to_num(plane, copy=False)
                np.clip(np.rint(plane, out=plane), -FAR, FAR, out=plane)
        planes[0, :, :width][~valid] = _NOWHERE
        return planes


def _is_small(dtype: np.dtype[Any]) -> bool:
    """True for integers of 8 and 16 bits, which are taken as they are."""
    return dtype.kind in "ui" and dtype.itemsize <= 2


@compiled
def _shift(
    planes: Array,
    layout: Array,
    first: Array,
    valid: Array,
    most: Array,
    scale: Array,
    values: Array,
    moved: Array,
) -> None:
    """Fill values and moved (y, x, ...), whose first pixel is `first` of the frame.

    planes: (band, y, x) without its shape. layout: bands, height, width, width of a plane, lanes. most:
    radius and steps. scale: the range, the square of a unit, the convergence, steps told a unit.
    """
    bands, height, across, lanes = layout
    spatial, iterations = most
    plane = height * across
    norm = np.empty((2 * spatial + 1) * lanes, np.float32)
    centre, sums = np.zeros(bands + 4), np.zeros(bands + 4, np.int64)
    one, near = np.float32(1), np.float32(1.0 / (spatial * spatial))
    like = np.float32(1.0 / (scale[0] * scale[0]))
    p1, p2, p3 = plane, 2 * plane, 3 * plane
    for i in range(values.shape[0]):
        for j in range(values.shape[1]):
            y, x = first[0] + i, first[1] + j
            if not valid[y, x]:
                continue
            down = along = 0.0
            for b in range(bands):
                centre[b] = planes[b * plane + y * across + x]
            for _ in range(iterations):
                top = max(int(np.ceil(down - spatial)), -y)
                bottom = min(int(np.floor(down + spatial)), height - 1 - y)
                left = max(int(np.ceil(along - spatial)), -x)
                start = np.float32(left - along)
                base = (y + top) * across + x + left
                # how far each pixel of the window is, four bands at once
                for g in range(0, bands, 4):
                    c0, c1 = np.float32(centre[g]), np.float32(centre[g + 1])
                    c2, c3 = np.float32(centre[g + 2]), np.float32(centre[g + 3])
                    for r in range(bottom - top + 1):
                        # without a sign an index is no place from the end, which would be looked for
                        at, to = np.uint64(g * plane + base + r * across), np.uint64(r * lanes)
                        off = np.float32((top + r - down) * (top + r - down)) * near
                        if g == 0:
                            for k in range(lanes):
                                u = start + np.float32(k)
                                d0 = planes[at + np.uint64(k)] - c0
                                d1 = planes[at + np.uint64(p1 + k)] - c1
                                d2 = planes[at + np.uint64(p2 + k)] - c2
                                d3 = planes[at + np.uint64(p3 + k)] - c3
                                square = d0 * d0 + d1 * d1 + d2 * d2 + d3 * d3
                                norm[to + np.uint64(k)] = off + u * u * near + square * like
                        else:
                            for k in range(lanes):
                                d0 = planes[at + np.uint64(k)] - c0
                                d1 = planes[at + np.uint64(p1 + k)] - c1
                                d2 = planes[at + np.uint64(p2 + k)] - c2
                                d3 = planes[at + np.uint64(p3 + k)] - c3
                                square = d0 * d0 + d1 * d1 + d2 * d2 + d3 * d3
                                norm[to + np.uint64(k)] += square * like
                count = sum_y = sum_x = 0
                for g in range(0, bands, 4):
                    s0 = s1 = s2 = s3 = 0
                    for r in range(bottom - top + 1):
                        at, to = np.uint64(g * plane + base + r * across), np.uint64(r * lanes)
                        if g == 0:
                            here = 0
                            for k in range(lanes):
                                inside = norm[to + np.uint64(k)] <= one
                                here += 1 if inside else 0
                                sum_x += k if inside else 0
                            count += here
                            sum_y += here * r
                        for k in range(lanes):
                            inside = norm[to + np.uint64(k)] <= one
                            v0 = np.int32(planes[at + np.uint64(k)])
                            v1 = np.int32(planes[at + np.uint64(p1 + k)])
                            v2 = np.int32(planes[at + np.uint64(p2 + k)])
                            v3 = np.int32(planes[at + np.uint64(p3 + k)])
                            s0 += int(v0) if inside else 0
                            s1 += int(v1) if inside else 0
                            s2 += int(v2) if inside else 0
                            s3 += int(v3) if inside else 0
                    sums[g], sums[g + 1], sums[g + 2], sums[g + 3] = s0, s1, s2, s3
                if count == 0:
                    break
                step_y, step_x = top + sum_y / count - down, left + sum_x / count - along
                down += step_y
                along += step_x
                shift = 0.0
                for b in range(bands):
                    step = sums[b] / count - centre[b]
                    shift += step * step
                    centre[b] += step
                if shift * scale[1] + step_y * step_y + step_x * step_x < scale[2]:
                    break
            for b in range(bands):
                values[i, j, b] = int(np.rint(centre[b] * scale[3]))
            moved[i, j, 0] = int(np.rint(down * (1024 / spatial)))
            moved[i, j, 1] = int(np.rint(along * (1024 / spatial)))


@compiled
def _link(
    valid: Array, values: Array, moved: Array, near: float, like: float, links: Array
) -> None:
    """Fill links (y, x); near, like: squares, in steps."""
    rows, cols, bands = values.shape
    for y in range(rows):
        for x in range(cols):
            if not valid[y, x]:
                continue
            for side in range(2):
                v, u = y + side, x + 1 - side
                if v >= rows or u >= cols or not valid[v, u]:
                    continue
                off_y = float(moved[y, x, 0] - moved[v, u, 0])
                off_x = float(moved[y, x, 1] - moved[v, u, 1])
                if off_y * off_y + off_x * off_x >= near:
                    continue
                apart = 0.0
                for b in range(bands):
                    step = float(values[y, x, b]) - float(values[v, u, b])
                    apart += step * step
                if apart < like:
                    links[y, x] |= 1 + side
