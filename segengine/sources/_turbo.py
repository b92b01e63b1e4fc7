"""JPEG photos straight from libjpeg-turbo into the array, which Pillow copies twice.

Pillow decides what a file is, and what is wrong with it: of whatever libjpeg-turbo so much as warns of
nothing is said here. The pixels are the same where Pillow has that library as well: what decodes to
whole numbers in it has been fixed since its version 2.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile

_COLOURS = {"L": "GRAY", "RGB": "RGB"}


def decoded(data: bytes, image: ImageFile) -> NDArray[Any] | None:
    """(y, x, 1 or 3) uint8 of an image that Pillow has opened, not turned; None: it is for Pillow."""
    colours = _COLOURS.get(image.mode)
    if colours is None or not _is_pillows():
        return None
    import simplejpeg

    try:
        pixels = simplejpeg.decode_jpeg(data, colours, strict=True)
    except ValueError:  # a warning is enough
        return None
    return pixels if pixels.shape[1::-1] == image.size else None


@cache
def _is_pillows() -> bool:
    from PIL import features

    return bool(features.check_feature("libjpeg_turbo"))
