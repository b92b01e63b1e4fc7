"""Polygons in files, here or behind a URL: GeoJSON, GeoParquet, GeoPackage, FlatGeobuf, Shapefile.

What a file is, is told by its first bytes, not its name; nothing else is handed to GDAL, and what is in
it is bounded before it is read. GeoJSON and GeoParquet are read without GDAL. A GeoJSON without the
member `crs` of its first version has longitudes and latitudes of WGS84 (RFC 7946).
"""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from tempfile import NamedTemporaryFile
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

from segengine.errors import CorruptInputError
from segengine.sources import _geojson
from segengine.sources._files import is_url, one_line, open_input

if TYPE_CHECKING:
    import pyarrow as pa

MOST = 4 << 30
"""Bytes of a file, and of what a compressed one holds."""
READ = "GeoJSON, GeoPackage, FlatGeobuf, GeoParquet and Shapefile are read"
_POLYGON, _MULTIPOLYGON, _COLLECTION = 3, 6, 7

Format = Literal["GeoJSON", "GeoParquet", "GPKG", "FlatGeobuf", "ESRI Shapefile"]
_SUFFIX: dict[Format, str] = {"GPKG": ".gpkg", "FlatGeobuf": ".fgb", "GeoParquet": ".parquet"}
_BESIDE = (".shx", ".dbf", ".prj", ".cpg")
"""What belongs to a Shapefile."""


@dataclass(frozen=True, slots=True)
class Features:
    """Polygons of a file, as they stand there."""

    shapes: NDArray[np.object_]
    """(n,) shapely polygons and multipolygons, flat; None where there is none."""
    columns: pa.Table
    """Their other columns."""
    crs: str
    """As PROJ takes it: a name, or WKT."""


def features_in(
    uri: str, layer: str | None = None, most: int = MOST, choice: str = "name one with --layer"
) -> Features:
    """All of a file of at most so many bytes; `layer`: of one that has several, of which `choice` says
    how one is meant.

    Raises CorruptInputError with a reason, also for what is no polygon; TransientInputError.
    """
    import shapely

    with open_input(uri) as file:
        kind = _format(file, most)
        if layer is not None and kind != "GPKG":
            raise CorruptInputError("has no layers to choose from; a GeoPackage has")
        if kind == "GeoJSON":
            found = _from_geojson(file.read(_geojson.MOST + 1))
        else:
            with _on_disk(uri, file, kind, most) as path:
                read = (
                    _geoparquet(path, most)
                    if kind == "GeoParquet"
                    else _gdal(path, kind, layer, choice)
                )
            found = read
    if not len(found.shapes):
        raise CorruptInputError("holds no polygon")
    if not found.crs:
        raise CorruptInputError("does not say its CRS; write it again with one (ogr2ogr -a_srs)")
    shapes = shapely.force_2d(_polygonal(found.shapes))
    shapes[shapely.is_empty(shapes)] = None
    if shapely.is_missing(shapes).all():
        raise CorruptInputError("holds no polygon")
    return Features(shapes, found.columns, found.crs)


def belonging(uri: str) -> tuple[str, ...]:
    """The files that one of polygons is made of, itself first."""
    stem, suffix = os.path.splitext(uri)
    if is_url(uri) or suffix.lower() != ".shp":
        return (uri,)
    upper = str.upper if suffix.isupper() else str
    return (uri, *filter(os.path.isfile, (stem + upper(each) for each in _BESIDE)))


