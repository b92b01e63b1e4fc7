"""`kind: stac` from a job to its masks: scenes, changes, signatures, and items that are none."""

from __future__ import annotations

import json
import re
import time
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
from segengine.sources.stac import StacSource
from segengine.store.layouts import Layout
from segengine.types import Tile

from .stac_scenes import HEIGHT, WIDTH, install_signer, make_item, pixels, save, write_tiff

WHOLE = slice(0, HEIGHT), slice(0, WIDTH)


def listed(path: Path | str, previous: Scan | None = None, **options: Any) -> Scan:
    spec = {"kind": "stac", "paths": [str(path)], **options}
    before = {} if previous is None else previous.layouts
    return scan(spec, before, () if previous is None else previous.unplaced, Cut(16, 32))


def read(layout: Layout, **options: Any) -> Tile:
    (found,) = reader("stac", options).read([layout.frame(0)], *WHOLE)
    assert isinstance(found, Tile), found
    return found


def reasons(found: Scan) -> dict[str, tuple[str, str]]:
    return {each.name: (each.kind, each.reason) for each in found.unplaced}


def test_an_item_is_a_scene_with_its_ground_and_what_orders_it(tmp_path: Path) -> None:
    path = save(tmp_path, make_item(tmp_path, "S2A.2026", {"red": pixels(1)}, day=3, cloud=7))
    (layout,) = listed(path, assets=["red"]).layouts.values()
    assert (layout.scene, layout.kind, layout.names) == ("S2A.2026", "stac", ("S2A.2026",))
    assert layout.attributes["transform"] == [10, 0, 500_000, 0, -10, 5_000_000]
    assert layout.attributes["band_names"] == ["red"]
    assert layout.attributes["stac"] == {
        "id": "S2A.2026",
        "collection": "scenes",
        "datetime": "2026-05-04T00:00:00Z",
        "cloud_cover": 7,
    }


