"""PMTiles, one file a scene: objects as vector tiles in one file that web maps read by ranges.

Objects, and what is known of each, are those of `geoparquet`, in a layer of the scene's name. They are
cut at the antimeridian, and at 85.05 degrees north and south, where the web's map ends. The
finest zoom is the one whose tiles, of 4,096 steps a side, tell pixels apart; there are six coarser
ones. Needs pyogrio, which the extra `earth` brings, and a scene with a CRS.

Source: https://github.com/protomaps/PMTiles (version 3), and GDAL's drivers PMTiles and MVT.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from segengine.errors import JobError
from segengine.export._mercator import Clip
from segengine.export._ogr import write
from segengine.export._shaping import Shaping
from segengine.reader import SceneStore

_AROUND = 2 * math.pi * 6_378_137
"""Metres around the earth at the equator, and so of the one tile of zoom 0."""
_STEPS, _COARSER, _FINEST = 4096, 6, 22


def export(
    store_path: str,
    to: str,
    *,
    simplify: float = 0,
    min_area: float = 0,
    holes: float = 0,
    overwrite: bool = False,
    say: Callable[[str], object] | None = None,
) -> list[str]:
    """Write `<scene>.pmtiles` below the folder `to` for each scene with objects; the files written.

    `simplify`: side of the triangles that go, in units of the scene's CRS. `min_area`, `holes`: square
    metres of the smallest object, and of the largest hole that is filled. `overwrite`: also files that
    no export wrote. `say` is told how many polygons lie where the map has ended. Goes on where it was
    killed. Raises JobError, StoreError.
    """
    shaping, clip = Shaping(simplify, min_area, holes), Clip()
    try:
        return write(
            store_path, to, "pmtiles", "PMTiles", ".pmtiles", shaping, overwrite, _zooms, clip
        )
    finally:
        if say is not None and clip.line:
            say(f"--to pmtiles: {clip.line}")


def _zooms(scene: SceneStore) -> dict[str, str]:
    """The zooms whose tiles are written."""
    ground = scene.layout.placing.ground
    if ground is None or ground.exponent is None:
        raise JobError(
            f"--to pmtiles: {scene.name}: has no CRS, so that it lies on no map; use geoparquet"
        )
    area = int(ground.rows(ground.height // 2, ground.height // 2 + 1, ground.width // 2)[0])
    side = math.sqrt(math.ldexp(max(area, 1), ground.exponent))
    finest = min(_FINEST, max(0, math.ceil(math.log2(_AROUND / (_STEPS * side)))))
    return {"MINZOOM": str(max(0, finest - _COARSER)), "MAXZOOM": str(finest)}
