"""What maps of many scenes, shards outside of an area, and very many polygons take.

Each is a command as a user gives it, in a process of its own: seconds on the clock, and its peak memory.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio.warp import transform_geom

from tests.benchmarks.table import Row, show

SCENES = 10_000
SIDE = 64
"""Pixels of a scene's side; each overlaps its neighbours by an eighth."""
EMPTY = 72
"""Shards along a side of a scene of which the area is one."""
POLYGONS = 100_000
MAP = 10_000
UTM = "EPSG:32633"


def rows() -> Iterator[Row]:
    """Plans of maps; a run that is nearly all outside of its area; zones of a map."""
    with tempfile.TemporaryDirectory(prefix="segengine-bench-") as name:
        yield from _maps(Path(name))
    with tempfile.TemporaryDirectory(prefix="segengine-bench-") as name:
        yield from _empty(Path(name))
    with tempfile.TemporaryDirectory(prefix="segengine-bench-") as name:
        yield from _zones(Path(name))


def _maps(place: Path) -> Iterator[Row]:
    across = int(SCENES**0.5)
    step = SIDE * 7 // 8 * 10
    (place / "scenes").mkdir()
    pixels = np.full((1, SIDE, SIDE), 7, np.uint16)
    for index in range(SCENES):
        corner = 300_000.0 + index % across * step, 5_900_000.0 - index // across * step
        path = place / f"scenes/{index:05}.tif"
        write(path, pixels, 10.0, corner)
        item = place / f"scenes/{index:05}.json"
        item.write_text(json.dumps(_item(f"{index:05}", corner, path.name)))
    for what, paths, more in (
        (f"{SCENES:,} GeoTIFFs", "scenes/*.tif", {}),
        (f"{SCENES:,} STAC items", "scenes/*.json", {"kind": "stac", "assets": ["data"]}),
    ):
        job = _job(place, {"paths": [str(place / paths)], "mosaic": "newest", **more})
        seconds, peak, told = command("plan", job, "--json")
        assert json.loads(told)["scenes"] == 1
        yield Row(f"earth: plan of one map of {what}", seconds, 60, "s", seconds / 60, "<= 1")
        yield Row(f"earth: its memory, {what}", peak, 1000, "MB", peak / 1000, "<= 1")


def _item(name: str, corner: tuple[float, float], file: str) -> dict[str, Any]:
    """As catalogs describe a scene: its place, grid and type, for which no file need be opened."""
    place = [10.0, 0.0, corner[0], 0.0, -10.0, corner[1]]
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": name,
        "geometry": transform_geom(UTM, "EPSG:4326", _box(corner)),
        "properties": {
            "datetime": "2026-05-01T00:00:00Z",
            "proj:epsg": 32633,
            "proj:shape": [SIDE, SIDE],
            "proj:transform": place,
        },
        "links": [],
        "assets": {
            "data": {
                "href": file,
                "type": "image/tiff; application=geotiff",
                "raster:bands": [{"data_type": "uint16"}],
            }
        },
    }


def _box(corner: tuple[float, float]) -> dict[str, Any]:
    (x, y), side = corner, 10.0 * SIDE
    ring = [[x, y], [x, y - side], [x + side, y - side], [x + side, y], [x, y]]
    return {"type": "Polygon", "coordinates": [ring]}


