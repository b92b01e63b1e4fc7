"""Which way up a photo is to be shown, from wherever it says so: EXIF, else XMP, as Pillow reads it.

A PNG may say it behind its pixels:

    signature  IHDR  IDAT IDAT ... IDAT  eXIf | tEXt | zTXt | iTXt  IEND
                                         |<------ tail of 128 KiB ------>|

Stepping over all chunks would fetch the whole of a remote file; so the tail alone is searched, for
chunks that lead to the end without one of pixels.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from io import BytesIO
from typing import Any, BinaryIO

_ORIENTATION = 0x0112
_SAYING = ("exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp")
_TAIL = 2**17
_LATE = (b"eXIf", b"tEXt", b"zTXt", b"iTXt")


def orientation(info: Mapping[Any, Any]) -> int:
    """1 to 8, from a Pillow image's `info`.

    What cannot be read or is out of range counts as upright, as viewers do.
    """
    from PIL.Image import Image

    said: dict[Any, Any] = {key: info[key] for key in _SAYING if info.get(key)}
    if not said:
        return 1
    bare = Image()
    bare.info = said
    try:
        value = bare.getexif().get(_ORIENTATION, 1)
    except Exception:  # noqa: BLE001 - damaged metadata does not make the pixels unreadable
        return 1
    return value if value in range(1, 9) else 1


def behind_pixels(file: BinaryIO) -> dict[Any, Any]:
    """What Pillow's `info` of a PNG would have from the chunks behind its pixels."""
    from PIL.PngImagePlugin import PngImageFile

    size = file.seek(0, 2)
    file.seek(max(0, size - _TAIL))
    tail = file.read(_TAIL)
    if not any(kind in tail for kind in _LATE):
        return {}
    chunks = _late_chunks(tail)
    if not chunks:
        return {}
    file.seek(0)
    whole = [file.read(33), *(_chunk(kind, body) for kind, body in chunks), _chunk(b"IDAT", b"")]
    try:
        return dict(PngImageFile(BytesIO(b"".join(whole))).info)
    except Exception:  # noqa: BLE001 - as above
        return {}


def _late_chunks(tail: bytes) -> list[tuple[bytes, bytes]]:
    """Type and content of the chunks behind the last one of pixels."""
    dead = set[int]()
    for start in sorted(_candidates(tail)):
        found: list[tuple[bytes, bytes]] = []
        at = start
        while at not in dead and at + 12 <= len(tail):
            size, kind = int.from_bytes(tail[at : at + 4], "big"), tail[at + 4 : at + 8]
            dead.add(at)
            if kind == b"IEND" and not size:
                return found
            if kind in (b"IDAT", b"fdAT") or not kind.isalpha():
                break
            found.append((kind, tail[at + 8 : at + 8 + size]))
            at += 12 + size
    return []


def _candidates(tail: bytes) -> Iterator[int]:
    for kind in _LATE:
        at = tail.find(kind, 4)
        while at >= 0:
            yield at - 4
            at = tail.find(kind, at + 4)


def _chunk(kind: bytes, body: bytes) -> bytes:
    check = zlib.crc32(kind + body).to_bytes(4, "big")
    return len(body).to_bytes(4, "big") + kind + body + check
