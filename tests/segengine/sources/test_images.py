"""Photos: each format and mode against the array it was written from, or another decoder."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from distributed.protocol import deserialize, serialize
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image, ImageOps

from segengine.errors import CorruptInputError, TransientInputError
from segengine.sources._color import gray
from segengine.sources.images import ImageSource
from segengine.types import Entry, FrameRef, Probe, Source, Tile, Unreadable

RNG = np.random.default_rng(7)
COLOUR = RNG.integers(0, 256, (40, 56, 3), np.uint8)
DEEP = RNG.integers(0, 65536, (40, 56, 4), np.uint16)
DEEP[..., 3] *= RNG.integers(0, 2, (40, 56), np.uint16)
WHOLE = slice(None)


def probe(path: Path, **options: Any) -> Probe:
    return ImageSource(**options).probe(Entry(path.name, str(path), ""))


def read(
    path: Path, rows: slice = WHOLE, cols: slice = WHOLE, position: int = 0, **options: Any
) -> Tile:
    found = probe(path, **options)
    ref = FrameRef(0, path.name, str(path), "", found.height, found.width, position)
    (tile,) = ImageSource(**options).read([ref], rows, cols)
    assert isinstance(tile, Tile), tile
    if rows == cols == WHOLE:
        assert tile.pixels.shape == (found.height, found.width, found.bands)
    assert tile.pixels.dtype == found.dtype
    return tile


def reason(path: Path, kind: str = "corrupt") -> str:
    """Why `read` fails, told as a value."""
    ref = FrameRef(0, path.name, str(path), "", 40, 56)
    (item,) = ImageSource().read([ref], WHOLE, WHOLE)
    assert isinstance(item, Unreadable), item
    assert item.kind == kind
    assert "\n" not in item.reason
    return item.reason


def test_conforms_and_travels() -> None:
    source = ImageSource("gray")
    assert isinstance(source, Source)
    assert deserialize(*serialize(source)) == source


def test_a_wrong_colour_names_the_option() -> None:
    with pytest.raises(ValueError, match=r"^color: is 'bgr'"):
        ImageSource("bgr")  # type: ignore[arg-type]


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp", ".webp"])
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P", "1", "CMYK"])
def test_lossless_modes(tmp_path: Path, suffix: str, mode: str) -> None:
    if (suffix, mode) in {(".bmp", "LA"), (".bmp", "CMYK"), (".png", "CMYK")}:
        with pytest.raises((OSError, ValueError)):
            Image.new(mode, (2, 2)).save(tmp_path / f"a{suffix}")
        return
    image = Image.fromarray(COLOUR).convert(mode)
    if mode in ("LA", "RGBA"):
        image.putalpha(Image.fromarray(np.where(COLOUR[..., 0] > 99, COLOUR[..., 1], 0)))
    path = tmp_path / f"a{suffix}"
    image.save(path, **({"lossless": True, "exact": True} if suffix == ".webp" else {}))
    tile = read(path)
    alone = mode in ("L", "LA", "1") and suffix != ".webp"
    expected = np.asarray(image.convert("L" if alone else "RGB"))
    if mode == "LA" and suffix == ".webp":
        expected = np.asarray(image.convert("RGBA"))[..., :3]
    np.testing.assert_array_equal(
        tile.pixels, expected if expected.ndim == 3 else expected[..., None]
    )
    if mode in ("LA", "RGBA") and suffix != ".bmp":
        assert tile.valid is not None
        np.testing.assert_array_equal(tile.valid, np.asarray(image.getchannel("A")) > 0)


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_jpeg_agrees_with_opencv(tmp_path: Path, mode: str) -> None:
    smooth = cv2.GaussianBlur(COLOUR, (0, 0), 3)
    path = tmp_path / "a.jpg"
    Image.fromarray(smooth).convert(mode).save(path, quality=95)
    theirs = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE if mode == "L" else cv2.IMREAD_COLOR_RGB)
    ours = read(path).pixels
    # Both use libjpeg-turbo; of CMYK (stored inverted, as Adobe does) each computes RGB in its way.
    tolerance = 2 if mode == "CMYK" else 0
    assert np.abs(ours.squeeze().astype(int) - theirs).max() <= tolerance


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("bands", [1, 3, 4])
def test_sixteen_bits_stay(tmp_path: Path, suffix: str, bands: int) -> None:
    path = tmp_path / f"a{suffix}"
    cv2.imwrite(str(path), DEEP[..., :bands].squeeze())
    tile = read(path)
    np.testing.assert_array_equal(tile.pixels, DEEP[..., :1] if bands == 1 else DEEP[..., 2::-1])
    if bands == 4:
        np.testing.assert_array_equal(tile.valid, DEEP[..., 3] > 0)
    else:
        assert tile.valid is None


def test_sixteen_bit_gray_with_alpha(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png(DEEP[..., [0, 3]], colour=4))
    tile = read(path)
    np.testing.assert_array_equal(tile.pixels, DEEP[..., :1])
    np.testing.assert_array_equal(tile.valid, DEEP[..., 3] > 0)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("dtype", ["u2", "f4"])
def test_tiff_of_either_byte_order(tmp_path: Path, order: str, dtype: str) -> None:
    import tifffile

    values = DEEP[..., 0].astype(dtype)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, values.astype(order + dtype), byteorder=order)
    np.testing.assert_array_equal(read(path).pixels[..., 0], values)


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_deflate", "packbits"])
def test_tiff_compressions(tmp_path: Path, compression: str | None) -> None:
    path = tmp_path / "a.tif"
    Image.fromarray(COLOUR).save(path, compression=compression)
    np.testing.assert_array_equal(read(path).pixels, COLOUR)


def test_bigtiff(tmp_path: Path) -> None:
    import tifffile

    path = tmp_path / "a.tif"
    tifffile.imwrite(path, COLOUR, bigtiff=True, photometric="rgb")
    np.testing.assert_array_equal(read(path).pixels, COLOUR)


def test_gif_reads_its_first_frame(tmp_path: Path) -> None:
    path = tmp_path / "a.gif"
    first = Image.fromarray(COLOUR).quantize(64)
    first.save(path, save_all=True, append_images=[Image.new("P", first.size)])
    np.testing.assert_array_equal(read(path).pixels, np.asarray(first.convert("RGB")))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
def test_exif_rotation(tmp_path: Path, suffix: str, orientation: int) -> None:
    path = tmp_path / f"a{suffix}"
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(COLOUR).save(
        path, exif=exif, **({"lossless": True} if suffix == ".webp" else {})
    )
    with Image.open(path) as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    np.testing.assert_array_equal(read(path).pixels, expected)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_rotation_of_deep_tiff(tmp_path: Path, orientation: int) -> None:
    import tifffile

    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path, DEEP[..., :3], photometric="rgb", extratags=[(274, 3, 1, orientation, True)]
    )
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = []
    for band in range(3):
        image = Image.fromarray(DEEP[..., band].astype(np.int32))
        image.getexif()[0x0112] = orientation
        upright.append(np.asarray(ImageOps.exif_transpose(image)))
    np.testing.assert_array_equal(read(path).pixels, np.stack(upright, -1))


def test_a_transparent_colour_is_nodata(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    pixels = np.where(COLOUR > 128, COLOUR, 5).astype(np.uint8)
    Image.fromarray(pixels).save(path, transparency=(5, 5, 5))
    np.testing.assert_array_equal(read(path).valid, (pixels != 5).any(-1))


def test_a_transparent_palette_entry_is_nodata(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    image = Image.fromarray(COLOUR).quantize(16)
    image.save(path, transparency=3)
    np.testing.assert_array_equal(read(path).valid, np.asarray(image) != 3)


def test_a_window_is_a_part_of_the_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(COLOUR).save(path)
    np.testing.assert_array_equal(read(path, slice(3, 20), slice(5, 9)).pixels, COLOUR[3:20, 5:9])


@given(arrays(np.uint8, (3, 4, 3)) | arrays(np.uint16, (3, 4, 3)))
@settings(max_examples=50, deadline=None)
def test_gray_is_the_rounded_weighted_sum(pixels: Any) -> None:
    exact = [
        [round((2125 * int(r) + 7154 * int(g) + 721 * int(b)) / 10_000) for r, g, b in row]
        for row in pixels
    ]
    np.testing.assert_array_equal(gray(pixels)[..., 0], exact)
    assert gray(pixels).dtype == pixels.dtype


def test_gray_agrees_with_scikit_image() -> None:
    from skimage.color import rgb2gray

    theirs = rgb2gray(COLOUR.astype(np.float64))
    np.testing.assert_allclose(gray(COLOUR.astype(np.float64))[..., 0], theirs, rtol=1e-12)
    assert np.abs(gray(COLOUR)[..., 0] - theirs).max() <= 0.5


def test_colour_can_be_forced(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(COLOUR).save(path)
    np.testing.assert_array_equal(read(path, color="gray").pixels, gray(COLOUR))
    Image.fromarray(COLOUR[..., 0]).save(path)
    np.testing.assert_array_equal(
        read(path, color="rgb").pixels, np.repeat(COLOUR[..., :1], 3, axis=-1)
    )


@pytest.mark.parametrize("deep", [False, True])
def test_pages_are_frames(tmp_path: Path, deep: bool) -> None:
    import tifffile

    stack = RNG.integers(0, 200, (3, 20, 30, 3)).astype(np.uint16 if deep else np.uint8)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, stack, photometric="rgb")
    found = probe(path)
    assert found.positions is not None
    assert found.positions.tolist() == [0, 1, 2]
    assert not found.stacked
    refs = [FrameRef(i, f"a.tif#{i}", str(path), "", 20, 30, i) for i in (2, 0, 1)]
    tiles = list(ImageSource().read(refs, WHOLE, WHOLE))
    np.testing.assert_array_equal(
        [t.pixels for t in tiles if isinstance(t, Tile)], stack[[2, 0, 1]]
    )


def test_pages_that_differ_are_refused_and_thumbnails_ignored(tmp_path: Path) -> None:
    import tifffile

    path = tmp_path / "a.tif"
    for subfile, wanted in ((0, False), (1, True)):
        with tifffile.TiffWriter(path) as writer:
            writer.write(COLOUR, photometric="rgb")
            writer.write(COLOUR[::2, ::2], photometric="rgb", subfiletype=subfile)
        if wanted:
            np.testing.assert_array_equal(read(path).pixels, COLOUR)
            assert probe(path).positions is None
        else:
            with pytest.raises(CorruptInputError, match=r"pages differ .*page 1 is 28 x 20"):
                probe(path)


def png(pixels: Any, colour: int, size: tuple[int, int] | None = None) -> bytes:
    """A 16-bit PNG by the specification, filter 0."""
    height, width = size or pixels.shape[:2]
    lines = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)

    def chunk(kind: bytes, body: bytes) -> bytes:
        check = zlib.crc32(kind + body)
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(lines))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".webp", ".gif", ".tif"])
def test_truncated_files_are_corrupt_wherever_they_end(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    Image.fromarray(COLOUR).save(path)
    data = path.read_bytes()
    # The last bytes of a PNG, a GIF and a JPEG end the file; no pixel is in them.
    for size in [*np.linspace(1, len(data) - 60, 12).astype(int)]:
        path.write_bytes(data[:size])
        assert len(reason(path)) < 200


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_truncated_deep_files_are_corrupt(
    tmp_path: Path, suffix: str, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / f"a{suffix}"
    cv2.imwrite(str(path), DEEP)
    data = path.read_bytes()
    for size in (30, 200, len(data) // 2, len(data) - 20):
        path.write_bytes(data[:size])
        assert reason(path)
    assert capfd.readouterr().err == ""


def test_a_changed_byte_in_a_deep_png_is_found(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    data = bytearray(png(DEEP[..., :3], colour=2))
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert "wrong checksum" in reason(path)


def test_a_missing_strip_is_corrupt(tmp_path: Path) -> None:
    import tifffile

    path = tmp_path / "a.tif"
    tifffile.imwrite(path, COLOUR, photometric="rgb", rowsperstrip=10)
    with tifffile.TiffFile(path, mode="r+b") as file:
        counts = list(file.pages[0].dataoffsets)  # type: ignore[union-attr]
        file.pages[0].tags["StripOffsets"].overwrite([*counts[:2], 0, counts[3]])  # type: ignore[union-attr]
    assert probe(path).height == 40
    assert reason(path) == "truncated TIFF: 1 of 4 strips of its pixels are missing"


def test_a_tiff_that_is_cut_off_says_how_much_of_it_is_there(tmp_path: Path) -> None:
    import tifffile

    path = tmp_path / "a.tif"
    tifffile.imwrite(path, COLOUR, photometric="rgb", rowsperstrip=10)
    with tifffile.TiffFile(path) as file:
        page = file.pages[0]
        last = page.dataoffsets[-1] + page.databytecounts[-1]  # type: ignore[union-attr]
    path.write_bytes(path.read_bytes()[: last - 1500])
    said = f"has {last - 1500:,} bytes of {last:,}, and 1 of 4 strips of its pixels are missing"
    assert reason(path) == f"truncated TIFF: {said}"


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".gif"])
def test_a_huge_claim_is_refused_unread(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    Image.fromarray(COLOUR).save(path)
    data = bytearray(path.read_bytes())
    if suffix == ".png":
        data[16:24] = struct.pack(">II", 60_000, 60_000)
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    elif suffix == ".bmp":
        data[18:26] = struct.pack("<ii", 60_000, 60_000)
    elif suffix == ".gif":
        data[6:10] = struct.pack("<HH", 60_000, 60_000)
    else:
        (at,) = struct.unpack_from("<I", data, 4)
        for place in range(at + 2, at + 2 + 12 * struct.unpack_from("<H", data, at)[0], 12):
            if struct.unpack_from("<H", data, place)[0] in (256, 257):
                struct.pack_into("<HII", data, place + 2, 4, 1, 60_000)
    path.write_bytes(data)
    message = "claims 60000 x 60000 pixels, above 2^30 and not readable in windows"
    with pytest.raises(CorruptInputError) as caught:
        probe(path)
    assert str(caught.value) == message
    assert reason(path) == message


def test_what_is_no_image(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"")
    assert reason(path) == "empty file"
    path.write_text("hello, I am text")
    assert reason(path) == "not an image: it begins as none of the formats that are known"
    path.unlink()
    assert reason(path, "error") == "no such file"
    path.symlink_to(tmp_path / "nowhere.png")
    assert reason(path, "error") == "dangling symbolic link"
    os.mkfifo(tmp_path / "b.png")
    assert reason(tmp_path / "b.png") == "is not a regular file"
    (tmp_path / "a.jpg").mkdir()
    assert reason(tmp_path / "a.jpg") == "is a directory"
    with pytest.raises(CorruptInputError, match="is a directory"):
        probe(tmp_path / "a.jpg")
    with pytest.raises(TransientInputError, match="dangling"):
        probe(path)


def test_no_permission_is_worth_a_retry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Tests may run as root, who may read everything.
    def refuse(*_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    path = tmp_path / "a.png"
    Image.fromarray(COLOUR).save(path)
    monkeypatch.setattr("builtins.open", refuse)
    assert reason(path, "error") == "permission denied"


def test_a_bad_frame_leaves_its_neighbours(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.png", tmp_path / "bad.png"
    Image.fromarray(COLOUR).save(good)
    bad.write_bytes(good.read_bytes()[:300])
    refs = [FrameRef(i, p.name, str(p), "", 40, 56) for i, p in enumerate((good, bad, good))]
    first, second, third = ImageSource().read(refs, WHOLE, WHOLE)
    assert isinstance(second, Unreadable)
    for tile in (first, third):
        assert isinstance(tile, Tile)
        np.testing.assert_array_equal(tile.pixels, COLOUR)


def test_another_size_than_planned_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(COLOUR[:20]).save(path)
    assert reason(path, "error").startswith("is 56 x 20 pixels, was 56 x 40 when planned")


@given(
    st.integers(0, 10_000),
    st.integers(1, 255),
    st.sampled_from(["PNG", "JPEG", "TIFF", "GIF", "WEBP"]),
)
@settings(max_examples=60, deadline=None)
def test_no_byte_makes_it_raise(tmp_path_factory: Any, place: int, flip: int, form: str) -> None:
    buffer = io.BytesIO()
    Image.fromarray(COLOUR).save(buffer, form)
    data = bytearray(buffer.getvalue())
    data[place % len(data)] ^= flip
    path = tmp_path_factory.getbasetemp() / "flipped"
    path.write_bytes(data)
    try:
        found = probe(path)
    except CorruptInputError:
        return
    ref = FrameRef(0, "a", str(path), "", found.height, found.width)
    (item,) = ImageSource().read([ref], slice(0, found.height), slice(0, found.width))
    if isinstance(item, Tile):
        assert item.pixels.shape == (found.height, found.width, found.bands)
        assert item.pixels.dtype == found.dtype
    else:
        assert item.reason


def test_photos_load_no_raster_or_video_library(tmp_path: Path) -> None:
    for name in ("a.png", "b.tif"):
        Image.fromarray(COLOUR).save(tmp_path / name)
    code = (
        "import sys\n"
        "from segengine.sources.listing import list_entries\n"
        "from segengine.sources.images import ImageSource\n"
        f"found = list_entries([{str(tmp_path)!r}])\n"
        "assert [found.kind_of(e) for e in found.entries] == ['images', 'images']\n"
        "[ImageSource().probe(e) for e in found.entries]\n"
        "print([m for m in ('rasterio', 'av', 'zarr', 'fsspec', 'skimage') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
