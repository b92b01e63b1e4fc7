"""Which asset is which band, and what an item says of it: against pystac's readers of the same items."""

from __future__ import annotations

import copy
import json
import math
import warnings
from pathlib import Path
from typing import Any

import pystac
import pytest
from pystac.extensions.raster import RasterExtension

from segengine.errors import CorruptInputError
from segengine.sources._stac_items import Item, read_item
from segengine.sources._stac_links import Reach

BASE = "https://host/items/item.json"
ITEM: dict[str, Any] = {
    "type": "Feature", "stac_version": "1.0.0", "id": "night-1", "bbox": [0, 0, 1, 1],
    "geometry": {"type": "Point", "coordinates": [0, 0]}, "links": [],
    "properties": {"datetime": "2026-05-01T00:00:00Z", "eo:cloud_cover": 12},
    "assets": {"red": {"href": "red.tif", "type": "image/tiff"}},
}  # fmt: skip


def read(item: dict[str, Any], *assets: str, base: str = BASE, reach: Reach | None = None) -> Item:
    return read_item(item, base, assets or None, reach or Reach())


def with_assets(**assets: Any) -> dict[str, Any]:
    return {**copy.deepcopy(ITEM), "assets": assets}


@pytest.mark.parametrize("name", ["raster-sentinel2-example", "raster-planet-example"])
def test_raster_bands_are_as_pystac_reads_them(examples: Path, name: str) -> None:
    said = json.loads((examples / "items" / f"{name}.json").read_text())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = pystac.Item.from_dict(said, href=BASE)
    compared = 0
    for key, asset in theirs.assets.items():
        bands = RasterExtension.ext(asset).bands or []
        for i, band in enumerate(bands, 1):
            if asset.media_type is None or "tif" not in asset.media_type:
                continue
            (part,) = read(said, f"{key}:{i}").parts
            assert part.uri == asset.get_absolute_href()
            assert part.band == i
            assert str(part.nodata) == str(None if band.nodata is None else float(band.nodata))
            assert part.dtype == band.data_type  # an enumeration of texts
            if (band.scale or 1, band.offset or 0) == (1, 0):
                assert (part.scale, part.offset) == (None, None)
            else:
                assert (part.scale, part.offset) == (band.scale, band.offset)
            compared += 1
    assert compared >= 4


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        # https://github.com/radiantearth/stac-spec/blob/v1.1.0/examples/extended-item.json: `bands`
        ("extended-item", {"red": ("analytic.tif", 3), "nir": ("analytic.tif", 4)}),
        ("raster-planet-example", {"red": ("003.tif", 1), "nir": ("003.tif", 4)}),
        # TCI has the common names too; B04 has red to itself.
        ("raster-sentinel2-example", {"red": ("B04.tif", 0), "blue": ("B02.tif", 0)}),
        ("eo-sentinel2-item", {"green": ("B03.jp2", 0)}),
    ],
)
def test_common_names(examples: Path, name: str, wanted: dict[str, tuple[str, int]]) -> None:
    said = json.loads((examples / "items" / f"{name}.json").read_text())
    parts = read(said, *wanted).parts
    assert [part.name for part in parts] == list(wanted)
    for part, (end, band) in zip(parts, wanted.values(), strict=True):
        assert part.uri.endswith(end)
        assert part.band == band


def test_order_is_band_order_and_a_key_comes_before_a_common_name() -> None:
    item = with_assets(
        nir={"href": "a.tif", "eo:bands": [{"common_name": "red"}]},
        red={"href": "b.tif"},
        rgb={"href": "c.tif", "bands": [{"name": "r"}, {"name": "g"}]},
    )
    assert [p.uri[-5:] for p in read(item, "red", "nir").parts] == ["b.tif", "a.tif"]
    assert [(p.band, p.name) for p in read(item, "rgb").parts] == [(1, "r"), (2, "g")]
    assert [(p.band, p.name) for p in read(item, "rgb:2", "nir").parts] == [
        (2, "rgb:2"),
        (0, "nir"),
    ]


