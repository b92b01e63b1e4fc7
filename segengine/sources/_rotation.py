"""Which way up a photo is to be shown, from wherever it says so: EXIF, else XMP, as Pillow reads it.

A PNG may say it behind its pixels:

    signature  IHDR ... IDAT IDAT IDAT IDAT  eXIf | tEXt | zTXt | iTXt  IEND
                        |                |<- here the walk begins
                        first, as long as all but the last

Stepping over every chunk would fetch the whole of a remote file. Writers cut the pixels into chunks
of one length, so that a place near the end is known; where it is none, every chunk is stepped over.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from io import BytesIO
from typing import Any, BinaryIO

_ORIENTATION = 0x0112
_SAYING = ("exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp")
_LATE = frozenset((b"eXIf", b"tEXt", b"zTXt", b"iTXt"))
_TRIES = 16
"""Places near the end that are looked at."""
_MOST_CHUNKS = 2**16
_LONGEST = 2**24
"""Bytes of a chunk of metadata that is read."""


def orientation(info: Mapping[Any, Any]) -> int:
    """1 to 8, from a Pillow image's `info`.

    What cannot be read or is out of range counts as upright, as viewers do.
    """
    said: dict[Any, Any] = {key: info[key] for key in _SAYING if info.get(key)}
    if not said:
        return 1
    from PIL.Image import Image

    bare = Image()
    bare.info = said
    try:
        value = bare.getexif().get(_ORIENTATION, 1)
    except Exception:  # noqa: BLE001 - damaged metadata does not make the pixels unreadable
        return 1
    return value if value in range(1, 9) else 1


def behind_pixels(file: BinaryIO, first: int) -> dict[Any, Any]:
    """What Pillow's `info` of a PNG would have from the chunks behind its pixels.

    `first`: where the first chunk of pixels begins.
    """
    chunks = _late_chunks(file, first)
    if not chunks:
        return {}
    from PIL.PngImagePlugin import PngImageFile

    file.seek(0)
    whole = [file.read(33), *(_chunk(kind, body) for kind, body in chunks), _chunk(b"IDAT", b"")]
    try:
        return dict(PngImageFile(BytesIO(b"".join(whole))).info)
    except Exception:  # noqa: BLE001 - as above
        return {}


def _late_chunks(file: BinaryIO, first: int) -> list[tuple[bytes, bytes]]:
    """Type and content of the chunks of metadata behind the pixels."""
    at = _near_end(file, first)
    found: list[tuple[bytes, bytes]] = []
    for _ in range(_MOST_CHUNKS):
        file.seek(at)
        head = file.read(8)
        size, kind = int.from_bytes(head[:4], "big"), head[4:]
        if len(head) < 8 or kind == b"IEND":
            break
        if kind in _LATE and size <= _LONGEST:
            found.append((kind, file.read(size)))
        at += 12 + size
    return found


def _near_end(file: BinaryIO, first: int) -> int:
    """Where one of the last chunks of pixels begins."""
    end = file.seek(0, 2)
    file.seek(first)
    step = 12 + int.from_bytes(file.read(4), "big")
    last = (end - 12 - first) // step
    for place in range(last, max(0, last - _TRIES), -1):
        at = first + place * step
        file.seek(at + 4)
        if file.read(4) == b"IDAT":
            return at
    return first


def _chunk(kind: bytes, body: bytes) -> bytes:
    check = zlib.crc32(kind + body).to_bytes(4, "big")
    return len(body).to_bytes(4, "big") + kind + body + check
