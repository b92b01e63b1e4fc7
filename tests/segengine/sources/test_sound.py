"""Damage in photos and label images that decoders pass over is found, whatever the format."""

from __future__ import annotations

import io
import logging
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from rasterio import Affine
from rasterio.io import MemoryFile

from segengine.errors import CorruptInputError, MissingTruthError
from segengine.job import TruthSpec
from segengine.measuring.truth import LabelImages
from segengine.sources import _heif, _said, _tiff
from segengine.sources.images import ImageSource
from segengine.sources.raster import RasterSource
from segengine.types import FrameRef, TruthRef, Unreadable

SIDE = 96
WHOLE = (slice(0, SIDE), slice(0, SIDE))
Y, X = np.mgrid[:SIDE, :SIDE]
GRAIN = np.random.default_rng(0).integers(0, 30, (SIDE, SIDE))
GRAY = (Y + X + GRAIN).astype(np.uint8)
COLOURS = np.dstack([GRAY, GRAY[::-1], GRAY.T])


def written(pixels: NDArray[Any], name: str, mode: str | None = None, **options: Any) -> bytes:
    file = io.BytesIO()
    image = Image.fromarray(pixels)
    (image if mode is None else image.convert(mode)).save(file, name, **options)
    return file.getvalue()


def photo(path: Path) -> NDArray[Any] | str:
    """Pixels, or why there are none."""
    (tile,) = ImageSource().read([FrameRef(0, "x", str(path), "", SIDE, SIDE)], *WHOLE)
    if isinstance(tile, Unreadable):
        assert tile.kind == "corrupt"
        return tile.reason
    return tile.pixels


def label(path: Path) -> NDArray[Any] | str:
    spec = TruthSpec(paths=["x"], classes=[str(i) for i in range(255)])
    truth = TruthRef(str(path), path.read_bytes().hex(), "")
    try:
        return LabelImages(spec).load(FrameRef(0, "x", "x", "f", SIDE, SIDE), truth, *WHOLE).labels
    except MissingTruthError as error:
        return str(error)


JPEGS = {
    "colours": written(COLOURS, "JPEG"),
    "gray": written(GRAY, "JPEG"),
    "inks": written(COLOURS, "JPEG", "CMYK"),
    "progressive": written(COLOURS, "JPEG", progressive=True),
    "restarts": written(COLOURS, "JPEG", restart_marker_rows=1),
}


@pytest.mark.parametrize("kind", JPEGS)
def test_a_hole_in_a_jpeg_is_no_gray(tmp_path: Path, kind: str) -> None:
    path, whole = tmp_path / "a.jpg", JPEGS[kind]
    read = (photo, label) if kind == "gray" else (photo,)
    path.write_bytes(whole)
    assert not any(isinstance(each(path), str) for each in read)
    at = len(whole) * 2 // 3
    for damaged in (
        whole[:at] + bytes(300) + whole[at + 300 :],
        whole[:at] + whole[at + 500 :],
        whole[:at] + whole[-2:],
    ):
        path.write_bytes(damaged)
        for each in read:
            assert "damaged JPEG: " in str(each(path))


def test_what_is_behind_a_jpeg_or_little_inside_it_is_no_damage(tmp_path: Path) -> None:
    path, whole = tmp_path / "a.jpg", JPEGS["inks"]
    for sound in (whole + bytes(5000), whole + whole, whole[:-2] + b"\1\2" + whole[-2:]):
        path.write_bytes(sound)
        assert not isinstance(photo(path), str)


def by_gdal(pixels: NDArray[Any], **options: Any) -> bytes:
    bands = np.atleast_3d(pixels)
    profile = {"driver": "GTiff", "height": SIDE, "width": SIDE, "dtype": bands.dtype, **options}
    profile["transform"] = Affine.translation(1, 1)
    with MemoryFile() as file:
        with file.open(count=bands.shape[2], **profile) as dataset:
            dataset.write(np.moveaxis(bands, -1, 0))
        return bytes(file.read())


