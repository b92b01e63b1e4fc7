"""Polygons of a user, with their columns: GeoJSON, GeoParquet, GeoPackage, FlatGeobuf, Shapefile.

What a file is, is told by its first bytes, not its name; nothing else is handed to GDAL, and what is in
it is bounded before it is read. GeoJSON and GeoParquet are read without GDAL. A GeoJSON without the
member `crs` of its first version has longitudes and latitudes of WGS84 (RFC 7946).
"""

from __future__ import annotations

import gc
import json
import os
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from segengine.errors import JobError

if TYPE_CHECKING:
    import pyarrow as pa

GEOMETRY = "geometry"
"""The column of shapes in what is written."""
NAMED = 5
"""Polygons that a line names."""
_MOST = 4 << 30
"""Bytes of a file, and of what a compressed one holds."""
_MOST_JSON = 1 << 29
"""Bytes of a GeoJSON, which takes ten times as many in memory."""
_POLYGON, _MULTIPOLYGON = 3, 6
_WGS84 = "OGC:CRS84"
_NAMED = re.compile(r"(?:urn:(?:ogc|x-ogc):def:crs:)?([A-Z]+)(?::[\w.]*)?:(\w+)", re.IGNORECASE)
_READ = "GeoJSON, GeoPackage, FlatGeobuf, GeoParquet and Shapefile are read"


@dataclass(frozen=True, slots=True)
class Polygons:
    """Polygons as a user gave them."""

    path: str
    shapes: NDArray[np.object_]
    """(n,) shapely polygons and multipolygons, flat and valid; None where there is none."""
    columns: pa.Table
    """Their other columns."""
    crs: Any
    """pyproj's."""
    notices: tuple[str, ...] = ()
    """What was mended of them."""


def read_polygons(path: str, layer: str | None = None) -> Polygons:
    """Read all of a file. `layer`: of a file with several. Raises JobError, naming what is wrong."""
    import shapely

    if "://" in path:
        raise JobError(f"{path}: polygons are read from a local file; copy it here")
    head = _head(path)
    if layer is not None and not head.startswith(b"SQLite"):
        raise JobError(f"--layer: {path} has no layers to choose from; a GeoPackage has")
    shapes, columns, crs = _read(path, head, layer)
    if not len(shapes):
        raise JobError(f"{path}: holds no polygon")
    if crs is None:
        raise JobError(f"{path}: does not say its CRS; write it again with one (ogr2ogr -a_srs)")
    _check_kinds(path, shapes)
    shapes = shapely.force_2d(shapes)
    shapes[shapely.is_empty(shapes)] = None
    notices = tuple(_mended(path, shapes))
    _check(path, shapes, crs)
    return Polygons(path, shapes, columns, crs, notices)


