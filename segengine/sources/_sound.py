"""Whether the pixels of a photo or a label image are as they were written, where its decoder does not say.

Pillow, libtiff and OpenCV fill up what damage left out, or take what it yields, without a word. What
cannot be told stays untold: a byte of pixels that are not packed, or one of a JPEG's coded data that
yields other pixels and is followed by all that is due.
"""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np

from segengine.errors import CorruptInputError
from segengine.sources import _jpeg, _packed, _png

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


_HOLE = bytes(256)
_CHECKS: dict[str, Callable[[bytes, ImageFile], None]] = {
    "JPEG": _of_jpeg,
    "PNG": _of_png,
    "TIFF": _of_tiff,
    "AVIF": _of_avif,
}