TILES = {"tiled": True, "blockxsize": 64, "blockysize": 64, "predictor": 2}
CODES = ((X // 16 + Y // 16) % 5).astype(np.uint8)
BITS = GRAY > 100
DEEP = COLOURS.astype(np.uint16) * 200
TIFFS = {
    "packbits": written(CODES, "TIFF", compression="packbits"),
    "lzw": written(CODES, "TIFF", compression="tiff_lzw"),
    "lzw-tiles": by_gdal(CODES, compress="LZW", **TILES),
    "deflate": written(COLOURS, "TIFF", compression="tiff_adobe_deflate"),
    "deflate-tiles": by_gdal(GRAY, compress="DEFLATE", **TILES),
    "deflate-deep": by_gdal(DEEP, compress="DEFLATE", photometric="RGB", blockysize=96),
    "jpeg": written(GRAY, "TIFF", compression="jpeg"),
    "jpeg-colours": by_gdal(COLOURS, compress="JPEG", photometric="YCBCR", blockysize=96),
    "group3": written(BITS, "TIFF", compression="group3"),
    "group4": written(BITS, "TIFF", compression="group4"),
    "huffman": written(BITS, "TIFF", compression="tiff_ccitt"),
}


def damaged(whole: bytes) -> list[bytes]:
    """With a hole, an end of zeros, and bytes lost in the largest strip; its table is as it was."""
    table = _tiff.blocks(io.BytesIO(whole), 0)
    strip = int(table.counts.argmax())
    start, size = int(table.offsets[strip]), int(table.counts[strip])
    end, at, some = start + size, start + size // 2, max(4, size // 8)
    return [
        whole[:at] + bytes(some) + whole[at + some :],
        whole[:at] + bytes(end - at) + whole[end:],
        whole[:at] + whole[at + some : end] + bytes(some) + whole[end:],
    ]


@pytest.mark.parametrize("kind", TIFFS)
def test_damaged_strips_are_no_pixels(tmp_path: Path, kind: str) -> None:
    path, whole = tmp_path / "a.tif", TIFFS[kind]
    one_band = _tiff.pages(io.BytesIO(whole))[0].bands == 1
    readers = (photo, label) if one_band else (photo,)
    path.write_bytes(whole)
    assert not any(isinstance(read(path), str) for read in readers)
    for number, data in enumerate(damaged(whole)):
        path.write_bytes(data)
        for read in readers:
            assert isinstance(read(path), str), (number, read)


@pytest.mark.parametrize("kind", ["jpeg", "group4"])
def test_what_libtiff_warns_of_is_corrupt_in_a_raster(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.tif"
    ref = FrameRef(0, "x", str(path), "", SIDE, SIDE)
    for data in damaged(TIFFS[kind]):
        path.write_bytes(data)
        (tile,) = RasterSource().read([ref], *WHOLE)
        assert isinstance(tile, Unreadable)
        assert tile.kind == "corrupt"


def shortened(whole: bytes, by: int) -> bytes:
    """The table of strips says less of the last."""
    page = _tiff.pages(io.BytesIO(whole))[0]
    assert page.counts is not None
    array, code = page.counts, f"<{page.counts.code}"
    at = array.offset + (array.count - 1) * struct.calcsize(code)
    (count,) = struct.unpack_from(code, whole, at)
    return whole[:at] + struct.pack(code, count - by) + whole[at + struct.calcsize(code) :]


@pytest.mark.parametrize(("kind", "by"), [("deflate", 4), ("lzw", 1), ("jpeg", 2)])
def test_strips_need_no_end_behind_their_pixels(tmp_path: Path, kind: str, by: int) -> None:
    """Neither a sum, nor the end code, nor the end marker."""
    path = tmp_path / "a.tif"
    path.write_bytes(TIFFS[kind])
    want = photo(path)
    path.write_bytes(shortened(TIFFS[kind], by))
    np.testing.assert_array_equal(photo(path), want)
    ref = FrameRef(0, "x", str(path), "", SIDE, SIDE)
    (tile,) = RasterSource().read([ref], *WHOLE)
    assert isinstance(tile, Unreadable) == (kind == "deflate")  # which GDAL wants whole


def test_sums_of_pixels_are_found_without_inflating_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.tif"
    inside = {**TILES, "blockxsize": 32, "blockysize": 32}
    whole = [
        TIFFS["deflate"],
        TIFFS["deflate-deep"],
        by_gdal(COLOURS, compress="DEFLATE", **inside),
    ]
    whole.append(
        by_gdal(GRAY.astype(np.uint16) * 99, compress="DEFLATE", endianness="BIG", **inside)
    )
    whole.append(by_gdal(COLOURS, compress="DEFLATE", interleave="band", photometric="RGB"))
    monkeypatch.setattr(zlib, "decompressobj", lambda *_: pytest.fail("inflated"))
    for data in whole:
        path.write_bytes(data)
        assert not isinstance(photo(path), str)


@pytest.mark.parametrize(("kind", "bit"), [("packbits", 16), ("lzw", 8), ("lzw-tiles", 8)])
def test_codes_for_more_than_the_pixels_are_damage(tmp_path: Path, kind: str, bit: int) -> None:
    """libtiff takes the first bytes; a flipped bit moves those that follow."""
    path, whole = tmp_path / "a.tif", TIFFS[kind]
    table = _tiff.blocks(io.BytesIO(whole), 0)
    start, size = int(table.offsets[0]), int(table.counts[0])
    passed_over = found = 0
    for at in range(start + size // 4, start + size // 2, max(1, size // 64) | 1):
        data = bytearray(whole)
        data[at] ^= bit
        try:
            np.asarray(Image.open(io.BytesIO(data)))
        except OSError:
            continue
        path.write_bytes(data)
        passed_over += 1
        found += isinstance(photo(path), str) and isinstance(label(path), str)
    assert found >= passed_over // 4 > 0


def test_a_hole_in_an_avif_is_damage(tmp_path: Path) -> None:
    path, whole = tmp_path / "a.avif", written(COLOURS, "AVIF", quality=90)
    path.write_bytes(whole)
    assert not isinstance(photo(path), str)
    at = len(whole) // 2
    path.write_bytes(whole[:at] + bytes(400) + whole[at + 400 :])
    assert "run of zeros" in str(photo(path))


def test_bytes_that_are_in_no_heic_are_damage(tmp_path: Path) -> None:
    from pillow_heif import from_pillow

    path, file = tmp_path / "a.heic", io.BytesIO()
    exif = b"Exif\0\0" + bytes(600)  # zeros beside the picture are none of it
    from_pillow(Image.fromarray(COLOURS)).save(file, quality=90, exif=exif)
    whole = file.getvalue()
    path.write_bytes(whole)
    assert not isinstance(photo(path), str)
    at = len(whole) - 900
    for hole in (bytes(300), bytes(3)):
        path.write_bytes(whole[:at] + hole + whole[at + len(hole) :])
        assert photo(path) == "damaged HEIC: bytes that no encoder writes"
    path.write_bytes(whole[:at])
    assert "Unexpected end of file" in str(photo(path))


def test_a_damaged_table_of_a_heic_costs_little() -> None:
    """Of what libheif has taken; what names the same bytes again and again is looked at no more."""
    from pillow_heif import from_pillow

    file = io.BytesIO()
    from_pillow(Image.fromarray(COLOURS)).save(file, quality=50)
    whole = file.getvalue()
    assert [units is not None for units in _heif.pictures(whole)] == [True]
    place = whole.index(b"iloc")
    random = np.random.default_rng(0)
    for _ in range(300):
        data = bytearray(whole)
        data[place + random.integers(4, 40)] = random.integers(256)
        assert len(list(_heif.pictures(data))) <= 2
    many = whole.replace(b"iloc", b"iloc\0\0\0\0\0\0\xff\xff" + b"\0\1\0\0\xff\xff" * 90, 1)
    assert list(_heif.pictures(many)) == []


@pytest.mark.parametrize("interlace", [0, 1])
def test_codes_for_more_than_the_pixels_of_a_gif_are_damage(tmp_path: Path, interlace: int) -> None:
    """Pillow takes the first; codes of every width, and one that clears them, are counted."""
    path, whole = tmp_path / "a.gif", written(GRAY, "GIF", interlace=interlace)
    passed_over = found = 0
    for at in range(len(whole) // 4, len(whole) - 40, len(whole) // 60):
        data = bytearray(whole)
        data[at] ^= 64
        try:
            np.asarray(Image.open(io.BytesIO(data)))
        except OSError:
            continue
        path.write_bytes(data)
        passed_over += 1
        told = isinstance(photo(path), str)
        found += told and isinstance(label(path), str)
        (tile,) = RasterSource().read([FrameRef(0, "x", str(path), "", SIDE, SIDE)], *WHOLE)
        assert isinstance(tile, Unreadable) or not told
    assert found >= passed_over // 8 > 0


@pytest.mark.parametrize("colours", [2, 5, 16, 130, 250])
def test_sound_gifs_of_all_depths_are_read(tmp_path: Path, colours: int) -> None:
    path = tmp_path / "a.gif"
    for codes in ((Y * X) % colours, GRAIN % colours, np.zeros_like(Y)):
        codes = codes.astype(np.uint8)
        image = Image.fromarray(codes, "P")
        image.putpalette([value // 3 for value in range(3 * colours)])
        for number, options in enumerate(({}, {"interlace": 1}, {"optimize": True})):
            image.save(path, **options)
            got = label(path)
            assert not isinstance(got, str), got
            if number < 2:
                np.testing.assert_array_equal(got[0] if got.ndim == 3 else got, codes)
        data = path.read_bytes()
        path.write_bytes(data[:-1] + b"behind")  # the trailer is none of the picture
        assert not isinstance(label(path), str)


def test_a_png_that_ends_early_is_corrupt_in_a_raster(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    ref = FrameRef(0, "x", str(path), "", SIDE, SIDE)
    whole = written(COLOURS, "PNG")
    for size, fate in ((len(whole), False), (len(whole) // 2, True)):
        path.write_bytes(whole[:size])
        (tile,) = RasterSource().read([ref], *WHOLE)
        assert isinstance(tile, Unreadable) == fate


def test_what_gdal_says_reaches_who_listens_but_for_damage(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = logging.getLogger("rasterio._env")
    with _said.require_silence():
        log.warning("tags are not sorted")
    with pytest.raises(CorruptInputError, match="Bad code word"), _said.require_silence():
        log.warning("Fax4Decode: Bad code word at line 3")
    assert [record.getMessage() for record in caplog.records] == ["tags are not sorted"]
    caplog.clear()
    monkeypatch.setattr(log, "level", logging.ERROR)
    monkeypatch.setattr(_said._ear, "levels", {})
    log.manager._clear_cache()  # type: ignore[attr-defined] # of levels
    with _said.require_silence():
        log.warning("tags are not sorted")
    assert not caplog.records
    log.manager._clear_cache()  # type: ignore[attr-defined]
