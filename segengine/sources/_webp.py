"""Size and rotation from a WebP header; Pillow's reader loads the whole file for them.

Source: RFC 9649.
"""

from __future__ import annotations

from typing import BinaryIO

_MOST_CHUNKS = 2**16
"""That are stepped over; an animation has one for each frame."""
_SAYING = {b"EXIF": ("exif", 0x08), b"XMP ": ("xmp", 0x04)}
"""Chunks of metadata: Pillow's name, and the flag that announces them."""


def header(file: BinaryIO) -> tuple[int, int, dict[str, bytes]]:
    """(height, width, metadata) of the canvas. Raises ValueError for a damaged header."""
    file.seek(12)
    chunk = file.read(8)
    body = file.read(10)
    if len(chunk) + len(body) < 18:
        raise ValueError("the file ends inside its header")
    match chunk[:4]:
        case b"VP8X":
            width, height = (1 + int.from_bytes(body[i : i + 3], "little") for i in (4, 7))
            return height, width, _metadata(file, body[0])
        case b"VP8L":
            bits = int.from_bytes(body[1:5], "little")
            return 1 + (bits >> 14 & 0x3FFF), 1 + (bits & 0x3FFF), {}
        case b"VP8 ":
            if body[3:6] != b"\x9d\x01\x2a":
                raise ValueError("no key frame")
            width, height = (int.from_bytes(body[i : i + 2], "little") & 0x3FFF for i in (6, 8))
            return height, width, {}
    raise ValueError("unknown first chunk")


def _metadata(file: BinaryIO, flags: int) -> dict[str, bytes]:
    """The first chunk of each kind; they stand after the pixels, whose chunks are stepped over."""
    wanted = {kind: name for kind, (name, flag) in _SAYING.items() if flags & flag}
    found: dict[str, bytes] = {}
    offset = 12
    for _ in range(_MOST_CHUNKS):
        file.seek(offset)
        chunk = file.read(8)
        if len(found) == len(wanted) or len(chunk) < 8:
            break
        size = int.from_bytes(chunk[4:], "little")
        name = wanted.get(chunk[:4])
        if name is not None and name not in found:
            found[name] = file.read(size)
        offset += 8 + size + size % 2
    return found
