"""GeoJSON by its text: its features, and polygons in them as rings of points."""

from __future__ import annotations

import gc
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from segengine.errors import CorruptInputError

DEGREES = "OGC:CRS84"
"""Longitude and latitude, as GeoJSON has them."""
MOST = 1 << 29
"""Bytes, which take ten times as many in memory."""
_DEEPEST = 8
_NAMED = re.compile(r"(?:urn:(?:ogc|x-ogc):def:crs:)?([A-Z]+)(?::[\w.]*)?:(\w+)", re.IGNORECASE)
_GEOMETRIES = frozenset(
    ("Point", "MultiPoint", "LineString", "MultiLineString", "Polygon", "MultiPolygon",
     "GeometryCollection")
)  # fmt: skip

Ring = NDArray[np.float64]
"""(point, 2) of x and y."""


def parsed(text: bytes) -> dict[str, Any]:
    """A GeoJSON's one object. Raises CorruptInputError with a reason."""
    if len(text) > MOST:
        raise CorruptInputError(f"is larger than {MOST:,} bytes; make it a GeoPackage")
    try:
        with _no_cycles():
            found = json.loads(text.decode("utf-8-sig"), parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise CorruptInputError(f"is no GeoJSON: {error}") from error
    if not isinstance(found, dict):
        raise CorruptInputError("is no GeoJSON: one object is needed")
    return found


@contextmanager
def _no_cycles() -> Iterator[None]:
    """Without looking for cycles, which JSON has none of: millions of lists take half the time."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _no_number(word: str) -> NoReturn:
    raise ValueError(f"{word} is no number of JSON")


def features_of(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The features of a GeoJSON, each a dict with a dict of properties; a geometry alone is one.

    Raises CorruptInputError with a reason.
    """
    kind = document.get("type")
    if kind in _GEOMETRIES:
        return [{"type": "Feature", "properties": {}, "geometry": dict(document)}]
    found = document.get("features") if kind == "FeatureCollection" else [document]
    if kind not in ("FeatureCollection", "Feature") or not isinstance(found, list):
        raise CorruptInputError("is no GeoJSON: a FeatureCollection is needed")
    for number, feature in enumerate(found, 1):
        if not isinstance(feature, dict) or feature.get("type") != "Feature":
            raise CorruptInputError(f"feature {number} is no Feature of GeoJSON")
        if not isinstance(feature.get("properties") or {}, dict):
            raise CorruptInputError(f"feature {number}: its properties are no object")
    return found


def crs_named(document: Mapping[str, Any]) -> str:
    """As files from before RFC 7946 name it; degrees where nothing is said. Raises CorruptInputError."""
    member = document.get("crs")
    if member is None:
        return DEGREES
    try:
        match = _NAMED.fullmatch(str(member["properties"]["name"])[:200])
    except (TypeError, KeyError) as error:
        raise CorruptInputError("its member `crs` names no CRS; name it as EPSG:32633") from error
    if match is None:
        raise CorruptInputError("its member `crs` names no CRS that is known, as EPSG:32633 is")
    return f"{match[1].upper()}:{match[2]}"


def shapes_of(features: Sequence[Mapping[str, Any]]) -> NDArray[np.object_]:
    """(n,) shapely polygons and multipolygons, None where there is none; not made valid.

    They are made together, which is twenty times as quick as one by one. Raises CorruptInputError.
    """
    import shapely

    rings: list[Ring] = []
    polygon_of: list[int] = []
    feature_of: list[int] = []
    for number, feature in enumerate(features):
        for polygon in _polygons(number + 1, feature.get("geometry"), 0):
            feature_of.append(number)
            rings += polygon
            polygon_of += [len(feature_of) - 1] * len(polygon)
    found = np.full(len(features), None, object)
    if rings:
        lengths = [len(ring) for ring in rings]
        lines = shapely.linearrings(
            np.concatenate(rings), indices=np.repeat(np.arange(len(rings)), lengths)
        )
        parts = shapely.polygons(lines, indices=np.array(polygon_of))
        owners, firsts = np.unique(feature_of, return_index=True)
        for owner, several in zip(owners, np.split(parts, firsts[1:]), strict=True):
            found[owner] = several[0] if len(several) == 1 else shapely.MultiPolygon(list(several))
    return found


def _polygons(number: int, geometry: Any, depth: int) -> Iterator[list[Ring]]:
    """Rings of each polygon of a geometry, closed, the outer one first."""
    if geometry is None:
        return
    kind = geometry.get("type") if isinstance(geometry, dict) else None
    if depth > _DEEPEST:
        raise CorruptInputError(f"feature {number} is nested too deeply for a GeoJSON")
    if kind == "GeometryCollection":
        several = geometry.get("geometries")
        for each in several if isinstance(several, list) else ():
            yield from _polygons(number, each, depth + 1)
        return
    if kind not in ("Polygon", "MultiPolygon"):
        raise CorruptInputError(f"feature {number} is a {str(kind)[:40]}; polygons are needed")
    given = geometry.get("coordinates")
    try:
        for polygon in [given] if kind == "Polygon" else given:
            rings = [_ring(ring) for ring in polygon]
            if rings:
                yield rings
    except (TypeError, ValueError, IndexError, KeyError, OverflowError) as error:
        raise CorruptInputError(f"feature {number} is no polygon of GeoJSON: {error}") from error


def _ring(points: Any) -> Ring:
    """Closed, where its first point is not its last."""
    found = np.array([point[:2] for point in points], np.float64)
    if found.ndim != 2 or found.shape[1] != 2 or not np.isfinite(found).all():
        raise ValueError("its points are not all two finite numbers")
    if not np.array_equal(found[0], found[-1]):
        found = np.vstack([found, found[:1]])
    if len(found) < 4:
        raise ValueError("a ring has at least three points, and the first again")
    return found
