"""Whether all of a PNG is there: of a damaged one OpenCV returns a part, and libpng writes to stderr."""

from __future__ import annotations

import zlib

from segengine.errors import CorruptInputError


def require_whole(data: bytes) -> None:
    """Raise CorruptInputError unless every chunk is there with its checksum, up to the end chunk.

    Source: PNG specification, 5.3.
    """
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
