"""Polygons of an area of interest: rings of a file's polygons in its CRS, and the digest of the file."""

from __future__ import annotations

import numpy as np
import xxhash
from numpy.typing import NDArray

from segengine.errors import CorruptInputError
from segengine.sources._files import open_input
from segengine.sources._geojson import DEGREES
from segengine.sources._grid import LAID, crs_of, kind_of
from segengine.sources._vectors import belonging, features_in

__all__ = ["DEGREES", "Polygon", "digest", "polygons_in"]
_MOST_BYTES = 1 << 26
_MOST_POINTS = 1 << 20
_ONE_LAYER = "write the one that is meant to a file of its own (ogr2ogr FIELD.gpkg ALL.gpkg LAYER)"
"""A job has no key for it: an area is what a file says."""

Polygon = tuple[NDArray[np.float64], ...]
"""Rings (point, 2) of x and y, each closed, the outer one first."""


def digest(uri: str) -> str:
    """Of the bytes of a file of polygons, and of what belongs to it. Raises as `polygons_in`."""
    found = xxhash.xxh3_64()
    for each in belonging(uri):
        with open_input(each) as file:
            data = file.read(_MOST_BYTES + 1)
        if len(data) > _MOST_BYTES:
            raise CorruptInputError(f"is of more than {_MOST_BYTES:,} bytes; simplify its polygons")
        found.update(data)
    return found.hexdigest()


def polygons_in(uri: str) -> tuple[str, tuple[Polygon, ...]]:
    """The CRS, and polygons, of a file. Raises CorruptInputError, TransientInputError with a reason."""
    import shapely

    given = features_in(uri, most=_MOST_BYTES, choice=_ONE_LAYER)
    try:
        crs = crs_of(given.crs)
    except ValueError as error:
        raise CorruptInputError(str(error)) from error
    if (kind := kind_of(crs)) not in LAID:
        raise CorruptInputError(
            f"says a {kind} CRS, in which no polygon lies; write it again in another"
        )
    if shapely.get_num_coordinates(given.shapes).sum() > _MOST_POINTS:
        raise CorruptInputError(f"has more than {_MOST_POINTS:,} points; simplify its polygons")
    parts = shapely.get_parts(given.shapes[~shapely.is_missing(given.shapes)])
    west, south, east, north = shapely.bounds(parts).T
    far = max(np.abs(west).max(), np.abs(east).max())
    if crs.is_geographic and (far > 360 or max(np.abs(south).max(), np.abs(north).max()) > 90):
        raise CorruptInputError("has coordinates that are no degrees, and names no other CRS")
    # As files name it, so that what a transformation is looked up by stays short.
    wkt = given.crs if given.crs == DEGREES else str(crs.to_wkt())
    return wkt, tuple(
        tuple(shapely.get_coordinates(ring) for ring in (part.exterior, *part.interiors))
        for part in parts
        if not part.is_empty
    )
