"""Many small scenes: what each adds to a store, and stores that earlier releases laid out."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio

from segengine.planning import scan
from segengine.planning.layout import place
from segengine.store.blobs import open_objects
from segengine.store.layouts import load_layouts

MEAN = {"kind": "threshold", "method": "mean"}
DEFAULTS = {"chunk": 512, "shard": 2048}


def put_raster(folder: Path, name: str, seed: int) -> None:
    """A georeferenced GeoTIFF (64, 64, 3)."""
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (3, 8, 8), np.uint8).repeat(8, 1).repeat(8, 2)
    profile = {"driver": "GTiff", "height": 64, "width": 64, "count": 3, "dtype": "uint8"}
    place = rasterio.Affine(2, 0, 487_548 + 128 * seed, 0, -2, 4_443_554)
    with rasterio.open(folder / name, "w", crs="EPSG:32613", transform=place, **profile) as data:
        data.write(pixels)


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@pytest.mark.usefixtures("plain_report")
def test_a_small_raster_adds_ten_kilobytes(bench: Any) -> None:
    for i in range(30):
        put_raster(bench.inputs, f"{i:02}.tif", i)
        if i == 4:
            bench.run(MEAN, store=DEFAULTS)
            before = size(bench.store)
    assert bench.run(MEAN, store=DEFAULTS).computed == 25
    assert (size(bench.store) - before) / 25 < 10_000
    for scene in bench.open().scenes.values():
        assert scene.mask.shards == scene.mask.chunks == (1, 512, 512)


def as_before(store: Path) -> None:
    """Write every metadata document as earlier releases did, which had no seals."""
    (store / "records/+seals").unlink()
    shutil.rmtree(store / "records/+copies")
    for path in store.rglob("zarr.json"):
        path.write_text(json.dumps(json.loads(path.read_text()), indent=1))


@pytest.mark.usefixtures("plain_report")
def test_a_store_of_an_earlier_release_goes_on(
    bench: Any, tree: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def uncapped(*given: Any) -> Any:
        shard = (1024, 2048, 2048)
        return {name: replace(la, shard=shard) for name, la in place(*given).items()}

    put_raster(bench.inputs, "a.tif", 1)
    monkeypatch.setattr(scan, "place", uncapped)
    bench.run(MEAN, store=DEFAULTS)
    monkeypatch.undo()
    as_before(bench.store)
    first = tree(bench.store / "scenes")
    mask = np.asarray(bench.open()["a"].mask)
    put_raster(bench.inputs, "b.tif", 2)
    assert bench.run(MEAN, store=DEFAULTS).computed == 1
    later = tree(bench.store / "scenes")
    assert {name: data for name, data in later.items() if not name.startswith("b/")} == first
    put_raster(bench.inputs, "a.tif", 3)  # its mask is made again, in the shard it has
    assert bench.run(MEAN, store=DEFAULTS).computed == 1
    layouts = load_layouts(open_objects(str(bench.store)))
    assert {name: la.shard for name, la in layouts.items()} == {
        "a": (1024, 2048, 2048),
        "b": (1, 512, 512),
    }
    assert not np.array_equal(np.asarray(bench.open()["a"].mask), mask)
    assert bench.run(MEAN, store=DEFAULTS).computed == 0
