"""Photos as phones and other programs leave them: where their rotation is said, and rarer formats."""

from __future__ import annotations

import io
import struct
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps

from segengine.errors import CorruptInputError, TransientInputError
from segengine.sources import _signatures
from segengine.sources.images import ImageSource
from segengine.types import Entry, FrameRef, Probe, Tile, Unreadable

COLOUR = np.random.default_rng(5).integers(0, 256, (24, 40, 3), np.uint8)
XMP = '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description {}</x:xmpmeta>'
SAYINGS = ('tiff:Orientation="6"/>', "><tiff:Orientation>6</tiff:Orientation></rdf:Description>")


def probe(path: Path) -> Probe:
    return ImageSource().probe(Entry(path.name, str(path), ""))


def read(path: Path) -> Tile:
    found = probe(path)
    ref = FrameRef(0, path.name, str(path), "", found.height, found.width)
    (tile,) = ImageSource().read([ref], slice(None), slice(None))
    assert isinstance(tile, Tile), tile
    assert tile.pixels.shape == (found.height, found.width, found.bands)
    return tile


def equals_pillow(path: Path, turned: bool = True) -> None:
    """Pillow's own transposition, which is one of a quarter where `turned`."""
    with Image.open(path) as opened:
        opened.load()
        upright = ImageOps.exif_transpose(opened)
        assert (upright.size != opened.size) == turned or path.suffix == ".tif"
    expected = np.asarray(upright.convert("RGB"))
    assert expected.shape[:2] == ((40, 24) if turned else (24, 40))
    np.testing.assert_array_equal(read(path).pixels, expected)


def exif(way: int, little: bool = True) -> bytes:
    block = Image.Exif()
    block.endian = "<" if little else ">"
    block[0x0112] = way
    return block.tobytes()


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def chunks(png: bytes) -> list[bytes]:
    found, at = [], 8
    while at < len(png):
        size = struct.unpack_from(">I", png, at)[0] + 12
        found.append(png[at : at + size])
        at += size
    return found


def png(*late: bytes, early: tuple[bytes, ...] = (), pixels: np.ndarray = COLOUR) -> bytes:
    """A PNG with chunks before and behind its pixels."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    first, *data, last = chunks(file.getvalue())
    return b"\x89PNG\r\n\x1a\n" + b"".join((first, *early, *data, *late, last))


RAW = b"\nexif\n      34\n" + (b"Exif\0\0" + exif(6)[6:]).hex().encode()
LATE = {
    "eXIf": chunk(b"eXIf", exif(6)[6:]),
    "raw profile": chunk(b"tEXt", b"Raw profile type exif\0" + RAW),
    "packed profile": chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(RAW)),
    "xmp": chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP.format(SAYINGS[0]).encode()),
}


@pytest.mark.parametrize("where", ["before", "behind"])
@pytest.mark.parametrize("what", LATE)
def test_a_png_says_its_rotation_before_or_behind_its_pixels(
    tmp_path: Path, what: str, where: str
) -> None:
    path = tmp_path / "a.png"
    note = chunk(b"tEXt", b"Comment\0eXIf tEXt IEND")
    said = (note, LATE[what], note)
    path.write_bytes(png(*said) if where == "behind" else png(note, early=said))
    equals_pillow(path)


@pytest.mark.parametrize("what", LATE)
@pytest.mark.parametrize("cut", [1, 7, 64, 500, 2949, 100_000, (9, 400), (400, 9)])
def test_behind_pixels_in_chunks_of_any_length(tmp_path: Path, cut: Any, what: str) -> None:
    """Of one length, in a single one, or of lengths that tell no place near the end."""
    path = tmp_path / "a.png"
    first, *data, last = chunks(png())
    pixels = b"".join(each[8:-4] for each in data)
    lengths = cut if isinstance(cut, tuple) else (cut, cut)
    parts = [pixels[: lengths[0]]]
    parts += [pixels[i : i + lengths[1]] for i in range(lengths[0], len(pixels), lengths[1])]
    note = chunk(b"tEXt", b"Comment\0" + b"x" * 5000)
    again = (first, *(chunk(b"IDAT", part) for part in parts), note, LATE[what], last)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(again))
    equals_pillow(path)


def test_the_pixels_of_a_large_png_are_not_stepped_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind a URL that would fetch all of it."""
    from segengine.sources._files import GuardedFile

    path = tmp_path / "a.png"
    noise = np.random.default_rng(1).integers(0, 256, (1200, 1000, 3), np.uint8)
    Image.fromarray(noise).save(path)
    count, real = 0, GuardedFile.read

    def counted(file: GuardedFile, size: int = -1) -> bytes:
        nonlocal count
        count += 1
        return real(file, size)

    monkeypatch.setattr(GuardedFile, "read", counted)
    for late in (b"", LATE["eXIf"]):
        data = path.read_bytes()
        path.write_bytes(data[:-12] + late + data[-12:])
        count = 0
        assert (probe(path).height, probe(path).width) == ((1000, 1200) if late else (1200, 1000))
        assert count < 2 * 20  # of more than 50 chunks


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_what_looks_like_a_chunk_is_none(tmp_path: Path) -> None:
    """The same bytes inside of another chunk, behind the end, or damaged."""
    path = tmp_path / "a.png"
    late = LATE["eXIf"]
    broken = chunk(b"eXIf", b"MM\0*\xff\xff\xff\xff")
    for data in (png(chunk(b"tEXt", b"Comment\0" + late)), png() + late, png(broken)):
        path.write_bytes(data)
        equals_pillow(path, turned=False)


