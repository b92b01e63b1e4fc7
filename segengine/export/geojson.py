"""GeoJSON (RFC 7946), one file a scene: objects as polygons in longitude and latitude of WGS84.

Objects are instances, or where the segmenter finds none the connected regions of each class. A
feature's id is the number of its row, from 1; its properties are `scene`, `frame`, `name`, `id` (of
the frame), `class`, `score`, `probability` (mean of its class over its pixels, where the store has
them), `area` in pixels, `square_metres` and `perimeter` in metres. An object is one feature, also
where it lies in many shards; pieces that meet in a corner only, or not at all, make it a MultiPolygon,
and so does the antimeridian, at which it is cut. Longitudes are from -180 to 180, exteriors
counterclockwise, holes clockwise.

A scene that has a transform and no CRS is written in the transform's units, as the COG places it; one
without either in pixels, x to the right and y down. Both say so in the member `coordinates` of their
collection; RFC 7946 has no other way, and readers take them for degrees.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from segengine.export._features import Feature, crs_wkt, features, to_lonlat, units
from segengine.export._instances import Piece
from segengine.export._objects import Objects
from segengine.export._parts import joined
from segengine.export._shaping import Shaping
from segengine.instances.polygons import Ring
from segengine.outputs import Output, claimed
from segengine.reader import SceneStore, open_store

VERSION = 5
_DIGITS = 9
"""Decimals of a degree: a tenth of a millimetre."""


def export(
    store_path: str,
    to: str,
    *,
    simplify: float = 0,
    min_area: float = 0,
    holes: float = 0,
    overwrite: bool = False,
) -> list[str]:
    """Write `<scene>.geojson` below the folder `to` for each scene with objects; the files written.

    `simplify`: side of the triangles that go, in units of the scene's CRS. `min_area`, `holes`: square
    metres (pixels without georeference) of the smallest object, and of the largest hole that is filled.
    `overwrite`: also files that no export wrote. Goes on where it was killed. Raises JobError,
    StoreError.
    """
    objects = Objects(open_store(store_path), Shaping(simplify, min_area, holes))
    paths = files(objects, to)
    return write(objects, paths, claimed(objects.store, to, paths, overwrite=overwrite))


def files(objects: Objects, to: str) -> list[Path]:
    """A file a scene."""
    return [Path(to, f"{name}.geojson") for name in objects.scenes]


def write(objects: Objects, paths: list[Path], output: Output) -> list[str]:
    """Write the files, which `output` has claimed."""
    parts = objects.parts(output, "geojson", VERSION)
    written = []
    for path, (scene, pieces) in zip(paths, objects.by_scene(), strict=True):
        wkt = crs_wkt(scene)
        lonlat = None if wkt is None else to_lonlat(wkt, scene.name)
        about = {"type": "FeatureCollection", "name": scene.name}
        if lonlat is None:
            about["coordinates"] = units(scene)
        head = f'{json.dumps(about)[:-1]}, "features": ['.encode()
        encode = partial(_encoded, scene, lonlat, objects.shaping)
        assemble = partial(_assembled, head)
        written.append(parts.write(path, pieces, encode, assemble))
    parts.close()
    return written


def _assembled(head: bytes, out: Path, parts: list[Path]) -> None:
    joined(out, head, parts, b"\n]}\n")


def _encoded(scene: SceneStore, lonlat: Any, shaping: Shaping, piece: Piece) -> bytes:
    # pixels' corners are whole numbers
    whole = lonlat is None and not scene.layout.placing.transform
    found = enumerate(features(scene, piece, lonlat, shaping), piece.first + 1)
    return ",\n".join(_feature(number, feature, whole) for number, feature in found).encode()


def _feature(number: int, feature: Feature, whole: bool) -> str:
    shapes = [[_points(ring, whole) for ring in polygon] for polygon in feature.polygons]
    single = len(shapes) == 1
    geometry = {
        "type": "Polygon" if single else "MultiPolygon",
        "coordinates": shapes[0] if single else shapes,
    }
    found = {
        "type": "Feature",
        "id": number,
        "properties": feature.properties,
        "geometry": geometry,
    }
    return json.dumps(found, ensure_ascii=False)


def _points(ring: Ring, whole: bool) -> list[list[float]]:
    values = ring.astype(np.int64) if whole else np.round(ring, _DIGITS)
    points: list[list[float]] = values.tolist()
    return points