def _empty(place: Path) -> Iterator[Row]:
    """What each further shard outside of the area adds to a whole run, in bulk and by workers."""
    seconds = {
        (across, empty): _mostly_empty(place / f"{across}{empty}", across, empty)
        for across in (EMPTY // 3, EMPTY)
        for empty in (True, False)
    }
    more = EMPTY**2 - (EMPTY // 3) ** 2
    ours, theirs = (
        1000 * (seconds[EMPTY, empty] - seconds[EMPTY // 3, empty]) / more
        for empty in (True, False)
    )
    yield Row(f"earth: each of {more:,} further empty shards, in a whole run, against workers",
              ours, theirs, "ms", theirs / ours, "ours < 1")  # fmt: skip


def _mostly_empty(place: Path, across: int, empty: bool) -> float:
    """Seconds of a run over across x across shards, of which the area is about one."""
    place.mkdir()
    side = 256
    whole = np.zeros((1, across * side, across * side), np.uint8)
    write(place / "scene.tif", whole, 10.0, compress="deflate", tiled=True)
    x, y = 300_000.0 + 10 * side * across / 2, 5_900_000.0 - 10 * side * across / 2
    ring = [[x + a, y - b] for a, b in ((20, 20), (20, 2500), (2500, 2500), (2500, 20), (20, 20))]
    area = place / "area.geojson"
    area.write_text(_features([ring]))
    skip = {"skip": {"empty": empty}}
    job = _job(place, {"paths": [str(place / "scene.tif")], "area": str(area), **skip}, shard=side)
    seconds, _, told = command("run", job, "--json")
    assert json.loads(told)["computed"] == across**2
    return seconds


def _features(rings: list[Any]) -> str:
    """GeoJSON of a polygon a ring."""
    features = [
        {"type": "Feature", "properties": {"id": index},
         "geometry": {"type": "Polygon", "coordinates": [ring]}}
        for index, ring in enumerate(rings)
    ]  # fmt: skip
    crs = {"type": "name", "properties": {"name": UTM}}
    return json.dumps({"type": "FeatureCollection", "crs": crs, "features": features})


def _zones(place: Path) -> Iterator[Row]:
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 5000, (1, MAP // 50, MAP // 50), np.uint16)
    write(place / "scene.tif", coarse.repeat(50, 1).repeat(50, 2), 10.0)
    job = _job(place, {"paths": [str(place / "scene.tif")]}, shard=2048)
    command("run", job)
    across = int(POLYGONS**0.5) + 1
    step = MAP * 10 / across
    rings = []
    for index in range(POLYGONS):
        x = 300_000.0 + (index % across + 0.5) * step
        y = 5_900_000.0 - (index // across + 0.5) * step
        turns = np.linspace(0, 2 * np.pi, 9)
        ring = np.stack([x + step * 0.7 * np.cos(turns), y + step * 0.7 * np.sin(turns)], 1)
        ring[-1] = ring[0]
        rings.append(ring.tolist())
    polygons = place / "polygons.geojson"
    polygons.write_text(_features(rings))
    seconds, peak, _ = command("zones", place / "masks.zarr", polygons, "--out", place / "t.csv")
    what = f"zones of {POLYGONS:,} polygons on {MAP:,} x {MAP:,} pixels"
    yield Row(f"earth: {what}", seconds, 60, "s", seconds / 60, "<= 1")
    yield Row("earth: its memory", peak, 1000, "MB", peak / 1000, "<= 1")


def write(
    path: Path, pixels: NDArray[Any], resolution: float,
    corner: tuple[float, float] = (300_000.0, 5_900_000.0), **profile: Any,
) -> None:  # fmt: skip
    """pixels (band, y, x) as a GeoTIFF, its upper left corner at `corner`."""
    place = Affine(resolution, 0, corner[0], 0, -resolution, corner[1])
    bands, height, width = pixels.shape
    with rasterio.open(
        path, "w", driver="GTiff", count=bands, height=height, width=width,
        dtype=pixels.dtype, crs=UTM, transform=place, **profile,
    ) as file:  # fmt: skip
        file.write(pixels)


def _job(place: Path, source: dict[str, Any], shard: int = 512) -> Path:
    path = place / "job.json"
    blocks = {
        "name": "earth",
        "source": source,
        "segmenter": {"kind": "threshold", "method": "fixed", "levels": 2000},
        "store": {"path": str(place / "masks.zarr"), "chunk": shard // 2, "shard": shard},
        "faults": {"fsync": False},
    }
    path.write_text(json.dumps(blocks))
    return path


def command(*arguments: object) -> tuple[float, float, str]:
    """Seconds, peak memory of its largest process in megabytes, and what it printed."""
    with tempfile.TemporaryFile("w+") as told:
        started = time.perf_counter()
        child = subprocess.Popen(
            [sys.executable, "-m", "segengine_flows.cli", *map(str, arguments)], stdout=told
        )
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - started
        child.returncode = os.waitstatus_to_exitcode(status)
        assert child.returncode == 0, f"{arguments[0]} ended with {child.returncode}"
        told.seek(0)
        return seconds, usage.ru_maxrss / 1000, told.read()


if __name__ == "__main__":
    show(rows())
