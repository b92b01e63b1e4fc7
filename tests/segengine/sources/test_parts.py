"""Scenes of several files: which files make one, and their pixels on one grid."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segengine.errors import CorruptInputError
from segengine.sources.listing import Listing, list_entries
from segengine.sources.raster import RasterSource
from segengine.testing import SourceTests
from segengine.types import Entry, FrameRef, Part, Tile
from tests.segengine.sources.scenes import CORNER, field, tile, write

BANDS = ["B04", "B11", "B01"]


def listed(folder: Path, pattern: str, bands: Any = BANDS, kind: str = "auto") -> Listing:
    return list_entries([f"{folder}/{pattern}"], kind, bands=bands)


def read(
    entry: Entry, rows: slice | None = None, cols: slice | None = None, **options: Any
) -> Tile:
    source = RasterSource(**options)
    probe = source.probe(entry)
    ref = FrameRef(
        0, entry.name, entry.uri, entry.fingerprint, probe.height, probe.width, parts=entry.parts
    )
    (item,) = source.read([ref], rows or slice(0, probe.height), cols or slice(0, probe.width))
    assert isinstance(item, Tile), item
    return item


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())


def parts(listing: Listing) -> dict[str, list[tuple[str, str]]]:
    return {e.name: [(p.name, Path(p.uri).name) for p in e.parts] for e in listing.entries}


def test_a_scene_has_its_bands_in_the_order_that_is_asked(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{s}/x_{b}.jp2" for s in ("S1", "S2") for b in ("B02", "B03", "B8A", "TCI")))
    listing = listed(tmp_path, "{scene}/*_{band}.jp2", ["B8A", "B02"])
    wanted = [("B8A", "x_B8A.jp2"), ("B02", "x_B02.jp2")]
    assert parts(listing) == {"S1": wanted, "S2": wanted}
    assert {listing.kind_of(e) for e in listing.entries} == {"raster"}
    assert listing.skipped == {}
    # omitted: all of them, by name
    assert [n for n, _ in parts(listed(tmp_path, "{scene}/*_{band}.jp2", None))["S1"]] == [
        "B02", "B03", "B8A", "TCI",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("files", "pattern", "bands"),
    [
        (  # Sentinel-2, level 1C as it is delivered
            "S2A_1.SAFE/GRANULE/L1C_T31/IMG_DATA/T31_20260101_{}.jp2",
            "{scene}.SAFE/GRANULE/*/IMG_DATA/*_{band}.jp2",
            ["B04", "B8A"],
        ),
        (  # level 2A: bands lie in a folder of each resolution
            "S2A_1.SAFE/GRANULE/L2A_T31/IMG_DATA/R20m/T31_20260101_{}.jp2",
            "{scene}.SAFE/GRANULE/*/IMG_DATA/R*/*_{band}.jp2",
            ["B04_20m", "B8A_20m"],
        ),
        (  # Landsat, collection 2
            "S2A_1/S2A_1_{}.TIF",
            "{scene}/{scene}_{band}.TIF",
            ["SR_B4", "SR_B3"],
        ),
        ("a/b/S2A_1/x-{}.tif", "**/{scene}/x-{band}.tif", ["red", "nir"]),
        ("S2A_1_{}.tif", "{scene}_{band}.tif", [4, 3]),
    ],
)  # fmt: skip
def test_layouts_that_agencies_deliver(
    tmp_path: Path, files: str, pattern: str, bands: list[Any]
) -> None:
    touch(tmp_path, *(files.format(band) for band in bands), files.format("TCI"))
    found = parts(listed(tmp_path, pattern, bands))
    assert {s: [n for n, _ in p] for s, p in found.items()} == {"S2A_1": [str(b) for b in bands]}


def test_a_name_that_is_there_twice_means_the_same(tmp_path: Path) -> None:
    touch(tmp_path, "S1/S1_B04.tif", "S1/S2_B04.tif")
    listing = listed(tmp_path, "{scene}/{scene}_{band}.tif", ["B04"])
    assert parts(listing) == {"S1": [("B04", "S1_B04.tif")]}


def test_files_of_two_paths_are_one_scene(tmp_path: Path) -> None:
    touch(tmp_path, "fine/S1_B04.tif", "coarse/S1_B11.tif")
    paths = [f"{tmp_path}/fine/{{scene}}_{{band}}.tif", f"{tmp_path}/coarse/{{scene}}_{{band}}.tif"]
    assert parts(list_entries(paths, bands=["B11", "B04"])) == {
        "S1": [("B11", "S1_B11.tif"), ("B04", "S1_B04.tif")]
    }


@pytest.mark.parametrize(
    ("pattern", "bands", "kind", "words"),
    [
        ("{scene}/*.tif", None, "auto", "has no {band}"),
        ("*_{band}.tif", None, "auto", "has no {scene}"),
        ("*.tif", ["B04"], "auto", "source.bands: names of bands need {band}"),
        ("{scene}_{band}.tif", ["B04"], "video", "not of video"),
        (
            "{scene}_{band}.tif",
            ["B99"],
            "auto",
            "names no input; check the path, and that {band} is",
        ),
        ("{scene}_{band}.tif", [1, 2], "auto", "is one of source.bands"),
    ],
)
def test_what_cannot_be_meant(
    tmp_path: Path, pattern: str, bands: Any, kind: str, words: str
) -> None:
    touch(tmp_path, "S1_B04.tif")
    with pytest.raises(ValueError, match=words.replace("{", r"\{")):
        listed(tmp_path, pattern, bands, kind)


def test_bands_of_unlike_resolution_come_to_the_finest_grid(tmp_path: Path) -> None:
    bands = tile(tmp_path, "S1")
    (entry,) = listed(tmp_path, "{scene}/*_{band}.tif").entries
    found = read(entry)
    assert found.valid is None
    for i, (name, times) in enumerate((("B04", 1), ("B11", 2), ("B01", 6))):
        whole = np.repeat(np.repeat(bands[name], times, 0), times, 1)
        np.testing.assert_array_equal(found.pixels[..., i], whole)
    probe = RasterSource().probe(entry)
    assert (probe.height, probe.width, probe.bands, probe.dtype) == (180, 180, 3, "uint16")
    assert probe.attributes["transform"] == [10, 0, CORNER[0], 0, -10, CORNER[1]]
    assert probe.attributes["band_names"] == BANDS


def test_what_a_band_lacks_is_void(tmp_path: Path) -> None:
    holes = field(20, 1800)
    holes[10:20, 30:50] = 0
    write(tmp_path / "S1_B04.tif", field(10, 1800), 10)
    write(tmp_path / "S1_B11.tif", holes, 20, nodata=0)
    part = field(60, 1800)[:20]
    write(tmp_path / "S1_B01.tif", part, 60)
    (entry,) = listed(tmp_path, "{scene}_{band}.tif").entries
    valid = np.ones((180, 180), bool)
    valid[20:40, 60:100] = False
    valid[120:] = False
    found = read(entry).valid
    assert found is not None
    np.testing.assert_array_equal(found, valid)


def test_scale_offset_and_nodata_of_a_part(tmp_path: Path) -> None:
    values = np.arange(36, dtype="int16").reshape(6, 6)
    uri = write(tmp_path / "a.tif", values, 10)
    own = (Part(uri, 1, "x", scale=0.1, offset=-2.0, nodata=7), Part(uri, 1, "x"))
    found = read(Entry("a", uri, "", own))
    assert found.pixels.dtype == "float32"
    wanted = (values * 0.1 - 2.0).astype("float32")
    np.testing.assert_array_equal(found.pixels[..., 0], wanted)
    np.testing.assert_array_equal(found.pixels[..., 1], values)
    assert found.valid is not None
    assert np.argwhere(~found.valid).tolist() == [[1, 1]]


def corrupt(folder: Path, bands: Any = BANDS, **options: Any) -> str:
    (entry,) = listed(folder, "{scene}/*_{band}.tif", bands).entries
    with pytest.raises(CorruptInputError) as caught:
        RasterSource(**options).probe(entry)
    return str(caught.value)


def test_a_missing_or_doubled_band_is_corrupt_by_name(tmp_path: Path) -> None:
    tile(tmp_path, "S1")
    shutil.copy(tmp_path / "S1/S1_B11.tif", tmp_path / "S1/again_B11.tif")
    assert "2 files of band B11" in corrupt(tmp_path)
    (tmp_path / "S1/again_B11.tif").unlink()
    (tmp_path / "S1/S1_B11.tif").unlink()
    assert corrupt(tmp_path) == "has no file of band B11"


def test_what_cannot_be_brought_to_one_grid_is_corrupt_by_name(tmp_path: Path) -> None:
    tile(tmp_path, "S1")
    b11 = tmp_path / "S1/S1_B11.tif"
    write(b11, field(20, 1800), 20, crs="EPSG:32634")
    message = corrupt(tmp_path)
    assert "unlike CRS" in message
    assert "B11: EPSG:32634" in message
    write(b11, field(20, 1800), 20, corner=(700_000, 5_000_000))
    assert corrupt(tmp_path) == "band B11: lies elsewhere than the others"
    write(b11, np.stack([field(20, 1800)] * 3), 20)
    assert "band B11: its file has 3 bands" in corrupt(tmp_path)
    b11.write_bytes(b"II*\0junk")
    assert corrupt(tmp_path).startswith("band B11: damaged raster")


def test_files_without_a_place_come_together_where_they_are_of_one_size(tmp_path: Path) -> None:
    from PIL import Image

    for name, side in (("dapi", 20), ("actin", 20)):
        Image.fromarray(np.full((side, side), len(name), "uint8")).save(tmp_path / f"c1_{name}.png")
    bands = ["dapi", "actin"]
    (entry,) = listed(tmp_path, "{scene}_{band}.png", bands).entries
    assert np.unique(read(entry).pixels.reshape(-1, 2), axis=0).tolist() == [[4, 5]]
    Image.fromarray(np.zeros((9, 9), "uint8")).save(tmp_path / "c1_actin.png")
    (entry,) = listed(tmp_path, "{scene}_{band}.png", bands).entries
    with pytest.raises(CorruptInputError, match="nothing says where they lie"):
        RasterSource().probe(entry)


def test_a_changed_or_new_file_changes_the_scene(tmp_path: Path) -> None:
    tile(tmp_path, "S1")
    marks = [listed(tmp_path, "{scene}/*_{band}.tif").entries[0].fingerprint]
    write(tmp_path / "S1/S1_B01.tif", field(60, 1800, 9), 60, compress="deflate")
    marks.append(listed(tmp_path, "{scene}/*_{band}.tif").entries[0].fingerprint)
    (tmp_path / "S1/S1_B01.tif.aux.xml").write_text("<PAMDataset/>")
    marks.append(listed(tmp_path, "{scene}/*_{band}.tif").entries[0].fingerprint)
    (tmp_path / "S1/S1_B01.tif").unlink()
    marks.append(listed(tmp_path, "{scene}/*_{band}.tif").entries[0].fingerprint)
    assert len(set(marks)) == 4


class TestTheSuite(SourceTests):
    """What every source keeps, of scenes of several files."""

    def make(self, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
        frames = {}
        for number, scene in enumerate(("S1", "S2")):
            corner = (CORNER[0], CORNER[1] + 5000 * number)
            bands = tile(folder, scene, side=960, corner=corner)
            layers = [np.kron(bands[b], np.ones((n, n), "uint16")) for b, n in TIMES]
            frames[scene] = np.stack(layers, axis=-1)
        paths = [f"{folder}/{{scene}}/*_{{band}}.tif"]
        return {"kind": "raster", "paths": paths, "bands": BANDS}, frames


TIMES = (("B04", 1), ("B11", 2), ("B01", 6))
