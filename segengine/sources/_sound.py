"""Whether the pixels of a photo or a label image are as they were written, where its decoder does not say.

Pillow, libtiff, libwebp, libheif and OpenCV fill up what damage left out, or take what it yields, without
a word. What cannot be told stays untold: a byte of pixels that are not packed, one of coded data that
yields other pixels and is followed by all that is due, and a hole in a WebP, of which libwebp itself
writes long runs of zeros where a picture is flat.
"""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np

from segengine.errors import CorruptInputError
from segengine.sources import _heif, _jpeg, _packed, _png, _runs
from segengine.sources._damage import forbidden

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile


def require_sound(name: str, data: bytes, image: ImageFile) -> None:
    """Raise CorruptInputError where they are not, else as Pillow does: it decodes the image.

    `name`: of the format; `image`: of `data`, by Pillow, at the page that is wanted.
    """
    _CHECKS.get(name, _nothing)(data, image)


def _nothing(data: bytes, image: ImageFile) -> None:
    pass


def _of_jpeg(data: bytes, image: ImageFile) -> None:
    image.load()  # which knows best what is cut off
    _jpeg.require_sound(data)


def _of_png(data: bytes, image: ImageFile) -> None:
    _png.require_pixels(data)
    _png.require_filled(data, image)


def _of_tiff(data: bytes, image: ImageFile) -> None:
    if image.info.get("compression") == "raw":
        return
    # Its bits are not as they lie in the file, where there is one a pixel.
    stored = None if image.mode == "1" else lambda: np.asarray(image)
    _packed.require_sound(BytesIO(data), image.tell(), stored)


def _of_avif(data: bytes, image: ImageFile) -> None:
    """The arithmetic coder of AV1 takes any bytes, and writes no long run of zeros."""
    place = 0
    while place + 8 <= len(data):
        size, kind = int.from_bytes(data[place : place + 4], "big"), data[place + 4 : place + 8]
        if size == 1:
            size = int.from_bytes(data[place + 8 : place + 16], "big")
        end = len(data) if size == 0 else place + size
        if kind == b"mdat" and data.find(_HOLE, place, end) >= 0:
            raise CorruptInputError("damaged AVIF: a run of zeros that no encoder writes")
        place = max(end, place + 8)


def _of_heic(data: bytes, image: ImageFile) -> None:
    """Some bytes are in no unit of HEVC, and the units of a picture fill what is set aside for it."""
    image.load()  # which knows best what is cut off
    for units in _heif.pictures(data):
        if units is None or any(forbidden(unit, start_codes=False) for unit in units):
            raise CorruptInputError("damaged HEIC: bytes that no encoder writes")


def _of_gif(data: bytes, image: ImageFile) -> None:
    """Pillow stops with the last pixel, whatever codes are left over."""
    tile = image.tile[0] if image.tile else None
    if tile is None or tile.extents is None:
        return
    (left, top, right, bottom), place = tile.extents, tile.offset
    image.load()
    blocks, at = [], place
    while at < len(data) and data[at]:
        blocks.append(data[at + 1 : at + 1 + data[at]])
        at += 1 + data[at]
    if not _runs.gif_fits(b"".join(blocks), data[place - 1], (right - left) * (bottom - top)):
        raise CorruptInputError("damaged GIF: the codes stand for more or less than its pixels")


_HOLE = bytes(256)
_CHECKS: dict[str, Callable[[bytes, ImageFile], None]] = {
    "JPEG": _of_jpeg,
    "PNG": _of_png,
    "TIFF": _of_tiff,
    "AVIF": _of_avif,
    "HEIC": _of_heic,
    "GIF": _of_gif,
}
