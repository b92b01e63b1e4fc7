"""Polygons brought from their CRS to the pixels of a scene.

What is straight in the polygons' CRS stays so: an edge that would stray more than a hundredth of a pixel
gets further points. Longitudes are taken by the turn that brings them to the scene, so that one that lies
across the antimeridian has its polygons from both sides. Of a polygon that is much larger than a scene
only what is near it is brought there.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segengine.areas.coverage import FARTHEST, Outlines, pixels_of
from segengine.areas.features import Polygons, turn_of
from segengine.errors import JobError
from segengine.placing import Placing

STRAY = 0.01
"""Pixels that an edge may stray from where it is straight in its own CRS."""
_PIECES = 1 << 14
"""Of an edge, at most."""
_LONGEST = 0.05
"""Radians of a piece of an edge along which an area is summed."""
_FINE, _SHORTEST = 4096, 500.0
"""Pieces along the side of a polygon of a projection, and how short they get."""
_SIDE = 64
"""Pieces that a scene's side is looked at in."""
_FAR = 1e12
"""Beyond all coordinates on earth."""
_POLYGON, _MULTIPOLYGON = 3, 6


@dataclass(frozen=True, slots=True)
class Placed:
    """Polygons on the pixels of a scene."""

    outlines: Outlines
    pixels: NDArray[np.float64]
    """(outline,) area of each in pixels; NaN where only what is near the scene was brought there."""


@dataclass(frozen=True)
class Finder:
    """Finds the polygons that may meet a scene, and places them."""

    polygons: Polygons

    @cached_property
    def _tree(self) -> Any:
        import shapely

        return shapely.STRtree(self.polygons.shapes)

    def on(self, placing: Placing, scene: str) -> Placed | None:
        """Those that may meet a scene; None: there are none. Raises JobError, naming both."""
        import shapely

        grid = _Grid.of(placing, self.polygons.crs)
        zones, shapes, whole = [], [], []
        for shift, box in grid.boxes():
            near = grid.around(box)
            found = np.sort(self._tree.query(shapely.box(*_moved_box(box, -shift))))
            if not len(found):
                continue
            own = self.polygons.shapes[found]
            if shift:
                own = shapely.transform(own, lambda points, by=shift: points + np.array([by, 0.0]))
            bounds = shapely.bounds(own)
            large = (bounds[:, :2] < near[:2]).any(axis=1) | (bounds[:, 2:] > near[2:]).any(axis=1)
            own[large] = _clipped(own[large], near)
            beyond = grid.is_beyond(own)  # as a pole is that Mercator's map has no place for
            own[beyond] = _clipped(own[beyond], np.array(box))
            zones.append(found)
            shapes.append(own)
            whole.append(~large & ~beyond)
        if not zones:
            return None
        return self._placed(
            grid, np.concatenate(zones), np.concatenate(shapes), np.concatenate(whole), scene
        )

    def _placed(
        self,
        grid: _Grid,
        zones: NDArray[np.int64],
        shapes: NDArray[np.object_],
        whole: NDArray[np.bool_],
        scene: str,
    ) -> Placed | None:
        import shapely

        kept = np.array(
            [i for i, shape in enumerate(shapes) if shape is not None and shape.area > 0]
        )
        if not len(kept):
            return None
        zones, shapes, whole = zones[kept], shapes[kept], whole[kept]
        kind, points, offsets = shapely.to_ragged_array(shapes)
        if kind == _MULTIPOLYGON:
            rings, polygons, multi = (np.asarray(part, np.int64) for part in offsets)
            firsts = polygons[multi]
        else:
            rings, polygons = (np.asarray(part, np.int64) for part in offsets)
            firsts = polygons
        outer = np.zeros(len(rings) - 1, np.bool_)
        outer[polygons[:-1]] = True
        points, rings = grid.to_pixels(points, rings)
        lost = _is_lost(points)
        if lost.any():
            ring = int(np.searchsorted(rings, np.flatnonzero(lost)[0], "right")) - 1
            zone = zones[int(np.searchsorted(firsts, ring, "right")) - 1]
            raise JobError(
                f"{self.polygons.path}: polygon {zone + 1} cannot be brought to the CRS of scene "
                f"{scene}; cut it to where that CRS is meant for"
            )
        outlines = Outlines.of(zones, points, rings, outer, firsts)
        return Placed(outlines, np.where(whole, pixels_of(outlines), np.nan))