@pytest.mark.parametrize("saying", SAYINGS)
@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".tif"])
def test_xmp_says_the_rotation_where_exif_does_not(
    tmp_path: Path, suffix: str, saying: str
) -> None:
    path, text = tmp_path / f"a{suffix}", XMP.format(saying).encode()
    options: dict[str, Any] = {"xmp": text}
    if suffix == ".webp":
        options |= {"lossless": True}
    if suffix == ".tif":
        options = {"tiffinfo": {700: text}}
    Image.fromarray(COLOUR).save(path, **options)
    equals_pillow(path)


def test_a_png_of_endless_chunks_is_given_up(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png(*[chunk(b"prVt", b"")] * 70_000, LATE["eXIf"]))
    assert probe(path).height == 24


def test_exif_goes_before_xmp(tmp_path: Path) -> None:
    for name in ("a.jpg", "a.webp"):
        text = XMP.format(SAYINGS[0]).encode()
        Image.fromarray(COLOUR).save(tmp_path / name, exif=exif(3), xmp=text, lossless=True)
        equals_pillow(tmp_path / name, turned=False)


# WebP: chunks of odd sizes, unknown ones, more of them than there should be


def riff(*parts: tuple[bytes, bytes]) -> bytes:
    body = b"".join(
        kind + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2) for kind, data in parts
    )
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def webp(flags: int, *around: tuple[bytes, bytes]) -> bytes:
    """A lossless one with chunks behind its pixels."""
    file = io.BytesIO()
    Image.fromarray(COLOUR).save(file, "WebP", lossless=True)
    pixels = file.getvalue()[12:]
    size = struct.unpack_from("<I", pixels, 4)[0]
    canvas = struct.pack("<I", flags) + (39).to_bytes(3, "little") + (23).to_bytes(3, "little")
    return riff((b"VP8X", canvas), (pixels[:4], pixels[8 : 8 + size]), *around)


@pytest.mark.parametrize("odd", [0, 1, 2, 3, 255])
def test_chunks_of_any_size_before_what_a_webp_says(tmp_path: Path, odd: int) -> None:
    path = tmp_path / "a.webp"
    path.write_bytes(webp(0x08, (b"JUNK", b"x" * odd), (b"EXIF", exif(6))))
    equals_pillow(path)
    path.write_bytes(webp(0x04, (b"JUNK", b"x" * odd), (b"XMP ", XMP.format(SAYINGS[0]).encode())))
    equals_pillow(path)


