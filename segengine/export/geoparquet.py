"""GeoParquet 1.1, one file a scene: instances as polygons in the scene's CRS.

Columns: scene, frame, name, id (of the frame), class, score, area in pixels, square_metres (null
where unknown) and geometry (WKB). An object is one row, also where it lies in many shards; pieces
that meet in a corner only, or not at all, make it a MultiPolygon.

A scene without georeference is written in pixels, x to the right and y down, with the CRS null.
Source: https://geoparquet.org/releases/v1.1.0/ and OGC 06-103r4, section 8 (well-known binary).
"""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from segengine.export._features import crs_wkt, features
from segengine.export._instances import Piece, by_scene, open_parts, scenes
from segengine.export._polygons import Polygon
from segengine.outputs import claimed
from segengine.reader import SceneStore, open_store
from segengine.store.parquet import read_parquet

if TYPE_CHECKING:
    import pyarrow as pa

VERSION = 2
_POLYGON, _MULTIPOLYGON = 3, 6
_BOX = b"box"


def export(store_path: str, to: str, *, overwrite: bool = False) -> list[str]:
    """Write `<scene>.parquet` below the folder `to` for each scene with instances; the files written.

    `overwrite`: also files that no export wrote. Goes on where it was killed. Raises JobError,
    StoreError.
    """
    store = open_store(store_path)
    paths = [Path(to, f"{name}.parquet") for name in scenes(store)]
    parts = open_parts(store, claimed(store, to, paths, overwrite=overwrite), "geoparquet", VERSION)
    written = []
    for path, (name, pieces) in zip(paths, by_scene(store), strict=True):
        scene = store[name]
        encode, assemble = partial(_encoded, scene), partial(_assembled, crs_wkt(scene))
        written.append(parts.write(path, pieces, encode, assemble))
    parts.close()
    return written


def _encoded(scene: SceneStore, piece: Piece) -> bytes:
    """A piece as a parquet file of its own; its box lies in the metadata."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    found = features(scene, piece)
    columns: dict[str, Any] = {
        name: [f.properties[name] for f in found] for name in _schema().names[:-1]
    }
    columns["geometry"] = [well_known_binary(f.polygons) for f in found]
    points = [polygon[0] for f in found for polygon in f.polygons]
    box = _bounds(np.concatenate(points)) if points else None
    sink = io.BytesIO()
    schema = _schema().with_metadata({_BOX: json.dumps(box).encode()})
    pq.write_table(pa.table(columns, schema=schema), sink, compression="zstd")
    return sink.getvalue()


def _assembled(wkt: str | None, out: Path, parts: list[Path]) -> None:
    """One file, a row group a part."""
    import pyarrow.parquet as pq

    boxes = [json.loads(pq.read_schema(part).metadata[_BOX]) for part in parts]
    corners = [np.reshape(box, (2, 2)) for box in boxes if box is not None]
    about = {
        "encoding": "WKB",
        "geometry_types": ["Polygon", "MultiPolygon"],
        "crs": _projjson(wkt),
        "orientation": "counterclockwise",
    }
    if corners:
        about["bbox"] = _bounds(np.concatenate(corners))
    geo = {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": about}}
    schema = _schema().with_metadata({b"geo": json.dumps(geo).encode()})
    with pq.ParquetWriter(out, schema, compression="zstd") as writer:
        for part in parts:
            writer.write_table(
                read_parquet(part.read_bytes()).replace_schema_metadata(schema.metadata)
            )


def _bounds(points: NDArray[np.float64]) -> list[float]:
    """Least x, least y, greatest x, greatest y of points (n, 2)."""
    found: list[float] = np.concatenate([points.min(axis=0), points.max(axis=0)]).tolist()
    return found


def _schema() -> pa.Schema:
    import pyarrow as pa

    return pa.schema(
        [
            ("scene", pa.string()),
            ("frame", pa.int64()),
            ("name", pa.string()),
            ("id", pa.uint32()),
            ("class", pa.string()),
            ("score", pa.float32()),
            ("area", pa.int64()),
            ("square_metres", pa.float64()),
            ("geometry", pa.binary()),
        ]
    )


def _projjson(wkt: str | None) -> Any:
    if wkt is None:
        return None
    from rasterio.crs import CRS

    return CRS.from_wkt(wkt).to_dict(projjson=True)


def well_known_binary(polygons: Sequence[Polygon]) -> bytes:
    """One polygon as a Polygon, several as a MultiPolygon; little-endian."""
    bodies = [
        struct.pack("<BII", 1, _POLYGON, len(polygon))
        + b"".join(struct.pack("<I", len(ring)) + ring.astype("<f8").tobytes() for ring in polygon)
        for polygon in polygons
    ]
    if len(bodies) == 1:
        return bodies[0]
    return struct.pack("<BII", 1, _MULTIPOLYGON, len(bodies)) + b"".join(bodies)
