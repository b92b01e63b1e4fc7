"""Polygons from a file: GeoJSON by its text, GeoPackage and FlatGeobuf through pyogrio."""

from __future__ import annotations

import json
from collections.abc import Iterator
from tempfile import NamedTemporaryFile
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from segengine.errors import CorruptInputError
from segengine.sources._files import open_input
from segengine.sources._grid import crs_of

DEGREES = "OGC:CRS84"
"""Longitude and latitude, as GeoJSON has them."""
_MOST_BYTES = 1 << 26
_MOST_POINTS, _DEEPEST = 1 << 20, 8
_BINARY = {b"SQLite format 3\0": "GPKG", b"fgb\x03fgb": "FlatGeobuf"}
_SUFFIX = {"GPKG": ".gpkg", "FlatGeobuf": ".fgb"}
_READ = "a file of polygons is GeoJSON, GeoPackage or FlatGeobuf"

Polygon = tuple[NDArray[np.float64], ...]
"""Rings (point, 2) of x and y, each closed, the outer one first."""


def digest(uri: str) -> str:
    """Of a file's bytes. Raises as `polygons_in`."""
    return xxhash.xxh3_64_hexdigest(_bytes(uri))


def polygons_in(uri: str) -> tuple[str, tuple[Polygon, ...]]:
    """The CRS, and polygons, of a file. Raises CorruptInputError, TransientInputError with a reason."""
    data = _bytes(uri)
    driver = next((name for magic, name in _BINARY.items() if data.startswith(magic)), "")
    wkt, found = _through_gdal(data, driver) if driver else _from_text(data)
    if not found:
        raise CorruptInputError("holds no polygon")
    try:
        crs = crs_of(wkt)
    except ValueError as error:
        raise CorruptInputError(str(error)) from error
    ends = np.array([(*p[0].min(axis=0), *p[0].max(axis=0)) for p in found])
    if crs.is_geographic and (np.abs(ends[:, ::2]).max() > 360 or np.abs(ends[:, 1::2]).max() > 90):
        raise CorruptInputError("has coordinates that are no degrees, and names no other CRS")
    return wkt, found


def _bytes(uri: str) -> bytes:
    with open_input(uri) as file:
        data = file.read(_MOST_BYTES + 1)
    if len(data) > _MOST_BYTES:
        raise CorruptInputError(f"is of more than {_MOST_BYTES:,} bytes; simplify its polygons")
    return data


# GeoJSON


def _from_text(data: bytes) -> tuple[str, tuple[Polygon, ...]]:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise CorruptInputError(f"is no GeoJSON; {_READ}") from error
    if not isinstance(found, dict):
        raise CorruptInputError(f"is no GeoJSON; {_READ}")
    polygons = tuple(_polygons(found, 0))
    if sum(len(ring) for polygon in polygons for ring in polygon) > _MOST_POINTS:
        raise CorruptInputError(f"has more than {_MOST_POINTS:,} points; simplify its polygons")
    return _crs(found), polygons


def _crs(found: dict[str, Any]) -> str:
    """As files from before RFC 7946 name it; degrees where nothing is said."""
    member = found.get("crs")
    if member is None:
        return DEGREES
    properties = member.get("properties") if isinstance(member, dict) else None
    name = properties.get("name") if isinstance(properties, dict) else None
    if not isinstance(name, str) or len(name) > 200:
        raise CorruptInputError("names its CRS in a way that is not read; name it as EPSG:32633")
    try:
        return str(crs_of(name).to_wkt())
    except ValueError as error:
        raise CorruptInputError(str(error)) from error


def _polygons(found: Any, depth: int) -> Iterator[Polygon]:
    kind = found.get("type") if isinstance(found, dict) else None
    if depth > _DEEPEST:
        raise CorruptInputError("is nested too deeply for a GeoJSON")
    if kind in ("FeatureCollection", "GeometryCollection"):
        items = found.get("features" if kind == "FeatureCollection" else "geometries")
        for item in items if isinstance(items, list) else ():
            yield from _polygons(item, depth + 1)
    elif kind == "Feature":
        if found.get("geometry") is not None:
            yield from _polygons(found["geometry"], depth + 1)
    elif kind == "Polygon":
        yield _polygon(found.get("coordinates"))
    elif kind == "MultiPolygon":
        many = found.get("coordinates")
        for each in many if isinstance(many, list) else ():
            yield _polygon(each)
    elif isinstance(kind, str):
        raise CorruptInputError(f"holds a {kind[:40]}, and an area is made of polygons")
    else:
        raise CorruptInputError(f"is no GeoJSON; {_READ}")


def _polygon(rings: Any) -> Polygon:
    if not isinstance(rings, list) or not rings:
        raise CorruptInputError("has a polygon without a ring")
    return tuple(map(_ring, rings))


def _ring(points: Any) -> NDArray[np.float64]:
    try:
        found = np.array([(p[0], p[1]) for p in points], np.float64)
    except (TypeError, ValueError, IndexError, KeyError, OverflowError) as error:
        raise CorruptInputError("has a ring whose points are no pairs of numbers") from error
    if found.ndim != 2 or len(found) < 3 or not np.isfinite(found).all():
        raise CorruptInputError("has a ring of less than three points, or of none that is finite")
    return found if np.array_equal(found[0], found[-1]) else np.vstack([found, found[:1]])


# Through GDAL


def _through_gdal(data: bytes, driver: str) -> tuple[str, tuple[Polygon, ...]]:
    try:
        import pyogrio
        import shapely
    except ImportError as error:
        raise CorruptInputError(
            f"is a {driver} file, which needs pyogrio and shapely; "
            "python -m pip install 'segengine[earth]' brings them, or convert it to GeoJSON"
        ) from error
    try:
        # GDAL tells formats by suffixes too, and the file may lie behind a URL.
        with NamedTemporaryFile(suffix=_SUFFIX[driver]) as file:
            file.write(data)
            file.flush()
            about, _, geometries, _ = pyogrio.raw.read(file.name, columns=[], force_2d=True)
        shapes = shapely.from_wkb([g for g in geometries if g is not None])
    except Exception as error:
        raise CorruptInputError(f"is a damaged {driver} file, or one without polygons") from error
    if shapely.get_num_coordinates(shapes).sum() > _MOST_POINTS:
        raise CorruptInputError(f"has more than {_MOST_POINTS:,} points; simplify its polygons")
    found = []
    for shape in shapely.get_parts(shapely.get_parts(shapes)):
        if shape.geom_type != "Polygon":
            raise CorruptInputError(f"holds a {shape.geom_type}, and an area is made of polygons")
        if not shape.is_empty:
            rings = (shape.exterior, *shape.interiors)
            found.append(tuple(shapely.get_coordinates(ring) for ring in rings))
    if not about.get("crs"):
        raise CorruptInputError("names no CRS")
    return str(about["crs"]), tuple(found)
