"""GeoParquet 1.1, one file a scene: objects as polygons in the scene's CRS.

Objects are instances, or where the segmenter finds none the connected regions of each class. Columns:
scene, frame, name, id (of the frame), class, score, probability (mean of its class over its pixels,
where the store has them), area in pixels, square_metres, perimeter in metres (null where unknown),
bbox (a struct, so that readers skip what is elsewhere) and geometry (WKB). An object is one row, also
where it lies in many shards; pieces that meet in a corner only, or not at all, make it a MultiPolygon.

A scene without georeference is written in pixels, x to the right and y down, with the CRS null.
Source: https://geoparquet.org/releases/v1.1.0/.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from segengine.export._features import crs_wkt, features
from segengine.export._instances import Piece
from segengine.export._objects import Objects
from segengine.export._shaping import Shaping
from segengine.export._table import decoded, encoded, schema
from segengine.outputs import claimed
from segengine.reader import SceneStore, open_store

VERSION = 4
_SIDES = ("xmin", "ymin", "xmax", "ymax")


def export(
    store_path: str,
    to: str,
    *,
    simplify: float = 0,
    min_area: float = 0,
    holes: float = 0,
    overwrite: bool = False,
) -> list[str]:
    """Write `<scene>.parquet` below the folder `to` for each scene with objects; the files written.

    `simplify`: side of the triangles that go, in units of the scene's CRS. `min_area`, `holes`: square
    metres (pixels without georeference) of the smallest object, and of the largest hole that is filled.
    `overwrite`: also files that no export wrote. Goes on where it was killed. Raises JobError,
    StoreError.
    """
    shaping = Shaping(simplify, min_area, holes)
    store = open_store(store_path)
    objects = Objects(store, shaping)
    paths = [Path(to, f"{name}.parquet") for name in objects.scenes]
    parts = objects.parts(claimed(store, to, paths, overwrite=overwrite), "geoparquet", VERSION)
    written = []
    for path, (scene, pieces) in zip(paths, objects.by_scene(), strict=True):
        encode, assemble = partial(_encoded, scene, shaping), partial(_assembled, crs_wkt(scene))
        written.append(parts.write(path, pieces, encode, assemble))
    parts.close()
    return written


def _encoded(scene: SceneStore, shaping: Shaping, piece: Piece) -> bytes:
    """A piece as a parquet file of its own."""
    return encoded(features(scene, piece, shaping=shaping), boxes=True, multi=False)


def _assembled(wkt: str | None, out: Path, parts: list[Path]) -> None:
    """One file, a row group a part."""
    import pyarrow.parquet as pq

    about: dict[str, Any] = {
        "encoding": "WKB",
        "geometry_types": ["Polygon", "MultiPolygon"],
        "crs": _projjson(wkt),
        "orientation": "counterclockwise",
        "covering": {"bbox": {side: ["bbox", side] for side in _SIDES}},
    }
    bounds = _bounds(parts)
    if bounds:
        about["bbox"] = bounds
    geo = {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": about}}
    fields = schema(boxes=True).with_metadata({b"geo": json.dumps(geo).encode()})
    with pq.ParquetWriter(out, fields, compression="zstd") as writer:
        for part in parts:
            writer.write_table(decoded(part).replace_schema_metadata(fields.metadata))


def _bounds(parts: list[Path]) -> list[float]:
    """Least x, least y, greatest x, greatest y of all parts; empty where they hold nothing."""
    import pyarrow.parquet as pq

    found = []
    for part in parts:
        boxes = pq.read_table(part, columns=["bbox"]).column("bbox").combine_chunks()
        if len(boxes):
            sides = [np.asarray(boxes.field(side)) for side in _SIDES]
            found.append([s.min() for s in sides[:2]] + [s.max() for s in sides[2:]])
    if not found:
        return []
    corners = np.array(found)
    return [*corners[:, :2].min(axis=0).tolist(), *corners[:, 2:].max(axis=0).tolist()]


def _projjson(wkt: str | None) -> Any:
    if wkt is None:
        return None
    from rasterio.crs import CRS

    return CRS.from_wkt(wkt).to_dict(projjson=True)
