"""Where on the earth a scene's mask is: its footprint as GeoJSON, and the box around it (RFC 7946).

The footprint is the convex hull of what is not void, read off the coarsest level of the mask's
pyramid; where all is void, the frame's outline. It is cut at the antimeridian, where the box goes
from a greater longitude to a smaller one (RFC 7946, section 5.2).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from segengine.errors import StoreError
from segengine.export._features import crs_wkt, placed, to_lonlat
from segengine.instances.polygons import Polygon, Ring, oriented
from segengine.placing import Placing
from segengine.reader import SceneStore
from segengine.store.keys import level_path

_STRAY = 250
"""Times that the footprint's edges may stray farther than an object's: half a pixel."""
_DIGITS = 7
"""Decimals of a degree: a centimetre."""
_ROWS = 1 << 22
"""Pixels that are looked at together."""


class Footprint(NamedTuple):
    """Of a scene."""

    geometry: dict[str, Any]
    """GeoJSON, longitude and latitude of WGS84."""
    bbox: list[float]
    """West, south, east, north."""


def footprint(scene: SceneStore) -> Footprint | None:
    """A scene's footprint; None: nothing says where it lies, or it has no longitude and latitude."""
    placing, wkt = scene.layout.placing, crs_wkt(scene)
    if wkt is None and not placing.pointed:
        return None
    ring = _hull(scene)
    try:
        if wkt is not None:
            outline = [[placed(placing, ring)]]
            (found,) = to_lonlat(wkt, scene.name)([outline], _STRAY * placing.pixel)
        else:
            found = _by_points(placing, ring)
    except StoreError:
        return None
    return _said([oriented(polygon) for polygon in found]) if found else None


def _hull(scene: SceneStore) -> Ring:
    """The convex hull of a scene's valid pixels, closed, in pixels of its frames."""
    import shapely

    level = len(scene.levels) - 1
    array, path, void = scene.levels[level], level_path(level), scene.void
    frames, height, width = array.shape
    step = max(1, _ROWS // max(1, width))
    corners = []
    for frame in range(frames):
        for top in range(0, height, step):
            valid = scene.read(path, frame, slice(top, top + step), slice(None)) != void
            rows = np.flatnonzero(valid.any(axis=1))
            left = valid.argmax(axis=1)[rows]
            right = width - valid[:, ::-1].argmax(axis=1)[rows]
            for x in (left, right):
                corners += [np.stack([x, rows + top + below], axis=1) for below in (0, 1)]
    _, whole_height, whole_width = scene.layout.shape
    points = np.concatenate(corners) if corners else np.zeros((0, 2))
    if not len(points):
        points = np.array([(0, 0), (width, 0), (width, height), (0, height)])
    found = np.asarray(shapely.MultiPoint(points).convex_hull.exterior.coords) * 2.0**level
    clipped: Ring = np.minimum(
        found, (whole_width, whole_height)
    )  # the last pixel may be half full
    return clipped


def _by_points(placing: Placing, ring: Ring) -> list[Polygon]:
    """The ring by ground control points or rational functions, at the height that they are for."""
    from rasterio.control import GroundControlPoint
    from rasterio.crs import CRS
    from rasterio.errors import RasterioError
    from rasterio.rpc import RPC
    from rasterio.transform import GCPTransformer, RPCTransformer

    columns, rows = ring.T.tolist()
    if placing.gcps is not None:
        points = [
            GroundControlPoint(row, col, x, y, z) for row, col, x, y, z in placing.gcps.points
        ]
        transformer: Any = GCPTransformer(points)
        wkt, heights = placing.gcps.wkt, None
    else:
        rpcs = RPC.from_gdal(dict(placing.rpcs or {}))
        transformer, wkt = RPCTransformer(rpcs), CRS.from_epsg(4326).to_wkt()
        heights = [rpcs.height_off] * len(rows)
    if not wkt:
        return []
    try:
        with transformer:
            x, y = transformer.xy(rows, columns, zs=heights, offset="ul")
    except (RasterioError, ValueError):
        return []
    moved = np.stack([x, y], axis=1)
    if not np.isfinite(moved).all():
        return []
    size = float(np.ptp(moved, axis=0).max()) / max(placing.height, placing.width)
    (found,) = to_lonlat(wkt, "")([[[moved]]], _STRAY * size)
    return found


def _said(polygons: list[Polygon]) -> Footprint:
    shapes = [[_points(ring) for ring in polygon] for polygon in polygons]
    single = len(shapes) == 1
    geometry = {
        "type": "Polygon" if single else "MultiPolygon",
        "coordinates": shapes[0] if single else shapes,
    }
    return Footprint(geometry, _box([np.round(polygon[0], _DIGITS) for polygon in polygons]))


def _points(ring: Ring) -> list[list[float]]:
    points: list[list[float]] = np.round(ring, _DIGITS).tolist()
    return points


def _box(exteriors: list[NDArray[np.float64]]) -> list[float]:
    """The box around rings of -180 to 180, of which some may go on at the other side of 180."""
    points = np.concatenate(exteriors)
    (west, south), (east, north) = points.min(axis=0), points.max(axis=0)
    around = any(np.ptp(ring[:, 0]) >= 360 for ring in exteriors)
    if west == -180 and east == 180 and not around:
        # across the antimeridian: from the start of what ends there to the end of what begins there
        spans = sorted((ring[:, 0].min(), ring[:, 0].max()) for ring in exteriors)
        reach = -180.0
        for low, high in spans:
            if low > reach:
                west = low
                break
            reach = max(reach, high)
        else:
            return [-180.0, float(south), 180.0, float(north)]
        east = reach
    return [float(west), float(south), float(east), float(north)]