def test_bands_of_unlike_resolution_come_to_the_finest(tmp_path: Path) -> None:
    item = make_item(tmp_path, "night", {"red": pixels(1)})
    coarse = pixels(2)[: HEIGHT // 2, : WIDTH // 2]
    wide = rasterio.Affine(20, 0, 500_000, 0, -20, 5_000_000)
    write_tiff(tmp_path / "night" / "swir.tif", coarse, transform=wide)
    item.add_asset("swir", pystac.Asset("./swir.tif"))
    (layout,) = listed(save(tmp_path, item), assets=["swir", "red"]).layouts.values()
    tile = read(layout)
    np.testing.assert_array_equal(tile.pixels[..., 1], pixels(1))
    np.testing.assert_array_equal(tile.pixels[..., 0], np.kron(coarse, np.ones((2, 2))))


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_scale_and_offset_make_float32(tmp_path: Path, version: str) -> None:
    item = make_item(tmp_path, "night", {"red": pixels(1)})
    asset = item.assets["red"]
    if version == "1.0":
        asset.extra_fields["raster:bands"] = [{"scale": 0.0001, "offset": -0.1, "nodata": 7}]
    else:
        asset.extra_fields["bands"] = [
            {"name": "red", "raster:scale": 0.0001, "raster:offset": -0.1, "nodata": 7}
        ]
    (layout,) = listed(save(tmp_path, item), assets=["red"]).layouts.values()
    tile = read(layout)
    assert (tile.pixels.dtype.name, layout.dtype) == ("float32", "float32")
    wanted = (pixels(1) * 0.0001 - 0.1).astype(np.float32)
    np.testing.assert_array_equal(tile.pixels[..., 0], wanted)
    assert tile.valid is not None
    np.testing.assert_array_equal(tile.valid, pixels(1) != 7)


def test_what_only_the_file_says_counts_too(tmp_path: Path) -> None:
    """Scale, offset and nodata as GDAL keeps them; what the item says comes first."""
    item = make_item(tmp_path, "night", {"red": pixels(1)}, nodata=9)
    with rasterio.open(tmp_path / "night" / "red.tif", "r+") as file:
        file.scales, file.offsets = (0.5,), (2.0,)
    (layout,) = listed(save(tmp_path, item), assets=["red"]).layouts.values()
    tile = read(layout)
    np.testing.assert_array_equal(tile.pixels[..., 0], (pixels(1) * 0.5 + 2).astype(np.float32))
    assert tile.valid is not None
    np.testing.assert_array_equal(tile.valid, pixels(1) != 9)
    item.assets["red"].extra_fields["raster:bands"] = [{"scale": 0.25, "offset": 0}]
    (layout,) = listed(save(tmp_path, item), assets=["red"]).layouts.values()
    np.testing.assert_array_equal(read(layout).pixels[..., 0], pixels(1) * np.float32(0.25))


@pytest.mark.parametrize("header", [False, True])
@pytest.mark.parametrize("said", [{"scale": 1, "offset": 0}, {"scale": 1.0}, {"offset": 0}])
def test_a_scale_of_one_is_the_items_too(
    said: dict[str, float], header: bool, tmp_path: Path
) -> None:
    """It prevails over the file's as any other does, and pixels keep their dtype."""
    item = make_item(tmp_path, "night", {"red": pixels(1)})
    with rasterio.open(tmp_path / "night" / "red.tif", "r+") as file:
        file.scales, file.offsets = (0.5,), (3.0,)
    asset = item.assets["red"].extra_fields
    asset["raster:bands"] = [{"nodata": 7, "data_type": "uint16", **said}]
    if header:
        place = [10, 0, 500_000, 0, -10, 5_000_000]
        asset |= {"proj:shape": [40, 56], "proj:transform": place, "proj:code": "EPSG:32633"}
    (layout,) = listed(save(tmp_path, item), assets=["red"]).layouts.values()
    tile = read(layout)
    assert (tile.pixels.dtype.name, layout.dtype) == ("uint16", "uint16")
    np.testing.assert_array_equal(tile.pixels[..., 0], pixels(1))
    np.testing.assert_array_equal(tile.valid, pixels(1) != 7)


@pytest.mark.parametrize(
    ("scale", "words"),
    [(0.0, "its file has a scale of 0"), (np.nan, "its file has the scale nan and the offset 3")],
)
def test_a_scale_of_nothing_that_a_file_tells_is_corrupt(
    tmp_path: Path, scale: float, words: str
) -> None:
    item = make_item(tmp_path, "night", {"red": pixels(1)})
    with rasterio.open(tmp_path / "night" / "red.tif", "r+") as file:
        file.scales, file.offsets = (scale,), (3.0,)
    ((kind, reason),) = reasons(listed(save(tmp_path, item), assets=["red"])).values()
    assert kind == "corrupt"
    assert words in reason


@pytest.mark.parametrize(
    ("said", "dtype"), [("float32", "float32"), ("uint8", "uint16"), ("other", "uint16")]
)
def test_a_dtype_is_taken_where_no_value_is_lost(tmp_path: Path, said: str, dtype: str) -> None:
    item = make_item(tmp_path, "night", {"red": pixels(1)})
    item.assets["red"].extra_fields["raster:bands"] = [{"data_type": said}]
    (layout,) = listed(save(tmp_path, item), assets=["red"]).layouts.values()
    assert layout.dtype == dtype
    np.testing.assert_array_equal(read(layout).pixels[..., 0], pixels(1))


def test_one_band_of_an_asset_of_several(tmp_path: Path) -> None:
    rgb = np.stack([pixels(i, "uint8") for i in range(3)])
    item = make_item(tmp_path, "night", {"visual": rgb})
    item.assets["visual"].extra_fields = {}
    path = save(tmp_path, item)
    (layout,) = listed(path, assets=["visual:3", "visual:1"]).layouts.values()
    np.testing.assert_array_equal(read(layout).pixels, np.dstack([rgb[2], rgb[0]]))
    assert "write visual:1" in reasons(listed(path, assets=["visual"]))["night"][1]
    assert "band 4" in reasons(listed(path, assets=["visual:4"]))["night"][1]
    item.assets["visual"].extra_fields["bands"] = [{"name": n} for n in ("red", "green", "blue")]
    (layout,) = listed(save(tmp_path, item), assets=["visual"]).layouts.values()
    np.testing.assert_array_equal(read(layout).pixels, np.moveaxis(rgb, 0, -1))


def test_what_changes_is_stale_and_what_is_new_is_a_scene(tmp_path: Path) -> None:
    items = [make_item(tmp_path, f"night-{i}", {"red": pixels(i)}) for i in range(3)]
    first = listed(save(tmp_path, *items), assets=["red"])

    def marks(found: Scan) -> dict[str, str]:
        return {name: layout.fingerprints[0] for name, layout in found.layouts.items()}

    again = listed(save(tmp_path, *items), first, assets=["red"])
    assert marks(again) == marks(first)
    assert not again.probed
    items[0].properties["eo:cloud_cover"] = 12.0
    write_tiff(tmp_path / "night-1" / "red.tif", pixels(9))
    items.append(make_item(tmp_path, "night-3", {"red": pixels(3)}))
    later = listed(save(tmp_path, *items), first, assets=["red"])
    changed = {name for name, mark in marks(later).items() if marks(first).get(name) != mark}
    assert changed == {"night-0", "night-1", "night-3"}
    assert later.layouts["night-0"].attributes["stac"]["cloud_cover"] == 12
    fewer = listed(save(tmp_path, *items[:2]), first, assets=["red"])
    assert [name for name, layout in fewer.layouts.items() if layout.gone[0]] == ["night-2"]


def test_bad_items_are_left_out_by_their_ids(tmp_path: Path) -> None:
    good = make_item(tmp_path, "good", {"red": pixels(1)})
    other = make_item(tmp_path, "no-such-asset", {"green": pixels(1)})
    html = make_item(tmp_path, "html", {"red": pixels(1)})
    (tmp_path / "html" / "red.tif").write_text("<!DOCTYPE html><html>Sign in</html>")
    lost = make_item(tmp_path, "lost", {"red": pixels(1)})
    (tmp_path / "lost" / "red.tif").unlink()
    nowhere = make_item(tmp_path, "nowhere", {"red": pixels(1)})
    outside = make_item(tmp_path, "outside", {"red": pixels(1)})
    unlike = make_item(tmp_path, "unlike", {"red": pixels(1), "nir": pixels(2)})
    write_tiff(tmp_path / "unlike" / "nir.tif", pixels(2), crs="EPSG:32610")
    path = save(tmp_path, good, other, html, lost, nowhere, outside, unlike)
    for name, change in (
        ("nowhere", {"geometry": None}),
        ("outside", {"assets": {"red": {"href": "/etc/hostname"}}}),
    ):
        file = tmp_path / name / f"{name}.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    found = listed(path, assets=["red"])
    assert list(found.layouts) == ["good", "unlike"]
    said = reasons(found)
    assert {name: kind for name, (kind, _) in said.items()} == {
        "html": "corrupt", "lost": "error", "no-such-asset": "corrupt", "nowhere": "corrupt",
        "outside": "corrupt",
    }  # fmt: skip
    assert "HTML page" in said["html"][1]
    assert said["lost"][1] == "its asset red: no such file"
    assert "has no geometry" in said["nowhere"][1]
    assert not any("\n" in reason for _, reason in said.values())
    found = listed(path, assets=["red", "nir"])
    assert "unlike" in reasons(found)


def test_the_same_id_in_two_collections_is_two_scenes(tmp_path: Path) -> None:
    held = []
    for i, collection in enumerate(("c", "d")):
        item = make_item(tmp_path / collection, "night", {"red": pixels(i)})
        said = {**item.to_dict(include_self_link=False), "collection": collection}
        file = tmp_path / collection / "night" / "night.json"
        file.write_text(json.dumps(said))
        held.append(file)
    found = listed(tmp_path / "*" / "night" / "night.json", assets=["red"])
    assert {layout.names[0] for layout in found.layouts.values()} == {"c/night", "d/night"}
    copied = json.loads(held[0].read_text())
    copied["properties"]["eo:cloud_cover"] = 99
    (tmp_path / "c" / "night" / "again.json").write_text(json.dumps(copied))
    found = listed(tmp_path / "c" / "night" / "*.json", assets=["red"])
    assert list(found.layouts) == ["night"]
    ((name, (kind, reason)),) = reasons(found).items()
    assert (name, kind) == ("night (2)", "corrupt")
    assert "is there twice, and differs" in reason


def test_the_same_words_with_other_files_beside_them_are_told(tmp_path: Path) -> None:
    text = json.dumps(make_item(tmp_path, "night", {"red": pixels(0)}).to_dict(False))
    write_tiff(tmp_path / "other" / "red.tif", pixels(1))
    for folder in ("night", "other"):
        (tmp_path / folder / "item.json").write_text(text)
    path = tmp_path / "*" / "item.json"
    found = listed(path, assets=["red"])
    assert list(found.layouts) == ["night"]
    ((name, (kind, reason)),) = reasons(found).items()
    assert (name, kind) == ("night (2)", "corrupt")
    assert reason.startswith("is there twice, and names other files than what /")
    # The same files are the same scene, wherever it is told of.
    (tmp_path / "linked").symlink_to(tmp_path / "night")
    assert not listed(tmp_path / "[ln]i*" / "item.json", assets=["red"]).unplaced
    said = json.loads(text)
    said["assets"]["red"]["href"] = str(tmp_path / "night" / "red.tif")
    for folder in ("night", "other"):
        (tmp_path / folder / "item.json").write_text(json.dumps(said))
    assert not listed(path, assets=["red"]).unplaced


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"assets": []}, "source.assets: is"),
        ({"assets": [1]}, "source.assets: is"),
        ({"search": {"url": 1}}, "search: stands in place of paths"),
        ({"paths": None, "search": {"url": 1}}, "source.search.url: is needed"),
        ({"paths": None}, "source.paths"),
        ({"asets": ["red"]}, "source.asets: unknown key; did you mean assets?"),
        ({"signer": "planetary"}, "planetary-computer"),
        ({"resampling": "best"}, "source.resampling"),
    ],
)
def test_a_wrong_key_is_named(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    path = save(tmp_path, make_item(tmp_path, "night", {"red": pixels(1)}))
    source = {"kind": "stac", "paths": [path], "assets": ["red"], **change}
    job = {
        "source": {key: value for key, value in source.items() if value is not None},
        "segmenter": {"kind": "threshold"},
        "store": {"path": str(tmp_path / "m.zarr")},
    }
    with pytest.raises(segengine.errors.JobError) as raised:
        segengine.run(job)
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_run_is_that_of_the_same_pixels_as_one_raster(tmp_path: Path) -> None:
    """Items, change and all: labels as from GeoTIFFs that hold the bands together."""
    held = {f"night-{i}": np.stack([pixels(i), pixels(i + 50)]) for i in range(3)}
    items = [
        make_item(tmp_path / "in", name, {"red": bands[0], "nir": bands[1]})
        for name, bands in held.items()
    ]
    path = save(tmp_path / "in", *items)
    for name, bands in held.items():
        write_tiff(tmp_path / "whole" / f"{name}.tif", bands)

    def job(source: dict[str, Any], out: str) -> dict[str, Any]:
        return {
            "source": source,
            "segmenter": {"kind": "kmeans", "clusters": 3, "space": "bands", "scope": "run"},
            "store": {"path": str(tmp_path / out), "chunk": 16, "shard": 32},
        }

    ours = job({"kind": "stac", "paths": [path], "assets": ["red", "nir"]}, "stac.zarr")
    summary = segengine.run(ours)
    assert (summary.exit_code, summary.computed) == (0, 12)
    segengine.run(job({"kind": "raster", "paths": [f"{tmp_path}/whole/*.tif"]}, "raster.zarr"))
    stac, raster = (segengine.open_store(f"{tmp_path}/{n}.zarr") for n in ("stac", "raster"))
    for name in held:
        np.testing.assert_array_equal(stac[name].mask[:], raster[name].mask[:])
    write_tiff(tmp_path / "in" / "night-1" / "red.tif", pixels(77))
    assert segengine.run(ours).computed == 4
    assert segengine.run(ours).computed == 0


@pytest.mark.system
@pytest.mark.parametrize("mosaic", [None, "newest"])
def test_signatures_that_run_out_in_mid_run_are_renewed(
    mosaic: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each serves some requests of a file; nothing of one is stored, and no frame is lost."""
    from .stac_server import State, serving

    names = [f"night-{i}" for i in range(4)]
    items = [
        make_item(tmp_path / "in", name, {"red": pixels(i)}, i) for i, name in enumerate(names)
    ]
    signatures: list[str] = []

    def sign(url: str) -> str:
        signatures.append(f"{time.time() + 1000 + len(signatures)}")
        return f"{url}?sig={signatures[-1]}"

    install_signer(monkeypatch, sign)
    state = State(signed=True, uses=7)  # a scan takes 3, a frame's shards some 18 more
    with serving(state, tmp_path / "in") as url:
        for name, item in zip(names, items, strict=True):
            item.assets["red"].href = f"{url}/data/{name}/red.tif"
            item.collection_id = "nights"
        state.items = [item.to_dict(include_self_link=False) for item in items]
        job = {
            "source": {
                "kind": "stac",
                "search": {"url": f"{url}?key=hush"},
                "assets": ["red"],
                "signer": "mine",
                "mosaic": mosaic,
            },
            "segmenter": {"kind": "threshold", "method": "fixed", "levels": [100]},
            "store": {"path": str(tmp_path / "m.zarr"), "chunk": 16, "shard": 16},
        }
        summary = segengine.run(job)
    assert not summary.failed
    assert summary.exit_code == 0
    store = segengine.open_store(tmp_path / "m.zarr")
    assert state.refused
    assert len(signatures) > len(names)
    shown = dict(enumerate(names)) if mosaic is None else {3: "mosaic"}
    for i, name in shown.items():
        np.testing.assert_array_equal(store[name].mask[0], pixels(i) > 100)
    for file in (tmp_path / "m.zarr").rglob("*"):
        if file.is_file():
            assert not re.search(rb"\?sig=|hush", file.read_bytes()), file


@pytest.mark.system
@pytest.mark.parametrize("placed", [True, False])
def test_signatures_that_an_api_gives_are_asked_for_again(placed: bool, tmp_path: Path) -> None:
    """Without a signer: the item has another one by now, where it says that it lies or in a search."""
    from .stac_server import State, serving

    item = make_item(tmp_path / "in", "night", {"red": pixels(1)})
    state = State(signed=True)
    with serving(state, tmp_path / "in") as url:
        place = f"{url}/collections/nights/items/night"
        said = {**item.to_dict(include_self_link=False), "collection": "nights"}

        def state_of(seconds: float) -> None:
            href = f"{url}/data/night/red.tif?sig={time.time() + seconds}"
            said["assets"]["red"]["href"] = href
            said["links"] = [{"rel": "self", "href": place}] if placed else []
            state.items = [json.loads(json.dumps(said))]

        state_of(100)
        source = StacSource(search={"url": url}, assets=("red",))
        (entry,) = source.list([]).entries
        state_of(200)
        old = entry.parts[0].uri
        found = scan(
            {"kind": "stac", "paths": [], "search": {"url": url}, "assets": ["red"]},
            {}, (), Cut(16, 32),
        )  # fmt: skip
        (layout,) = found.layouts.values()
        assert layout.fingerprints[0] == entry.fingerprint
        from dataclasses import replace

        ref = layout.frame(0)
        part = replace(ref.parts[0], uri=f"{old.partition('?')[0]}?sig=1")
        (tile,) = source.read([replace(ref, parts=(part,))], *WHOLE)
        assert state.refused
        refused = state.refused
        spec = {
            "kind": "stac", "paths": [], "search": {"url": url}, "assets": ["red"], "mosaic": "newest"
        }  # fmt: skip
        (layout,) = scan(spec, {}, (), Cut(16, 32)).layouts.values()
        assert layout.mosaic is not None
        member = replace(layout.mosaic.members[0], parts=(part,))
        ref = replace(layout.frame(0), mosaic=replace(layout.mosaic, members=(member,)))
        (same,) = replace(source, mosaic="newest").read([ref], *WHOLE)
        assert state.refused > refused
    assert isinstance(tile, Tile), tile
    assert isinstance(same, Tile), same
    np.testing.assert_array_equal(tile.pixels[..., 0], pixels(1))
    np.testing.assert_array_equal(same.pixels[..., 0], pixels(1))


def test_the_worked_example_runs(tmp_path: Path) -> None:
    example = Path(__file__).parents[3] / "deployments" / "jobs" / "stac.yaml"
    wide = rasterio.Affine(20, 0, 500_000, 0, -20, 5_000_000)
    items = []
    for i in range(2):
        item = make_item(tmp_path / "in", f"night-{i}", {"red": pixels(i), "nir": pixels(i + 5)})
        coarse = pixels(i + 9)[: HEIGHT // 2, : WIDTH // 2]
        write_tiff(tmp_path / "in" / f"night-{i}" / "swir16.tif", coarse, transform=wide)
        item.add_asset("swir16", pystac.Asset("./swir16.tif"))
        items.append(item)
    path = save(tmp_path / "in", *items)
    changes = [f"source.paths=[{path}]", f"store.path={tmp_path}/m.zarr"]
    summary = segengine.run(segengine.load_job(example, changes))
    assert summary.exit_code == 0
    mask = segengine.open_store(tmp_path / "m.zarr")["night-0"].mask
    assert mask.shape == (1, HEIGHT // 2, WIDTH // 2)
    assert len(np.unique(mask[:])) == 6


def test_an_area_is_that_of_rasters(tmp_path: Path) -> None:
    """Outside is void; against the same bands as one GeoTIFF."""
    item = make_item(tmp_path, "night", {"red": pixels(1), "nir": pixels(2)})
    write_tiff(tmp_path / "whole" / "night.tif", np.stack([pixels(1), pixels(2)]))
    area = tmp_path / "field.geojson"
    ring = [[500_095, 4_999_995], [500_400, 4_999_900], [500_200, 4_999_700], [500_095, 4_999_995]]
    area.write_text(
        json.dumps(
            {
                "type": "Polygon",
                "coordinates": [ring],
                "crs": {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32633"}},
            }
        )
    )
    masks = []
    for name, source in (
        ("stac", {"kind": "stac", "paths": [save(tmp_path, item)], "assets": ["red", "nir"]}),
        ("raster", {"kind": "raster", "paths": [f"{tmp_path}/whole/night.tif"]}),
    ):
        job = {
            "source": {**source, "area": str(area)},
            "segmenter": {"kind": "kmeans", "clusters": 2, "space": "bands", "scope": "scene"},
            "store": {"path": str(tmp_path / f"{name}.zarr"), "chunk": 16, "shard": 32},
        }
        assert segengine.run(job).exit_code == 0
        masks.append(segengine.open_store(tmp_path / f"{name}.zarr")["night"].mask[:])
    np.testing.assert_array_equal(*masks)
    assert 0 < (masks[0] != 255).mean() < 0.5


def test_what_lies_badly_is_left_out_by_its_id_and_the_rest_goes_on(tmp_path: Path) -> None:
    """A CRS that holds no pole and no date line, bands of two CRS, a rotated raster, no overviews."""
    turned = rasterio.Affine.translation(500_000, 5e6) * rasterio.Affine.rotation(20)  # type: ignore[operator]
    places: dict[str, dict[str, Any]] = {
        "dateline": {"crs": "EPSG:32601", "transform": rasterio.Affine(9000, 0, 1e5, 0, -9000, 5e5)},
        "good": {},
        "pole": {"crs": "EPSG:3413", "transform": rasterio.Affine(5000, 0, -100_000, 0, -5000, 100_000)},
        "turned": {"transform": turned * rasterio.Affine.scale(10, -10)},
    }  # fmt: skip
    items = [
        make_item(tmp_path, name, {"red": pixels(1), "nir": pixels(2)}, **options)
        for name, options in places.items()
    ]
    with rasterio.open(tmp_path / "good" / "red.tif", "r+") as file:  # and none of the other band
        file.build_overviews([2, 4], rasterio.enums.Resampling.nearest)
    job = {
        "source": {
            "kind": "stac", "paths": [save(tmp_path, *items)], "assets": ["red", "nir"],
            "crs": "EPSG:3857", "resolution": 60, "resampling": "average",
        },
        "segmenter": {"kind": "kmeans", "clusters": 2, "space": "bands", "scope": "scene"},
        "store": {"path": str(tmp_path / "m.zarr"), "chunk": 16, "shard": 32},
    }  # fmt: skip
    found = segengine.run(job)
    assert found.exit_code == 3
    assert {f.name: f.kind for f in found.failed} == {"dateline": "corrupt", "pole": "corrupt"}
    for failed in found.failed:
        assert "does not hold all of it in one piece (a pole, the date line)" in failed.reason
        assert "\n" not in failed.reason
    store = segengine.open_store(tmp_path / "m.zarr")
    assert set(store.scenes) == {"good", "turned"}
    assert all((scene.mask[:] != 255).any() for scene in store.scenes.values())
    # The band without overviews is the mean of its own pixels, beside one that is read coarser.
    scan_of = listed(
        save(tmp_path, items[1]), assets=["red", "nir"], resolution=40.0, resampling="average"
    )
    (layout,) = scan_of.layouts.values()
    whole = slice(0, layout.shape[1]), slice(0, layout.shape[2])
    (tile,) = reader("stac", {"resolution": 40.0, "resampling": "average"}).read(
        [layout.frame(0)], *whole
    )
    assert isinstance(tile, Tile), tile
    means = pixels(2).reshape(HEIGHT // 4, 4, WIDTH // 4, 4).mean(axis=(1, 3))
    np.testing.assert_allclose(tile.pixels[..., 1], means, atol=0.51)
