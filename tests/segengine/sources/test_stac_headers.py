"""Items that tell their assets' headers are planned without opening one; workers find out lies."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import pytest
import rasterio

import segengine
from segengine.planning.layout import Cut
from segengine.planning.scan import Scan, scan
from segengine.registry import reader
from segengine.sources.raster import RasterSource
from segengine.types import Tile, Unreadable

from .stac_scenes import HEIGHT, WIDTH, make_item, pixels, save, write_tiff

PLACE = [10.0, 0.0, 500_000.0, 0.0, -10.0, 5_000_000.0]
COARSE = [20.0, 0.0, 500_000.0, 0.0, -20.0, 5_000_000.0, 0.0, 0.0, 1.0]


def told(item: pystac.Item, key: str, version: str = "1.1", **changes: Any) -> None:
    """All of a header in the asset's own words, as rio-stac writes it; `changes` replace some of it."""
    band = {"data_type": "uint16", "nodata": 7, "scale": 1, "offset": 0}
    band |= {name: changes.pop(name) for name in set(band) & set(changes)}
    said = {"proj:shape": [HEIGHT, WIDTH], "proj:transform": PLACE, **changes}
    if version == "1.0":
        said["raster:bands"] = [band]
        item.properties["proj:epsg"] = 32633
    else:
        named = {f"raster:{k}" if k in ("scale", "offset") else k: v for k, v in band.items()}
        said["bands"] = [{"name": key, **named}]
        item.properties["proj:code"] = "EPSG:32633"
    item.assets[key].extra_fields |= {k: v for k, v in said.items() if v is not None}


