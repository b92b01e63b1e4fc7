"""GeoJSON (RFC 7946), one file a scene: instances as polygons in longitude and latitude of WGS84.

A feature's id is the number of its row in the store's table, from 1; its properties are `scene`,
`frame`, `name`, `id` (of the frame), `class`, `score`, `area` in pixels and `square_metres`. An object
is one feature, also where it lies in many shards; pieces that meet in a corner only, or not at all,
make it a MultiPolygon, and so does the antimeridian, at which it is cut. Longitudes are from -180 to
180, exteriors counterclockwise, holes clockwise.

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
from segengine.export._instances import Piece, by_scene, open_parts, scenes
from segengine.export._parts import joined
from segengine.export._polygons import Ring
from segengine.outputs import claimed
from segengine.reader import SceneStore, open_store

VERSION = 3
_DIGITS = 9
"""Decimals of a degree: a tenth of a millimetre."""


def export(store_path: str, to: str, *, overwrite: bool = False) -> list[str]:
    """Write `<scene>.geojson` below the folder `to` for each scene with instances; the files written.

    `overwrite`: also files that no export wrote. Goes on where it was killed. Raises JobError,
    StoreError.
    """
    store = open_store(store_path)
    paths = [Path(to, f"{name}.geojson") for name in scenes(store)]
    parts = open_parts(store, claimed(store, to, paths, overwrite=overwrite), "geojson", VERSION)
    written = []
    for path, (name, pieces) in zip(paths, by_scene(store), strict=True):
        scene = store[name]
        wkt = crs_wkt(scene)
        lonlat = None if wkt is None else to_lonlat(wkt, name)
        about = {"type": "FeatureCollection", "name": name}
        if lonlat is None:
            about["coordinates"] = units(scene)
        head = f'{json.dumps(about)[:-1]}, "features": ['.encode()
        encode = partial(_encoded, scene, lonlat)
        assemble = partial(_assembled, head)
        written.append(parts.write(path, pieces, encode, assemble))
    parts.close()
    return written


def _assembled(head: bytes, out: Path, parts: list[Path]) -> None:
    joined(out, head, parts, b"\n]}\n")


def _encoded(scene: SceneStore, lonlat: Any, piece: Piece) -> bytes:
    # pixels' corners are whole numbers
    whole = lonlat is None and not scene.layout.placing.transform
    found = enumerate(features(scene, piece, lonlat), piece.first + 1)
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
