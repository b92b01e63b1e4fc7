"""What is no pixel of a TIFF, and what few programs decode: the same from each source, as GDAL says."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio

from segengine.errors import CorruptInputError
from segengine.planning.layout import Cut
from segengine.planning.scan import scan
from segengine.sources.images import ImageSource
from segengine.sources.raster import RasterSource
from segengine.types import Entry, FrameRef, Source, Tile, Unreadable

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

HEIGHT, WIDTH = 40, 56
MASK = np.arange(WIDTH) > np.arange(HEIGHT)[:, None] + 3


def layers(bands: int = 1, dtype: str = "uint8") -> Any:
    return np.random.default_rng(bands).integers(0, 30, (bands, HEIGHT, WIDTH)).astype(dtype)


def write(path: Path, values: Any, **options: Any) -> None:
    bands, height, width = values.shape
    with rasterio.open(
        path, "w", driver="GTiff", count=bands, height=height, width=width, dtype=values.dtype,
        **options,
    ) as dataset:  # fmt: skip
        dataset.write(values)


def masked(path: Path, values: Any, *, internal: bool) -> None:
    write(path, values)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=internal), rasterio.open(path, "r+") as dataset:
        dataset.write_mask(MASK)
    assert path.with_name(path.name + ".msk").exists() != internal


def described(path: Path, values: Any) -> None:
    write(path, values)
    band = '<PAMRasterBand band="1"><NoDataValue>7</NoDataValue></PAMRasterBand>'
    path.with_name(path.name + ".aux.xml").write_text(f"<PAMDataset>{band}</PAMDataset>")


def sparse(path: Path, values: Any, **options: Any) -> None:
    with rasterio.open(
        path, "w", driver="GTiff", count=1, height=64, width=64, dtype=values.dtype,
        tiled=True, blockxsize=16, blockysize=16, sparse_ok=True, **options,
    ) as dataset:  # fmt: skip
        dataset.write(values[:, :16, :16], window=((16, 32), (32, 48)))


CASES: dict[str, Callable[[Path], None]] = {
    "plain": lambda p: write(p, layers()),
    "nodata": lambda p: write(p, layers(), nodata=7),
    "nodata-16": lambda p: write(p, layers(dtype="uint16"), nodata=7),
    "nodata-float": lambda p: write(p, layers(dtype="float32"), nodata=7),
    "nodata-rgb": lambda p: write(p, layers(3), nodata=7, photometric="rgb"),
    "nodata-rgb-16": lambda p: write(p, layers(3, "uint16"), nodata=7, photometric="rgb"),
    "nodata-alpha": lambda p: write(p, layers(4), nodata=7, photometric="rgb", alpha="yes"),
    "mask": lambda p: masked(p, layers(), internal=True),
    "mask-rgb": lambda p: masked(p, layers(3), internal=True),
    "msk": lambda p: masked(p, layers(), internal=False),
    "msk-rgb": lambda p: masked(p, layers(3), internal=False),
    "aux.xml": lambda p: described(p, layers()),
    "sparse": lambda p: sparse(p, layers() + 1),
    "sparse-nodata": lambda p: sparse(p, layers() + 1, nodata=7),
    "sparse-deflate": lambda p: sparse(p, layers() + 1, nodata=0, compress="deflate"),
    "lerc": lambda p: write(p, layers(), compress="lerc"),
    "lerc-float": lambda p: write(p, layers(dtype="float32"), compress="lerc", nodata=7),
    "lerc-rgb": lambda p: write(p, layers(3), compress="lerc", photometric="rgb", nodata=7),
    "webp": lambda p: write(
        p, layers(3), compress="webp", webp_lossless=True, photometric="rgb", interleave="pixel"
    ),
    "zstd": lambda p: write(p, layers(), compress="zstd", nodata=7),
    "lzma-16": lambda p: write(p, layers(dtype="uint16"), compress="lzma", nodata=7),
    "deflate": lambda p: write(p, layers(), compress="deflate", nodata=7),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("source", [ImageSource(), RasterSource()])
def test_each_source_says_what_gdal_says(tmp_path: Path, case: str, source: Source) -> None:
    path = tmp_path / "a.tif"
    CASES[case](path)
    with warnings.catch_warnings(action="ignore"), rasterio.open(path) as dataset:
        bands = [i for i, c in zip(dataset.indexes, dataset.colorinterp, strict=True) if c != 6]
        expected = np.moveaxis(dataset.read(bands), 0, -1)
        wanted = (dataset.read_masks(bands) > 0).all(axis=0)
        if len(bands) < dataset.count:
            wanted &= dataset.read(dataset.count) > 0
    found = source.probe(Entry(path.name, str(path), ""))
    assert (found.height, found.width, found.bands) == expected.shape
    ref = FrameRef(0, path.name, str(path), "", found.height, found.width)
    (tile,) = source.read([ref], slice(3, 40), slice(5, 50))
    assert isinstance(tile, Tile), tile
    assert tile.pixels.dtype == expected.dtype == found.dtype
    np.testing.assert_array_equal(tile.pixels, expected[3:40, 5:50])
    valid = np.ones((37, 45), bool) if tile.valid is None else tile.valid
    np.testing.assert_array_equal(valid, wanted[3:40, 5:50])
    assert valid.all() == (case in ("plain", "lerc", "webp", "sparse"))


@pytest.mark.parametrize("case", CASES)
def test_a_job_keeps_it_whatever_reads_it(tmp_path: Path, case: str) -> None:
    """`kind: auto`, through the listing: every input has a place."""
    CASES[case](tmp_path / "a.tif")
    found = scan({"paths": [str(tmp_path / "a.tif")]}, {}, (), Cut(64, 64))
    assert found.unplaced == ()
    assert len(found.layouts) == 1


def test_a_turned_photo_turns_its_void_too(tmp_path: Path) -> None:
    import tifffile

    values = layers()[0]
    tifffile.imwrite(
        tmp_path / "a.tif", values, photometric="minisblack",
        extratags=[(274, 3, 1, 6, True), (42113, 2, 2, "7", True)],
    )  # fmt: skip
    found = ImageSource().probe(Entry("a.tif", str(tmp_path / "a.tif"), ""))
    assert (found.height, found.width) == (WIDTH, HEIGHT)
    ref = FrameRef(0, "a.tif", str(tmp_path / "a.tif"), "", WIDTH, HEIGHT)
    (tile,) = ImageSource().read([ref], slice(0, WIDTH), slice(0, HEIGHT))
    assert isinstance(tile, Tile), tile
    np.testing.assert_array_equal(tile.pixels[..., 0], np.rot90(values, -1))
    np.testing.assert_array_equal(tile.valid, np.rot90(values != 7, -1))


def pages(path: Path, *subfiles: dict[str, Any]) -> None:
    """Pages of one size; each filled with its number, from 1."""
    import tifffile

    with tifffile.TiffWriter(path) as writer:
        for i, options in enumerate(subfiles):
            page: Any = np.full((HEIGHT, WIDTH), i + 1, np.uint8)
            if options.get("subfiletype", 0) & 4:
                page = MASK
            writer.write(page, photometric="minisblack", **options)


def read(path: Path) -> list[Tile]:
    source = ImageSource()
    found = source.probe(Entry(path.name, str(path), ""))
    positions = [0] if found.positions is None else found.positions.tolist()
    refs = [FrameRef(i, "a", str(path), "", HEIGHT, WIDTH, p) for i, p in enumerate(positions)]
    tiles = list(source.read(refs, slice(0, HEIGHT), slice(0, WIDTH)))
    assert all(isinstance(tile, Tile) for tile in tiles), tiles
    return [tile for tile in tiles if isinstance(tile, Tile)]


OLD_THUMBNAIL = {"extratags": [(255, 3, 1, 2, True)]}


@pytest.mark.parametrize(
    ("subfiles", "frames"),
    [
        (({}, {}), [1, 2]),
        (({}, {"subfiletype": 1}), [1]),
        (({}, {"subfiletype": 4}), [1]),
        (({}, {"subfiletype": 5}), [1]),
        (({}, {"subfiletype": 2}, {"subfiletype": 2}), [1, 2, 3]),
        (({}, OLD_THUMBNAIL, {}), [1, 3]),
        (({}, {"subfiletype": 4}, {}, {"subfiletype": 1}), [1, 3]),
    ],
)
def test_masks_and_thumbnails_are_no_frames(
    tmp_path: Path, subfiles: tuple[dict[str, Any], ...], frames: list[int]
) -> None:
    pages(tmp_path / "a.tif", *subfiles)
    assert [int(tile.pixels.max()) for tile in read(tmp_path / "a.tif")] == frames


def test_the_mask_of_the_only_page_is_its_void(tmp_path: Path) -> None:
    pages(tmp_path / "a.tif", {}, {"subfiletype": 4})
    (tile,) = read(tmp_path / "a.tif")
    with rasterio.open(tmp_path / "a.tif") as dataset:
        wanted = dataset.read_masks(1) > 0
    assert tile.valid is not None
    np.testing.assert_array_equal(tile.valid, wanted)
    np.testing.assert_array_equal(wanted, MASK)


@pytest.mark.parametrize("source", [ImageSource(), RasterSource()])
def test_each_page_has_its_own_mask(tmp_path: Path, source: Source) -> None:
    """Which GDAL reads of the first only, and where it opens the file as a whole."""
    import tifffile

    path = tmp_path / "a.tif"
    masks = np.random.default_rng(1).random((12, HEIGHT, WIDTH)) < 0.5
    with tifffile.TiffWriter(path) as writer:
        for i, mask in enumerate(masks):
            writer.write(np.full((HEIGHT, WIDTH), i, np.uint8), photometric="minisblack")
            if i != 3:
                writer.write(mask, photometric="mask", subfiletype=4)
    places = source.probe(Entry("a.tif", str(path), "")).positions
    assert places is not None
    for fingerprint in ("", "f"):
        refs = [
            FrameRef(i, "a", str(path), fingerprint, HEIGHT, WIDTH, p) for i, p in enumerate(places)
        ]
        tiles = list(source.read(refs, slice(3, 30), slice(5, WIDTH)))
        for i, (tile, mask) in enumerate(zip(tiles, masks, strict=True)):
            assert isinstance(tile, Tile), tile
            assert (tile.pixels == i).all()
            wanted = np.ones_like(mask) if i == 3 else mask
            valid = np.ones(tile.pixels.shape[:2], np.bool_) if tile.valid is None else tile.valid
            np.testing.assert_array_equal(valid, wanted[3:30, 5:])


@pytest.mark.parametrize("source", [ImageSource(), RasterSource()])
def test_a_mask_beside_several_pages_is_of_none(tmp_path: Path, source: Source) -> None:
    pages(tmp_path / "one.tif", {})
    pages(tmp_path / "two.tif", {}, {})
    for name in ("one", "two"):
        write(tmp_path / f"{name}.tif.msk", MASK[None].astype(np.uint8))
    assert source.probe(Entry("one.tif", str(tmp_path / "one.tif"), "")).positions is None
    with pytest.raises(CorruptInputError, match=r"mask beside it \(two\.tif\.msk\)"):
        source.probe(Entry("two.tif", str(tmp_path / "two.tif"), ""))


def test_what_is_no_photo_says_how_to_read_it(tmp_path: Path) -> None:
    write(tmp_path / "a.tif", layers(5), compress="lerc")
    with pytest.raises(CorruptInputError, match=r"is no photo; read it with source\.kind: raster"):
        ImageSource().probe(Entry("a.tif", str(tmp_path / "a.tif"), ""))


def test_a_damaged_mask_is_a_reason(tmp_path: Path) -> None:
    masked(tmp_path / "a.tif", layers(), internal=False)
    (tmp_path / "a.tif.msk").write_text("not a mask")
    ref = FrameRef(0, "a.tif", str(tmp_path / "a.tif"), "", HEIGHT, WIDTH)
    (item,) = ImageSource().read([ref], slice(0, HEIGHT), slice(0, WIDTH))
    assert isinstance(item, Unreadable)
    assert item.kind == "corrupt"
    assert "its mask or overview file" in item.reason