def two_bands(folder: Path, version: str | None) -> str:
    """A catalog of an item with bands of unlike resolution, one of them scaled."""
    item = make_item(folder, "night", {"red": pixels(1)})
    write_tiff(
        folder / "night" / "swir.tif",
        pixels(2)[: HEIGHT // 2, : WIDTH // 2],
        transform=rasterio.Affine(*COARSE[:6]),
    )
    item.add_asset("swir", pystac.Asset("./swir.tif", roles=["data"]))
    # nodata, scale and offset are read of any item; the rest of it only spares opening.
    rest = {} if version else {"proj:shape": None, "proj:transform": None}
    told(item, "red", version or "1.1", **rest)
    coarse = {"proj:shape": [HEIGHT // 2, WIDTH // 2], "proj:transform": COARSE}
    told(item, "swir", version or "1.1", scale=0.5, offset=-3, **(coarse | rest))
    return save(folder, item)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that GDAL has opened since, by name."""
    found: list[str] = []
    real: Callable[..., AbstractContextManager[Any]] = RasterSource.open

    def noting(self: RasterSource, uri: str, *args: Any, **more: Any) -> Any:
        found.append(Path(uri).name)
        return real(self, uri, *args, **more)

    monkeypatch.setattr(RasterSource, "open", noting)
    return found


def planned(path: str, **options: Any) -> Scan:
    spec = {"kind": "stac", "paths": [path], "assets": ["red", "swir"], **options}
    return scan(spec, {}, (), Cut(16, 32))


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("options", [{}, {"resolution": 25.0, "crs": "EPSG:3857"}])
def test_a_plan_opens_no_file_and_is_the_same(
    tmp_path: Path, version: str, options: dict[str, Any], opened: list[str]
) -> None:
    (bare,) = planned(two_bands(tmp_path / "bare", None), **options).layouts.values()
    assert sorted(opened) == ["red.tif", "swir.tif"]
    opened.clear()
    (found,) = planned(two_bands(tmp_path / "told", version), **options).layouts.values()
    assert not opened
    assert (found.shape, found.bands, found.dtype) == (bare.shape, bare.bands, bare.dtype)
    assert found.attributes == bare.attributes
    window = slice(0, bare.shape[1]), slice(0, bare.shape[2])
    tiles = [
        next(reader("stac", options).read([layout.frame(0)], *window)) for layout in (bare, found)
    ]
    assert all(isinstance(tile, Tile) for tile in tiles)
    np.testing.assert_array_equal(tiles[0].pixels, tiles[1].pixels)
    np.testing.assert_array_equal(tiles[0].valid, tiles[1].valid)


@pytest.mark.parametrize(
    "missing", ["proj:shape", "proj:transform", "data_type", "nodata", "scale", "offset"]
)
def test_what_is_not_told_is_looked_up(tmp_path: Path, missing: str, opened: list[str]) -> None:
    item = make_item(tmp_path, "night", {"red": pixels(1)})
    told(item, "red", **{missing: None})
    (layout,) = planned(save(tmp_path, item), assets=["red"]).layouts.values()
    assert opened == ["red.tif"]
    assert layout.shape == (1, HEIGHT, WIDTH)


@pytest.mark.parametrize(
    "said",
    [
        {"proj:shape": [HEIGHT, "56"]}, {"proj:shape": [HEIGHT, 0]}, {"proj:shape": [True, WIDTH]},
        {"proj:transform": PLACE[:5]}, {"proj:transform": [0.0] * 6}, {"proj:code": "EPSG:1 or 2"},
        {"proj:transform": [*PLACE, 1, 0, 1]}, {"proj:transform": [*PLACE[:5], float("inf")]},
        {"proj:code": "EPSG:999999"}, {"proj:code": "EPSG:5714"}, {"data_type": "int7"},
    ],
)  # fmt: skip
def test_what_cannot_be_is_not_believed(tmp_path: Path, said: Any, opened: list[str]) -> None:
    item = make_item(tmp_path, "night", {"red": pixels(1)})
    told(item, "red", **said)
    if "proj:code" in said:
        del item.properties["proj:code"]
    (layout,) = planned(save(tmp_path, item), assets=["red"]).layouts.values()
    assert opened == ["red.tif"]
    assert layout.shape == (1, HEIGHT, WIDTH)


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"proj:shape": [HEIGHT, WIDTH + 1]}, "56 x 40 pixels, and its item says 57 x 40"),
        ({"proj:transform": [10, 0, 500_010, 0, -10, 5_000_000]}, "lies elsewhere"),
        ({"proj:code": "EPSG:32632"}, "lies in EPSG:32633, and its item says EPSG:32632"),
        ({"data_type": "uint8"}, "gives uint16 pixels, and its item says uint8"),
    ],
)
def test_a_file_that_its_item_belies_is_corrupt(tmp_path: Path, said: Any, reason: str) -> None:
    """By name, in a run that goes on: never other pixels than were planned."""
    liar = make_item(tmp_path, "liar", {"red": pixels(1)})
    told(liar, "red", **said)
    good = make_item(tmp_path, "good", {"red": pixels(2)})
    told(good, "red")
    job = {
        "source": {"kind": "stac", "paths": [save(tmp_path, liar, good)], "assets": ["red"]},
        "segmenter": {"kind": "threshold", "method": "fixed", "levels": 100},
        "store": {"path": str(tmp_path / "masks.zarr"), "chunk": 16, "shard": 32},
    }
    found = segengine.run(job)
    assert found.exit_code == 3
    (failed,) = found.failed
    assert (failed.name, failed.kind) == ("liar", "corrupt")
    assert "band red: its file" in failed.reason
    assert reason in failed.reason
    store = segengine.open_store(tmp_path / "masks.zarr")
    assert (store["liar"].mask[:] == 255).all()
    wanted = np.where(pixels(2) == 7, 255, pixels(2) > 100)
    np.testing.assert_array_equal(store["good"].mask[0], wanted)


def test_a_header_outlives_a_store(tmp_path: Path) -> None:
    """A rerun of what is known, and one whose file has changed since, are told by the layout."""
    item = make_item(tmp_path, "night", {"red": pixels(1)})
    told(item, "red")
    spec = {"kind": "stac", "paths": [save(tmp_path, item)], "assets": ["red"]}
    first = scan(spec, {}, (), Cut(16, 32))
    (layout,) = first.layouts.values()
    assert layout.parts[0].header is not None
    again = scan(spec, first.layouts, (), Cut(16, 32))
    assert not again.changed
    other = dataclasses.replace(layout.frame(0), fingerprint="another")
    write_tiff(tmp_path / "night" / "red.tif", pixels(1)[:20])
    (found,) = reader("stac", {}).read([other], slice(0, 16), slice(0, 16))
    assert isinstance(found, Unreadable)
    assert found.kind == "corrupt"
