"""Polygons of longitude and latitude brought to -180 to 180, and cut at the antimeridian.

A ring is followed point by point, each the short way from the one before, so that it may leave -180
to 180. One that comes back to its start lies as it is, or is cut where it leaves; one that ends 360
degrees from it goes around a pole, and is closed along that pole's latitude:

    90  +---------------------+        around the pole: everything between the ring
        |                     |        and the latitude 90 is inside
        ~~~~ring~~~~~~~~~~~~~~~
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from segengine.instances.polygons import Polygon, Ring

_POLE = 90 - 1e-9
"""Latitude from which on a point has any longitude."""


def cut(outline: list[Polygon]) -> list[Polygon]:
    """An outline's polygons, whose edges span less than 180 degrees, within -180 to 180.

    Parts that then share an edge, as those of a map from 0 to 360 do at 0, are one.
    """
    found: list[Polygon] = []
    strays: list[list[Ring]] = []
    for polygon in outline:
        rings = [_followed(ring) for ring in polygon]
        windows = {_window(ring) for ring in rings}
        turn = windows.pop()
        if windows or turn is None or not all(map(_is_plain, rings)):
            strays.append(rings)
        else:
            found.append([ring - np.array([360.0 * turn, 0]) if turn else ring for ring in rings])
    return found if not strays else _cut(found, strays)


def _is_plain(ring: Ring) -> bool:
    """Whether it goes around no pole and touches none."""
    return _comes_back(ring) and not _is_polar(ring)


def _followed(ring: Ring) -> Ring:
    """A ring without jumps, whatever its longitudes get to."""
    if _is_polar(ring):
        ring = _at_pole(ring)
    # whole turns are added to each longitude: points that are the same stay the same
    turns = np.concatenate([[0.0], np.cumsum(np.round(np.diff(ring[:, 0]) / 360))])
    return np.stack([ring[:, 0] - 360 * turns, ring[:, 1]], axis=1)


def _is_polar(ring: Ring) -> bool:
    return bool((np.abs(ring[:, 1]) > _POLE).any())


def _at_pole(ring: Ring) -> Ring:
    """A pole as two points: where the ring comes from, and where it goes to."""
    points = ring[:-1]
    start = int(np.argmin(np.abs(points[:, 1])))  # not at a pole
    points = np.roll(points, -start, axis=0)
    found: list[tuple[float, float]] = []
    for i, (lon, lat) in enumerate(points.tolist()):
        if abs(lat) <= _POLE:
            found.append((lon, lat))
            continue
        pole = float(np.sign(lat) * 90)
        following = points[(i + 1) % len(points)]
        found += [(found[-1][0], pole), (float(following[0]), pole)]
    return np.array([*found, found[0]])


def _comes_back(ring: Ring) -> bool:
    return abs(float(ring[-1, 0] - ring[0, 0])) < 180


def _window(ring: Ring) -> int | None:
    """Which turn of 360 degrees holds a ring, 0 for -180 to 180; None: it lies in several."""
    low, high = float(ring[:, 0].min()), float(ring[:, 0].max())
    turn = int(np.floor((low + 180) / 360))
    return turn if high <= 180 + 360 * turn else None


def _cut(found: list[Polygon], strays: list[list[Ring]]) -> list[Polygon]:
    import shapely

    parts = [shapely.Polygon(polygon[0], polygon[1:]) for polygon in found]
    for exterior, *holes in strays:
        whole = _area(exterior)
        for hole in map(_area, holes):
            for turn in (-360.0, 0.0, 360.0):
                whole = whole.difference(_shifted(hole, turn))
        low, _, high, _ = whole.bounds
        first, last = math.floor((low + 180) / 360), math.ceil((high + 180) / 360)
        for turn in range(first, last):
            window = shapely.box(360 * turn - 180, -90, 360 * turn + 180, 90)
            parts.append(_shifted(whole.intersection(window), -360.0 * turn))
    return [
        [np.asarray(ring.coords)[:, :2] for ring in (polygon.exterior, *polygon.interiors)]
        for polygon in _polygons(shapely.union_all(parts))
    ]


def _shifted(shape: Any, degrees: float) -> Any:
    import shapely

    return (
        shapely.transform(shape, lambda points: points + np.array([degrees, 0]))
        if degrees
        else shape
    )


def _area(ring: Ring) -> Any:
    """What a ring encloses, valid; around a pole, up to it."""
    import shapely

    if not _comes_back(ring):
        pole = math.copysign(90, ring[:, 1].mean())
        ring = _from_antimeridian(ring, pole)
        ends = np.array([[ring[-1, 0], pole], [ring[0, 0], pole]])
        ring = np.concatenate([ring, ends, ring[:1]])
    found = shapely.make_valid(shapely.Polygon(ring))
    return shapely.MultiPolygon(list(_polygons(found)))


def _from_antimeridian(ring: Ring, pole: float) -> Ring:
    """A ring around a pole that begins and ends at 180 degrees: closing it cuts nothing else.

    Of the places where it crosses that meridian, at the one nearest to the pole: from there to the
    pole it is not met again.
    """
    way = math.copysign(360, ring[-1, 0] - ring[0, 0])
    turns = np.floor((ring[:, 0] + 180) / 360)
    places = np.flatnonzero(np.diff(turns))
    at = 360 * np.maximum(turns[places], turns[places + 1]) - 180
    (x0, y0), (x1, y1) = ring[places].T, ring[places + 1].T
    y = y0 + (y1 - y0) * (at - x0) / (x1 - x0)
    nearest = int(np.argmin(np.abs(y - pole)))
    i, x, y = int(places[nearest]), at[nearest], y[nearest]
    rest = ring[1 : i + 1] + np.array([way, 0])
    found = np.concatenate([[(x, y)], ring[i + 1 :], rest, [(x + way, y)]])
    shifted: Ring = found - np.array([x + math.copysign(180, way), 0])
    return shifted


def _polygons(shape: Any) -> Iterator[Any]:
    """The polygons of a shape; lines and points, which have no area, are left out."""
    if shape.geom_type == "Polygon":
        if not shape.is_empty and shape.area > 0:
            yield shape
    else:
        for part in getattr(shape, "geoms", ()):
            yield from _polygons(part)
