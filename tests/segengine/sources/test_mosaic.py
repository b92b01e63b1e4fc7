"""Overlapping scenes as one map: the uncut scene, NumPy and rasterio say what it must be."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from rasterio import Affine

import segengine
from segengine.errors import JobError
from segengine.job import load_job
from segengine.planning.layout import Cut
from segengine.planning.scan import scan
from segengine.sources._strips import read_window
from segengine.sources.raster import RasterSource
from segengine.types import Tile, Unreadable
from segengine.worker.segment import segment_shard
from tests.segengine.sources.scenes import UTM
from tests.segengine.sources.stac_scenes import make_item, save

HEIGHT, WIDTH = 150, 190
VOID = 60_000
"""Of scenes of 16 bit: bright, so that edges would see it where it is read as anything else."""
PLACE = Affine(0.3, 0, 600_000.1, 0, -0.3, 5_000_000.7)
CUTS = {
    "a": (0, 90, 0, 110),
    "b": (0, 95, 80, WIDTH),
    "c": (70, HEIGHT, 0, 120),
    "d": (60, HEIGHT, 95, WIDTH),
}
"""First and last row and column of each."""
OTHERWISE = {
    "p": (0, 64, 0, WIDTH),
    "q": (48, 120, 0, 100),
    "r": (50, 120, 90, WIDTH),
    "s": (112, HEIGHT, 0, WIDTH),
}
SEGMENTERS: dict[str, dict[str, Any]] = {
    "threshold": {"kind": "threshold", "method": "fixed", "levels": 1500},
    "k-means": {"kind": "kmeans", "clusters": 3, "scope": "run"},
    "canny": {"kind": "edges", "operator": "canny", "sigma": 1.2, "scope": "run"},
    "components": {"kind": "threshold", "method": "fixed", "levels": 1500, "instances": "components"},
    "otsu": {"kind": "threshold", "method": "otsu", "scope": "frame"},
}  # fmt: skip


pytestmark = pytest.mark.usefixtures("plain_report")


@pytest.fixture(scope="module")
def pixels() -> NDArray[Any]:
    """(band, y, x) waves with noise; its upper left corner is nodata."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    noise = np.random.default_rng(5).normal(0, 50, (3, HEIGHT, WIDTH))
    waves = 1500 + 500 * np.sin(x / 13) + 400 * np.cos(y / 11)
    found = (waves + noise + np.arange(3)[:, None, None] * 90).clip(1, 9000).astype("uint16")
    found[:, x + y < 70] = VOID
    return found


def write(
    path: Path,
    layers: NDArray[Any],
    row: int = 0,
    column: int = 0,
    place: Affine = PLACE,
    **profile: Any,
) -> None:
    """A GeoTIFF of (band, y, x) whose corner lies at a row and a column."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tags = profile.pop("tags", {})
    nodata = VOID if layers.dtype == "uint16" else 0
    options = {
        "driver": "GTiff", "count": len(layers), "height": layers.shape[1], "width": layers.shape[2],
        "dtype": layers.dtype, "crs": UTM, "nodata": nodata,
        "tiled": True, "blockxsize": 16, "blockysize": 16,
        "transform": place * Affine.translation(column, row), **profile,
    }  # fmt: skip
    with rasterio.open(path, "w", **options) as file:
        file.write(layers)
        file.update_tags(**tags)


def cut(folder: Path, pixels: NDArray[Any], cuts: dict[str, Any], **profile: Any) -> None:
    for name, (top, bottom, left, right) in cuts.items():
        write(folder / f"{name}.tif", pixels[:, top:bottom, left:right], top, left, **profile)


def job(
    bench: Any, segmenter: Any, paths: str = "*.tif", shard: int = 64, **source: Any
) -> dict[str, Any]:
    block = {"paths": [str(bench.inputs / paths)], "mosaic": "newest", **source}
    found: dict[str, Any] = bench.job(segmenter, source=block, store={"shard": shard, "chunk": 16})
    return found


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """Scene and place of each shard that is worked on."""
    found: list[tuple[str, Any]] = []

    def counted(task: Any) -> Any:
        found.append((task.scene, task.place))
        return segment_shard(task)

    monkeypatch.setattr("segengine.stages.segment.compute_shard", counted)
    return found


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Pixels that are read of each file, by its stem."""
    found: dict[str, int] = {}

    def counted(dataset: Any, bands: Any, dtype: str, rows: slice, cols: slice) -> Any:
        stem = Path(dataset.name).stem
        count = (rows.stop - rows.start) * (cols.stop - cols.start)
        found[stem] = found.get(stem, 0) + count
        return read_window(dataset, bands, dtype, rows, cols)

    monkeypatch.setattr("segengine.sources._parts.read_window", counted)
    return found


