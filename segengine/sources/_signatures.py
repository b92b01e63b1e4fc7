"""What a file is by its first bytes: a photo that is read, or something else that has a name.

Nothing of the file is shown, and a reason names what helps.
"""

from __future__ import annotations

import struct

HEAD = 256
"""Bytes that tell."""
_CONVERT = "convert it to PNG, JPEG or TIFF"
_RASTER = "read it with source.kind: raster"
_VIDEO = "read it with source.kind: video"
_PHOTOS = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"GIF87a": "GIF",
    b"GIF89a": "GIF",
    b"BM": "BMP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
}
_DIB_HEADERS = frozenset((12, 40, 52, 56, 64, 108, 124))
_AVIF = frozenset((b"avif", b"avis"))
_HEIC = frozenset((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"))
_OTHERS: tuple[tuple[int, bytes, str, str], ...] = (
    (0, b"\0\0\0\x0cjP  ", "a JPEG 2000 image", _RASTER),
    (0, b"\xff\x4f\xff\x51", "a JPEG 2000 codestream", _RASTER),
    (0, b"\0\0\0\x0cJXL ", "a JPEG XL image", _CONVERT),
    (0, b"\xff\x0a", "a JPEG XL image", _CONVERT),
    (0, b"II\xbc", "a JPEG XR image", _CONVERT),
    (0, b"8BPS", "a Photoshop file", _CONVERT),
    (0, b"gimp xcf", "a GIMP file", _CONVERT),
    (0, b"\0\0\1\0", "an icon (ICO)", _CONVERT),
    (0, b"\0\0\2\0", "a cursor (CUR)", _CONVERT),
    (0, b"icns", "an icon (ICNS)", _CONVERT),
    (0, b"qoif", "a QOI image", _CONVERT),
    (0, b"DDS ", "a DDS texture", _CONVERT),
    (0, b"BLP1", "a BLP texture", _CONVERT),
    (0, b"BLP2", "a BLP texture", _CONVERT),
    (0, b"\x76\x2f\x31\x01", "an OpenEXR image", _CONVERT),
    (0, b"#?RADIANCE", "a Radiance HDR image", _CONVERT),
    (0, b"#?RGBE", "a Radiance HDR image", _CONVERT),
    (0, b"\x01\xda", "an SGI image", _CONVERT),
    (0, b"\x59\xa6\x6a\x95", "a Sun raster", _CONVERT),
    (0, b"DanM", "an MSP image", _CONVERT),
    (0, b"LinS", "an MSP image", _CONVERT),
    (0, b"\x0a\x05\x01", "a PCX image", _CONVERT),
    (0, b"\x0a\x03\x01", "a PCX image", _CONVERT),
    (0, b"\x0a\x02\x01", "a PCX image", _CONVERT),
    (0, b"Image type: ", "an IM image", _CONVERT),
    (0, b"BPG\xfb", "a BPG image", _CONVERT),
    (0, b"FLIF", "a FLIF image", _CONVERT),
    (0, b"/* XPM", "an XPM image", _CONVERT),
    (0, b"\xd7\xcd\xc6\x9a", "a WMF drawing", _CONVERT),
    (40, b" EMF", "an EMF drawing", _CONVERT),
    (0, b"%!PS", "a PostScript file", _CONVERT),
    (0, b"\xc5\xd0\xd3\xc6", "a PostScript file", _CONVERT),
    (0, b"%PDF", "a PDF", "convert its pages to PNG"),
    (0, b"FUJIFILM", "a raw photo", _CONVERT),
    (0, b"IIU\0", "a raw photo", _CONVERT),
    (0, b"IIRO", "a raw photo", _CONVERT),
    (0, b"IIRS", "a raw photo", _CONVERT),
    (0, b"MMOR", "a raw photo", _CONVERT),
    (0, b"FOVb", "a raw photo", _CONVERT),
    (128, b"DICM", "a DICOM file", _CONVERT),
    (0, b"SIMPLE  =", "a FITS file", _CONVERT),
    (0, b"\x89HDF", "an HDF5 file", _RASTER),
    (0, b"CDF", "a netCDF file", _RASTER),
    (0, b"GRIB", "a GRIB file", _RASTER),
    (0, b"BUFR", "a BUFR file", "convert it to GeoTIFF"),
    (0, b"<VRTDataset", "a VRT", _RASTER),
    (0, b"EHFA", "an Erdas Imagine file", _RASTER),
    (0, b"\x1a\x45\xdf\xa3", "a Matroska or WebM video", _VIDEO),
    (0, b"\0\0\1\xba", "an MPEG video", _VIDEO),
    (0, b"\0\0\1\xb3", "an MPEG video", _VIDEO),
    (0, b"version https://git-lfs", "a Git LFS pointer", "`git lfs pull` fetches the file itself"),
)
_TEXTS: tuple[tuple[bytes, str, str], ...] = (
    (b"<!doctype html", "a web page", "was it downloaded without signing in?"),
    (b"<html", "a web page", "was it downloaded without signing in?"),
    (b"<svg", "an SVG drawing", _CONVERT),
    (b"#define ", "an XBM image", _CONVERT),
)


def photo(head: bytes) -> str | None:
    """The format of a photo that is read; None: it is none of them.

    >>> photo(b"GIF89a"), photo(b"8BPS")
    ('GIF', None)
    """
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "WebP"
    for magic, name in _PHOTOS.items():
        if head.startswith(magic):
            return name
    brands = _brands(head)
    if not _AVIF.isdisjoint(brands):
        return "AVIF"
    if not _HEIC.isdisjoint(brands):
        return "HEIC"
    return "DIB" if _is_dib(head) else None


def other(head: bytes) -> str | None:
    """What else it is and what helps, as words; None: nothing that is known.

    >>> other(b"8BPS")
    'a Photoshop file, which is not read; convert it to PNG, JPEG or TIFF'
    """
    found = _other(head)
    return None if found is None else f"{found[0]}, which is not read; {found[1]}"


def _other(head: bytes) -> tuple[str, str] | None:
    if _is_tga(head):  # may begin as a cursor does
        return "a TGA image", _CONVERT
    for offset, magic, name, remedy in _OTHERS:
        if head.startswith(magic, offset):
            return name, remedy
    brands = _brands(head)
    if b"crx " in brands:
        return "a raw photo", _CONVERT
    if brands or head[4:8] in (b"moov", b"mdat") or head[8:12] == b"AVI ":
        return "a video", _VIDEO
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    for start, name, remedy in _TEXTS:
        if text.startswith(start):
            return name, remedy
    if text.startswith(b"<?xml") and b"<svg" in text:
        return "an SVG drawing", _CONVERT
    if head[:1] == b"P" and head[1:2] in b"1234567fFy" and head[2:3].isspace():
        return "a Netpbm image", _CONVERT
    if _is_palm(head):
        return "a Palm image", _CONVERT
    return ("a SPIDER image", _CONVERT) if _is_spider(head) else None


def _brands(head: bytes) -> tuple[bytes, ...]:
    """Of an ISO base media file: the major brand, and those that it is compatible with."""
    if head[4:8] != b"ftyp":
        return ()
    end = min(int.from_bytes(head[:4], "big"), len(head))
    return (head[8:12], *(head[i : i + 4] for i in range(16, end - 3, 4)))


def _is_dib(head: bytes) -> bool:
    """A bitmap without a file header: one plane, and bits that there are."""
    if len(head) < 16 or int.from_bytes(head[:4], "little") not in _DIB_HEADERS:
        return False
    planes, bits = struct.unpack_from("<HH", head, 8 if head[0] == 12 else 12)
    return planes == 1 and bits in (1, 2, 4, 8, 16, 24, 32)


def _is_tga(head: bytes) -> bool:
    if len(head) < 18:
        return False
    _, palette, kind, first, count, _, _, _, width, height, depth, flags = struct.unpack_from(
        "<BBBHHBHHHHBB", head
    )
    colours = (palette, count > 0) == (1, True) if kind in (1, 9) else palette or not first | count
    return bool(
        palette in (0, 1)
        and kind in (1, 2, 3, 9, 10, 11)
        and colours
        and depth in (1, 8, 15, 16, 24, 32)
        and width > 0
        and height > 0
        and flags & 0xC0 == 0
    )


def _is_palm(head: bytes) -> bool:
    if len(head) < 16:
        return False
    width, height, row, _, bits, version = struct.unpack_from(">HHHHBB", head)
    words = (width * bits + 15) // 16 * 2
    return width > 0 and height > 0 and bits in (1, 2, 4, 8, 16) and row == words and version < 3


def _is_spider(head: bytes) -> bool:
    """Its header is of floats that are whole numbers and fit each other."""
    if len(head) < 92:
        return False
    for order in "<>":
        values = struct.unpack_from(f"{order}23f", head)
        kind, records, size, length = values[4], values[12], values[21], values[22]
        if kind in (1, 3, -11, -12, -21, -22) and 0 < records * length == size:
            return True
    return False
