"""Instances as features: an outline and what is known of it, for the geographic formats."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from segengine.errors import StoreError
from segengine.export._antimeridian import cut
from segengine.export._edges import Points, densified
from segengine.export._instances import Piece
from segengine.export._perimeter import perimeters
from segengine.export._shaping import Shaping, shapes
from segengine.instances.polygons import Polygon, Ring, oriented
from segengine.placing import Placing
from segengine.reader import SceneStore
from segengine.stages.metrics_json import text

PIXELS = "pixels: x to the right and y down from the upper left corner of the frame"
"""What the coordinates of a scene without georeference are."""

UNITS = "those of the scene's transform, which says no CRS"
"""What the coordinates of a scene without a CRS are."""

STRAY = 0.002
"""Pixels by which an edge may stray where it is reprojected."""

NOTHING = Shaping()

LONGEST, LONG = 45, 3e6
"""Degrees, and metres, of an edge's piece at most."""


@dataclass(frozen=True, slots=True)
class Feature:
    """One instance."""

    properties: dict[str, Any]
    """scene, frame, name, id, class, score, probability, area (pixels), square_metres, perimeter (metres).

    None where one is unknown.
    """
    polygons: list[Polygon]
    """Exteriors counterclockwise, holes clockwise, in the coordinates as they are written."""


def crs_wkt(scene: SceneStore) -> str | None:
    """The CRS of a scene as WKT; None: it is not georeferenced."""
    placing = scene.layout.placing
    return placing.wkt if placing.georeferenced else None


def units(scene: SceneStore) -> str:
    """What the coordinates of a scene without a CRS are."""
    return UNITS if scene.layout.placing.transform else PIXELS


def features(
    scene: SceneStore,
    piece: Piece,
    reproject: Callable[[list[list[Polygon]], float], list[list[Polygon]]] | None = None,
    shaping: Shaping = NOTHING,
) -> list[Feature]:
    """The features of a piece, in the scene's CRS, or where `reproject` takes them from there.

    `reproject` takes outlines and the side of a pixel, both in units of the CRS. An object without a
    pixel has no outline, and is none; so is one that `shaping` leaves out.
    """
    placing = scene.layout.placing
    refs = {frame: scene.layout.frame(frame) for frame in {row["frame"] for row in piece.rows}}
    found = list(shapes(scene, piece.rows, shaping, piece.kept))
    outlines = [shape.outline for shape in found]
    around: list[float | None] = [None] * len(found)
    if placing.transform:
        outlines = [_mapped(each, partial(placed, placing)) for each in outlines]
        if placing.georeferenced:
            around = perimeters(placing.wkt, outlines)
        if reproject is not None:
            outlines = reproject(outlines, placing.pixel)
    made = []
    for shape, outline, metres in zip(found, outlines, around, strict=True):
        row = shape.row
        properties = {
            "scene": row["scene"],
            "frame": row["frame"],
            "name": text(refs[row["frame"]].name),
            "id": row["id"],
            "class": scene.store.classes[row["class"]],
            "score": row["score"],
            "probability": shape.probability,
            "area": row["area"],
            "square_metres": shape.metres,
            "perimeter": metres,
        }
        made.append(Feature(properties, [oriented(polygon) for polygon in outline]))
    return made


def placed(placing: Placing, ring: Ring) -> Ring:
    """A ring in pixels, by the transform of its scene."""
    return np.stack(placing.at(*ring.T), axis=1)


def _mapped(outline: list[Polygon], change: Callable[[Any], Any]) -> list[Polygon]:
    return [[change(ring) for ring in polygon] for polygon in outline]


def to_lonlat(wkt: str, scene: str) -> Callable[[list[list[Polygon]], float], list[list[Polygon]]]:
    """From a CRS to longitude and latitude of WGS84, cut where they cross the antimeridian.

    Edges get further points where they would stray more than a quarter of a pixel from what is
    straight in the CRS: outlines, whose edges are a pixel apart, stay valid. Raises StoreError,
    naming the scene, where a point has no longitude and latitude.
    """
    from rasterio.crs import CRS
    from rasterio.warp import transform

    source, target = CRS.from_wkt(wkt), CRS.from_string("OGC:CRS84")
    unit = source.units_factor[1]  # radians or metres
    longest = math.radians(LONGEST) / unit if source.is_geographic else LONG / unit

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
        dense = densified(rings, pixel / 16, STRAY * pixel, forth, back, longest)
        points = forth(np.concatenate(dense))
        ends = np.cumsum([len(ring) for ring in dense])
        moved_rings = iter(np.split(points, ends[:-1]))
        return [
            cut([[next(moved_rings) for _ in polygon] for polygon in outline])
            for outline in outlines
        ]

    return lonlat
