"""Photos: JPEG, PNG, TIFF, BMP, WebP, GIF, AVIF and HEIC, as gray or RGB."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import groupby
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from segengine.errors import CorruptInputError, TransientInputError
from segengine.sources import _packed, _png, _rotation, _signatures, _tiff, _turbo, _webp
from segengine.sources._color import Color, bands_of, recolor, require_color
from segengine.sources._files import (
    changed,
    is_url,
    one_line,
    open_input,
    read_bytes,
    unreadable,
)
from segengine.sources._pillow import known, plugin, require_credible, require_sized
from segengine.sources._sound import require_sound
from segengine.types import Bool, Entry, FrameRef, Probe, Source, Tile, Unreadable

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile

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
    TIFF is float32; AVIF and HEIC of more bits come as 8. Colour profiles are not applied. Of an
    animation the first frame is read, of an MPO the first photo. HEIC needs pillow-heif. The pages
    of a TIFF are frames of one scene and must be alike; thumbnails are left out. What is no pixel of
    a TIFF (its nodata tag, its mask, a local `.msk` or `.aux.xml` beside it, strips that were never
    written) is what the raster source says, which also decodes what Pillow does not.
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
        if positions is not None:
            _tiff.require_own_masks(entry.uri)
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
    head = file.read(_signatures.HEAD)
    name = known(head)
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
    require_sized(name, header.height, header.width)
    require_credible(name, header.height, header.width, head, file.seek(0, 2))
    return header, image


_SHORT = (struct.error, IndexError, EOFError)


def _pillow_header(name: str, head: bytes, file: BinaryIO) -> tuple[_Header, ImageFile | None]:
    image = plugin(name, file)
    bands, dtype = _layout(name, image.mode)
    info = image.info
    if name == "PNG" and "exif" not in info and image.tile:
        info = info | _rotation.behind_pixels(file, image.tile[0][2] - 8)
    orientation = _rotation.orientation(info)
    width, height = image.size
    deep = name == "PNG" and head[24] == 16 and head[25] in _DEEP_PNG
    if deep:
        bands, dtype = _DEEP_PNG[head[25]], "uint16"
    if orientation > 4:
        height, width = width, height
    return (
        _Header(name, height, width, bands, dtype, orientation=orientation, deep=deep),
        image,
    )


_DEEP_PNG = {2: 3, 4: 1, 6: 3}
"""PNG colour types with several samples a pixel, and their bands without alpha."""


def _webp_header(name: str, head: bytes, file: BinaryIO) -> tuple[_Header, ImageFile | None]:
    height, width, info = _webp.header(file)
    orientation = _rotation.orientation(info)
    if orientation > 4:
        height, width = width, height
    return _Header(name, height, width, 3, "uint8", orientation=orientation), None


def _tiff_header(name: str, head: bytes, file: BinaryIO) -> tuple[_Header, ImageFile | None]:
    pages = _tiff.pages(file)
    page = pages[0]
    odd = next((other for other in pages if other.layout != page.layout), None)
    if odd is not None:
        raise CorruptInputError(
            f"a TIFF whose pages differ (page {page.index} is {_describe(page)}, page {odd.index} "
            f"is {_describe(odd)}); store each in a file of its own"
        )
    require_sized(name, page.height, page.width)
    numbers = tuple(each.index for each in pages)
    if page.bands > _MOST_BANDS or (page.bands == 4 and not page.alpha):
        raise _no_photo(page)
    height, width = _upright(page, page.orientation)
    if _is_gdals(page):
        return _Header(name, height, width, *_gdal_layout(page), pages=numbers), None
    if page.bands > 1 and page.bits > 8:
        if page.photometric in _COLOURS:
            raise CorruptInputError(
                f"a TIFF of {page.bits}-bit {_COLOURS[page.photometric]} colours, which is not "
                "read; convert it to RGB"
            )
        dtype = f"{page.kind}{page.bits}"
        if page.bands not in (3, 4) or dtype not in ("uint16", "float32"):
            raise _no_photo(page)
        return _Header(name, height, width, 3, dtype, deep=True, pages=numbers), None
    if page.bits > 32 or (page.bits == 32 and page.kind != "float"):
        raise _no_photo(page)
    try:
        image = plugin(name, file)
    except SyntaxError as error:
        if one_line(error) != "unknown pixel mode":
            raise
        raise _no_photo(page) from error
    bands, dtype = _layout(name, image.mode)
    height, width = _upright(page, _shown(page, image))
    return _Header(name, height, width, bands, dtype, pages=numbers), image


_FOREIGN = frozenset((34887, 34925, 50000, 50001, 50002, 52546))
"""Compressions that Pillow may lack: LERC, LZMA, Zstandard, WebP, JPEG XL."""
_GDALS = frozenset((34887, 50002, 52546))
"""Those that Pillow never decodes: LERC, JPEG XL."""
_GDAL_DTYPES = frozenset(("uint8", "uint16", "float32"))


def _is_gdals(page: _tiff.Page) -> bool:
    """Whether GDAL decodes a page; of what is no photo to it, Pillow may know more."""
    if page.compression not in _FOREIGN or page.compression in _GDALS:
        return page.compression in _GDALS
    try:
        _gdal_layout(page)
    except CorruptInputError:
        return False
    return True


def _gdal_layout(page: _tiff.Page) -> tuple[int, str]:
    """(bands, dtype) of a TIFF that GDAL decodes, where it is a photo to it as to Pillow."""
    alpha = page.alpha and page.bands in (2, 4)
    bands, dtype = page.bands - alpha, f"{page.kind}{page.bits}"
    if page.photometric not in (1, 2, 6) or bands not in (1, 3) or dtype not in _GDAL_DTYPES:
        raise _no_photo(page)
    return bands, dtype


def _upright(page: _tiff.Page, orientation: int) -> tuple[int, int]:
    """(height, width) as shown."""
    size = page.height, page.width
    return size if orientation <= 4 else size[::-1]


_MOST_BANDS = 6
"""Of a photo, alpha and what else a writer adds among them."""
_COLOURS = {
    5: "CMYK",
    6: "YCbCr",
    8: "CIE L*a*b*",
    9: "ICC L*a*b*",
    10: "ITU L*a*b*",
    32845: "LogLuv",
}
"""TIFF's photometric interpretations that are no RGB."""


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
        decodes = sparse or _is_gdals(page)
        if decodes or page.nodata or page.mask is not None or _is_described(uri):
            told = _by_gdal(uri, page, header.pages.index(position), _shown(page, image))
        if decodes and told is not None:
            _gdal_layout(page)
            return told.pixels, told.valid
    try:
        if header.deep:
            pixels, valid = _deep(data, header, image, position)
        else:
            if image is None:
                image = plugin(header.format, file)
            if position:
                image.seek(position)
            quick = _turbo.decoded(data, image) if header.format == "JPEG" else None
            if quick is None:
                require_sound(header.format, data, image)
            pixels, valid = _shallow(image, data) if quick is None else (quick, None)
    except (CorruptInputError, MemoryError):
        raise
    except Exception as error:
        # Decoders of damaged data raise a zoo: OSError, SyntaxError, zlib.error, cv2.error, ...
        text = one_line(error)
        kind = "truncated" if "truncated" in text else "damaged"
        raise CorruptInputError(f"{kind} {header.format}: {text}") from error
    turn = _TURNS[header.orientation]
    pixels = turn(pixels)
    if pixels.shape[:2] != (header.height, header.width):
        raise CorruptInputError(
            f"damaged {header.format}: decodes to {pixels.shape[1]} x {pixels.shape[0]} pixels, its "
            f"header says {header.width} x {header.height}"
        )
    if valid is not None:
        valid = None if valid.all() else turn(valid)
    if told is not None and told.valid is not None:
        valid = told.valid if valid is None else valid & told.valid
    return pixels, valid


