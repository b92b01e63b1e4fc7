"""Pillow's readers of the formats that are read, and what of them is believed before memory is taken.

Photos and label images are opened here alone, by an allow list. Not by `Image.open`: it tries whatever
Pillow knows, and its limit on sizes is a global of the process, and warns below ours.
"""

from __future__ import annotations

from importlib import import_module
from io import BytesIO
from types import ModuleType
from typing import TYPE_CHECKING, BinaryIO

from segengine.errors import CorruptInputError, TransientInputError
from segengine.sources import _signatures
from segengine.sources._files import require_unpacked

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile

LARGEST = 2**30
"""Pixels of the largest frame that is decoded whole."""
_CREDIBLE = 2.0**16
"""Pixels a byte of the file that are believed of a large frame: blank ones compress without end."""
_SMALL = 2**26
"""Pixels of a frame that is tried whatever it claims."""


def opened(data: bytes) -> tuple[str, ImageFile]:
    """Format and lazy image of a file that is decoded whole, if its header can be believed.

    Raises CorruptInputError for another format and for a size beyond what is read or what the bytes
    can hold, TransientInputError where a format's package is not installed, and of a damaged header
    whatever Pillow does.
    """
    head = data[: _signatures.HEAD]
    name = known(head)
    image = plugin(name, BytesIO(data))
    width, height = image.size
    require_sized(name, height, width)
    require_credible(name, height, width, head, len(data))
    return name, image


def known(head: bytes) -> str:
    """The format of a photo by its first bytes. Raises CorruptInputError: what else it is."""
    if not head:
        raise CorruptInputError("empty file")
    name = _signatures.photo(head)
    if name is not None:
        return name
    require_unpacked(head)
    other = _signatures.other(head)
    raise CorruptInputError(
        "not an image: it begins as none of the formats that are known" if other is None else other
    )


def plugin(name: str, file: BinaryIO) -> ImageFile:
    """Pillow's reader of one format."""
    file.seek(0)
    reader: ImageFile = getattr(_module(name), _READERS[name][1])(file)
    return reader


_READERS = {
    "JPEG": ("PIL.JpegImagePlugin", "JpegImageFile"),
    "PNG": ("PIL.PngImagePlugin", "PngImageFile"),
    "TIFF": ("PIL.TiffImagePlugin", "TiffImageFile"),
    "WebP": ("PIL.WebPImagePlugin", "WebPImageFile"),
    "GIF": ("PIL.GifImagePlugin", "GifImageFile"),
    "BMP": ("PIL.BmpImagePlugin", "BmpImageFile"),
    "DIB": ("PIL.BmpImagePlugin", "DibImageFile"),
    "AVIF": ("PIL.AvifImagePlugin", "AvifImageFile"),
    "HEIC": ("pillow_heif.as_plugin", "HeifImageFile"),
}


def _module(name: str) -> ModuleType:
    try:
        return import_module(_READERS[name][0])
    except ImportError as error:
        # Not corrupt, which would be final: once it is installed the next run reads the file.
        raise TransientInputError(
            f"a {name} image, which needs {_PACKAGES.get(name, 'Pillow')}; "
            "`pip install segengine[heif]` brings it, or convert it to JPEG or PNG"
        ) from error


_PACKAGES = {"HEIC": "pillow-heif"}


def require_sized(name: str, height: int, width: int) -> None:
    """Raise CorruptInputError for no pixels, or more than are decoded whole."""
    if height < 1 or width < 1:
        raise CorruptInputError(f"damaged {name} header: {width} x {height} pixels")
    if height * width > LARGEST:
        raise CorruptInputError(
            f"claims {width} x {height} pixels, above 2^30 and not readable in windows"
        )


def require_credible(name: str, height: int, width: int, head: bytes, size: int) -> None:
    """Raise CorruptInputError where so few bytes cannot hold so many pixels, before they get memory."""
    pixels = height * width
    if pixels <= _SMALL:
        return
    most = _most_held(name, head) * size
    if pixels > most:
        raise CorruptInputError(
            f"truncated or damaged {name}: claims {width} x {height} pixels "
            f"in {size:,} bytes, which hold at most {most:,.0f}"
        )


def _most_held(name: str, head: bytes) -> float:
    """Pixels a byte of the file."""
    if name == "PNG":
        return 1032 * 8 / (head[24] * _CHANNELS.get(head[25], 1) or 1)  # deflate's most is 1032:1
    if name in ("BMP", "DIB"):
        start = 14 if name == "BMP" else 0
        size, bits, packing = (
            int.from_bytes(head[start + at : start + at + n], "little")
            for at, n in ((0, 4), (14, 2), (16, 4))
        )
        if size >= 40 and packing in _UNPACKED and bits:
            return 8 / bits
    return _HELD.get(name, _CREDIBLE)


_HELD = {"JPEG": 2.0**13, "GIF": 2.0**13}
"""A block of a JPEG takes a bit; a code of a GIF says 4096 pixels at most."""
_UNPACKED = frozenset((0, 3, 6))
"""Of BMP: whole pixels, perhaps with bit masks."""
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""PNG colour types, and their samples a pixel."""
