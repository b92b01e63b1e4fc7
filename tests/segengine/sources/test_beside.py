"""What lies beside an input belongs to it: its fingerprint, and which source reads it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import rasterio.shutil

import segengine
from segengine.sources.listing import list_entries
from segengine.types import Entry

from . import formats
from .formats import PLACE

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

SIDE = 64


def listed(folder: Path, kind: str = "auto") -> dict[str, Entry]:
    """Entries of a folder by name, which are those of each file's own path too."""
    entries = {e.name: e for e in list_entries([str(folder)], kind).entries}
    for entry in entries.values():
        for other in ("auto", "raster", "images"):
            (alone,) = list_entries([entry.uri], other).entries
            assert alone.fingerprint == entry.fingerprint
    return entries


def kind_of(path: Path) -> str:
    """By a glob, and by its folder, which must agree."""
    found = set()
    for named in (path.parent, path.parent / f"*{path.suffix}", path):
        listing = list_entries([str(named)])
        found |= {listing.kind_of(e) for e in listing.entries if e.uri == str(path)}
    (kind,) = found
    return kind


def tiff(path: Path, seed: int = 1, **options: Any) -> Path:
    values = np.random.default_rng(seed).integers(1, 200, (1, SIDE, SIDE)).astype(np.uint8)
    profile = {"crs": "EPSG:32613", "transform": PLACE} | options
    with rasterio.open(
        path, "w", driver="GTiff", count=1, height=SIDE, width=SIDE, dtype="uint8", **profile
    ) as dataset:
        dataset.write(values)
    return path


def png(path: Path) -> Path:
    rasterio.shutil.copy(tiff(path.with_name("base")), path, driver="PNG")
    for more in ("base", f"{path.name}.aux.xml"):
        path.with_name(more).unlink(missing_ok=True)
    return path


def overviews(path: Path) -> None:
    half = np.zeros((1, SIDE // 2, SIDE // 2), np.uint8)
    with rasterio.open(
        path.with_name(path.name + ".ovr"), "w", driver="GTiff", count=1, height=SIDE // 2,
        width=SIDE // 2, dtype="uint8",
    ) as dataset:  # fmt: skip
        dataset.write(half)


def mask(path: Path) -> None:
    with rasterio.open(path, "r+") as dataset:
        dataset.write_mask(np.eye(SIDE, dtype=bool))


def statistics(path: Path) -> None:
    path.with_name(path.name + ".aux.xml").write_text("<PAMDataset></PAMDataset>")


def world(path: Path) -> None:
    path.with_suffix(".tfw").write_text("2\n0\n0\n-2\n500000\n4000000\n")


def rational(path: Path) -> None:
    names = ("LINE_OFF", "SAMP_OFF", "LAT_OFF", "LONG_OFF", "HEIGHT_OFF", "LINE_SCALE",
             "SAMP_SCALE", "LAT_SCALE", "LONG_SCALE", "HEIGHT_SCALE")  # fmt: skip
    lines = [f"{name}: 1" for name in names]
    for name in ("LINE_NUM", "LINE_DEN", "SAMP_NUM", "SAMP_DEN"):
        lines += [f"{name}_COEFF_{i}: 1" for i in range(1, 21)]
    path.with_name(path.stem + "_RPC.TXT").write_text("\n".join(lines) + "\n")


BESIDE: dict[str, Callable[[Path], None]] = {
    "overviews": overviews, "mask": mask, "statistics": statistics, "world": world,
    "rational": rational,
}  # fmt: skip


@pytest.mark.parametrize("what", BESIDE)
def test_what_gdal_reads_beside_a_tiff_is_in_its_fingerprint(tmp_path: Path, what: str) -> None:
    path = tiff(tmp_path / "a.tif", **({"crs": None, "transform": None} if what == "world" else {}))
    (tmp_path / "b.tif").write_bytes(path.read_bytes())
    before = listed(tmp_path)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False):
        BESIDE[what](path)
    with rasterio.open(path) as dataset:
        files = {Path(name) for name in dataset.files} - {path}
    if what != "statistics":
        assert files, "GDAL does not take it for its own"
    after = listed(tmp_path)
    assert before["a.tif"].fingerprint != after["a.tif"].fingerprint
    assert before["b.tif"] == after["b.tif"]
    (beside,) = {p for p in tmp_path.iterdir() if p.suffix != ".tif"}
    os.utime(beside, (1, 1))
    assert listed(tmp_path)["a.tif"].fingerprint != after["a.tif"].fingerprint


@pytest.mark.parametrize("name", [n for n in formats.RASTERS if n != "vrt"])
def test_all_of_gdals_files_are_in_the_fingerprint(tmp_path: Path, name: str) -> None:
    """The authority says which there are, of each format that it writes."""
    path = formats.write(name, tmp_path)
    with rasterio.open(path) as dataset:
        files = [Path(each) for each in dataset.files if Path(each) != path]
    (before,) = list_entries([str(path)], "raster").entries
    for file in files:
        os.utime(file, (1, 1))
        (after,) = list_entries([str(path)], "raster").entries
        assert after.fingerprint != before.fingerprint, file
        before = after


def test_an_input_alone_has_the_fingerprint_that_it_had(tmp_path: Path) -> None:
    """Of size and time: a store of an earlier version is not computed again."""
    import xxhash

    path = tiff(tmp_path / "a.tif")
    for name in ("a.txt", "a.json", "a.csv", "b.tfw", "a.tif.md"):
        (tmp_path / name).write_text("x")
    (tmp_path / "a.xml").write_text("<annotation><object/></annotation>")
    status = path.stat()
    mark = repr((status.st_size, status.st_mtime_ns)).encode()
    assert listed(tmp_path)["a.tif"].fingerprint == xxhash.xxh3_64_hexdigest(mark)


def vrt(path: Path, *names: str) -> Path:
    sources = "".join(
        f'<SimpleSource><SourceFilename relativeToVRT="1">{name}</SourceFilename>'
        f'<SourceBand>1</SourceBand><SrcRect xOff="0" yOff="0" xSize="{SIDE}" ySize="{SIDE}"/>'
        f'<DstRect xOff="{i * SIDE}" yOff="0" xSize="{SIDE}" ySize="{SIDE}"/></SimpleSource>'
        for i, name in enumerate(names)
    )
    path.write_text(
        f'<VRTDataset rasterXSize="{SIDE * len(names)}" rasterYSize="{SIDE}">'
        f'<VRTRasterBand dataType="Byte" band="1">{sources}</VRTRasterBand></VRTDataset>'
    )
    return path


def job(folder: Path, *paths: Path, **source: Any) -> dict[str, Any]:
    return {
        "source": {"paths": [str(path) for path in paths], **source},
        "segmenter": {"kind": "threshold", "method": "fixed", "levels": 100},
        "store": {"path": str(folder / "masks.zarr"), "chunk": 64, "shard": 128},
        "cluster": {"workers": 1},
    }


def mask_of(folder: Path, scene: str) -> Any:
    return segengine.open_store(str(folder / "masks.zarr"))[scene].mask[0]


def test_a_replaced_tile_of_a_mosaic_makes_its_mask_anew(tmp_path: Path) -> None:
    tiles = tmp_path / "tiles & more"
    tiles.mkdir()
    tiff(tiles / "a.tif", 1)
    tiff(tiles / "b.tif", 2)
    vrt(tmp_path / "inner.vrt", "tiles &amp; more/b.tif")
    path = vrt(tmp_path / "m.vrt", "tiles &amp; more/a.tif", "inner.vrt")
    block = job(tmp_path, path)
    assert segengine.run(block).computed == 1
    assert segengine.run(block).computed == 0
    tiff(tiles / "b.tif", 3)
    os.utime(tiles / "b.tif", (5, 5))
    assert segengine.run(block).computed == 1
    with rasterio.open(path) as dataset:
        np.testing.assert_array_equal(mask_of(tmp_path, "m"), dataset.read(1) > 100)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False):
        mask(tiles / "a.tif")
    assert segengine.run(block).computed == 1