@pytest.mark.parametrize("name", SEGMENTERS)
def test_cuts_of_a_scene_are_the_scene(name: str, pixels: Any, new_bench: Any) -> None:
    """The very same bytes, georeference, pyramid and instances among them, however it is cut."""
    spec, uncut = SEGMENTERS[name], new_bench()
    write(uncut.inputs / "mosaic.tif", pixels)
    whole = segengine.run(
        uncut.job(spec, source={"paths": [str(uncut.inputs)]}, store={"shard": 64})
    )
    assert whole.exit_code == 0
    bench = new_bench()
    cut(bench.inputs, pixels, CUTS)
    assert segengine.run(job(bench, spec)).exit_code == 0
    assert bench.tree() == uncut.tree()
    other = new_bench()
    cut(other.inputs, pixels, OTHERWISE, tiled=False, blockysize=7)
    segengine.run(job(other, spec, shard=48, mosaic="path"))
    one, two = (b.open()["mosaic"] for b in (uncut, other))
    np.testing.assert_array_equal(np.asarray(one.mask), np.asarray(two.mask))
    labels = np.asarray(one.mask)[0]
    assert (labels[pixels[0] == VOID] == 255).all()
    assert len(np.unique(labels)) > 2
    if one.instances is not None:
        np.testing.assert_array_equal(np.asarray(one.instances), np.asarray(two.instances))


def test_pixels_are_those_of_the_scene_where_they_are_void_too(pixels: Any, tmp_path: Path) -> None:
    cut(tmp_path, pixels, CUTS)
    spec = {"kind": "raster", "paths": [str(tmp_path)], "mosaic": "oldest"}
    (layout,) = scan(spec, {}, (), Cut(16, 64)).layouts.values()
    rows, cols = slice(7, 140), slice(3, WIDTH)
    (tile,) = RasterSource(mosaic="oldest").read([layout.frame(0, (rows, cols))], rows, cols)
    assert isinstance(tile, Tile)
    wanted = np.moveaxis(pixels[:, rows, cols], 0, -1)
    np.testing.assert_array_equal(tile.pixels, wanted)
    np.testing.assert_array_equal(tile.valid, wanted[..., 0] != VOID)
    (beyond,) = RasterSource(mosaic="oldest").read(
        [layout.frame(0, (rows, slice(9, 20)))], rows, cols
    )
    assert isinstance(beyond, Unreadable)  # of what lies there nobody has told
    assert "must name it as `segmenter`" in beyond.reason


@pytest.mark.system
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_a_networks_labels_of_cuts_are_those_of_the_scene(
    pixels: Any, new_bench: Any, tmp_path: Path
) -> None:
    import keras

    from segengine import models

    keras.utils.set_random_seed(3)
    models.build("unet", bands=3, classes=4, start_neurons=4, depth=2).save(tmp_path / "u.keras")
    spec = {"kind": "model", "path": str(tmp_path / "u.keras"), "scale": {"divide": 3000}}
    uncut, bench = new_bench(), new_bench()
    write(uncut.inputs / "mosaic.tif", pixels)
    cut(bench.inputs, pixels, CUTS)
    segengine.run(uncut.job(spec, store={"shard": 64}))
    segengine.run(job(bench, spec))
    assert bench.tree() == uncut.tree()
    assert len(np.unique(np.asarray(bench.open()["mosaic"].mask))) > 2


@pytest.mark.parametrize("resampling", ["nearest", "bilinear"])
def test_a_rotated_scene_is_read_as_it_is(resampling: str, pixels: Any, new_bench: Any) -> None:
    place = PLACE * Affine.rotation(17)
    uncut, bench = new_bench(), new_bench()
    write(uncut.inputs / "mosaic.tif", pixels, place=place)
    cut(bench.inputs, pixels, CUTS, place=place)
    spec = SEGMENTERS["threshold"]
    segengine.run(uncut.job(spec, store={"shard": 64}))
    segengine.run(job(bench, spec, resampling=resampling))
    assert bench.tree() == uncut.tree()


# Which is on top


ORDERS = st.sampled_from(["newest", "oldest", "path"])


