"""Features as an Arrow table, for the formats that have columns."""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from segengine.export._features import Feature
from segengine.instances.polygons import Polygon
from segengine.store.parquet import read_parquet

if TYPE_CHECKING:
    import pyarrow as pa

_POLYGON, _MULTIPOLYGON = 3, 6
_HEAD = 9
"""Bytes of a MultiPolygon before its first polygon: byte order, type, and how many there are."""


def schema(*, boxes: bool) -> pa.Schema:
    """The columns; `boxes`: one of each geometry's box, before the geometry."""
    import pyarrow as pa

    box = pa.struct([(name, pa.float64()) for name in ("xmin", "ymin", "xmax", "ymax")])
    return pa.schema(
        [
            ("scene", pa.string()),
            ("frame", pa.int64()),
            ("name", pa.string()),
            ("id", pa.int64()),
            ("class", pa.string()),
            ("score", pa.float32()),
            ("probability", pa.float64()),
            ("area", pa.int64()),
            ("square_metres", pa.float64()),
            ("perimeter", pa.float64()),
            *([("bbox", box)] if boxes else []),
            ("geometry", pa.binary()),
        ]
    )


def encoded(found: Sequence[Feature], *, boxes: bool, multi: bool) -> bytes:
    """Features as a parquet file of its own; `multi`: one polygon is a MultiPolygon too."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    fields = schema(boxes=boxes)
    columns: dict[str, Any] = {
        name: [f.properties[name] for f in found]
        for name in fields.names
        if name not in ("bbox", "geometry")
    }
    if boxes:
        columns["bbox"] = [_box(f.polygons) for f in found]
    columns["geometry"] = [well_known_binary(f.polygons, multi=multi) for f in found]
    sink = io.BytesIO()
    pq.write_table(pa.table(columns, schema=fields), sink, compression="zstd")
    return sink.getvalue()


def decoded(part: Path) -> pa.Table:
    """The table of a part."""
    return read_parquet(part.read_bytes())


def are_single(table: pa.Table) -> bool:
    """Whether each MultiPolygon of a table is one polygon alone."""
    import pyarrow.compute as pc

    counts = pc.binary_slice(table.column("geometry"), 5, _HEAD)
    return pc.all(pc.equal(counts, struct.pack("<I", 1)), min_count=0).as_py() is True


def as_single(table: pa.Table) -> pa.Table:
    """The same with these polygons in place of the MultiPolygons."""
    import pyarrow as pa

    place = table.schema.get_field_index("geometry")
    # Not `binary_slice`: to the end of values of unlike length it fails (negative buffer, pyarrow 26).
    bodies = pa.array([one[_HEAD:] for one in table.column("geometry").to_pylist()], pa.binary())
    return table.set_column(place, table.schema.field(place), bodies)


def _box(polygons: Sequence[Polygon]) -> dict[str, float]:
    points = np.concatenate([polygon[0] for polygon in polygons])
    (xmin, ymin), (xmax, ymax) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
    return {"xmin": xmin, "ymin": ymin, "xmax": xmax, "ymax": ymax}


def well_known_binary(polygons: Sequence[Polygon], *, multi: bool = False) -> bytes:
    """One polygon as a Polygon, several (`multi`: one too) as a MultiPolygon; little-endian.

    Source: OGC 06-103r4, section 8.
    """
    bodies = [
        struct.pack("<BII", 1, _POLYGON, len(polygon))
        + b"".join(struct.pack("<I", len(ring)) + ring.astype("<f8").tobytes() for ring in polygon)
        for polygon in polygons
    ]
    if len(bodies) == 1 and not multi:
        return bodies[0]
    return struct.pack("<BII", 1, _MULTIPOLYGON, len(bodies)) + b"".join(bodies)
