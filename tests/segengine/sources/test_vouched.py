"""Blocks of rasters whose damage GDAL passes over are found, and sound ones are read as they are."""

from __future__ import annotations

import io
import os
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from PIL import Image
from rasterio import Affine

from segengine.errors import CorruptInputError
from segengine.sources import _packed, _sums, _tiff
from segengine.sources.raster import RasterSource
from segengine.types import Entry, FrameRef, Tile, Unreadable

SIDE = 96
WHOLE = (slice(0, SIDE), slice(0, SIDE))
CUT = (slice(10, 90), slice(20, 70))
Y, X = np.mgrid[:SIDE, :SIDE]
GRAY = (Y + X + np.random.default_rng(0).integers(0, 30, (SIDE, SIDE))).astype(np.uint8)
BANDS = np.stack([GRAY, GRAY[::-1], GRAY.T])
TILES = {"tiled": True, "blockxsize": 32, "blockysize": 32}


def write(path: Path, dtype: str = "uint8", **options: Any) -> NDArray[Any]:
    """The pixels (band, y, x) of a scene of three bands."""
    pixels = BANDS if dtype == "uint8" else (BANDS * np.float64(37.5)).astype(dtype)
    profile: dict[str, Any] = {
        "driver": "GTiff", "height": SIDE, "width": SIDE, "count": 3, "dtype": dtype,
        "crs": "EPSG:32633", "transform": Affine(10, 0, 5e5, 0, -10, 5e6), **options,
    }  # fmt: skip
    with rasterio.open(path, "w", **profile) as out:
        out.write(pixels)
    return pixels


def read(
    path: Path, window: tuple[slice, slice] = WHOLE, source: RasterSource | None = None
) -> Tile | Unreadable:
    source = source or RasterSource()
    probe = source.probe(Entry("x", str(path), ""))
    ref = FrameRef(0, "x", str(path), "", probe.height, probe.width)
    (found,) = source.read([ref], *window)
    return found


def holed(path: Path, place: int, block: int) -> None:
    """Zeros amid a block of the image at a place among a file's directories."""
    data = bytearray(path.read_bytes())
    table = _tiff.blocks(io.BytesIO(data), place)
    start, size = int(table.offsets[block]), int(table.counts[block])
    at, some = start + size // 2, max(3, size // 8)
    data[at : at + some] = bytes(some)
    path.write_bytes(data)