@settings(
    max_examples=12, deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
@given(data=st.data())
def test_the_first_valid_pixel_counts(data: st.DataObject, new_bench: Any) -> None:
    """Levels of scenes at random places with holes, dates and folders, against a loop over NumPy arrays."""
    bench, order = new_bench(), data.draw(ORDERS)
    scenes = []
    for i in range(data.draw(st.integers(2, 5))):
        top, left = data.draw(st.integers(0, 40)), data.draw(st.integers(0, 40))
        height, width = data.draw(st.integers(3, 40)), data.draw(st.integers(3, 40))
        layers = np.full((1, height, width), 10 * (i + 1), np.uint8)
        rng = np.random.default_rng(data.draw(st.integers(0, 99)))
        layers[:, rng.random((height, width)) < 0.3] = 0
        date = data.draw(st.sampled_from(["", "2026:05:01 00:00:00", "2026:05:02 10:00:00"]))
        folder = data.draw(st.sampled_from(["x", "y"]))
        tags = {"TIFFTAG_DATETIME": date} if date else {}
        write(bench.inputs / folder / f"{i}.tif", layers, top, left, tags=tags)
        scenes.append((date, folder, i, top, left, layers[0]))
    paths = [
        str(bench.inputs / each / "*.tif") for each in ("y", "x") if (bench.inputs / each).exists()
    ]
    if order == "path":
        ranked = sorted(scenes, key=lambda s: (s[1] != "y", s[2]))
    else:
        dated = sorted((s for s in scenes if s[0]), key=lambda s: s[2])
        dated.sort(key=lambda s: s[0], reverse=order == "newest")
        ranked = dated + sorted(
            (s for s in scenes if not s[0]), key=lambda s: s[2], reverse=order == "newest"
        )
    tops, lefts = [s[3] for s in scenes], [s[4] for s in scenes]
    bottoms = [s[3] + s[5].shape[0] for s in scenes]
    rights = [s[4] + s[5].shape[1] for s in scenes]
    wanted = np.zeros((max(bottoms) - min(tops), max(rights) - min(lefts)), np.uint8)
    for _, _, _, top, left, layer in reversed(ranked):
        at = wanted[top - min(tops) :, left - min(lefts) :][: layer.shape[0], : layer.shape[1]]
        at[layer > 0] = layer[layer > 0]
    spec = {"kind": "threshold", "method": "fixed", "levels": [5, 15, 25, 35, 45]}
    shard = data.draw(st.sampled_from([16, 32, 64]))
    segengine.run(job(bench, spec, paths="", shard=shard) | {
        "source": {"paths": paths, "mosaic": order}
    })  # fmt: skip
    found = np.asarray(bench.open()["mosaic"].mask)[0]
    np.testing.assert_array_equal(found, np.where(wanted > 0, wanted // 10, 255))


@pytest.mark.parametrize(
    ("order", "top"), [("newest", 3), ("oldest", 1), ("cloud", 2), ("path", 1)]
)
def test_items_tell_their_time_and_their_clouds(order: str, top: int, bench: Any) -> None:
    clouds = {"i1": 70.0, "i2": 5.0, "i3": None}
    items = [
        make_item(
            bench.inputs, name, {"red": np.full((30, 30), 10 * (i + 1), np.uint8)}, i, clouds[name]
        )
        for i, name in enumerate(clouds)
    ]
    catalog = save(bench.inputs, *items)
    for path in bench.inputs.rglob("*i3.json"):  # RFC 3339 allows small letters
        said = path.read_text()
        path.write_text(said.replace("2026-05-03T00:00:00Z", "2026-05-03t00:00:00z"))
        assert path.read_text() != said
    spec = {"kind": "threshold", "method": "fixed", "levels": [5, 15, 25]}
    source = {"kind": "stac", "paths": [catalog], "assets": ["red"], "mosaic": order}
    assert segengine.run(bench.job(spec, source=source)).exit_code == 0
    assert np.unique(bench.open()["mosaic"].mask).tolist() == [top]


# Other grids


@pytest.mark.parametrize("resampling", ["nearest", "bilinear"])
def test_two_utm_zones_as_rasterio_merges_them(resampling: str, bench: Any) -> None:
    """Two scenes in two zones, on top the one that lies in another zone than the map."""
    from rasterio.enums import Resampling
    from rasterio.merge import merge
    from rasterio.vrt import WarpedVRT
    from rasterio.warp import transform

    y, x = np.mgrid[:300, :320]
    smooth = (1500 + 700 * np.sin(x / 60) + 600 * np.cos(y / 45)).astype("uint16")[None]
    (east,), (north,) = transform("EPSG:4326", "EPSG:32633", [12.01], [50.0])
    (other_east,), (other_north,) = transform("EPSG:4326", UTM32, [11.985], [50.01])
    places = {
        "a": ("EPSG:32633", Affine(10, 0, round(east, -1), 0, -10, round(north, -1))),
        "b": (UTM32, Affine(10, 0, round(other_east, -1), 0, -10, round(other_north, -1))),
    }
    for name, (crs, place) in places.items():
        write(bench.inputs / f"{name}.tif", smooth + (name == "b") * 40, place=place, crs=crs)
    spec = {"kind": "threshold", "method": "fixed", "levels": [1000, 1400, 1800, 2200]}
    summary = segengine.run(job(bench, spec, crs="EPSG:32633", resampling=resampling))
    assert summary.exit_code == 0
    scene = bench.open()["mosaic"]
    labels, attributes = np.asarray(scene.mask)[0], scene.layout.attributes
    place = Affine(*attributes["transform"])
    assert (place.a, place.e) == (10, -10)
    assert (
        place.c - places["a"][1].c
    ) % 10 == 0  # on the lattice of the scene that lies in the map's zone
    options = {
        "crs": "EPSG:32633", "transform": place, "height": labels.shape[0], "width": labels.shape[1],
        "resampling": Resampling[resampling], "tolerance": 1e-6,
    }  # fmt: skip
    with (
        rasterio.open(bench.inputs / "a.tif") as a,
        rasterio.open(bench.inputs / "b.tif") as b,
        WarpedVRT(a, **options) as one,
        WarpedVRT(b, **options) as two,
    ):
        merged, _ = merge([two, one], nodata=VOID)
    theirs = np.digitize(merged[0], spec["levels"], right=True).astype(np.uint8)
    theirs[merged[0] == VOID] = 255
    assert (theirs == labels).mean() > 0.999
    assert {0, 1, 2, 255} <= set(np.unique(labels).tolist())
    other = job(bench, spec, crs="EPSG:32633", resampling=resampling, shard=16 * 7)
    other["store"] |= {"path": str(bench.root / "other.zarr")}
    segengine.run(other)
    again = segengine.open_store(bench.root / "other.zarr")["mosaic"]
    np.testing.assert_array_equal(np.asarray(again.mask)[0], labels)


UTM32 = "EPSG:32632"


def test_resolution_begins_at_the_corner_of_all_scenes(pixels: Any, new_bench: Any) -> None:
    spec, uncut, bench = SEGMENTERS["threshold"], new_bench(), new_bench()
    write(uncut.inputs / "mosaic.tif", pixels)
    cut(bench.inputs, pixels, CUTS)
    segengine.run(uncut.job(spec, source={"resolution": 0.75}, store={"shard": 64}))
    segengine.run(job(bench, spec, resolution=0.75))
    assert bench.tree() == uncut.tree()


def test_scenes_of_several_files_are_a_map(pixels: Any, new_bench: Any) -> None:
    """Bands of one pixel and of two, cut where those of both end."""
    spec, uncut, bench = SEGMENTERS["k-means"] | {"space": "bands"}, new_bench(), new_bench()
    fine, coarse = pixels[:1, :144, :160], pixels[1:2, :72, :80]
    twice = PLACE * Affine.scale(2)
    cuts = {"a": (0, 72, 0, 80), "b": (0, 80, 64, 160), "c": (64, 144, 0, 160)}
    for folder, parts in ((uncut, {"s": (0, 144, 0, 160)}), (bench, cuts)):
        for name, (top, bottom, left, right) in parts.items():
            at = folder.inputs / name
            write(at / "x_B1.tif", fine[:, top:bottom, left:right], top, left)
            low = coarse[:, top // 2 : bottom // 2, left // 2 : right // 2]
            write(at / "x_B2.tif", low, top // 2, left // 2, place=twice)
    paths = "{scene}/*_{band}.tif"
    source = {"paths": [str(uncut.inputs / paths)], "bands": ["B2", "B1"]}
    segengine.run(uncut.job(spec, source=source, store={"shard": 64}))
    segengine.run(job(bench, spec, paths=paths, bands=["B2", "B1"]))
    one, two = uncut.open()["s"], bench.open()["mosaic"]
    np.testing.assert_array_equal(np.asarray(one.mask), np.asarray(two.mask))
    assert two.layout.attributes["band_names"] == ["B2", "B1"]


def test_an_area_says_how_far_a_map_goes(pixels: Any, new_bench: Any) -> None:
    """Its own box, snapped to the scenes' pixels; a scene beside it is none of the map's."""
    uncut, bench = new_bench(), new_bench()
    write(uncut.inputs / "mosaic.tif", pixels)
    cut(bench.inputs, pixels, CUTS)
    write(bench.inputs / "far.tif", pixels, 0, 5000)
    left, top = PLACE * (40, 30)
    right, bottom = PLACE * (100.4, 120)
    ring = [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]
    area = {
        "type": "Polygon", "coordinates": [ring], "crs": {"type": "name", "properties": {"name": UTM}}
    }  # fmt: skip
    (bench.root / "area.geojson").write_text(json.dumps(area))
    options = {"area": str(bench.root / "area.geojson")}
    spec = SEGMENTERS["threshold"]
    segengine.run(uncut.job(spec, source=options, store={"shard": 64}))
    summary = segengine.run(job(bench, spec, **options))
    assert any("1 input lies outside source.area" in each for each in summary.messages)
    whole, part = (np.asarray(b.open()["mosaic"].mask)[0] for b in (uncut, bench))
    np.testing.assert_array_equal(part, whole[30:120, 40:101])
    assert (part == 255).sum() < part.size / 2


# What is read, and what is made anew


def test_what_is_covered_is_not_read(pixels: Any, bench: Any, decoded: dict[str, int]) -> None:
    """Nodata of the scene on top shows the next one; a scene below all of it is not opened."""
    write(bench.inputs / "c.tif", pixels)
    write(bench.inputs / "b.tif", pixels[:, :, :100])
    write(bench.inputs / "a.tif", pixels[:, 80:, 110:], 80, 110)
    segengine.run(job(bench, SEGMENTERS["threshold"]))
    assert decoded["c"] == HEIGHT * WIDTH
    hole = int((pixels[0] == VOID).sum())
    assert hole <= decoded["b"] < 2.2 * hole
    assert "a" not in decoded
    assert (np.asarray(bench.open()["mosaic"].mask)[0][pixels[0] == VOID] == 255).all()


@pytest.mark.parametrize("name", ["threshold", "k-means", "log"])
def test_a_replaced_cut_makes_anew_the_shards_that_it_touches(
    name: str, pixels: Any, new_bench: Any, computed: list[Any]
) -> None:
    spec = SEGMENTERS.get(name) or {"kind": "edges", "operator": "log", "sigma": 1.0}
    bench, fresh = new_bench(), new_bench()
    cut(bench.inputs, pixels, CUTS)
    segengine.run(job(bench, spec))
    computed.clear()
    assert segengine.run(job(bench, spec)).computed == 0
    changed = {"d": (64, HEIGHT, 128, WIDTH)}
    cut(bench.inputs, pixels, changed)
    os.utime(bench.inputs / "d.tif", ns=(1, 1))
    summary = segengine.run(job(bench, spec))
    touched = {(0, y, x) for y in (0, 1, 2) for x in (1, 2)}  # it began at row 60 and column 95
    assert {place for _, place in computed} == touched
    assert summary.computed == len(touched)
    if name != "k-means":  # whose fit is that of the first night
        cut(fresh.inputs, pixels, CUTS | changed)
        segengine.run(job(fresh, spec))
        assert bench.tree() == fresh.tree()
    assert any("1 of" in each or "stale" in each for each in summary.messages)


def test_a_halo_reaches_into_the_next_shard(pixels: Any, bench: Any, computed: list[Any]) -> None:
    """A scene that ends one pixel before a shard's border touches that shard where there is a halo."""
    cut(bench.inputs, pixels, {"a": (0, HEIGHT, 0, WIDTH), "b": (0, 64, 0, 63)})
    local = {"kind": "threshold", "method": "local", "window": 9}
    around = {(0, 0), (0, 1), (1, 0), (1, 1)}
    for night, (spec, places) in enumerate([(local, around), (SEGMENTERS["threshold"], {(0, 0)})]):
        shutil.rmtree(bench.store, ignore_errors=True)
        segengine.run(job(bench, spec))
        computed.clear()
        os.utime(bench.inputs / "b.tif", ns=(night, night))
        segengine.run(job(bench, spec))
        assert {(y, x) for _, (_, y, x) in computed} == places


def test_a_vanished_scene_leaves_the_map_to_the_others(
    pixels: Any, new_bench: Any, computed: list[Any]
) -> None:
    bench, fresh, spec = new_bench(), new_bench(), SEGMENTERS["threshold"]
    cut(bench.inputs, pixels, CUTS)
    segengine.run(job(bench, spec))
    (bench.inputs / "d.tif").unlink()
    computed.clear()
    segengine.run(job(bench, spec))
    assert {place for _, place in computed} == {(0, y, x) for y in (0, 1, 2) for x in (1, 2)}
    mask = np.asarray(bench.open()["mosaic"].mask)[0]
    assert mask.shape == (HEIGHT, WIDTH)  # a map's extent never changes
    assert (mask[95:, 120:] == 255).all()
    left = {name: box for name, box in CUTS.items() if name != "d"}
    cut(fresh.inputs, pixels, left)
    write(fresh.inputs / "e.tif", np.full((3, 1, 1), VOID, "uint16"), HEIGHT - 1, WIDTH - 1)
    segengine.run(job(fresh, spec))
    assert bench.tree() == fresh.tree()


def test_a_scene_beyond_the_map_makes_a_further_one(
    pixels: Any, bench: Any, computed: list[Any]
) -> None:
    """On the same lattice, void where the first one lies: no pixel is in two maps."""
    spec = SEGMENTERS["canny"]
    cut(bench.inputs, pixels, {"a": (0, 100, 0, 110)})
    segengine.run(job(bench, spec))
    first = bench.tree()
    computed.clear()
    cut(bench.inputs, pixels, {"b": (40, HEIGHT, 90, WIDTH)})
    segengine.run(job(bench, spec))
    one, two = bench.open()["mosaic"], bench.open()["mosaic.2"]
    assert one.layout.shape == (1, 100, 110)
    moved = ~PLACE * (Affine(*two.layout.attributes["transform"]) * (0, 0))
    column, row = (round(each) for each in moved)
    labels = np.asarray(two.mask)[0]
    assert (row, column) == (0, 64)
    assert labels.shape == (192, 128)
    assert (labels[:100, : 110 - 64] == 255).all()
    assert set(np.unique(labels[100:150, 90 - 64 : 126])) == {0, 1}
    assert first.keys() < bench.tree().keys()
    computed.clear()
    assert segengine.run(job(bench, spec)).computed == 0
    cut(bench.inputs, pixels, {"c": (90, HEIGHT, 100, 160)})
    segengine.run(job(bench, spec))
    assert list(bench.open().scenes) == ["mosaic", "mosaic.2"]


# What is wrong


def test_unlike_scenes_are_quarantined_by_name(pixels: Any, bench: Any) -> None:
    cut(bench.inputs, pixels, CUTS)
    write(bench.inputs / "bands.tif", pixels[:2])
    write(bench.inputs / "bytes.tif", (pixels // 50).astype("uint8"))
    (bench.inputs / "torn.tif").write_bytes((bench.inputs / "a.tif").read_bytes()[:300])
    with warnings.catch_warnings(action="ignore"):
        write(bench.inputs / "nowhere.tif", pixels, crs=None, transform=Affine.identity())
    summary = segengine.run(job(bench, SEGMENTERS["threshold"], kind="raster"))
    assert summary.exit_code == 3
    reasons = {each.name: each.reason for each in summary.failed}
    assert reasons.keys() == {"bands.tif", "bytes.tif", "torn.tif", "nowhere.tif"}
    assert "2 bands of uint16, and the others are 3 bands of uint16" in reasons["bands.tif"]
    assert "3 bands of uint8" in reasons["bytes.tif"]
    assert "lies nowhere" in reasons["nowhere.tif"]
    again = segengine.run(job(bench, SEGMENTERS["threshold"], kind="raster"))
    assert {each.name for each in again.failed} == reasons.keys()
    assert again.computed == 0


def test_bands_that_nobody_names_are_told_apart(bench: Any) -> None:
    """Of as many bands, and of other names: in one map `corrupt`, else a line."""
    for index, (scene, bands) in enumerate((("s1", "AB"), ("s2", "AB"), ("s3", "BC"))):
        for band in bands:
            layer = np.full((1, 40, 40), ord(band), "uint8")
            write(bench.inputs / f"{scene}_{band}.tif", layer, 0, 40 * index)
    paths = "{scene}_{band}.tif"
    summary = segengine.run(job(bench, SEGMENTERS["threshold"], paths=paths, kind="raster"))
    (failed,) = summary.failed
    assert (failed.name, failed.kind) == ("s3", "corrupt")
    assert "(B, C), and the others are 2 bands of uint8 (A, B)" in failed.reason
    again = segengine.run(job(bench, SEGMENTERS["threshold"], paths=paths, kind="raster"))
    assert (again.computed, [each.name for each in again.failed]) == (0, ["s3"])
    alone = job(bench, SEGMENTERS["threshold"], paths=paths, kind="raster")
    del alone["source"]["mosaic"]
    alone["store"]["path"] += ".alone"
    line = (
        "scenes have unlike bands (A, B in 2; B, C in 1); name those that are meant in source.bands"
    )
    assert line in segengine.run(alone).messages
    alone["source"]["bands"] = ["B"]
    alone["store"]["path"] += ".named"
    assert line not in segengine.run(alone).messages


def test_neighbours_across_the_date_line_are_told(bench: Any) -> None:
    for name, west in (("a", 179.0), ("b", -180.0)):
        place = Affine(0.01, 0, west, 0, -0.01, 10)
        layer = np.full((1, 50, 100), 7, "uint8")
        write(bench.inputs / f"{name}.tif", layer, crs="EPSG:4326", transform=place)
    made = job(bench, SEGMENTERS["threshold"], kind="raster", shard=512)
    assert any("both sides of the date line" in line for line in segengine.run(made).messages)
    made["source"]["crs"] = "EPSG:32660"
    made["store"]["path"] += ".utm"
    assert not any("date line" in line for line in segengine.run(made).messages)


def test_several_crs_need_a_name(pixels: Any, bench: Any) -> None:
    cut(bench.inputs, pixels, {"a": CUTS["a"]})
    write(bench.inputs / "z.tif", pixels, crs=UTM32)
    with pytest.raises(
        JobError, match=r"source\.crs: a\.tif lies in EPSG:32633 and z\.tif in EPSG:32632"
    ):
        segengine.run(job(bench, SEGMENTERS["threshold"]))
    (bench.inputs / "z.tif").unlink()
    segengine.run(job(bench, SEGMENTERS["threshold"]))
    # On a later night it is that scene's own matter.
    write(bench.inputs / "z.tif", pixels, crs=UTM32)
    summary = segengine.run(job(bench, SEGMENTERS["threshold"]))
    assert (summary.exit_code, summary.computed) == (3, 0)
    assert (
        "lies in EPSG:32632, and the map in EPSG:32633; set source.crs" in summary.failed[0].reason
    )


@pytest.mark.parametrize("name", ["threshold", "k-means"])
def test_a_scene_that_breaks_in_mid_read_is_void_where_it_would_have_shown(
    name: str, pixels: Any, new_bench: Any
) -> None:
    """Blocks that cannot be decoded are void, whatever lies below; however the map is cut."""
    masks = []
    for shard, chunk in ((64, 16), (48, 24)):
        bench = new_bench()
        cut(bench.inputs, pixels, CUTS, compress="deflate")
        lying = bench.inputs / "d.tif"
        with rasterio.open(lying) as file:
            offset = int(file.get_tag_item("BLOCK_OFFSET_2_1", "TIFF", bidx=1))
        data = bytearray(lying.read_bytes())
        data[offset : offset + 40] = b"\0" * 40
        lying.write_bytes(data)
        made = job(bench, SEGMENTERS[name], shard=shard)
        made["store"]["chunk"] = chunk
        summary = segengine.run(made)
        assert summary.exit_code == 3
        ((frame, reason),) = [(f.name, f.reason) for f in summary.failed]
        assert frame == "mosaic"
        assert "d.tif" in reason
        masks.append(np.asarray(bench.open()["mosaic"].mask)[0])
    np.testing.assert_array_equal(*masks)
    lost = masks[0] == 255
    lost[pixels[0] == VOID] = False
    assert np.flatnonzero(lost.any(axis=1)).tolist() == list(range(60 + 16, 60 + 32))
    assert np.flatnonzero(lost.any(axis=0)).tolist() == list(range(95 + 32, 95 + 48))


def test_the_worked_example(pixels: Any, tmp_path: Path, computed: list[Any]) -> None:
    """deployments/jobs/mosaic.yaml, on two nights of two zones."""
    example = Path(__file__).parents[3] / "deployments/jobs/mosaic.yaml"
    (tmp_path / "job.yaml").write_text(example.read_text().replace("/srv/segengine", str(tmp_path)))
    region = [12.0, 49.99, 12.05, 50.01]
    ring = [[region[i], region[j]] for i, j in ((0, 1), (2, 1), (2, 3), (0, 3), (0, 1))]
    (tmp_path / "region.geojson").write_text(json.dumps({"type": "Polygon", "coordinates": [ring]}))
    first = {"crs": "EPSG:32633", "place": Affine(10, 0, 285_000, 0, -10, 5_544_000)}
    write(tmp_path / "season/20260501.tif", pixels[:2], **first)
    made = load_job(tmp_path / "job.yaml")
    assert segengine.run(made).exit_code == 0
    scene = segengine.open_store(tmp_path / "masks/mosaic.zarr")["mosaic"]
    shape, before = scene.layout.shape, np.asarray(scene.mask)[0]
    assert 0 < (before != 255).sum() < before.size / 2
    second = {"crs": UTM32, "place": Affine(10, 0, 715_500, 0, -10, 5_542_500)}
    write(tmp_path / "season/20260502.tif", pixels[:2], **second)
    assert segengine.run(made).exit_code == 0
    scene = segengine.open_store(tmp_path / "masks/mosaic.zarr")["mosaic"]
    assert scene.layout.shape == shape
    assert (np.asarray(scene.mask)[0] != 255).sum() > (before != 255).sum()


# Nights


def test_what_cannot_be_looked_at_stays_in_the_map(
    pixels: Any, bench: Any, computed: list[Any]
) -> None:
    """Nobody knows whether it is still there: the others' changes are taken, and it is named."""
    cut(bench.inputs, pixels, CUTS)
    spec = SEGMENTERS["threshold"]
    segengine.run(job(bench, spec))
    before = bench.tree()
    (bench.inputs / "d.tif").rename(bench.root / "d.tif")
    (bench.inputs / "d.tif").symlink_to(bench.root / "nothing")
    computed.clear()
    summary = segengine.run(job(bench, spec))
    assert [(each.name, each.reason) for each in summary.failed] == [
        ("d.tif", "dangling symbolic link")
    ]
    assert (summary.exit_code, computed) == (3, [])
    assert bench.tree() == before


def test_a_map_whose_scenes_are_all_damaged_is_void_until_one_is_there(
    pixels: Any, new_bench: Any
) -> None:
    bench, fresh = new_bench(), new_bench()
    cut(bench.inputs, pixels, {"a": (0, 100, 0, 120)})
    made = job(bench, SEGMENTERS["threshold"], kind="raster")
    assert segengine.run(made).exit_code == 0
    (bench.inputs / "a.tif").write_bytes(b"II*\0garbage")
    broken = segengine.run(made)
    assert broken.exit_code == 3
    assert "a.tif" in {each.name for each in broken.failed}
    assert not any("vanished" in line for line in broken.messages)
    assert (np.asarray(bench.open()["mosaic"].mask) == 255).all()
    assert segengine.run(made).computed == 0
    (bench.inputs / "a.tif").unlink()
    for each in (bench, fresh):
        cut(each.inputs, pixels, {"a": (0, 100, 0, 120)})
    assert segengine.run(made).exit_code == 0
    segengine.run(job(fresh, SEGMENTERS["threshold"], kind="raster"))
    ours, theirs = (np.asarray(each.open()["mosaic"].mask) for each in (bench, fresh))
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("change", ["corrupt", "elsewhere"])
def test_a_further_map_shows_nothing_of_a_scene_that_is_not_there_any_more(
    change: str, pixels: Any, bench: Any
) -> None:
    """It has not vanished, so nothing of its mask is kept, also where the first map has scenes."""
    cut(bench.inputs, pixels, {"a": (0, 60, 0, 60), "b": (0, 60, 128, WIDTH)})
    source = job(bench, SEGMENTERS["threshold"], kind="raster")
    (bench.inputs / "b.tif").rename(bench.root / "b.tif")
    segengine.run(source)
    (bench.root / "b.tif").rename(bench.inputs / "b.tif")
    segengine.run(source)
    assert (np.asarray(bench.open()["mosaic.2"].mask) != 255).any()
    if change == "corrupt":
        (bench.inputs / "b.tif").write_bytes(b"II*\0garbage")
    else:
        write(bench.inputs / "b.tif", pixels[:, :60, 128:], 0, 128 + 3 * 64)
    for _ in range(2):
        summary = segengine.run(source)
        assert not any("vanished" in line for line in summary.messages)
        assert (np.asarray(bench.open()["mosaic.2"].mask) == 255).all()
        statuses = {row["name"]: row["status"] for row in bench.open().frames.to_pylist()}
        assert statuses["mosaic.2"] == "corrupt"  # without a valid pixel
    assert list(bench.open().scenes)[2:] == ["mosaic.3"] * (change == "elsewhere")


def test_a_map_of_which_all_scenes_vanish_keeps_its_mask(
    pixels: Any, bench: Any, computed: list[Any]
) -> None:
    item = make_item(bench.inputs, "night", {"red": pixels[0]})
    save(bench.inputs, item)
    spec = SEGMENTERS["threshold"]
    source = {"kind": "stac", "paths": [str(bench.inputs / "*/*.json")], "assets": ["red"]}
    found = bench.job(spec, source=source | {"mosaic": "newest"})
    segengine.run(found)
    before = bench.tree()
    (bench.inputs / "night" / "night.json").unlink()
    empty = {"type": "FeatureCollection", "features": []}
    (bench.inputs / "night" / "none.json").write_text(json.dumps(empty))
    computed.clear()
    summary = segengine.run(found)
    assert (computed, bench.tree()) == ([], before)
    assert any("1 input has vanished" in each for each in summary.messages)
    assert [row["status"] for row in bench.open().frames.to_pylist()] == ["gone"]
    save(bench.inputs, item)
    assert segengine.run(found).computed == 0
    assert [row["status"] for row in bench.open().frames.to_pylist()] == ["done"]


def test_with_the_key_and_without_it(pixels: Any, bench: Any) -> None:
    """Scenes of their own become a map, and again; which is on top lays out nothing anew."""
    spec = SEGMENTERS["threshold"]
    cut(bench.inputs, pixels, CUTS)
    segengine.run(job(bench, spec))
    first = bench.tree()
    segengine.run(job(bench, spec, mosaic=None))
    assert list(bench.open().scenes) == list(CUTS)
    segengine.run(job(bench, spec))
    assert bench.tree() == first
    summary = segengine.run(job(bench, spec, mosaic="oldest"))
    assert any("source.mosaic: newest -> oldest" in each for each in summary.messages)
    assert bench.tree() == first


@pytest.mark.parametrize("kind", ["threshold", "canny", "components"])
def test_a_scene_that_is_pruned_is_in_no_byte_of_the_map(
    kind: str, bench: Any, new_bench: Any, pixels: NDArray[Any]
) -> None:
    from segengine.commands.prune import Wanted, prune
    from segengine.commands.verify import verify
    from segengine.store.blobs import open_objects
    from tests.searching import holding

    segmenter = {k: v for k, v in SEGMENTERS[kind].items() if k != "scope"}
    cuts = {"person" if name == "d" else name: box for name, box in CUTS.items()}
    cut(bench.inputs, pixels, cuts)
    segengine.run(job(bench, segmenter))
    ((scene, before),) = ((n, np.asarray(s.mask[0])) for n, s in bench.open().scenes.items())
    objects = open_objects(str(bench.store))
    assert holding(objects, (b"person",))
    report = prune(str(bench.store), Wanted(names=("person.tif",)), yes=True)
    assert [(f.name, f.scene) for f in report.frames] == [("person.tif", scene)]
    assert holding(objects, (b"person",)) == []
    now = bench.open()[scene]
    assert (np.asarray(now.mask[0])[64:, 128:] == now.void).all()
    if kind == "threshold":  # shards that it does not reach into stay
        np.testing.assert_array_equal(np.asarray(now.mask[0])[:, :64], before[:, :64])
    assert verify(str(bench.store)).problems == ()

    other = new_bench()
    cut(other.inputs, pixels, {name: box for name, box in CUTS.items() if name != "d"})
    for one in (bench, other):
        summary = segengine.run(job(one, segmenter))
        assert (summary.exit_code, summary.left) == (0, 0)
    assert bench.tree() == other.tree()
    assert holding(objects, (b"person",)) == []
