"""Closed regions between edges: a watershed of the gradient.

Meyer's flooding (Beucher and Meyer 1993): flat ground, the 4-connected pieces where the gradient is
low, grows uphill until the floods meet, and where they meet stays a line. The order of the flooding
spans the frame, so a frame must be whole.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def regions(relief: NDArray[Any], limit: float, least: int) -> NDArray[np.uint32]:
    """Ids (y, x) of the regions of a relief (y, x), numbered by first pixel; 0 on the lines.

    A 4-connected piece of relief <= `limit` with at least `least` pixels is the seed of a region.
    Where no piece is so large, all are seeds; where there is none, the lowest pixels are. Each
    region is 4-connected, and no two regions touch along a pixel's side.
    """
    from skimage.segmentation import watershed

    relief = np.where(np.isnan(relief), np.inf, relief)
    seeds = _seeds(relief <= limit, least)
    if not seeds.any():
        seeds = _seeds(relief == relief.min(), 1)
    flooded = watershed(relief, seeds, watershed_line=True)  # type: ignore[no-untyped-call]
    return _numbered(_whole(flooded > 0, seeds > 0))


def _seeds(flat: NDArray[np.bool_], least: int) -> NDArray[np.int32]:
    """Ids of the 4-connected pieces, 0 outside; without the small ones unless all are small."""
    import cv2

    _, pieces, stats, _ = cv2.connectedComponentsWithStats(flat.view(np.uint8), connectivity=4)
    large = stats[:, cv2.CC_STAT_AREA] >= least
    large[0] = False
    if large.any():
        pieces = np.where(large[pieces], pieces, 0)
    return np.asarray(pieces, np.int32)


def _whole(dry: NDArray[np.bool_], seeds: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Ids of the 4-connected pieces off the lines that hold a seed.

    scikit-image may cut a few pixels off a region by its lines; these become line.
    """
    import cv2

    count, pieces = cv2.connectedComponents(dry.view(np.uint8), connectivity=4)
    seeded = np.zeros(count, np.bool_)
    seeded[pieces[seeds & dry]] = True
    return np.where(seeded[pieces], pieces, 0).astype(np.int32)


def _numbered(ids: NDArray[Any]) -> NDArray[np.uint32]:
    """The same partition numbered 1, 2, ... by first pixel in raster order; 0 stays."""
    flat = ids.ravel()
    first = np.full(int(flat.max(initial=0)) + 1, flat.size)
    # Of equal indices the last assignment holds: backwards, the first pixel.
    first[flat[::-1]] = np.arange(flat.size)[::-1]
    found = np.flatnonzero(first < flat.size)
    found = found[found != 0]
    order = found[np.argsort(first[found])]
    number = np.zeros(len(first), np.uint32)
    number[order] = np.arange(1, len(order) + 1, dtype=np.uint32)
    return np.asarray(number[ids])