KINDS: dict[str, dict[str, Any]] = {
    "tiles": TILES,
    "differences": {**TILES, "predictor": 2},
    "strips": {"blockysize": 16},
    "planes": {**TILES, "predictor": 2, "interleave": "band"},
    "deep": {**TILES, "predictor": 2, "dtype": "uint16", "bigtiff": "YES"},
    "big-endian": {"blockysize": 16, "predictor": 2, "dtype": "uint16", "endianness": "BIG"},
    "floats": {**TILES, "predictor": 3, "dtype": "float32"},
    "cut-floats": {
        "tiled": True, "blockxsize": 64, "blockysize": 64, "predictor": 3, "dtype": "float64",
    },
    "bits": {**TILES, "nbits": 7},
    "lzw": {**TILES, "compress": "LZW"},
    "lzw-planes": {"blockysize": 16, "predictor": 2, "interleave": "band", "compress": "LZW"},
    "packbits": {**TILES, "compress": "PACKBITS"},
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_hole_under_a_window_is_corrupt(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.tif"
    write(path, **{"compress": "DEFLATE", **KINDS[kind]})
    with rasterio.open(path) as dataset:
        high, wide = dataset.block_shapes[0]
    down, across = -(-SIDE // high), -(-SIDE // wide)
    last = down * across - 1
    assert isinstance(read(path), Tile)
    holed(path, 0, last)
    for window in (WHOLE, (slice(50, 90), slice(50, 90))):
        found = read(path, window)
        assert isinstance(found, Unreadable)
        assert found.kind == "corrupt"
        if found.reason.startswith("damaged TIFF"):  # and not what GDAL says
            column = f" and column {(across - 1) * wide}" if across > 1 else ""
            assert f"from row {(down - 1) * high}{column} on" in found.reason
    assert isinstance(read(path, (slice(0, high), slice(0, 20))), Tile)


def test_sound_scenes_are_read_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    layouts = (TILES, {**TILES, "blockxsize": 64}, {"blockysize": 7}, {"blockysize": 96})
    dtypes = ("uint8", "float32", "uint16", "int8", "float64", "int32")
    for n, (layout, compress) in enumerate(
        product(layouts, ("DEFLATE", "DEFLATE", "LZW", "DEFLATE", "PACKBITS", "NONE"))
    ):
        dtype = dtypes[(n + n // 6) % len(dtypes)]
        predictors = (1, 2, 3) if dtype.startswith("f") else (1, 2)
        options = {
            "compress": compress,
            "predictor": 1 if n % 6 > 3 else predictors[-1 - n % len(predictors)],
            "interleave": ("pixel", "band")[n // 2 % 2],
            "endianness": ("LITTLE", "BIG")[n // 3 % 2],
            "bigtiff": ("NO", "YES")[n // 5 % 2],
            "nodata": (None, 7)[n % 2],
        }
        want = write(path, dtype, **layout, **options)
        source = RasterSource(bands=((1, 2, 3), (3, 1))[n // 4 % 2])
        for window in (CUT, WHOLE):
            found = read(path, window, source)
            assert isinstance(found, Tile), (layout, dtype, options, found)
            bands = [band - 1 for band in source.bands or ()]
            np.testing.assert_array_equal(np.moveaxis(found.pixels, -1, 0), want[bands][:, *window])


def test_a_block_is_looked_at_once_until_its_file_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    plain = _sums.is_summed

    def counted(stored: NDArray[Any], end: bytes) -> bool:
        seen.append(1)
        return plain(stored, end)

    monkeypatch.setattr(_sums, "is_summed", counted)
    monkeypatch.setattr(_packed, "require_block", lambda *_: pytest.fail("inflated"))
    path = tmp_path / "a.tif"
    write(path, compress="DEFLATE", predictor=2, **TILES)
    for window, count in ((CUT, 9), (WHOLE, 9), (CUT, 9)):
        read(path, window)
        assert len(seen) == count
    os.utime(path, (1, 1))
    read(path)
    assert len(seen) == 18


def test_holes_in_overviews_and_masks_are_found(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    coarse = RasterSource(resolution=20)
    write(path, compress="DEFLATE", **TILES)
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True, GDAL_TIFF_OVR_BLOCKSIZE=64),
        rasterio.open(path, "r+") as out,
    ):
        out.write_mask(GRAY > 80)
        out.build_overviews([2])
    whole = path.read_bytes()
    sizes = _tiff.sizes(io.BytesIO(whole))
    half = (slice(0, SIDE // 2), slice(0, SIDE // 2))
    for (height, width, mask), place in zip(sizes, range(len(sizes)), strict=True):
        path.write_bytes(whole)
        assert isinstance(read(path), Tile)
        assert isinstance(read(path, half, coarse), Tile)
        holed(path, place, 0)
        found = read(path) if (height, width) == (SIDE, SIDE) else read(path, half, coarse)
        assert isinstance(found, Unreadable), (height, width, mask)


def test_of_blocks_that_were_never_written_nothing_is_looked_at(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    profile = {"height": SIDE, "width": SIDE, "count": 1, "dtype": "uint8", "sparse_ok": True}
    profile["transform"] = Affine.translation(1, 1)
    with rasterio.open(path, "w", "GTiff", compress="DEFLATE", **TILES, **profile) as out:
        out.write(GRAY[:32, :32], 1, window=((0, 32), (0, 32)))
    found = read(path)
    assert isinstance(found, Tile)
    assert found.pixels.sum() == GRAY[:32, :32].sum()


def test_holes_in_overviews_that_lie_beside_are_found(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    coarse, half = RasterSource(resolution=20), (slice(0, SIDE // 2), slice(0, SIDE // 2))
    write(path, **TILES)
    with (
        rasterio.Env(TIFF_USE_OVR=True, GDAL_TIFF_OVR_BLOCKSIZE=64, COMPRESS_OVERVIEW="DEFLATE"),
        rasterio.open(path, "r+") as dataset,
    ):
        dataset.build_overviews([2])
    assert isinstance(read(path, half, coarse), Tile)
    holed(path.with_name("a.tif.ovr"), 0, 0)
    assert isinstance(read(path), Tile)
    assert isinstance(read(path, half, coarse), Unreadable)


def vrt(path: Path, *sources: tuple[str, int, int], side: int = SIDE, band: str = "{band}") -> None:
    """Files of SIDE x SIDE pixels at their column and row, `side` pixels wide."""
    width, height = (max(at[i] for at in sources) + side for i in (1, 2))
    bands = "".join(
        f'<VRTRasterBand dataType="Byte" band="{number}">'
        + "".join(
            f'<SimpleSource><SourceFilename relativeToVRT="1">{name}</SourceFilename>'
            f"<SourceBand>{band.format(band=number)}</SourceBand>"
            f'<SrcRect xOff="0" yOff="0" xSize="{SIDE}" ySize="{SIDE}"/>'
            f'<DstRect xOff="{x}" yOff="{y}" xSize="{side}" ySize="{side}"/></SimpleSource>'
            for name, x, y in sources
        )
        + "</VRTRasterBand>"
        for number in (1, 2, 3)
    )
    path.write_text(
        f'<VRTDataset rasterXSize="{width}" rasterYSize="{height}">'
        f"<GeoTransform>5e5, 10, 0, 5e6, 0, -10</GeoTransform>{bands}</VRTDataset>"
    )


@pytest.mark.parametrize("compress", ["DEFLATE", "LZW"])
def test_a_hole_in_a_part_of_a_vrt_is_corrupt_where_it_is_read(
    tmp_path: Path, compress: str
) -> None:
    for name in ("a.tif", "b.tif"):
        write(tmp_path / name, compress=compress, **TILES)
    path, outer = tmp_path / "m.vrt", tmp_path / "n.vrt"
    vrt(path, ("a.tif", 0, 0), ("b.tif", SIDE, 10))
    vrt(outer, ("m.vrt", 5, 0))
    whole = (slice(0, SIDE + 10), slice(0, 2 * SIDE))
    assert isinstance(read(path, whole), Tile)
    holed(tmp_path / "b.tif", 0, 5)  # its rows from 32, columns from 64
    found = read(path, whole)
    assert isinstance(found, Unreadable)
    assert found.kind == "corrupt"
    assert found.reason.startswith("its source b.tif: damaged TIFF: of the pixels from row 32")
    assert isinstance(read(path, (slice(0, SIDE), slice(0, SIDE + 64))), Tile)
    assert isinstance(read(path, (slice(0, 42), slice(0, 2 * SIDE))), Tile)
    assert isinstance(read(path, (slice(42, 43), slice(SIDE + 64, SIDE + 65))), Unreadable)
    assert isinstance(read(outer), Tile)
    holed(tmp_path / "a.tif", 0, 0)
    assert isinstance(read(outer), Unreadable)


def test_a_hole_in_the_mask_of_a_part_of_a_vrt_is_corrupt(tmp_path: Path) -> None:
    path, part = tmp_path / "m.vrt", tmp_path / "a.tif"
    write(part, compress="DEFLATE", **TILES)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(part, "r+") as out:
        out.write_mask(GRAY > 80)
    vrt(path, ("a.tif", 0, 0))
    mask = (
        '<MaskBand><VRTRasterBand dataType="Byte"><SimpleSource><SourceFilename relativeToVRT="1">'
        "a.tif</SourceFilename><SourceBand>mask,1</SourceBand></SimpleSource></VRTRasterBand></MaskBand>"
    )
    path.write_text(path.read_text().replace("</VRTDataset>", mask + "</VRTDataset>"))
    found = read(path)
    assert isinstance(found, Tile)
    assert found.valid is not None
    np.testing.assert_array_equal(found.valid, GRAY > 80)
    holed(part, 1, 0)
    found = read(path)
    assert isinstance(found, Unreadable)
    assert found.reason.startswith("its source a.tif: damaged TIFF: ")  # and not by GDAL alone


def test_a_png_in_a_vrt_that_ends_early_is_corrupt(tmp_path: Path) -> None:
    path, part = tmp_path / "m.vrt", tmp_path / "a.png"
    Image.fromarray(np.moveaxis(BANDS, 0, -1)).save(part)
    vrt(path, ("a.png", 0, 0))
    assert isinstance(read(path), Tile)
    part.write_bytes(part.read_bytes()[: part.stat().st_size // 2])
    with pytest.raises(CorruptInputError, match=r"a\.png: .*ends"):
        read(path)


def test_what_a_vrt_reads_coarser_or_not_at_all_is_not_looked_at(tmp_path: Path) -> None:
    write(tmp_path / "a.tif", compress="DEFLATE", interleave="band", **TILES)
    path = tmp_path / "m.vrt"
    vrt(path, ("a.tif", 0, 0))
    holed(tmp_path / "a.tif", 0, 8)  # of the first band
    assert isinstance(read(path, source=RasterSource(bands=(1,))), Unreadable)
    assert isinstance(read(path, source=RasterSource(bands=(3, 2))), Tile)
    vrt(path, ("a.tif", 0, 0), band="1")
    assert isinstance(read(path, source=RasterSource(bands=(3, 2))), Unreadable)
    vrt(path, ("a.tif", 0, 0), side=SIDE // 2)
    small = (slice(0, 48), slice(0, 48))
    assert isinstance(read(path, small), Unreadable)
    write(tmp_path / "a.tif", compress="DEFLATE", **TILES)
    with rasterio.open(tmp_path / "a.tif", "r+") as dataset:
        dataset.build_overviews([2])
    holed(tmp_path / "a.tif", 0, 8)
    assert isinstance(read(path, small), Tile)


def test_a_jpeg_in_a_part_of_a_vrt_that_ends_early_is_corrupt(tmp_path: Path) -> None:
    path = tmp_path / "m.vrt"
    write(tmp_path / "a.tif", compress="JPEG", photometric="YCBCR", **TILES)
    vrt(path, ("a.tif", 0, 0))
    assert isinstance(read(path), Tile)
    data = bytearray((tmp_path / "a.tif").read_bytes())
    table = _tiff.blocks(io.BytesIO(data), 0)
    start, size = int(table.offsets[4]), int(table.counts[4])
    data[start + size // 2 : start + size] = b"\xff\xd9" + bytes(size - size // 2 - 2)
    (tmp_path / "a.tif").write_bytes(data)
    assert isinstance(read(path), Unreadable)