def _format(file: BinaryIO, most: int) -> Format:
    """Told by its first bytes; the file is at its beginning again."""
    size = file.seek(0, os.SEEK_END)
    if size > most:
        raise CorruptInputError(
            f"has {size:,} bytes, of at most {most:,}; split it, or simplify its polygons"
        )
    file.seek(0)
    head = file.read(256)
    file.seek(0)
    if head.startswith(b"PAR1"):
        return "GeoParquet"
    if head.startswith(b"SQLite format 3\0") and head[68:72] in (b"GPKG", b"GP10", b"GP11"):
        return "GPKG"
    if head[:3] == b"fgb" and head[4:7] == b"fgb":
        return "FlatGeobuf"
    if head.startswith(b"\0\0\x27\x0a"):
        return "ESRI Shapefile"
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{"):
        return "GeoJSON"
    raise CorruptInputError(f"is no file of polygons; {READ}")


@contextmanager
def _on_disk(uri: str, file: BinaryIO, kind: Format, most: int) -> Iterator[str]:
    """A path of the file, where one that lies behind a URL is copied for the moment."""
    if not is_url(uri):
        yield os.path.abspath(uri)
        return
    if kind not in _SUFFIX:
        raise CorruptInputError(f"is of {kind}, whose files lie beside each other; copy them here")
    # GDAL tells formats by suffixes too.
    with NamedTemporaryFile(suffix=_SUFFIX[kind]) as copy:
        shutil.copyfileobj(file, copy, 1 << 20)
        copy.flush()
        if copy.tell() > most:
            raise CorruptInputError(f"has more than {most:,} bytes; split it")
        yield copy.name


def _polygonal(shapes: NDArray[np.object_]) -> NDArray[np.object_]:
    """Collections of polygons as multipolygons. Raises CorruptInputError for what is no polygon."""
    import shapely

    kinds = shapely.get_type_id(shapes)
    for at in np.flatnonzero(kinds == _COLLECTION):
        parts = shapely.get_parts(shapely.get_parts(shapes[at]))
        if all(part.geom_type == "Polygon" for part in parts):
            shapes[at] = shapely.MultiPolygon(list(parts))
    kinds = shapely.get_type_id(shapes)
    others = np.flatnonzero((kinds >= 0) & (kinds != _POLYGON) & (kinds != _MULTIPOLYGON))
    if len(others):
        kind = shapes[others[0]].geom_type
        raise CorruptInputError(f"feature {others[0] + 1} is a {kind}; polygons are needed")
    return shapes


# ------------------------------------------------------------------------------------------ formats


def _from_geojson(text: bytes) -> Features:
    document = _geojson.parsed(text)
    found = _geojson.features_of(document)
    return Features(_geojson.shapes_of(found), _columns(found), _geojson.crs_named(document))


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


def _geoparquet(path: str, most: int) -> Features:
    import pyarrow as pa
    import pyarrow.parquet as pq
    from pyproj import CRS
    from pyproj.exceptions import CRSError

    try:
        with pq.ParquetFile(path) as file:
            about = json.loads((file.metadata.metadata or {}).get(b"geo", b"null"))
            if about is None:
                raise CorruptInputError("is Parquet without shapes; GeoParquet has them")
            name = about["primary_column"]
            column = about["columns"][name]
            groups = (file.metadata.row_group(i) for i in range(file.metadata.num_row_groups))
            if sum(group.total_byte_size for group in groups) > most:
                raise CorruptInputError(f"holds more than {most:,} bytes; split it")
            if column["encoding"] != "WKB":
                raise CorruptInputError(f"its shapes are not WKB but {column['encoding']!r}")
            crs = column.get("crs", _geojson.DEGREES)
            if not (crs is None or crs == _geojson.DEGREES or isinstance(crs, dict)):
                raise ValueError("its CRS is no PROJJSON")
            table = file.read()
        shapes = _from_wkb(table.column(name))
        named = CRS.from_json_dict(crs).to_wkt() if isinstance(crs, dict) else crs or ""
    except (pa.ArrowException, OSError, ValueError, TypeError, KeyError, CRSError) as error:
        raise CorruptInputError(f"cannot be read as GeoParquet: {one_line(error)}") from error
    return Features(shapes, table.drop_columns([name]).replace_schema_metadata(None), named)


def _gdal(path: str, kind: Format, layer: str | None, choice: str) -> Features:
    """By GDAL's driver for it, as pyogrio brings it."""
    try:
        import pyogrio
    except ImportError as error:
        raise CorruptInputError(
            f"{kind} needs pyogrio; python -m pip install 'segengine[earth]' "
            "(GeoJSON and GeoParquet need nothing)"
        ) from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            names = [str(name) for name, shape in pyogrio.list_layers(path) if shape is not None]
            if layer is None and len(names) > 1:
                raise CorruptInputError(f"has the layers {', '.join(names)}; {choice}")
            if layer is not None and layer not in names:
                raise CorruptInputError(f"has no layer {layer!r}; there are {', '.join(names)}")
            if not names:
                raise CorruptInputError("holds no polygon")
            about, table = pyogrio.read_arrow(path, layer=layer or names[0])
        name = about["geometry_name"] or "wkb_geometry"
        shapes = _from_wkb(table.column(name))
    except (RuntimeError, OSError, ValueError, KeyError) as error:
        raise CorruptInputError(f"cannot be read as {kind}: {one_line(error)}") from error
    columns = table.drop_columns([name]).replace_schema_metadata(None)
    return Features(shapes, columns, str(about["crs"] or ""))


def _from_wkb(column: Any) -> NDArray[np.object_]:
    import shapely
    from shapely.errors import ShapelyError

    try:
        found = shapely.from_wkb(column.to_numpy(zero_copy_only=False))
    except (ShapelyError, TypeError, ValueError) as error:
        raise CorruptInputError(f"holds a shape that is none: {one_line(error)}") from error
    return np.atleast_1d(np.asarray(found, object))
