"""Polygons, boxes, ellipses and masks of annotations as pixels of their frame.

A pixel is of a polygon if its centre is, by the even-odd rule: outlines along the edges of pixels hold
a mask exactly, and neighbours that share an edge share no pixel.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from segengine.instances.rle import compress_runs, encode_rle

MOST_POINTS = 1 << 20
"""Corners of an object."""
_FARTHEST = 1 << 20
"""Pixels from the frame's corner that a point may lie."""
_LONGEST = 1 << 25
"""Rows that the edges of an object cross, each counted."""

Points = NDArray[np.float64]
"""(point, 2) of x and y in pixels, from the upper left corner of the frame."""


class Patch(NamedTuple):
    """Pixels of an object."""

    mask: NDArray[np.bool_]
    """(y, x)"""
    corner: tuple[int, int]
    """Row and column of its first pixel in the frame."""

    def rle(self, size: tuple[int, int]) -> str:
        """Compressed counts for a frame of `size` (y, x)."""
        if not self.mask.size:
            return compress_runs(np.array([size[0] * size[1]]))
        return encode_rle(self.mask, self.corner, size)


NOTHING = Patch(np.zeros((0, 0), np.bool_), (0, 0))


def points_of(values: Any) -> Points:
    """Pairs of numbers as points. Raises ValueError with what is wrong."""
    if not isinstance(values, list | tuple):
        raise ValueError("has an outline that is no list of points")
    if len(values) > MOST_POINTS:
        raise ValueError(f"has an outline of more than {MOST_POINTS:,} points")
    for point in values:
        if not isinstance(point, list | tuple) or len(point) < 2:
            raise ValueError(f"has a point that is no pair of numbers: {point!r:.40}")
        for value in point[:2]:
            number(value)
    return np.array([point[:2] for point in values], np.float64).reshape(-1, 2)


def number(value: Any, least: float = -_FARTHEST, most: float = _FARTHEST) -> float:
    """A number of JSON, or of a text. Raises ValueError where it is none, or out of bounds."""
    if isinstance(value, str) and len(value) <= 40:
        try:
            value = float(value)
        except ValueError:
            raise ValueError(f"has {value!r} for a number") from None
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise ValueError(f"has {value!r:.40}, no number from {least:g} to {most:g}")
    return float(value)


def filled(rings: Sequence[Points], size: tuple[int, int]) -> Patch:
    """The pixels of a frame of `size` (y, x) whose centres lie in a polygon, even-odd.

    rings: exterior and holes, closed or not. Raises ValueError for one without an area's corners.
    """
    if not rings or min(map(len, rings)) < 3:
        raise ValueError("has a polygon of less than three points")
    starts = np.concatenate(rings)
    stops = np.concatenate([np.roll(ring, -1, axis=0) for ring in rings])
    # from top to bottom, so that neighbours cross a row in the same place, bit for bit
    down = (starts[:, 1] < stops[:, 1])[:, None]
    upper, lower = np.where(down, starts, stops), np.where(down, stops, starts)
    first = np.clip(np.ceil(upper[:, 1] - 0.5), 0, size[0]).astype(np.int64)
    last = np.clip(np.ceil(lower[:, 1] - 0.5), 0, size[0]).astype(np.int64)
    count = last - first
    if count.sum() > _LONGEST:
        raise ValueError(f"has an outline that crosses more than {_LONGEST:,} rows")
    edge = np.repeat(np.arange(len(count)), count)
    if not len(edge):
        return NOTHING
    row = np.arange(len(edge)) - np.repeat(np.cumsum(count) - count, count) + first[edge]
    slope = (lower[:, 0] - upper[:, 0])[edge] / (lower[:, 1] - upper[:, 1])[edge]
    x = upper[edge, 0] + (row + 0.5 - upper[edge, 1]) * slope
    column = np.clip(np.ceil(x - 0.5), 0, size[1]).astype(np.int64)
    top, left = int(row.min()), int(column.min())
    shape = int(row.max()) - top + 1, int(column.max()) - left + 1
    turns = np.bincount((row - top) * shape[1] + column - left, minlength=shape[0] * shape[1])
    mask = np.bitwise_xor.accumulate((turns & 1).astype(np.bool_).reshape(shape), axis=1)
    return Patch(mask[:, :-1], (top, left))


def together(patches: Iterable[Patch]) -> Patch:
    """The pixels of any of them."""
    found = [patch for patch in patches if patch.mask.size]
    if len(found) < 2:
        return found[0] if found else NOTHING
    top, left = (min(patch.corner[axis] for patch in found) for axis in (0, 1))
    bottom, right = (max(p.corner[axis] + p.mask.shape[axis] for p in found) for axis in (0, 1))
    mask = np.zeros((bottom - top, right - left), np.bool_)
    for each, (y, x) in found:
        own = mask[y - top : y - top + each.shape[0], x - left : x - left + each.shape[1]]
        own |= each
    return Patch(mask, (top, left))


def clipped(mask: NDArray[np.bool_], corner: tuple[int, int], size: tuple[int, int]) -> Patch:
    """The part of a mask (y, x), placed at `corner`, that lies in a frame of `size`."""
    y, x = corner
    top, left = max(0, y), max(0, x)
    part = mask[top - y : max(top, size[0]) - y, left - x : max(left, size[1]) - x]
    return Patch(part, (top, left)) if part.size else NOTHING


def rectangle(x: float, y: float, width: float, height: float) -> Points:
    """Corners of a box."""
    return np.array([(x, y), (x + width, y), (x + width, y + height), (x, y + height)], np.float64)


def turned(points: Points, degrees: float, about: tuple[float, float]) -> Points:
    """Points turned clockwise, as one sees them, about another (x, y)."""
    if not degrees:
        return points
    angle = math.radians(degrees)
    c, s = math.cos(angle), math.sin(angle)
    return np.asarray((points - about) @ np.array([[c, s], [-s, c]]) + about)


def ellipse(
    center: tuple[float, float],
    radii: tuple[float, float],
    size: tuple[int, int],
    degrees: float = 0,
) -> Patch:
    """The pixels of a frame of `size` whose centres lie in an ellipse (x, y), turned clockwise."""
    if min(radii) <= 0:
        return NOTHING
    reach = max(radii)
    top, left = (max(0, min(size[axis], math.floor(center[1 - axis] - reach))) for axis in (0, 1))
    bottom, right = (
        max(0, min(size[axis], math.ceil(center[1 - axis] + reach))) for axis in (0, 1)
    )
    if bottom <= top or right <= left:
        return NOTHING
    y, x = np.ogrid[top:bottom, left:right]
    dx, dy = x + 0.5 - center[0], y + 0.5 - center[1]
    angle = math.radians(degrees)
    c, s = math.cos(angle), math.sin(angle)
    along, across = (dx * c + dy * s) / radii[0], (dy * c - dx * s) / radii[1]
    return Patch(along**2 + across**2 <= 1, (top, left))
