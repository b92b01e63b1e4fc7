"""Surfaces of volumes, and the distances between those of two.

Beside the labels only the places of a surface's voxels are held, and a tree of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from segengine.errors import TooLargeError
from segengine.metrics._contours import edge
from segengine.types import Steps

Sides = tuple[float, float, float]
"""Of a voxel (slice, y, x)."""
Places = NDArray[np.int64]
"""Of voxels, as they follow each other in raster order; ascending."""
LARGEST = 1 << 24
"""Voxels of one surface above which its distances are not computed: a worker's memory and time."""
_PIECE = 1 << 20
"""Voxels that are looked up at once."""
_SKEW = 1e-4
"""Cosine between axes up to which a voxel is a box: headers round."""


def sides(steps: Steps) -> Sides | Steps:
    """The sides of a voxel where it is a box, however it lies; else the steps as they are.

    >>> sides(Steps((0, 0, 2), (0, -1, 0), (3, 0, 0)))
    (2.0, 1.0, 3.0)
    """
    axes = np.array(steps, np.float64)
    lengths = np.linalg.norm(axes, axis=1)
    unit = axes / lengths[:, None]
    if np.abs(np.tril(unit @ unit.T, -1)).max() > _SKEW:
        return steps
    z, y, x = lengths.tolist()
    return z, y, x


def class_volumes(
    slices: Iterable[tuple[NDArray[np.int32], NDArray[np.int32]]],
    shape: tuple[int, int, int],
    classes: int,
) -> Iterator[tuple[int, NDArray[np.signedinteger], NDArray[np.signedinteger]]]:
    """(class, predicted, true): labels of both sides (slice, y, x) around each class of either.

    Cropped to where the class is, with a margin of one voxel that the volume's border cuts, as
    `class_boxes` crops frames. slices: predicted and true classes (y, x), -1 for none.
    """
    from scipy.ndimage import find_objects

    both = np.empty((2, *shape), np.min_scalar_type(-classes))
    low = np.full((classes, 3), np.iinfo(np.int64).max)
    high = np.zeros((classes, 3), np.int64)
    for z, pair in enumerate(slices):
        both[:, z] = pair
        for side in pair:
            for index, box in enumerate(find_objects(side + 1)):
                if box is not None:
                    rows, cols = box
                    low[index] = np.minimum(low[index], (z, rows.start, cols.start))
                    high[index] = np.maximum(high[index], (z + 1, rows.stop, cols.stop))
    for index in np.flatnonzero(high[:, 0]).tolist():
        start, stop = np.maximum(low[index] - 1, 0), np.minimum(high[index] + 1, shape)
        box = tuple(slice(a, b) for a, b in zip(start.tolist(), stop.tolist(), strict=True))
        yield index, both[0][box], both[1][box]


def surface(labels: NDArray[np.signedinteger], index: int) -> Places:
    """Voxels (slice, y, x) of a class with a 6-neighbour outside it; the border is outside.

    Raises TooLargeError where there are more than `LARGEST`.
    """
    outside = np.zeros(labels.shape[1:], np.bool_)
    found: list[Places] = []
    before, here, count = outside, labels[0] == index, 0
    for z in range(len(labels)):
        after = labels[z + 1] == index if z + 1 < len(labels) else outside
        shown = edge(here) | (here & ~(before & after))
        found.append(np.flatnonzero(shown) + z * shown.size)
        count += len(found[-1])
        if count > LARGEST:
            raise TooLargeError(f"a surface of it has more than {LARGEST:,} voxels")
        before, here = here, after
    return np.concatenate(found)


def distances(
    a: Places, b: Places, shape: tuple[int, ...], spacing: Sides | Steps
) -> NDArray[np.float64]:
    """Euclidean distance of each voxel of `a` to the nearest one of `b`, both of a box of that shape.

    Raises ValueError where `b` has none.
    """
    from scipy.spatial import cKDTree

    if not len(b):
        raise ValueError("b: has no voxel")
    apart = np.flatnonzero(b[np.minimum(np.searchsorted(b, a), len(b) - 1)] != a)
    found = np.zeros(len(a))
    if len(apart):
        tree = cKDTree(_points(b, shape, spacing), balanced_tree=False)
        for start in range(0, len(apart), _PIECE):
            part = apart[start : start + _PIECE]
            found[part] = tree.query(_points(a[part], shape, spacing))[0]
    return found


def _points(places: Places, shape: tuple[int, ...], spacing: Sides | Steps) -> NDArray[np.float64]:
    """(voxel, 3) where they lie."""
    grid = np.stack(np.unravel_index(places, shape), axis=1).astype(np.float64)
    if not isinstance(spacing, Steps):
        return np.multiply(grid, spacing)
    # no matrix product: the last bits of one depend on how many rows it has
    z, y, x = (grid[:, i, None] * np.asarray(step) for i, step in enumerate(spacing))
    placed: NDArray[np.float64] = z + y + x
    return placed