def test_what_a_webp_does_not_announce_or_says_twice(tmp_path: Path) -> None:
    path, text = tmp_path / "a.webp", XMP.format(SAYINGS[0]).encode()
    path.write_bytes(webp(0x04, (b"EXIF", exif(6))))
    equals_pillow(path, turned=False)
    path.write_bytes(webp(0x08, (b"EXIF", exif(6)), (b"EXIF", exif(3))))
    equals_pillow(path)
    path.write_bytes(webp(0x0C, (b"EXIF", exif(6)), (b"EXIF", exif(3)), (b"XMP ", text)))
    equals_pillow(path)
    path.write_bytes(webp(0x0C, (b"XMP ", text), (b"EXIF", exif(1))))
    equals_pillow(path, turned=False)
    path.write_bytes(webp(0x08, (b"XMP ", text)))
    equals_pillow(path, turned=False)


def test_a_webp_of_endless_chunks_is_given_up(tmp_path: Path) -> None:
    path = tmp_path / "a.webp"
    path.write_bytes(webp(0x08, *[(b"JUNK", b"")] * 70_000, (b"EXIF", exif(6))))
    assert probe(path).height == 24


# Rarer formats


def test_the_first_photo_of_an_mpo_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.mpo"
    other = Image.fromarray(COLOUR[::-1])
    Image.fromarray(COLOUR).save(path, "MPO", save_all=True, append_images=[other], exif=exif(6))
    equals_pillow(path)


@pytest.mark.parametrize("way", range(1, 9))
def test_avif_is_upright(tmp_path: Path, way: int) -> None:
    path = tmp_path / "a.avif"
    Image.fromarray(COLOUR).save(path, exif=exif(way))
    equals_pillow(path, turned=way > 4)


@pytest.mark.parametrize("way", range(1, 9))
def test_heic_is_upright_and_as_its_library_reads_it(tmp_path: Path, way: int) -> None:
    import pillow_heif

    path = tmp_path / "a.heic"
    pillow_heif.from_pillow(Image.fromarray(COLOUR)).save(path, quality=-1, exif=exif(way))
    with pillow_heif.HeifImageFile(path) as opened:
        expected = np.asarray(ImageOps.exif_transpose(opened).convert("RGB"))
    np.testing.assert_array_equal(read(path).pixels, expected)


def test_transparent_heic_is_void_there(tmp_path: Path) -> None:
    import pillow_heif

    path = tmp_path / "a.heic"
    alpha = np.where(np.arange(40) < 20, 0, 255).astype(np.uint8)
    image = np.dstack([COLOUR, np.broadcast_to(alpha, (24, 40))])
    pillow_heif.from_pillow(Image.fromarray(image, "RGBA")).save(path, quality=-1)
    tile = read(path)
    assert tile.valid is not None
    np.testing.assert_array_equal(tile.valid, image[..., 3] > 0)


def test_heic_without_its_library_is_tried_again_when_it_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pillow_heif

    path = tmp_path / "a.heic"
    pillow_heif.from_pillow(Image.fromarray(COLOUR)).save(path)
    with monkeypatch.context() as absent:
        absent.setitem(sys.modules, "pillow_heif", None)
        absent.setitem(sys.modules, "pillow_heif.as_plugin", None)
        message = r"^a HEIC image, which needs pillow-heif; `pip install segengine\[heif\]` brings"
        with pytest.raises(TransientInputError, match=message):
            probe(path)
        ref = FrameRef(0, path.name, str(path), "", 24, 40)
        (item,) = ImageSource().read([ref], slice(None), slice(None))
        assert isinstance(item, Unreadable)
        assert item.kind == "error"  # not `corrupt`, which is final
    assert read(path).pixels.shape == COLOUR.shape


