"""Outlines of COCO's annotations (polygons, run lengths) as runs.

Polygons are rasterised by pycocotools itself: its rule (edges on a grid five times as fine) is part of
the data set.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from segengine.instances.rle import Runs, decompress_runs

_FARTHEST = 1 << 20
"""Pixels from the image that a corner may lie."""
_LONGEST = 1 << 23
"""Pixels along the edges of an outline; pycocotools walks them in fifths, in memory."""


def outline_runs(outline: object, height: int, width: int) -> Runs:
    """Runs of an annotation's `segmentation`. Raises ValueError with what is wrong with it."""
    if isinstance(outline, list):
        return _polygon_runs(outline, height, width)
    if not isinstance(outline, dict) or "counts" not in outline:
        raise ValueError("has no outline")
    if list(outline.get("size", ())) != [height, width]:
        raise ValueError(f"is outlined for {outline.get('size')}, the image is {[height, width]}")
    counts, pixels = outline["counts"], height * width
    if not isinstance(counts, str | list):
        raise ValueError("has run lengths that are no numbers")
    if len(counts) > (8 if isinstance(counts, str) else 1) * (2 * pixels + 2):
        raise ValueError(f"has more run lengths than {height} x {width} pixels can take")
    if isinstance(counts, list) and not set(map(type, counts)) <= {int}:
        raise ValueError("has run lengths that are no whole numbers")
    try:
        runs = decompress_runs(counts) if isinstance(counts, str) else np.array(counts, np.int64)
    except (TypeError, OverflowError) as error:
        raise ValueError("has run lengths that are no numbers") from error
    if runs.ndim != 1 or ((runs < 0) | (runs > pixels)).any() or runs.sum() != pixels:
        raise ValueError(f"has run lengths that do not sum to {height} x {width} pixels")
    return runs


def _polygon_runs(polygons: list[Any], height: int, width: int) -> Runs:
    from pycocotools import mask

    if not polygons:
        raise ValueError("has no outline")
    outlines, steps = [], 0.0
    # pycocotools takes a list that begins with two points for boxes; beside an area two points
    # are a line, which fills nothing.
    if max((len(p) for p in polygons if isinstance(p, list)), default=0) < 6:
        raise ValueError("has no polygon of three points")
    for polygon in polygons:
        if not isinstance(polygon, list) or len(polygon) % 2:
            raise ValueError("has a polygon that is no list of x, y pairs")
        if len(polygon) < 4:
            raise ValueError(f"has a polygon of {len(polygon) // 2} points")
        points = _points(polygon)
        steps += float(np.abs(points - np.roll(points, 1, axis=0)).max(axis=1).sum()) + len(points)
        if steps > _LONGEST:
            raise ValueError(f"has an outline longer than {_LONGEST:,} pixels")
        outlines.append(points.ravel())
    outlines.sort(key=len, reverse=True)
    merged = mask.merge(mask.frPyObjects(outlines, height, width))
    return decompress_runs(merged["counts"].decode("ascii"))


def _points(polygon: list[Any]) -> NDArray[np.float64]:
    """Its corners (point, x y). Raises ValueError for a coordinate that is none, naming it."""
    if set(map(type, polygon)) <= {int, float}:
        try:
            points = np.array(polygon, np.float64)
        except OverflowError:
            raise ValueError("has a polygon with a coordinate of too many digits") from None
        far = ~(np.abs(points) <= _FARTHEST)
        if not far.any():
            return points.reshape(-1, 2)
        strange: Any = float(points[far][0])
    else:
        strange = next(value for value in polygon if type(value) not in (int, float))
    raise ValueError(f"has a polygon with the coordinate {strange!r:.80}")
