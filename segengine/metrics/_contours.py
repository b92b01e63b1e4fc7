"""Edges of masks, and the distances between those of two."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from segengine.metrics._options import number

Bool = NDArray[np.bool_]
Spacing = float | tuple[float, float] | tuple[float, float, float]
"""Side of a pixel, or (y, x); of a voxel (slice, y, x)."""


def edge(mask: Bool) -> Bool:
    """Pixels of a mask (y, x) with a 4-neighbour outside it; the frame's border is outside."""
    inside = np.pad(mask, 1)
    inner = inside[:-2, 1:-1] & inside[2:, 1:-1] & inside[1:-1, :-2] & inside[1:-1, 2:]
    return mask & ~inner


def crack(mask: Bool) -> Bool:
    """Pixels (y, x) that differ from their right, lower or lower right neighbour, where they have
    one: the boundary map of the DAVIS benchmark (Perazzi et al. 2016), which leaves the last out.
    """
    found = np.zeros_like(mask)
    found[:, :-1] |= mask[:, :-1] != mask[:, 1:]
    found[:-1] |= mask[:-1] != mask[1:]
    found[:-1, :-1] |= mask[:-1, :-1] != mask[1:, 1:]
    return found


def distances(a: Bool, b: Bool, spacing: Spacing = 1.0) -> NDArray[np.float64]:
    """Euclidean distance of each true pixel of `a`, in raster order, to the nearest one of `b`.

    Exact to the last bit where the spacing is whole. A tree of `b`'s pixels: its cost grows with
    the length of contours, that of a distance map with the area. Raises ValueError where `b` has none.
    """
    from scipy.spatial import cKDTree

    points = np.argwhere(b) * np.asarray(spacing, np.float64)
    if not len(points):
        raise ValueError("b: has no true pixel")
    apart = ~b[a]
    wanted = np.argwhere(a)[apart] * np.asarray(spacing, np.float64)
    found = np.zeros(len(apart))
    found[apart] = cKDTree(points, balanced_tree=False).query(wanted)[0]
    return found


def check_spacing(spacing: object) -> Spacing:
    """A positive number, two for y and x, or three with that of slices. Raises ValueError for
    anything else."""
    sides = spacing if isinstance(spacing, (list, tuple)) else (spacing,)
    found = [number("spacing", side, 0) for side in sides]
    if len(found) not in (1, 2, 3) or not all(found):
        raise ValueError(
            "spacing: must be above 0, one number, two (y, x) or three (slice, y, x), not "
            f"{spacing!r}"
        )
    first, *more = found
    return (first, more[0], more[1]) if len(more) == 2 else (first, more[0]) if more else first