def _read(path: str, head: bytes, layer: str | None) -> tuple[Any, pa.Table, Any]:
    if head.startswith(b"PAR1"):
        return _geoparquet(path)
    if head.startswith(b"SQLite format 3\0") and head[68:72] in (b"GPKG", b"GP10", b"GP11"):
        return _gdal(path, "GPKG", layer)
    if head[:3] == b"fgb" and head[4:7] == b"fgb":
        return _gdal(path, "FlatGeobuf", None)
    if head.startswith(b"\0\0\x27\x0a"):
        return _gdal(path, "ESRI Shapefile", None)
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{"):
        return _geojson(path)
    raise JobError(f"{path}: is no file of polygons; {_READ}")


def _head(path: str) -> bytes:
    try:
        if os.path.isdir(path):
            raise JobError(f"{path}: is a folder; name a file of polygons")
        with open(path, "rb") as file:
            head, size = file.read(256), os.fstat(file.fileno()).st_size
    except OSError as error:
        raise JobError(f"{path}: cannot be read: {error.strerror}") from error
    if size > _MOST:
        raise JobError(f"{path}: has {size:,} bytes, of at most {_MOST:,}; split it")
    return head


def _check_kinds(path: str, shapes: NDArray[np.object_]) -> None:
    import shapely

    kinds = shapely.get_type_id(shapes)
    others = np.flatnonzero((kinds >= 0) & (kinds != _POLYGON) & (kinds != _MULTIPOLYGON))
    if len(others):
        kind = shapes[others[0]].geom_type
        raise JobError(f"{path}: feature {others[0] + 1} is a {kind}; polygons are needed")
    if (kinds < 0).all():
        raise JobError(f"{path}: holds no polygon")


def _mended(path: str, shapes: NDArray[np.object_]) -> Iterator[str]:
    """Mend, in place, polygons that cross themselves; a line about them, and about those of no area.

    As shapely's `make_valid` and `ogr2ogr -makevalid` do: what is told twice is a hole, as with the rule
    of even and odd, and lines and points that are left over are dropped.
    """
    import shapely

    bad = np.flatnonzero(~shapely.is_valid(shapes) & ~shapely.is_missing(shapes))
    if not len(bad):
        return
    why = shapely.is_valid_reason(shapes[bad[0]])
    lost = []
    for at in bad.tolist():
        parts = shapely.get_parts(shapely.get_parts(shapely.make_valid(shapes[at])))
        parts = parts[shapely.area(parts) > 0]
        whole = shapely.union_all(parts) if len(parts) else None
        shapes[at] = whole if whole is not None and whole.area > 0 else None
        if shapes[at] is None:
            lost.append(at)
    if len(lost) == int(shapely.is_missing(shapes).sum()) == len(shapes):
        raise JobError(f"{path}: holds no polygon: {_numbers(lost)} not valid: {why}")
    kept = [at for at in bad.tolist() if at not in set(lost)]
    if kept:
        yield f"{path}: {_numbers(kept)} not valid, and mended: {why}"
    if lost:
        them = "it" if len(lost) == 1 else "them"
        yield f"{path}: {_numbers(lost)} not valid and of no area: no figures of {them}"


def _numbers(at: Sequence[int]) -> str:
    """The numbers of polygons, counted from 1, as the subject of a sentence."""
    if len(at) == 1:
        return f"polygon {at[0] + 1} is"
    shown = ", ".join(f"{i + 1:,}" for i in at[:NAMED])
    more = f" and {len(at) - NAMED:,} more" if len(at) > NAMED else ""
    return f"polygons {shown}{more} are"


def _check(path: str, shapes: NDArray[np.object_], crs: Any) -> None:
    import shapely

    if not crs.is_geographic:
        return
    degrees = turn_of(crs) / 360
    west, south, east, north = shapely.bounds(shapes).T / degrees
    for wrong, what in (
        ((south < -90.001) | (north > 90.001), "a latitude"),
        ((west < -540) | (east > 540), "a longitude"),
    ):
        if wrong.any():
            at = int(np.flatnonzero(wrong)[0])
            value = float((south if abs(south[at]) > abs(north[at]) else north)[at])
            if what == "a longitude":
                value = float((west if abs(west[at]) > abs(east[at]) else east)[at])
            raise JobError(
                f"{path}: polygon {at + 1} has {what} of {value:g}; its coordinates are of another "
                f"CRS than {crs.name}, which the file says"
            )
    _check_edges(path, shapes[east - west > 180], shapes, degrees)


def _check_edges(path: str, wide: Any, shapes: Any, degrees: float) -> None:
    """An edge of more than half a turn is meant to go the other way, over the antimeridian."""
    import shapely

    for shape in wide:
        for ring in shapely.get_rings(shape):
            x = shapely.get_coordinates(ring)[:, 0] / degrees
            step = np.abs(np.diff(x))
            whole = np.isclose(step, 360) & np.isclose(np.abs(x[1:]), 180)  # of a map of the earth
            if ((step > 180) & ~whole).any():
                at = next(i for i, one in enumerate(shapes) if one is shape)
                raise JobError(
                    f"{path}: polygon {at + 1} has an edge over {step.max():.6g} degrees of longitude; "
                    "cut it at the antimeridian (RFC 7946, 3.1.9), as with ogr2ogr -wrapdateline"
                )


def turn_of(crs: Any) -> float:
    """What a turn of 360 degrees is in the units of a geographic CRS."""
    return float(2 * np.pi / crs.axis_info[0].unit_conversion_factor)


# ------------------------------------------------------------------------------------------ GeoJSON


def read_geojson(path: str) -> dict[str, Any]:
    """A GeoJSON's one object. Raises JobError."""
    _head(path)
    try:
        if os.path.getsize(path) > _MOST_JSON:
            raise JobError(f"{path}: is larger than {_MOST_JSON:,} bytes; make it a GeoPackage")
        with open(path, encoding="utf-8-sig") as file:
            text = file.read()
        with _no_cycles():
            found = json.loads(text, parse_constant=_no_number)
    except OSError as error:
        raise JobError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise JobError(f"{path}: is no GeoJSON: {error}") from error
    if not isinstance(found, dict):
        raise JobError(f"{path}: is no GeoJSON: one object is needed")
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


def features_of(path: str, document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The features of a GeoJSON, each a dict with a dict of properties. Raises JobError."""
    kind = document.get("type")
    found = document.get("features") if kind == "FeatureCollection" else [document]
    if kind not in ("FeatureCollection", "Feature") or not isinstance(found, list):
        raise JobError(f"{path}: is no GeoJSON: a FeatureCollection is needed")
    for number, feature in enumerate(found, 1):
        if not isinstance(feature, dict) or feature.get("type") != "Feature":
            raise JobError(f"{path}: feature {number} is no Feature of GeoJSON")
        if not isinstance(feature.get("properties") or {}, dict):
            raise JobError(f"{path}: feature {number}: its properties are no object")
    return found


def _geojson(path: str) -> tuple[Any, pa.Table, Any]:
    document = read_geojson(path)
    found = features_of(path, document)
    shapes = np.empty(len(found), object)
    shapes[:] = _shapes(path, [feature.get("geometry") for feature in found])
    return shapes, _columns(found), _crs_member(path, document)


def _crs_member(path: str, document: Mapping[str, Any]) -> Any:
    from pyproj import CRS
    from pyproj.exceptions import CRSError

    member = document.get("crs")
    if member is None:
        return CRS.from_user_input(_WGS84)
    try:
        name = str(member["properties"]["name"])
        match = _NAMED.fullmatch(name)
        if match is None:
            raise ValueError(name)
        return CRS.from_authority(match[1].upper(), match[2])
    except (TypeError, KeyError, ValueError, CRSError) as error:
        raise JobError(f"{path}: its member `crs` names no CRS that is known") from error


def _shapes(path: str, geometries: Sequence[Any]) -> list[Any]:
    """Shapes of GeoJSON's geometries; made together, which is twenty times as quick as one by one."""
    import shapely

    rings: list[NDArray[np.float64]] = []
    polygon_of: list[int] = []
    geometry_of: list[int] = []
    for number, geometry in enumerate(geometries):
        for polygon in _polygons(path, number + 1, geometry):
            geometry_of.append(number)
            rings += polygon
            polygon_of += [len(geometry_of) - 1] * len(polygon)
    found: list[Any] = [None] * len(geometries)
    if rings:
        lengths = [len(ring) for ring in rings]
        lines = shapely.linearrings(
            np.concatenate(rings), indices=np.repeat(np.arange(len(rings)), lengths)
        )
        parts = shapely.polygons(lines, indices=np.array(polygon_of))
        owners, firsts = np.unique(geometry_of, return_index=True)
        for owner, several in zip(owners, np.split(parts, firsts[1:]), strict=True):
            found[owner] = several[0] if len(several) == 1 else shapely.MultiPolygon(list(several))
    return found


def _polygons(path: str, number: int, geometry: Any) -> Iterator[list[NDArray[np.float64]]]:
    """Rings (point, 2) of each polygon of a geometry."""
    if geometry is None:
        return
    kind = geometry.get("type") if isinstance(geometry, dict) else None
    if kind not in ("Polygon", "MultiPolygon"):
        raise JobError(f"{path}: feature {number} is a {kind}; polygons are needed")
    given = geometry.get("coordinates")
    try:
        for polygon in [given] if kind == "Polygon" else given:
            rings = [np.array([point[:2] for point in ring], np.float64) for ring in polygon]
            if any(len(ring) < 4 or ring.shape[1] != 2 for ring in rings):
                raise ValueError("a ring has at least four points of two numbers")
            if rings:
                yield rings
    except (TypeError, ValueError, IndexError, OverflowError) as error:
        raise JobError(f"{path}: feature {number} is no polygon of GeoJSON: {error}") from error


def _columns(features: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Properties as columns, in the order in which they first come."""
    import pyarrow as pa

    rows = [feature.get("properties") or {} for feature in features]
    names = dict.fromkeys(name for row in rows for name in row)
    found = {name: _column([row.get(name) for row in rows]) for name in names}
    if "id" not in found and any("id" in feature for feature in features):
        found = {"id": _column([feature.get("id") for feature in features]), **found}
    return pa.table(found)


def _column(values: list[Any]) -> pa.Array:
    """Of one type; where they are of several, or nested, each as JSON."""
    import pyarrow as pa

    if not any(isinstance(value, dict | list) for value in values):
        try:
            found = pa.array(values)
            return found if not pa.types.is_null(found.type) else found.cast(pa.string())
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
            pass
    texts = [v if v is None or isinstance(v, str) else json.dumps(v) for v in values]
    return pa.array(texts, pa.string())


# ------------------------------------------------------------------------------- GeoParquet and GDAL


def _geoparquet(path: str) -> tuple[Any, pa.Table, Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq
    from pyproj import CRS
    from pyproj.exceptions import CRSError

    try:
        with pq.ParquetFile(path) as file:
            about = json.loads((file.metadata.metadata or {}).get(b"geo", b"null"))
            if about is None:
                raise JobError(f"{path}: is Parquet without shapes; GeoParquet has them")
            name = about["primary_column"]
            column = about["columns"][name]
            groups = (file.metadata.row_group(i) for i in range(file.metadata.num_row_groups))
            if sum(group.total_byte_size for group in groups) > _MOST:
                raise JobError(f"{path}: holds more than {_MOST:,} bytes; split it")
            if column["encoding"] != "WKB":
                raise JobError(f"{path}: its shapes are not WKB but {column['encoding']!r}")
            said = column.get("crs", _WGS84)
            if not (said is None or said == _WGS84 or isinstance(said, dict)):
                raise ValueError("its CRS is no PROJJSON")
            crs = None if said is None else CRS.from_user_input(said)
            table = file.read()
        shapes = _from_wkb(path, table.column(name))
    except (pa.ArrowException, OSError, ValueError, TypeError, KeyError, CRSError) as error:
        raise JobError(f"{path}: cannot be read as GeoParquet: {error}") from error
    return shapes, table.drop_columns([name]).replace_schema_metadata(None), crs


def _gdal(path: str, kind: str, layer: str | None) -> tuple[Any, pa.Table, Any]:
    """By GDAL's driver for it, as pyogrio brings it."""
    from pyproj import CRS
    from pyproj.exceptions import CRSError

    try:
        import pyogrio
    except ImportError as error:
        raise JobError(
            f"{path}: {kind} needs pyogrio; python -m pip install 'segengine[earth]' "
            "(GeoJSON and GeoParquet need nothing)"
        ) from error
    place = os.path.abspath(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            names = [str(name) for name, shape in pyogrio.list_layers(place) if shape is not None]
            if layer is None and len(names) > 1:
                raise JobError(f"{path}: has the layers {', '.join(names)}; name one with --layer")
            if layer is not None and layer not in names:
                raise JobError(f"--layer: {layer!r} is not in {path}; there are {', '.join(names)}")
            if not names:
                raise JobError(f"{path}: holds no polygon")
            about, table = pyogrio.read_arrow(place, layer=layer or names[0])
        name = about["geometry_name"] or "wkb_geometry"
        shapes = _from_wkb(path, table.column(name))
        crs = None if about["crs"] is None else CRS.from_user_input(about["crs"])
    except (RuntimeError, OSError, ValueError, KeyError, CRSError) as error:
        raise JobError(f"{path}: cannot be read as {kind}: {error}") from error
    return shapes, table.drop_columns([name]).replace_schema_metadata(None), crs


def _from_wkb(path: str, column: Any) -> NDArray[np.object_]:
    import shapely
    from shapely.errors import ShapelyError

    try:
        found = shapely.from_wkb(column.to_numpy(zero_copy_only=False))
    except (ShapelyError, TypeError, ValueError) as error:
        raise JobError(f"{path}: holds a shape that is none: {error}") from error
    return np.atleast_1d(np.asarray(found, object))