def _is_described(uri: str) -> bool:
    """Whether a mask or metadata lies beside a local TIFF; behind a URL the listing has looked."""
    return not is_url(uri) and any(os.path.exists(uri + s) for s in (".msk", ".MSK", ".aux.xml"))


def _shown(page: _tiff.Page, image: ImageFile | None) -> int:
    """The orientation by which a page of a TIFF is turned: of its tag, else what Pillow takes."""
    if image is None or "xmp" not in image.info or 274 in image.tag_v2:  # type: ignore[attr-defined]
        return page.orientation
    return _rotation.orientation(image.info)


def _by_gdal(uri: str, page: _tiff.Page, place: int, orientation: int) -> Tile:
    """A page of a TIFF, upright, as the raster source reads it; `place`: among its full pages."""
    from segengine.sources.raster import RasterSource

    ref = FrameRef(
        index=0,
        name="",
        uri=uri,
        fingerprint="",
        height=page.height,
        width=page.width,
        position=place,
    )
    (tile,) = RasterSource().read([ref], slice(0, page.height), slice(0, page.width))
    if isinstance(tile, Unreadable):
        kind = CorruptInputError if tile.kind == "corrupt" else TransientInputError
        raise kind(tile.reason)
    turn = _TURNS.get(orientation, _TURNS[1])
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

    if header.format == "PNG":
        raw: NDArray[Any] | None = _png.decoded(data)
    else:
        buffer = np.frombuffer(data, np.uint8)
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
    if header.format == "TIFF":
        raw = cv2.cvtColor(raw, cv2.COLOR_BGR2RGB if raw.shape[2] == 3 else cv2.COLOR_BGRA2RGBA)
        stored = raw
        _packed.require_sound(BytesIO(data), position, lambda: stored)
        return raw[..., :3], raw[..., 3] > 0 if raw.shape[2] == 4 else None
    pixels = raw[..., 2::-1] if header.bands == 3 else raw[..., :1]
    key = None if image is None else image.info.get("transparency")
    if isinstance(key, tuple):
        return pixels, (pixels != np.array(key)).any(axis=-1)
    return pixels, raw[..., 3] > 0 if raw.shape[2] == 4 else None
