"""Instances as features: an outline and what is known of it, for the geographic formats."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from segengine.errors import StoreError
from segengine.export._edges import Points, densified
from segengine.export._instances import Piece
from segengine.export._polygons import Polygon, oriented, polygons, transformed
from segengine.figures import text
from segengine.instances import decode_crop
from segengine.publish import pixel_area
from segengine.store import SceneStore

PIXELS = "pixels: x to the right and y down from the upper left corner of the frame"
"""What the coordinates of a scene without georeference are."""

STRAY = 0.25
"""Pixels by which an edge may stray where it is reprojected."""


@dataclass(frozen=True, slots=True)
class Feature:
    """One instance."""

    properties: dict[str, Any]
    """scene, frame, name, id, class, score, area (pixels) and square_metres (None where unknown)."""
    polygons: list[Polygon]
    """Exteriors counterclockwise, holes clockwise, in the coordinates as they are written."""


def crs_wkt(scene: SceneStore) -> str | None:
    """The CRS of a scene as WKT; None: it is not georeferenced."""
    attributes = scene.attributes
    return str(attributes["crs_wkt"]) if _is_placed(attributes) else None


def _is_placed(attributes: dict[str, Any]) -> bool:
    return bool(attributes.get("crs_wkt") and attributes.get("transform"))


def features(
    scene: SceneStore,
    piece: Piece,
    reproject: Callable[[list[list[Polygon]], float], list[list[Polygon]]] | None = None,
) -> list[Feature]:
    """The features of a piece, in the scene's CRS, or where `reproject` takes them from there.

    `reproject` takes outlines and the side of a pixel, both in units of the CRS. An object without a
    pixel has no outline, and is none.
    """
    attributes = scene.attributes
    refs = {frame: scene.layout.frame(frame) for frame in {row["frame"] for row in piece.rows}}
    rows, outlines = [], []
    for row in piece.rows:
        outline = polygons(*decode_crop(row["rle"], refs[row["frame"]].height))
        if outline:
            rows.append(row)
            outlines.append(outline)
    if _is_placed(attributes):
        place = attributes["transform"]
        outlines = [_mapped(each, lambda ring: transformed(ring, place)) for each in outlines]
        if reproject is not None:
            a, b, _, d, e, _ = place[:6]
            outlines = reproject(outlines, min(math.hypot(a, d), math.hypot(b, e)))
    scale = pixel_area(attributes)
    found = []
    for row, outline in zip(rows, outlines, strict=True):
        properties = {
            "scene": row["scene"],
            "frame": row["frame"],
            "name": text(refs[row["frame"]].name),
            "id": row["id"],
            "class": scene.store.classes[row["class"]],
            "score": row["score"],
            "area": row["area"],
            "square_metres": None if scale is None else row["area"] * scale,
        }
        found.append(Feature(properties, [oriented(polygon) for polygon in outline]))
    return found


def _mapped(outline: list[Polygon], change: Callable[[Any], Any]) -> list[Polygon]:
    return [[change(ring) for ring in polygon] for polygon in outline]


def to_lonlat(wkt: str, scene: str) -> Callable[[list[list[Polygon]], float], list[list[Polygon]]]:
    """From a CRS to longitude and latitude of WGS84, cut where they cross the antimeridian.

    Edges get further points where they would stray more than a quarter of a pixel from what is
    straight in the CRS: outlines, whose edges are a pixel apart, stay valid. Raises StoreError,
    naming the scene, where a point has no longitude and latitude.
    """
    from rasterio.crs import CRS
    from rasterio.warp import transform, transform_geom

    source, target = CRS.from_wkt(wkt), CRS.from_string("OGC:CRS84")

    def cut(polygon: Polygon) -> list[Polygon]:
        rings = [ring.tolist() for ring in polygon]
        shape = {"type": "Polygon", "coordinates": rings}
        found = transform_geom(source, target, shape, antimeridian_cutting=True)
        single = found["type"] == "Polygon"
        parts = [found["coordinates"]] if single else found["coordinates"]
        return [[np.asarray(ring)[:, :2] for ring in part] for part in parts]

    def moved(source: CRS, target: CRS, points: Points) -> Points:
        nowhere = f"{scene}: has no longitude and latitude everywhere; use geoparquet"
        try:
            found = np.stack(transform(source, target, *points.T), axis=1)
        except Exception as error:  # GDAL's, which rasterio does not export
            raise StoreError(nowhere) from error
        if not np.isfinite(found).all():
            raise StoreError(nowhere)
        return found

    forth, back = partial(moved, source, target), partial(moved, target, source)

    def lonlat(outlines: list[list[Polygon]], pixel: float) -> list[list[Polygon]]:
        rings = [ring for outline in outlines for polygon in outline for ring in polygon]
        if not rings:
            return outlines
        # one call for all: setting it up costs more than a thousand points
        dense = densified(rings, pixel, STRAY * pixel, forth, back)
        points = forth(np.concatenate(dense))
        ends = np.cumsum([len(ring) for ring in dense])
        pairs = zip(dense, np.split(points, ends[:-1]), strict=True)
        found = []
        for outline in outlines:
            parts: list[Polygon] = []
            for polygon in outline:
                here, there = zip(*(next(pairs) for _ in polygon), strict=True)
                parts += cut(list(here)) if _crosses(there) else [list(there)]
            found.append(parts)
        return found

    return lonlat


def _crosses(polygon: Sequence[Any]) -> bool:
    """Whether a polygon seems to go around the earth: it crosses the antimeridian."""
    return float(np.ptp(polygon[0][:, 0])) > 180