def test_a_bitmap_without_a_file_header_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.dib"
    Image.fromarray(COLOUR).save(path)
    assert not path.read_bytes().startswith(b"BM")
    np.testing.assert_array_equal(read(path).pixels, COLOUR)


# What is not read is named


@pytest.mark.parametrize(
    ("bits", "photometric", "colours"),
    [(16, 5, "CMYK"), (16, 8, "CIE L*a*b*"), (16, 6, "YCbCr"), (32, 5, "CMYK")],
)
def test_deep_tiffs_of_other_colours_are_refused(
    tmp_path: Path, bits: int, photometric: int, colours: str
) -> None:
    from segengine.sources.listing import list_entries

    path = tmp_path / "a.tif"
    bands = 4 if photometric == 5 else 3
    pixels = np.full((24, 40, bands), 999, np.uint16 if bits == 16 else np.float32)
    tifffile.imwrite(path, pixels, photometric="separated" if bands == 4 else "rgb")
    if bands == 3:
        data = bytearray(path.read_bytes())
        at = data.index(struct.pack("<HHIH", 262, 3, 1, 2))
        struct.pack_into("<H", data, at + 8, photometric)
        path.write_bytes(data)
    said = f"^a TIFF of {bits}-bit .*colours, which is not read; convert it to RGB$"
    with pytest.raises(CorruptInputError, match=said) as caught:
        probe(path)
    assert colours in str(caught.value)
    if bits == 16:
        listing = list_entries([str(path)])
        assert listing.kind_of(listing.entries[0]) == "images"


NAMED = {
    b"8BPS\0\1": "a Photoshop file, which is not read; convert it to PNG, JPEG or TIFF",
    b"\0\0\0\x18ftypqt  ": "a video, which is not read; read it with source.kind: video",
    b"\0\0\0\x18ftypcrx ": "a raw photo, which is not read; convert it to PNG, JPEG or TIFF",
    b"RIFF\0\0\0\0AVI LIST": "a video, which is not read; read it with source.kind: video",
    b"\x89HDF\r\n": "an HDF5 file, which is not read; read it with source.kind: raster",
    b"PK\3\4": "a ZIP archive, which is not read as it stands; unpack it, and name what is in it in "
    "source.paths",
    b"\n<!DOCTYPE html><html>": "a web page, which is not read; was it downloaded without signing in?",
    b"<?xml version='1.0'?>\n<svg": (
        "an SVG drawing, which is not read; convert it to PNG, JPEG or TIFF"
    ),
    b"version https://git-lfs.github.com/spec/v1\n": (
        "a Git LFS pointer, which is not read; `git lfs pull` fetches the file itself"
    ),
    bytes(128) + b"DICM": "a DICOM file, which is not read; convert it to PNG, JPEG or TIFF",
}


@pytest.mark.parametrize("head", NAMED)
def test_what_is_not_read_is_named(tmp_path: Path, head: bytes) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(head)
    with pytest.raises(CorruptInputError) as caught:
        probe(path)
    assert str(caught.value) == NAMED[head]


@pytest.mark.parametrize(
    "head", [b"hello", b"\0" * 300, bytes(range(3, 256)), b"P1x", b"\xff" * 99]
)
def test_only_what_is_none_is_no_image(tmp_path: Path, head: bytes) -> None:
    assert _signatures.photo(head) is None
    path = tmp_path / "a.jpg"
    path.write_bytes(head)
    with pytest.raises(CorruptInputError, match=r"^not an image: "):
        probe(path)


# Bounds before allocation


def tiff(*tags: tuple[int, int, int, int]) -> bytes:
    """A TIFF of nothing but these tags (tag, type, count, value)."""
    body = b"".join(struct.pack("<HHII", *tag) for tag in sorted(tags))
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + body + bytes(4)


