"""Where the centres of pixels lie in another CRS: looked up on a mesh, and on planes in between."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from segengine.sources._grid import Grid, crs_of, inverse

SIDE = 8
"""Pixels between those that are looked up."""
NEAR = 1e-4
"""Of a pixel: by how much one in between may miss its place."""
Float = NDArray[np.float64]


def centres(
    grid: Grid, source: Grid, y: int, x: int, shape: tuple[int, int]
) -> tuple[Float, Float]:
    """(row, column) columns and lines of `source` in which the centres of pixels of `grid` lie.

    Of a block of a shape from row y and column x on; NaN: one lies nowhere. Where those halfway along the
    mesh's lines miss their place, as around a pole, each is looked up. (Those in its middles tell nothing:
    where angles are kept, the bends along x and along y cancel there.)
    """
    height, width = shape
    across, down = (np.arange(0.0, n + 1, SIDE) for n in (width, height))
    nodes = lying(grid, source, x + across, y + down)
    beside = lying(grid, source, x + across[:-1] + SIDE / 2, y + down)
    below = lying(grid, source, x + across, y + down[:-1] + SIDE / 2)
    bends = (
        (nodes[:, :, 1:] + nodes[:, :, :-1]) / 2 - beside,
        (nodes[:, 1:] + nodes[:, :-1]) / 2 - below,
    )
    at = [np.arange(n, dtype=np.float64) + 0.5 for n in (width, height)]
    if not sum(np.abs(bend).max() for bend in bends) <= NEAR:  # NaN is not
        found = lying(grid, source, x + at[0], y + at[1])
    else:
        found = _between(_between(nodes, at[1], 1), at[0], 2)
    return found[0], found[1]


def lying(grid: Grid, source: Grid, columns: Float, lines: Float) -> Float:
    """(2, row, column) column and line in `source` of places in `grid`; NaN: nowhere."""
    from rasterio.warp import transform

    places = np.meshgrid(columns, lines)
    a, b, c, d, e, f = grid.transform
    xs, ys = (
        (a * places[0] + b * places[1] + c).ravel(),
        (d * places[0] + e * places[1] + f).ravel(),
    )
    moved = transform(crs_of(grid.wkt), crs_of(source.wkt), xs.tolist(), ys.tolist())
    xs, ys = (np.asarray(axis, np.float64) for axis in moved)
    nowhere = ~(np.isfinite(xs) & np.isfinite(ys))
    xs[nowhere] = ys[nowhere] = np.nan
    a, b, c, d, e, f = inverse(source.transform)
    found = np.stack([a * xs + b * ys + c, d * xs + e * ys + f])
    return found.reshape(2, *places[0].shape)


def _between(nodes: Float, at: Float, axis: int) -> Float:
    """Values at places along an axis, on lines between nodes."""
    first = np.minimum((at // SIDE).astype(np.int64), nodes.shape[axis] - 2)
    shape = [1] * nodes.ndim
    shape[axis] = len(at)
    part = (at / SIDE - first).reshape(shape)
    low, high = (np.take(nodes, first + i, axis) for i in (0, 1))
    found: Float = low + (high - low) * part
    return found
