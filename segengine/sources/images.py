"""Photos: JPEG, PNG, TIFF, BMP, WebP and GIF, as gray or RGB."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import groupby
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from segengine.errors import CorruptInputError, TransientInputError
from segengine.sources import _tiff, _webp
from segengine.sources._color import Color, bands_of, recolor, require_color
from segengine.sources._files import (
    changed,
    is_url,
    one_line,
    open_input,
    read_bytes,
    require_unpacked,
    unreadable,
)
from segengine.types import Bool, Entry, FrameRef, Probe, Source, Tile, Unreadable

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile

LARGEST = 2**30
"""Pixels of the largest frame that is decoded whole."""
_ORIENTATION = 0x0112
_DTYPES = {"I": "int32", "F": "float32"} | dict.fromkeys(
    ("I;16", "I;16B", "I;16L", "I;16N"), "uint16"
)
_GRAY = frozenset({"1", "L", "LA", "La", *_DTYPES})
_COLOUR = frozenset({"RGB", "RGBA", "RGBa", "RGBX", "P", "PA", "CMYK", "YCbCr"})
_TURNS: dict[int, Callable[[NDArray[Any]], NDArray[Any]]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a.swapaxes(0, 1)[:, ::-1],
    7: lambda a: a.swapaxes(0, 1)[::-1, ::-1],
    8: lambda a: a.swapaxes(0, 1)[::-1],
}
"""EXIF orientation to what shows the picture upright."""


@dataclass(frozen=True, slots=True)
class ImageSource:
    """Decodes photos whole; a window is cut from the decoded frame.

    Palette, CMYK and YCbCr become RGB, EXIF rotation is applied, alpha is dropped and alpha 0 (or
    the transparent colour) is nodata; 1 bit becomes 0 and 255; 8 and 16 bit stay as they are, float
    TIFF is float32. Colour profiles are not applied. Of an animation the first frame is read. The
    pages of a TIFF are frames of one scene and must be alike; thumbnails are left out. What is no
    pixel of a TIFF (its nodata tag, its mask, a local `.msk` or `.aux.xml` beside it, strips that
    were never written) is what the raster source says, which also decodes what Pillow does not.
    """

    color: Color | None = None
    """Force gray or rgb; None: as stored. Gray is `_color.gray`, in the dtype of the input."""

    def __post_init__(self) -> None:
        require_color(self.color)

    def probe(self, entry: Entry) -> Probe:
        """What the header says; raises CorruptInputError or TransientInputError."""
        with open_input(entry.uri) as file:
            header, _ = _read_header(file)
        positions = np.array(header.pages, np.int64) if len(header.pages) > 1 else None
        return Probe(
            kind="images",
            height=header.height,
            width=header.width,
            bands=bands_of(header.bands, self.color),
            dtype=header.dtype,
            stacked=positions is None,
            positions=positions,
        )

    def read(
        self, frames: Sequence[FrameRef], rows: slice, cols: slice
    ) -> Iterator[Tile | Unreadable]:
        """One item a frame; pages of one file that follow each other share one read of it."""
        for uri, refs in groupby(frames, key=lambda ref: ref.uri):
            try:
                data: bytes | Unreadable = read_bytes(uri)
            except (CorruptInputError, TransientInputError) as error:
                data = unreadable(error)
            for ref in refs:
                yield data if isinstance(data, Unreadable) else self._tile(data, ref, rows, cols)

    def _tile(self, data: bytes, ref: FrameRef, rows: slice, cols: slice) -> Tile | Unreadable:
        try:
            pixels, valid = _decode(data, ref.position, ref.uri)
        except (CorruptInputError, TransientInputError) as error:
            return unreadable(error)
        except MemoryError:
            return Unreadable("error", "not enough memory to decode it")
        difference = changed(ref, *pixels.shape[:2])
        if difference is not None:
            return difference
        window = np.ascontiguousarray(recolor(pixels[rows, cols], self.color))
        return Tile(window, None if valid is None else np.ascontiguousarray(valid[rows, cols]))


_: type[Source] = ImageSource


@dataclass(frozen=True, slots=True)
class _Header:
    format: str
    height: int
    width: int
    """Upright, as are the pixels that `_decode` returns."""
    bands: int
    dtype: str
    orientation: int = 1
    """EXIF orientation that is left for us to apply."""
    deep: bool = False
    """More than 8 bits and more than one band: what Pillow would cut down to 8."""
    pages: tuple[int, ...] = (0,)


def _read_header(file: BinaryIO) -> tuple[_Header, ImageFile | None]:
    """The header, and the lazy image (None where Pillow is not the one to decode)."""
    head = file.read(32)
    name = _format(head)
    try:
        header, image = _HEADERS.get(name, _pillow_header)(name, head, file)
    except (CorruptInputError, TransientInputError, MemoryError):
        raise
    except Exception as error:
        # A damaged header makes Pillow raise whatever its parser runs into.
        text = one_line(error)
        if isinstance(error.__cause__ or error, _SHORT) or "Truncated" in text:
            text = "the file ends inside it"
        raise CorruptInputError(f"damaged {name} header: {text}") from error
    if header.height < 1 or header.width < 1:
        raise CorruptInputError(f"damaged {name} header: {header.width} x {header.height} pixels")
    if header.height * header.width > LARGEST:
        raise CorruptInputError(
            f"claims {header.width} x {header.height} pixels, "
            "above 2^30 and not readable in windows"
        )
    return header, image


_SHORT = (struct.error, IndexError, EOFError)


def _format(head: bytes) -> str:
    if not head:
        raise CorruptInputError("empty file")
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "WebP"
    if head.startswith(_tiff.MAGICS):
        return "TIFF"
    for magic, name in _MAGICS.items():
        if head.startswith(magic):
            return name
    require_unpacked(head)
    raise CorruptInputError("not an image: it begins as none of the formats that are read")


_MAGICS = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"GIF87a": "GIF",
    b"GIF89a": "GIF",
    b"BM": "BMP",
}


def _plugin(name: str, file: BinaryIO) -> ImageFile:
    """Pillow's reader of one format.

    Not `Image.open`: its limit on sizes is a global of the process, and it warns below ours.
    """
    from PIL import BmpImagePlugin as Bmp
    from PIL import GifImagePlugin as Gif
    from PIL import JpegImagePlugin as Jpeg
    from PIL import PngImagePlugin as Png
    from PIL import TiffImagePlugin as Tiff
    from PIL import WebPImagePlugin as WebP

    readers: dict[str, Callable[[BinaryIO], ImageFile]] = {
        "JPEG": Jpeg.jpeg_factory,
        "PNG": Png.PngImageFile,
        "TIFF": Tiff.TiffImageFile,
        "WebP": WebP.WebPImageFile,
        "GIF": Gif.GifImageFile,
        "BMP": Bmp.BmpImageFile,
    }
    file.seek(0)
    return readers[name](file)


def _pillow_header(name: str, head: bytes, file: BinaryIO) -> tuple[_Header, ImageFile | None]:
    image = _plugin(name, file)
    bands, dtype = _layout(name, image.mode)
    orientation = _orientation(image.info.get("exif", b""))
    width, height = image.size
    deep = name == "PNG" and head[24] == 16 and head[25] in _DEEP_PNG
    if deep:
        bands, dtype = _DEEP_PNG[head[25]], "uint16"
    if orientation > 4:
        height, width = width, height
    return _Header(name, height, width, bands, dtype, orientation, deep), image


_DEEP_PNG = {2: 3, 4: 1, 6: 3}
"""PNG colour types with several samples a pixel, and their bands without alpha."""


def _webp_header(name: str, head: bytes, file: BinaryIO) -> tuple[_Header, ImageFile | None]:
    height, width, exif = _webp.header(file)
    orientation = _orientation(exif)
    if orientation > 4:
        height, width = width, height
    return _Header(name, height, width, 3, "uint8", orientation), None


def _tiff_header(name: str, head: bytes, file: BinaryIO) -> tuple[_Header, ImageFile | None]:
    pages = _tiff.pages(file)
    page = pages[0]
    odd = next((other for other in pages if other.layout != page.layout), None)
    if odd is not None:
        raise CorruptInputError(
            f"a TIFF whose pages differ (page {page.index} is {_describe(page)}, page {odd.index} "
            f"is {_describe(odd)}); store each in a file of its own"
        )
    height, width = page.height, page.width
    if page.orientation > 4:
        height, width = width, height
    numbers = tuple(each.index for each in pages)
    if page.bands == 4 and not page.alpha:
        raise _no_photo(page)
    if page.compression in _FOREIGN:
        return _Header(name, height, width, *_gdal_layout(page), pages=numbers), None
    if page.bands > 1 and page.bits > 8:
        dtype = f"{page.kind}{page.bits}"
        if page.bands not in (3, 4) or dtype not in ("uint16", "float32"):
            raise _no_photo(page)
        return _Header(name, height, width, 3, dtype, deep=True, pages=numbers), None
    if page.bits > 32 or (page.bits == 32 and page.kind != "float"):
        raise _no_photo(page)
    image = _plugin(name, file)
    bands, dtype = _layout(name, image.mode)
    return _Header(name, height, width, bands, dtype, pages=numbers), image


_FOREIGN = frozenset((34887, 34925, 50000, 50001, 50002, 52546))
"""Compressions that Pillow may lack: LERC, LZMA, Zstandard, WebP, JPEG XL."""
_GDAL_DTYPES = frozenset(("uint8", "uint16", "float32"))


def _gdal_layout(page: _tiff.Page) -> tuple[int, str]:
    """(bands, dtype) of a TIFF that GDAL decodes, where it is a photo to it as to Pillow."""
    alpha = page.alpha and page.bands in (2, 4)
    bands, dtype = page.bands - alpha, f"{page.kind}{page.bits}"
    if page.photometric not in (1, 2, 6) or bands not in (1, 3) or dtype not in _GDAL_DTYPES:
        raise _no_photo(page)
    return bands, dtype


_HEADERS = {"TIFF": _tiff_header, "WebP": _webp_header}


def _no_photo(page: _tiff.Page) -> CorruptInputError:
    return CorruptInputError(
        f"a TIFF of {_describe(page)}, which is no photo; read it with source.kind: raster"
    )


def _describe(page: _tiff.Page) -> str:
    return f"{page.width} x {page.height} pixels, {page.bands} bands of {page.kind}{page.bits}"


def _layout(name: str, mode: str) -> tuple[int, str]:
    """(bands, dtype) of a Pillow mode, without alpha."""
    if mode in _GRAY:
        return 1, _DTYPES.get(mode, "uint8")
    if mode in _COLOUR:
        return 3, "uint8"
    raise CorruptInputError(f"a {name} image in colours that cannot be read as RGB ({mode})")


def _orientation(exif: bytes) -> int:
    """1 to 8; what cannot be read or is out of range counts as upright, as viewers do."""
    from PIL.Image import Exif

    block = Exif()
    try:
        block.load(exif)
        value = block.get(_ORIENTATION, 1)
    except Exception:  # noqa: BLE001 - a damaged EXIF block does not make the pixels unreadable
        return 1
    return value if value in _TURNS else 1


def _decode(data: bytes, position: int, uri: str) -> tuple[NDArray[Any], Bool | None]:
    """(y, x, 1 or 3) and (y, x) valid, upright; raises CorruptInputError or TransientInputError."""
    file = BytesIO(data)
    header, image = _read_header(file)
    if position not in header.pages:
        raise CorruptInputError(f"has no page {position}")
    told: Tile | None = None
    if header.format == "TIFF":
        page = next(page for page in _tiff.pages(file) if page.index == position)
        reason, sparse = _tiff.missing(file, page)
        if reason is not None:
            raise CorruptInputError(reason)
        decodes = sparse or page.compression in _FOREIGN
        if decodes or page.nodata or page.masked or _is_described(uri):
            told = _by_gdal(uri, page, header.pages.index(position))
        if decodes and told is not None:
            _gdal_layout(page)
            return told.pixels, told.valid
    try:
        if header.deep:
            pixels, valid = _deep(data, header, image, position)
        else:
            if image is None:
                image = _plugin(header.format, file)
            if position:
                image.seek(position)
            pixels, valid = _shallow(image, data)
    except (CorruptInputError, MemoryError):
        raise
    except Exception as error:
        # Decoders of damaged data raise a zoo: OSError, SyntaxError, zlib.error, cv2.error, ...
        text = one_line(error)
        kind = "truncated" if "truncated" in text else "damaged"
        raise CorruptInputError(f"{kind} {header.format}: {text}") from error
    turn = _TURNS[header.orientation]
    if valid is not None:
        valid = None if valid.all() else turn(valid)
    if told is not None and told.valid is not None:
        valid = told.valid if valid is None else valid & told.valid
    return turn(pixels), valid


def _is_described(uri: str) -> bool:
    """Whether a mask or metadata lies beside a local TIFF; behind a URL the listing has looked."""
    return not is_url(uri) and any(os.path.exists(uri + s) for s in (".msk", ".MSK", ".aux.xml"))


def _by_gdal(uri: str, page: _tiff.Page, place: int) -> Tile:
    """A page of a TIFF, upright, as the raster source reads it; `place`: among its full pages."""
    from segengine.sources.raster import RasterSource

    ref = FrameRef(0, "", uri, "", page.height, page.width, place)
    (tile,) = RasterSource().read([ref], slice(0, page.height), slice(0, page.width))
    if isinstance(tile, Unreadable):
        kind = CorruptInputError if tile.kind == "corrupt" else TransientInputError
        raise kind(tile.reason)
    turn = _TURNS.get(page.orientation, _TURNS[1])
    return Tile(turn(tile.pixels), None if tile.valid is None else turn(tile.valid))


def _shallow(image: ImageFile, data: bytes) -> tuple[NDArray[Any], Bool | None]:
    """Pixels by Pillow."""
    key = image.info.get("transparency")
    mode = image.mode
    if mode in ("P", "PA") or (mode == "RGB" and isinstance(key, bytes)):
        mode = "RGBA" if key is not None or mode == "PA" else "RGB"
    else:
        mode = {"1": "L", "La": "LA", "RGBa": "RGBA"}.get(mode, mode)
        mode = mode if mode in ("L", "LA", "RGB", "RGBA", *_DTYPES) else "RGB"
    bits = data[24] if image.format == "PNG" else 8
    raw = np.asarray(image if mode == image.mode else image.convert(mode))
    raw = raw.astype(raw.dtype.newbyteorder("="), copy=False)
    raw = raw[..., None] if raw.ndim == 2 else raw
    if mode in ("LA", "RGBA"):
        return raw[..., :-1], raw[..., -1] > 0
    if isinstance(key, int | tuple) and mode in ("L", "RGB", "I;16"):
        scale = 255 // (2**bits - 1) if bits < 8 else 1  # Pillow stretches 1, 2 and 4 bits to 8
        return raw, (raw != np.array(key) * scale).any(axis=-1)
    return raw, None


def _deep(
    data: bytes, header: _Header, image: ImageFile | None, position: int
) -> tuple[NDArray[Any], Bool | None]:
    """Pixels of more than 8 bits and several bands, by OpenCV; it turns TIFFs upright itself."""
    import cv2

    buffer = np.frombuffer(data, np.uint8)
    if header.format == "PNG":
        # OpenCV returns what it has of a damaged PNG, and libpng writes to stderr.
        _require_whole_png(data)
        raw = cv2.imdecode(buffer, cv2.IMREAD_UNCHANGED)
    else:
        level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
        try:  # it would comment on odd tags on stderr
            found, layers = cv2.imdecodemulti(
                buffer, cv2.IMREAD_UNCHANGED, range=(position, position + 1)
            )
        finally:
            cv2.utils.logging.setLogLevel(level)
        raw = layers[0] if found else None
    if raw is None or raw.dtype != header.dtype or raw.ndim != 3 or raw.shape[2] not in (3, 4):
        raise CorruptInputError(f"damaged {header.format}: cannot be decoded")
    pixels = raw[..., 2::-1] if header.bands == 3 else raw[..., :1]
    key = None if image is None else image.info.get("transparency")
    if isinstance(key, tuple):
        return pixels, (pixels != np.array(key)).any(axis=-1)
    return pixels, raw[..., 3] > 0 if raw.shape[2] == 4 else None


def _require_whole_png(data: bytes) -> None:
    """Every chunk there with its checksum, up to the end chunk (PNG specification, 5.3)."""
    offset = 8
    while offset + 12 <= len(data):
        size = int.from_bytes(data[offset : offset + 4], "big")
        body = memoryview(data)[offset + 4 : offset + 8 + size]
        check = data[offset + 8 + size : offset + 12 + size]
        if len(check) < 4:
            break
        if zlib.crc32(body) != int.from_bytes(check, "big"):
            raise CorruptInputError(f"damaged PNG: wrong checksum at byte {offset}")
        if data[offset + 4 : offset + 8] == b"IEND":
            return
        offset += 12 + size
    raise CorruptInputError(f"truncated PNG: ends after {len(data)} bytes, before its end chunk")