SIZE = ((256, 4, 1, 40), (257, 4, 1, 24), (258, 3, 1, 8), (262, 3, 1, 1))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (tiff(*SIZE, (277, 3, 1, 65_535)), "40 x 24 pixels, 65535 bands of uint8, which is no"),
        (tiff(*SIZE, *((9000 + i, 3, 1, 1) for i in range(4200))), "a directory of 4,204 tags, "),
        (tiff((256, 4, 1, 2**31), (257, 4, 1, 2**31)), "claims 2147483648 x 2147483648 pixels, "),
        (
            tiff(*SIZE, (322, 4, 1, 9000), (323, 4, 1, 9000)),
            "tiles of 81,000,000 pixels, more than",
        ),
        (
            tiff(*SIZE, (322, 4, 1, 16), (323, 4, 1, 16), (324, 4, 1, 8), (325, 4, 1, 8)),
            "a table of 1 tiles, 6 cover the image",
        ),
        (tiff(*SIZE, (330, 4, 1, 8)), "no table of strips|unknown data organization"),
        (tiff((256, 4, 1, 40)), "damaged TIFF header: tag 257 is missing"),
    ],
)
def test_a_small_tiff_of_great_claims(tmp_path: Path, data: bytes, said: str) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(data)
    with pytest.raises(CorruptInputError, match=said):
        read(path)


def test_pages_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from segengine.sources import _tiff

    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((5, 24, 40), np.uint8))
    assert probe(path).frames == 5
    monkeypatch.setattr(_tiff, "_PAGES", 4)
    with pytest.raises(CorruptInputError, match=r"^damaged TIFF header: more than 4 pages$"):
        probe(path)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".gif", ".webp", ".bmp", ".dib"])
def test_so_few_bytes_hold_not_so_many_pixels(tmp_path: Path, suffix: str) -> None:
    """Each claims more than is believed; none of it gets memory."""
    path = tmp_path / f"a{suffix}"
    Image.new("RGB", (16, 16)).save(path, **({"lossless": True} if suffix == ".webp" else {}))
    data = bytearray(path.read_bytes())
    if suffix == ".png":
        data[16:24] = struct.pack(">II", 9000, 9000)
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    elif suffix == ".jpg":
        at = data.index(b"\xff\xc0") + 5
        data[at : at + 4] = struct.pack(">HH", 20_000, 20_000)
    elif suffix == ".gif":
        data[6:10] = struct.pack("<HH", 20_000, 20_000)
    elif suffix == ".webp":
        data[21:25] = struct.pack("<I", 16_382 | 16_382 << 14)
    else:
        at = 18 if suffix == ".bmp" else 4
        data[at : at + 8] = struct.pack("<ii", 20_000, 20_000)
    path.write_bytes(data)
    with pytest.raises(CorruptInputError, match=r"claims \d+ x \d+ pixels in [\d,]+ bytes, which"):
        probe(path)


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "RGBA", "I;16"])
def test_the_emptiest_photos_are_believed(tmp_path: Path, mode: str) -> None:
    for suffix in (".png", ".jpg", ".webp", ".gif", ".avif"):
        path = tmp_path / f"a{suffix}"
        try:
            Image.new(mode, (2000, 2000)).save(path, quality=1)
        except (OSError, ValueError):
            continue
        assert probe(path).width == 2000, suffix


def test_a_read_asks_for_no_more_than_there_is(tmp_path: Path) -> None:
    """A hundred bytes and a length of gigabytes: memory is taken before the file is read."""
    import tracemalloc

    from segengine.sources._files import open_input

    path = tmp_path / "a"
    path.write_bytes(b"x" * 100)
    with open_input(str(path)) as file:
        file.seek(10)
        tracemalloc.start()
        try:
            assert file.read(2**30) == b"x" * 90
            assert tracemalloc.get_traced_memory()[1] < 2**20
        finally:
            tracemalloc.stop()
        assert file.read(2**30) == b""