def test_of_two_with_one_common_name_the_finer_is_meant() -> None:
    def band(href: str, **more: Any) -> dict[str, Any]:
        return {"href": href, "eo:bands": [{"common_name": "red"}], **more}

    item = with_assets(a=band("60.tif", gsd=60), b=band("10.tif", gsd=10))
    assert read(item, "red").parts[0].uri.endswith("10.tif")
    item = with_assets(a=band("a.tif"), b=band("b.tif"))
    assert "a and b" in read(item, "red").problem
    both = {"href": "both.tif", "eo:bands": [{"common_name": "red"}, {"common_name": "nir"}]}
    item = with_assets(a=both, b=band("b.tif"))
    assert read(item, "red").parts[0].uri.endswith("b.tif")
    assert read(item, "nir").parts[0].band == 2
    item = with_assets(a=band("a.tif", roles=["thumbnail"]), b=band("b.tif"))
    assert read(item, "red").parts[0].uri.endswith("b.tif")


def test_without_a_choice_the_data_are_taken() -> None:
    tiff = {"type": "image/tiff; application=geotiff"}
    item = with_assets(
        thumbnail={"href": "t.png", "type": "image/png"},
        red={"href": "r.tif", "roles": ["data"], **tiff},
        mask={"href": "m.tif", "roles": ["cloud"], **tiff},
        visual={"href": "v.tif", "roles": ["visual"], **tiff},
    )
    assert [part.name for part in read(item).parts] == ["red"]
    assert [part.name for part in read(ITEM).parts] == ["red"]
    nothing = with_assets(a={"href": "a.html"}, b={"href": "b.json"})
    assert "none of its assets is a raster" in read(nothing).problem


def test_scale_offset_nodata_and_dtype_of_both_versions() -> None:
    old = {"href": "a.tif", "raster:bands": [
        {"scale": 0.0001, "offset": -0.1, "nodata": 0, "data_type": "uint16"}]}  # fmt: skip
    new = {"href": "a.tif", "bands": [
        {"raster:scale": 0.0001, "raster:offset": -0.1, "nodata": 0, "data_type": "uint16"}]}  # fmt: skip
    shared = {"href": "a.tif", "raster:scale": 0.0001, "raster:offset": -0.1, "nodata": 0,
              "data_type": "uint16"}  # fmt: skip
    for asset in (old, new, shared):
        (part,) = read(with_assets(red=asset), "red").parts
        assert (part.scale, part.offset, part.nodata, part.dtype) == (0.0001, -0.1, 0, "uint16")
    odd = {"href": "a.tif", "bands": [
        {"raster:scale": None, "nodata": "nan", "data_type": "cint16"}]}  # fmt: skip
    (part,) = read(with_assets(red=odd), "red").parts
    assert (part.scale, part.offset, part.dtype) == (None, None, None)
    assert part.nodata != part.nodata


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ("7", 7),
        ("-9999.0", -9999),
        ("1e20", 1e20),
        (" 7", 7),
        ("none", None),
        ("", None),
        ("inf", math.inf),
        ("-inf", -math.inf),
    ],
)
def test_a_number_may_be_written_as_text(said: str, found: float | None) -> None:
    asset = {"href": "a.tif", "bands": [{"nodata": said, "raster:scale": "0.5"}]}
    (part,) = read(with_assets(red=asset), "red").parts
    assert (part.nodata, part.scale) == (found, 0.5)


@pytest.mark.parametrize("key", ["raster:bands", "bands"])
@pytest.mark.parametrize(
    ("said", "what"),
    [({"scale": "abc"}, "scale 'abc', which is no finite number"),
     ({"scale": "NaN"}, "scale 'NaN', which is no finite number"),
     ({"scale": math.inf}, "scale 'inf', which is no finite number"),
     ({"offset": True}, "offset 'True', which is no finite number"),
     ({"offset": "inf"}, "offset 'inf', which is no finite number"),
     ({"offset": [1]}, "offset '[1]', which is no finite number"),
     ({"nodata": "abc"}, "nodata 'abc', which is no number"),
     ({"nodata": "1_0"}, "nodata '1_0', which is no number")],
)  # fmt: skip
def test_what_is_no_number_is_corrupt(key: str, said: dict[str, Any], what: str) -> None:
    asset = {"href": "a.tif", key: [said]}
    other = {"href": "b.tif"}
    assert read(with_assets(red=asset, nir=other), "red").problem == f"its asset red has the {what}"
    assert not read(with_assets(red=asset, nir=other), "nir").problem


