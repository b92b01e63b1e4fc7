"""FlatGeobuf, one file a scene: objects as polygons in the scene's CRS, with an index by place.

Objects, and what is known of each, are those of `geoparquet`; a layer is of Polygons where every object
is one, else of MultiPolygons. Needs pyogrio, which the extra `earth` brings.
"""

from __future__ import annotations

from segengine.export._ogr import write
from segengine.export._shaping import Shaping


def export(
    store_path: str,
    to: str,
    *,
    simplify: float = 0,
    min_area: float = 0,
    holes: float = 0,
    overwrite: bool = False,
) -> list[str]:
    """Write `<scene>.fgb` below the folder `to` for each scene with objects; the files written.

    `simplify`: side of the triangles that go, in units of the scene's CRS. `min_area`, `holes`: square
    metres (pixels without georeference) of the smallest object, and of the largest hole that is filled.
    `overwrite`: also files that no export wrote. Goes on where it was killed. Raises JobError,
    StoreError.
    """
    shaping = Shaping(simplify, min_area, holes)
    return write(store_path, to, "flatgeobuf", "FlatGeobuf", ".fgb", shaping, overwrite)
