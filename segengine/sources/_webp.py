"""Size and rotation from a WebP header; Pillow's reader loads the whole file for them.

Source: RFC 9649.
"""

from __future__ import annotations

from typing import BinaryIO


def header(file: BinaryIO) -> tuple[int, int, bytes]:
    """(height, width, EXIF block or b"") of the canvas. Raises ValueError for a damaged header."""
    file.seek(12)
    chunk = file.read(8)
    body = file.read(10)
    if len(chunk) + len(body) < 18:
        raise ValueError("the file ends inside its header")
    match chunk[:4]:
        case b"VP8X":
            width, height = (1 + int.from_bytes(body[i : i + 3], "little") for i in (4, 7))
            return height, width, _exif(file, body[0])
        case b"VP8L":
            bits = int.from_bytes(body[1:5], "little")
            return 1 + (bits >> 14 & 0x3FFF), 1 + (bits & 0x3FFF), b""
        case b"VP8 ":
            if body[3:6] != b"\x9d\x01\x2a":
                raise ValueError("no key frame")
            width, height = (int.from_bytes(body[i : i + 2], "little") & 0x3FFF for i in (6, 8))
            return height, width, b""
    raise ValueError("unknown first chunk")


def _exif(file: BinaryIO, flags: int) -> bytes:
    if not flags & 0x08:
        return b""
    offset = 12
    while True:  # the block stands after the pixels; step over the chunks
        file.seek(offset)
        chunk = file.read(8)
        if len(chunk) < 8:
            return b""
        size = int.from_bytes(chunk[4:], "little")
        if chunk[:4] == b"EXIF":
            return file.read(size)
        offset += 8 + size + size % 2