def test_a_tile_that_is_not_there_is_no_error_of_the_listing(tmp_path: Path) -> None:
    path = vrt(tmp_path / "m.vrt", "nowhere.tif")
    before = listed(tmp_path)
    tiff(tmp_path / "nowhere.tif")
    assert list_entries([str(path)]).entries[0].fingerprint != before["m.vrt"].fingerprint


def test_a_mosaic_of_itself_is_listed(tmp_path: Path) -> None:
    vrt(tmp_path / "a.vrt", "b.vrt")
    vrt(tmp_path / "b.vrt", "a.vrt")
    assert set(listed(tmp_path)) == {"a.vrt", "b.vrt"}


# Which source reads it


@pytest.mark.parametrize("suffix", ["pgw", "PGW", "pngw", "wld"])
def test_a_picture_with_a_world_file_is_a_raster(tmp_path: Path, suffix: str) -> None:
    path = png(tmp_path / "a.png")
    assert kind_of(path) == "images"
    path.with_suffix(f".{suffix}").write_text("2\n0\n0\n-2\n500001\n3999999\n")
    assert kind_of(path) == "raster"


@pytest.mark.parametrize("kind", ["auto", "raster"])
def test_a_folder_of_pictures_with_world_files_works_as_a_glob_does(
    tmp_path: Path, kind: str
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    path = png(folder / "a.png")
    path.with_suffix(".pgw").write_text("2\n0\n0\n-2\n500001\n3999999\n")
    if kind == "raster":
        png(folder / "b.png")
    masks, places = [], []
    for i, named in enumerate((folder, folder / "a*.png")):
        (tmp_path / str(i)).mkdir()
        summary = segengine.run(job(tmp_path / str(i), named, kind=kind))
        assert summary.failed == ()
        scene = segengine.open_store(str(tmp_path / str(i) / "masks.zarr"))["a"]
        masks.append(scene.mask[0])
        places.append(scene.attributes["transform"])
    np.testing.assert_array_equal(*masks)
    assert places == [list(PLACE)[:6]] * 2


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("<PAMDataset><GeoTransform>1,1,0,1,0,-1</GeoTransform></PAMDataset>", "raster"),
        ('<PAMDataset><PAMRasterBand band="1"><NoDataValue>3</NoDataValue></PAMRasterBand>'
         "</PAMDataset>", "raster"),
        ('<PAMDataset><Metadata><MDI key="STATISTICS_MEAN">3</MDI></Metadata></PAMDataset>',
         "images"),
    ],
)  # fmt: skip
def test_metadata_beside_a_picture(tmp_path: Path, text: str, kind: str) -> None:
    path = png(tmp_path / "a.png")
    path.with_name("a.png.aux.xml").write_text(text)
    assert kind_of(path) == kind
