"""A CRS that the scenes lie in already makes nothing stale; another one does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio

import segengine
from segengine.commands.verify import verify
from tests.segengine.networks.test_trained import write_scene

WKT = rasterio.CRS.from_epsg(32633).to_wkt()


def job(folder: Path, paths: list[str], **source: Any) -> dict[str, Any]:
    return {
        "source": {"paths": paths, **source},
        "segmenter": {"kind": "kmeans", "clusters": 3, "scope": "run"},
        "store": {"path": str(folder), "chunk": 32, "shard": 64},
    }


def masks(folder: Path) -> dict[str, bytes]:
    """Every object below `scenes/`, as it is stored."""
    below = folder / "scenes"
    return {
        str(path.relative_to(below)): path.read_bytes()
        for path in sorted(below.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize("more", [{}, {"mosaic": "path"}, {"resolution": 20.0}], ids=str)
def test_the_crs_that_is_there_makes_nothing_stale(tmp_path: Path, more: dict[str, Any]) -> None:
    store = tmp_path / "m.zarr"
    paths = [write_scene(tmp_path / "a.tif", 10)]
    first = segengine.run(job(store, paths, **more))
    before = masks(store)
    for crs in ("EPSG:32633", "epsg:32633", WKT, "EPSG:32633"):
        again = segengine.run(job(store, paths, crs=crs, **more))
        assert (again.computed, again.skipped) == (0, first.computed), crs
        assert not any("stale" in line for line in again.messages)
        assert masks(store) == before
    assert not verify(str(store)).problems
    segengine.run(job(tmp_path / "fresh.zarr", paths, crs="EPSG:32633", **more))
    assert masks(tmp_path / "fresh.zarr") == before, "it is what the job gives without a store"
    assert segengine.run(job(store, paths, **more)).computed == 0, "and back again"


def test_later_scenes_change_nothing_of_that(tmp_path: Path) -> None:
    """A scene of another CRS comes, and one that is there changes: only these are done."""
    store = tmp_path / "m.zarr"
    paths = [write_scene(tmp_path / f"{name}.tif", 10) for name in "ab"]
    segengine.run(job(store, paths))
    segengine.run(job(store, paths, crs="EPSG:32633"))
    paths.append(write_scene(tmp_path / "c.tif", 10, "EPSG:32634"))
    found = segengine.run(job(store, paths, crs="EPSG:32633"))
    assert found.skipped == 4
    assert found.computed >= 2
    values = np.random.default_rng(3).integers(0, 255, (3, 64, 96), np.uint8)
    with rasterio.open(tmp_path / "b.tif", "r+") as file:
        file.write(values)
    again = segengine.run(job(store, paths, crs="EPSG:32633"))
    assert (again.computed, again.skipped) == (2, 2 + found.computed)


def test_another_crs_makes_all_of_it_again(tmp_path: Path) -> None:
    store = tmp_path / "m.zarr"
    paths = [write_scene(tmp_path / "a.tif", 10)]
    done = segengine.run(job(store, paths)).computed
    other = segengine.run(job(store, paths, crs="EPSG:32634"))
    assert other.computed >= done
    assert other.skipped == 0
    segengine.run(job(tmp_path / "fresh.zarr", paths, crs="EPSG:32634"))
    mask = segengine.open_store(tmp_path / "fresh.zarr")["a"].mask
    found = segengine.open_store(store)
    name = next(n for n in found.scenes if found[n].mask.shape == mask.shape)
    np.testing.assert_array_equal(found[name].mask[:], mask[:])