@pytest.mark.parametrize("scale", [0, 0.0, "0"])
def test_a_scale_of_nothing_is_corrupt(scale: Any) -> None:
    asset = {"href": "a.tif", "raster:bands": [{"scale": scale, "offset": 1}]}
    problem = read(with_assets(red=asset), "red").problem
    assert problem == "its asset red has a scale of 0, with which all of its pixels are alike"


def test_what_others_order_scenes_by() -> None:
    found = read({**ITEM, "collection": "nights"}).attributes
    assert found == {
        "stac": {
            "id": "night-1",
            "collection": "nights",
            "datetime": "2026-05-01T00:00:00Z",
            "cloud_cover": 12,
        }
    }


def test_the_digest_tells_a_change_and_no_signature() -> None:
    def digest(href: str, **more: Any) -> str:
        return read({**with_assets(red={"href": href}), **more}).digest

    plain = digest("https://host/a.tif")
    assert digest("https://host/a.tif?sig=secret&se=2026") == plain
    assert digest("https://host/a.tif", links=[{"rel": "self", "href": "x"}]) == plain
    assert digest("https://host/b.tif") != plain
    assert digest("https://host/a.tif", properties={"datetime": None}) != plain


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"geometry": None}, "has no geometry"),
        ({"geometry": []}, "has no geometry"),
        ({"assets": {}}, "has no assets"),
        ({"assets": []}, "has no assets"),
        ({"assets": {"red": "red.tif"}}, "has no asset and no eo:common_name red"),
        ({"assets": {"green": {"href": "a.tif"}}}, "common_name red; its assets: green"),
        ({"assets": {"red": {}}}, "its asset red has a link without an address"),
        ({"assets": {"red": {"href": 7}}}, "its asset red has a link without an address"),
        ({"assets": {"red": {"href": "a" * 9000}}}, "a link of 9,000 characters"),
        ({"assets": {"red": {"href": "ftp://host/a.tif"}}}, "ftp:// is not served"),
        ({"assets": {"red": {"href": "zip://a::https://host/a.zip"}}}, "zip:// is not served"),
        ({"assets": {"red": {"href": "/vsicurl/https://host/a.tif"}}}, "GDAL's own way"),
        ({"assets": {"red": {"href": "file:///etc/passwd"}}}, "a file of this machine"),
        ({"assets": {"red": {"href": "a.html", "type": "text/html"}}}, "red is text/html"),
        ({"type": "Polygon"}, "is no STAC item"),
    ],
)
def test_what_is_no_scene_is_said_in_a_line(change: dict[str, Any], reason: str) -> None:
    found = read({**ITEM, **change}, "red")
    assert found.name == "night-1"
    assert reason in found.problem
    assert "\n" not in found.problem
    assert not found.parts


def test_credentials_stay_out_of_the_line() -> None:
    href = "ftp://me:secret@host/a.tif?sig=secret"
    assert "secret" not in read(with_assets(red={"href": href})).problem


@pytest.mark.parametrize("name", [None, "", "  ", True, [], "x" * 2000])
def test_an_item_needs_an_id(name: Any) -> None:
    with pytest.raises(CorruptInputError, match="id"):
        read({**ITEM, "id": name})


def test_an_id_is_one_line() -> None:
    assert read({**ITEM, "id": "a\nb\x00\u2028c"}).name == "a b c"


def test_local_assets_lie_below_the_folders_of_the_job(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "secret").mkdir()
    (tmp_path / "in" / "link.tif").symlink_to(tmp_path / "secret" / "a.tif")
    base = str(tmp_path / "in" / "item.json")
    reach = Reach.of([base])

    def problem(href: str, trust: bool = False) -> str:
        allowed = Reach.of([base], trust=True) if trust else reach
        return read(with_assets(red={"href": href}), base=base, reach=allowed).problem

    assert not problem("a.tif")
    assert not problem("./deep/../a.tif")
    assert not problem("https://host/a.tif")
    assert not problem(f"file://{tmp_path}/in/a.tif")
    for href in ("../secret/a.tif", f"{tmp_path}/secret/a.tif", "link.tif"):
        assert "lies in no folder of source.paths" in problem(href)
        assert not problem(href, trust=True)
