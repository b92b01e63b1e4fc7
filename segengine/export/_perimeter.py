"""How long outlines are on the ground: geodesic, on the ellipsoid of the scene's CRS."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from segengine.instances.polygons import Polygon


def perimeters(wkt: str, outlines: Sequence[Sequence[Polygon]]) -> list[float | None]:
    """Metres around each outline, holes too, to the millimetre; `outlines` in units of the CRS.

    None where it cannot be told.
    """
    rings = [[ring for polygon in outline for ring in polygon] for outline in outlines]
    if not rings:
        return []
    points = np.concatenate([ring for own in rings for ring in own])
    ends = np.cumsum([len(ring) for own in rings for ring in own])
    lengths = _lengths(wkt, points)
    lengths[ends[:-1] - 1] = 0  # from a ring to the next
    counts = [sum(len(ring) for ring in own) for own in rings]
    firsts = np.cumsum([0, *counts[:-1]])
    sums = np.add.reduceat(np.append(lengths, 0.0), firsts)
    return [round(value, 3) if math.isfinite(value) else None for value in sums.tolist()]


def _lengths(wkt: str, points: Any) -> Any:
    """Metres from each point (n, 2) to the next; one less."""
    to, geod, factor = _earth(wkt)
    if geod is None:
        return np.hypot(*np.diff(points, axis=0).T) * factor
    lon, lat = to.transform(*points.T)
    lon, lat = np.asarray(lon) * factor, np.clip(np.asarray(lat) * factor, -90, 90)
    known = np.isfinite(lon) & np.isfinite(lat)
    lon, lat = np.where(known, lon, 0), np.where(known, lat, 0)
    _, _, metres = geod.inv(lon[:-1], lat[:-1], lon[1:], lat[1:])
    return np.where(known[:-1] & known[1:], metres, np.nan)


@lru_cache(maxsize=16)
def _earth(wkt: str) -> tuple[Any, Any, float]:
    """To degrees on the CRS' ellipsoid, that, and what a unit is; without one, metres in a unit."""
    from pyproj import CRS, Transformer
    from pyproj.exceptions import ProjError

    try:
        crs = CRS.from_wkt(wkt)
        crs = crs.sub_crs_list[0] if crs.sub_crs_list else crs
        geographic, geod = crs.geodetic_crs, crs.get_geod()
        if geographic is None or geod is None:
            return None, None, float(crs.axis_info[0].unit_conversion_factor)
        geographic = geographic.to_2d() if geographic.is_geocentric else geographic
        radians = geographic.axis_info[0].unit_conversion_factor
        return Transformer.from_crs(crs, geographic, always_xy=True), geod, math.degrees(radians)
    except (ProjError, IndexError):
        return None, None, math.nan