@dataclass(frozen=True)
class _Grid:
    """A scene's pixels, as seen from the CRS of polygons."""

    placing: Placing
    forth: Any
    """From the polygons' CRS to the scene's, x, y; None: they are one."""
    back: Any
    turn: float | None
    """A whole turn in the polygons' CRS, where it has longitudes."""
    own_turn: float | None
    """And in the scene's."""

    @classmethod
    def of(cls, placing: Placing, crs: Any) -> _Grid:
        forth, back, own_turn = _between(crs.to_wkt(), placing.wkt)
        turn = turn_of(crs) if crs.is_geographic else None
        return cls(placing=placing, forth=forth, back=back, turn=turn, own_turn=own_turn)

    def is_beyond(self, shapes: NDArray[np.object_]) -> NDArray[np.bool_]:
        """(n,) True where a point of a shape has no place in the scene's CRS."""
        import shapely

        found = np.zeros(len(shapes), np.bool_)
        if self.forth is not None:
            points, owners = shapely.get_coordinates(shapes, return_index=True)
            found[owners[_is_lost(self._brought(points))]] = True
        return found

    def boxes(self) -> Iterator[tuple[float, tuple[float, ...]]]:
        """Where the scene lies in the polygons' CRS, and by how much they are to be moved there.

        A box (west, south, east, north); one for each turn on which there may be polygons.
        """
        points = self._border()
        if self.back is not None:
            points = np.stack(self.back(*points.T), axis=1)
        if not np.isfinite(points).all():
            yield 0.0, (-math.inf, -math.inf, math.inf, math.inf)
            return
        low, high = points.min(axis=0), points.max(axis=0)
        if self.turn is None:
            yield 0.0, (*low, *high)
            return
        x = points[:, 0]
        if self.back is not None:
            x = x - self.turn * np.concatenate([[0], np.cumsum(np.round(np.diff(x) / self.turn))])
        if abs(x[-1] - x[0]) > self.turn / 2:  # around a pole
            pole = math.copysign(self.turn / 4, points[:, 1].mean())
            low, high = (
                np.array([-self.turn / 2, min(low[1], pole)]),
                np.array([self.turn / 2, max(high[1], pole)]),
            )
        else:
            low, high = np.array([x.min(), low[1]]), np.array([x.max(), high[1]])
        if self.own_turn is not None:  # the turn that the scene itself counts by
            middle = self._border()[:, 0].mean() / self.own_turn
            by = self.turn * round(middle - (low[0] + high[0]) / 2 / self.turn)
            low, high = low + np.array([by, 0]), high + np.array([by, 0])
        for turns in range(-3, 4):
            shift = turns * self.turn
            if high[0] - shift >= -1.5 * self.turn and low[0] - shift <= 1.5 * self.turn:
                yield shift, (*low, *high)

    def around(self, box: tuple[float, ...]) -> NDArray[np.float64]:
        """What polygons are cut to: a box with as much again on each side; where they are of the scene's
        CRS, nothing. In longitude one turn at most, so that nothing lies in it twice."""
        low, high = np.array(box[:2]), np.array(box[2:])
        size = np.inf if self.forth is None else (high - low).max()
        low, high = low - size, high + size
        if self.turn is not None and high[0] - low[0] > self.turn and np.isfinite(box).all():
            middle = (box[0] + box[2]) / 2
            low[0], high[0] = middle - self.turn / 2, middle + self.turn / 2
        return np.concatenate([low, high])

    def _border(self) -> NDArray[np.float64]:
        """(n, 2) x, y along the scene's border, closed."""
        along = np.linspace(0, 1, _SIDE + 1)[:-1]
        zero, one = np.zeros(_SIDE), np.ones(_SIDE)
        columns = np.concatenate([along, one, 1 - along, zero, [0]]) * self.placing.width
        rows = np.concatenate([zero, along, one, 1 - along, [0]]) * self.placing.height
        return np.stack(self.placing.at(columns, rows), axis=1)

    def to_pixels(
        self, points: NDArray[np.float64], rings: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Rings in columns and rows, with the points that their edges need; `rings`: where each begins."""
        if self.forth is None:
            return self._columns_and_rows(points), rings
        brought = self._brought(points)
        for _ in range(3):
            pieces = self._pieces(points, brought, rings)
            if (pieces == 1).all():
                break
            points, rings = _divided(points, rings, pieces)
            brought = self._brought(points)
        return self._followed(brought, rings), rings

    def _brought(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        x, y = (np.asarray(v) for v in self.forth(*points.T))
        if self.turn is not None and self.own_turn is not None:
            x = x + self.own_turn * np.round(points[:, 0] / self.turn - x / self.own_turn)
        return self._columns_and_rows(np.stack([x, y], axis=1))

    def _columns_and_rows(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        a, b, c, d, e, f = self.placing.transform
        x, y = points[:, 0] - c, points[:, 1] - f
        whole = a * e - b * d
        return np.stack([(e * x - b * y) / whole, (a * y - d * x) / whole], axis=1)

    def _followed(
        self, points: NDArray[np.float64], rings: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Rings from a projection to a scene in longitudes: without jumps, on the scene's own turn."""
        if self.own_turn is None or self.turn is not None:
            return points
        turn = self.own_turn / math.hypot(self.placing.transform[0], self.placing.transform[3])
        found = points.copy()
        for first, last in zip(rings[:-1].tolist(), rings[1:].tolist(), strict=True):
            x = found[first:last, 0]
            x -= turn * np.concatenate([[0], np.cumsum(np.round(np.diff(x) / turn))])
            x -= turn * round((x.mean() - self.placing.width / 2) / turn)
        return found

    def _pieces(
        self,
        points: NDArray[np.float64],
        brought: NDArray[np.float64],
        rings: NDArray[np.int64],
    ) -> NDArray[np.int64]:
        """(point,) how many pieces the edge from each point on needs."""
        found = np.ones(len(points), np.int64)
        inner = np.ones(len(points), np.bool_)
        inner[rings[1:] - 1] = False
        starts = np.flatnonzero(inner)
        first, last = points[starts], points[starts + 1]
        image, to = brought[starts], brought[starts + 1]
        along = to - image
        square = np.maximum((along**2).sum(axis=1), 1e-18)
        worst = np.zeros(len(starts))
        for at in (0.25, 0.5, 0.75):
            seen = self._brought(first + at * (last - first)) - image
            nearest = np.clip((seen * along).sum(axis=1) / square, 0, 1)
            worst = np.fmax(worst, np.hypot(*(seen - nearest[:, None] * along).T))
        # a bow is a fourth as high over half the chord
        wanted = np.ceil(np.sqrt(np.where(worst > STRAY, 1.25 * worst / STRAY, 1)))
        found[starts] = np.clip(wanted, 1, _PIECES).astype(np.int64)
        return found


def _is_lost(points: NDArray[np.float64]) -> NDArray[np.bool_]:
    """(n,) True where a point in pixels is nowhere, or too far away to be told."""
    with np.errstate(invalid="ignore"):
        near = np.abs(points) <= FARTHEST
    return np.asarray(~near.all(axis=1))


@lru_cache(maxsize=64)
def _between(wkt: str, scene_wkt: str) -> tuple[Any, Any, float | None]:
    """From a CRS to a scene's, and back, None where they are one; a turn in the scene's longitudes."""
    from pyproj import CRS, Transformer

    crs, own = CRS.from_wkt(wkt), CRS.from_wkt(scene_wkt)
    own = own if not own.sub_crs_list else own.sub_crs_list[0]
    turn = turn_of(own) if own.is_geographic else None
    if own.equals(crs, ignore_axis_order=True):
        return None, None, turn
    forth, back = (Transformer.from_crs(*ends, always_xy=True) for ends in ((crs, own), (own, crs)))
    return forth.transform, back.transform, turn


def _divided(
    points: NDArray[np.float64], rings: NDArray[np.int64], pieces: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Each edge in as many pieces as it needs, of one length."""
    total = np.cumsum(pieces)
    part = (np.arange(total[-1]) - np.repeat(total - pieces, pieces)) / np.repeat(pieces, pieces)
    start = np.repeat(points, pieces, axis=0)
    step = np.repeat(np.roll(points, -1, axis=0) - points, pieces, axis=0)
    at = np.concatenate([[0], total])[rings]
    return start + part[:, None] * step, at


def _moved_box(box: tuple[float, ...], by: float) -> tuple[float, ...]:
    west, south, east, north = box
    return west + by, south, east + by, north


def _clipped(shapes: NDArray[np.object_], box: NDArray[np.float64]) -> NDArray[np.object_]:
    """What of shapes lies in a box; None where that has no area."""
    import shapely

    found = np.empty(len(shapes), object)
    wide = np.clip(box, -_FAR, _FAR)  # GEOS has no infinite boxes
    for i, shape in enumerate(shapely.intersection(shapes, shapely.box(*wide))):
        parts = [p for p in shapely.get_parts(shape) if shapely.get_type_id(p) == _POLYGON]
        if parts:
            found[i] = parts[0] if len(parts) == 1 else shapely.MultiPolygon(parts)
    return found


# ------------------------------------------------------------------------------------------- areas


def square_metres(shape: Any, crs: Any) -> float:
    """Area of a polygon on the ellipsoid of its CRS, its edges straight in it.

    The area between the equator and a latitude is the integral of Snyder's q (Map Projections, USGS
    Professional Paper 1395, 3-12) over longitude; along each edge by Gauss and Legendre's rule.
    """
    import shapely
    from pyproj import Transformer

    geod = crs.get_geod()
    if geod is None:
        return float(shape.area) * float(crs.axis_info[0].unit_conversion_factor) ** 2
    west, south, east, north = shape.bounds
    unit = 2 * math.pi / turn_of(crs if crs.is_geographic else crs.geodetic_crs)
    back = None
    if crs.is_geographic:
        longest = _LONGEST / unit
    else:  # a line between two points is another one in longitude and latitude
        back = Transformer.from_crs(crs, crs.geodetic_crs, always_xy=True).transform
        longest = max(max(east - west, north - south) / _FINE, _SHORTEST)
    total = 0.0
    for polygon in shapely.get_parts(shapely.segmentize(shape, longest)):
        for sign, ring in [(1, polygon.exterior), *((-1, hole) for hole in polygon.interiors)]:
            points = shapely.get_coordinates(ring)
            if back is not None:
                points = np.stack(back(*points.T), axis=1)
            total += sign * _ring_metres(points * unit, geod, followed=back is not None)
    return total


_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(6)


def _ring_metres(points: NDArray[np.float64], geod: Any, *, followed: bool) -> float:
    """Of a ring in radians."""
    lon, lat = points.T
    step = np.diff(lon)
    if followed:
        step = step - 2 * np.pi * np.round(step / (2 * np.pi))
    middle, half = (lat[1:] + lat[:-1]) / 2, np.diff(lat) / 2
    heights = _zone(middle[:, None] + half[:, None] * _NODES, geod)
    area = float(((heights @ _WEIGHTS) / 2 * step).sum())
    if abs(step.sum()) > np.pi:  # around a pole
        return float(2 * np.pi * _zone(np.array(np.pi / 2), geod)) - abs(area)
    return abs(area)


def _zone(latitude: NDArray[np.float64], geod: Any) -> NDArray[np.float64]:
    """Square metres between the equator and a latitude, a radian of longitude wide."""
    e2, b = geod.es, geod.b
    sine = np.sin(latitude)
    if e2 == 0:
        return np.asarray(b * b * sine)
    e = math.sqrt(e2)
    return np.asarray(b * b / 2 * (sine / (1 - e2 * sine**2) + np.arctanh(e * sine) / e))
