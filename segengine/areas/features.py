"""Polygons of a user, with their columns: what a file holds, mended where it can be, refused where not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from segengine.errors import CorruptInputError, JobError, TransientInputError
from segengine.sources import _geojson
from segengine.sources._files import open_input
from segengine.sources._vectors import features_in
from segengine.urls import public

if TYPE_CHECKING:
    import pyarrow as pa

GEOMETRY = "geometry"
"""The column of shapes in what is written."""
NAMED = 5
"""Polygons that a line names."""


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
    """Read all of a file, local or behind a URL. `layer`: of a file with several.

    Raises JobError, naming what is wrong.
    """
    from pyproj import CRS
    from pyproj.exceptions import CRSError

    name = public(path)
    try:
        found = features_in(path, layer)
    except (CorruptInputError, TransientInputError) as error:
        raise JobError(f"{name}: {error}") from error
    try:
        crs = CRS.from_user_input(found.crs)
    except CRSError as error:
        raise JobError(f"{name}: names no CRS that is known: {found.crs[:100]}") from error
    if not (crs.is_geographic or crs.is_projected or crs.is_engineering):
        raise JobError(
            f"{name}: says the CRS {crs.name}, in which no polygon lies: it is a {crs.type_name}"
        )
    notices = tuple(_mended(name, found.shapes))
    _check(name, found.shapes, crs)
    return Polygons(name, found.shapes, found.columns, crs, notices)


def read_geojson(path: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A GeoJSON's one object, and its features. Raises JobError."""
    try:
        with open_input(path) as file:
            document = _geojson.parsed(file.read(_geojson.MOST + 1))
        return document, _geojson.features_of(document)
    except (CorruptInputError, TransientInputError) as error:
        raise JobError(f"{public(path)}: {error}") from error


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
