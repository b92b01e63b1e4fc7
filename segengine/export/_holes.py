"""Which holes of outlines are filled: those in which nothing lies that is written itself.

Areas are those of pixels, added up exactly as those of objects are, so that a hole that is smaller than
the smallest object holds none. What lies in others is looked up in the store's maps.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import cached_property
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segengine.instances.polygons import Polygon, Ring
from segengine.reader import SceneStore
from segengine.store.keys import INSTANCES, MASK


class Kept:
    """The instances of a store that are large enough to be written."""

    def __init__(self, found: Iterable[tuple[str, int, int]] | None) -> None:
        """`found`: scene, frame and id of each, by scene and frame, read when asked for; None: all are."""
        self._found = found

    def any_of(self, scene: str, frame: int, ids: NDArray[Any]) -> bool:
        """Whether one of some ids of a frame is written."""
        if self._found is None:
            return bool(len(ids))
        return bool(np.isin(ids, self._ids.get((scene, frame), [])).any())

    @cached_property
    def _ids(self) -> dict[tuple[str, int], NDArray[np.int64]]:
        return {
            place: np.array([number for _, _, number in own], np.int64)
            for place, own in groupby(self._found or (), lambda each: each[:2])
        }


class Holes:
    """The holes of a scene's objects."""

    def __init__(
        self, scene: SceneStore, most: float, least: float, kept: Kept | None = None
    ) -> None:
        """`most`: area of the largest that is filled; `least`: of the smallest object that is written.

        `kept`: of instances, which are written; None: objects are the regions of the mask.
        """
        self._scene, self._most, self._least, self._kept = scene, most, least, kept
        self._ground = scene.layout.placing.ground

    def filled(self, row: dict[str, Any], outline: list[Polygon]) -> list[Polygon]:
        """An object's outline without the holes that are filled."""
        if not self._most or all(len(polygon) == 1 for polygon in outline):
            return outline
        rest = [
            [polygon[0], *(ring for ring in polygon[1:] if not self._is_filled(row, ring))]
            for polygon in outline
        ]
        if len(rest) == 1 or all(len(a) == len(b) for a, b in zip(rest, outline, strict=True)):
            return rest
        import shapely

        # what lay in a hole may be a part of the same object
        parts = [shapely.Polygon(polygon[0], polygon[1:]) for polygon in rest]
        return polygons_of(shapely.union_all(parts))

    def _is_filled(self, row: dict[str, Any], ring: Ring) -> bool:
        if self._at_least(ring) > self._most:  # before it takes memory
            return False
        inside, rows, cols = _inside(ring)
        areas = self._areas(inside.astype(np.int64), rows, cols)
        if areas is None or areas[1] > self._most:
            return False
        frame = row["frame"]
        if self._kept is not None:
            if self._scene.array(INSTANCES) is None:
                return bool(areas[1] < self._least)
            ids = np.unique(self._scene.read(INSTANCES, frame, rows, cols)[inside])
            others = ids[(ids > 0) & (ids != row["id"])]
            return not self._kept.any_of(self._scene.name, frame, others)
        if areas[1] < self._least:
            return True
        from skimage.measure import label

        void = self._scene.void
        labels = np.where(inside, self._scene.read(MASK, frame, rows, cols), void)
        parts: Any = label(labels, background=void, connectivity=1)  # type: ignore[no-untyped-call]
        areas = self._areas(parts, rows, cols)
        return areas is not None and not any(area >= self._least for area in areas[1:])

    def _at_least(self, ring: Ring) -> float:
        """What a hole's area is at least, without its pixels."""
        x, y = (ring - ring[0]).T
        pixels = abs(float(x[:-1] @ y[1:] - x[1:] @ y[:-1])) / 2
        ground = self._ground
        if ground is None or ground.exponent is None:
            return pixels
        (left, top), (right, bottom) = (ring.min(axis=0).astype(int), ring.max(axis=0).astype(int))
        ends = [ground.rows(int(top), int(bottom), int(column)) for column in (left, right - 1)]
        least = max(0, min(int(each.min()) for each in ends))
        return pixels * math.ldexp(least, ground.exponent) / 2  # between its ends it may be less

    def _areas(self, parts: NDArray[np.int64], rows: slice, cols: slice) -> list[float] | None:
        """What `min_area` is compared with, of each part of a window; None: it cannot be told."""
        ground = self._ground
        if ground is None or ground.exponent is None:
            return [float(count) for count in np.bincount(parts.reshape(-1))]
        sums = np.zeros(int(parts.max()) + 1, np.int64)
        weights = ground.weights(rows, cols)
        if weights.min() < 0:
            return None
        np.add.at(sums, parts, weights)
        return [math.ldexp(total, ground.exponent) for total in sums.tolist()]


def _inside(ring: Ring) -> tuple[NDArray[np.bool_], slice, slice]:
    """The pixels in a ring along their edges, and the rows and columns that hold them."""
    points = ring.astype(np.int64)
    left, top = points.min(axis=0).tolist()
    right, bottom = points.max(axis=0).tolist()
    crossed = np.zeros((bottom - top, right - left + 1), np.int64)
    for (x, y), (_, end) in zip(points[:-1].tolist(), points[1:].tolist(), strict=True):
        crossed[min(y, end) - top : max(y, end) - top, x - left] += 1
    inside = (np.cumsum(crossed, axis=1)[:, :-1] & 1).astype(np.bool_)
    return inside, slice(top, bottom), slice(left, right)


def polygons_of(geometry: Any) -> list[Polygon]:
    """A shapely Polygon or MultiPolygon as rings; lines and points, which have no area, left out."""
    return [
        [np.asarray(ring.coords)[:, :2] for ring in (part.exterior, *part.interiors)]
        for part in getattr(geometry, "geoms", [geometry])
        if part.geom_type == "Polygon" and part.area > 0
    ]
