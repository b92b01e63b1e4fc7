"""Whether the chunks of a PNG are as they were written (PNG specification, 5.3).

    signature  [size  type  content  checksum of type and content] ...  IEND

Pillow steps over the checksums of pixels, and stops inflating with the last row, before the stream's
own: a damaged byte near the end is another colour to it. OpenCV returns what it has.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from segengine.errors import CorruptInputError

SIGNATURE = b"\x89PNG\r\n\x1a\n"


def require_pixels(data: bytes) -> None:
    """The pixels as written; what is cut off is left for the decoder to find."""
    for offset, kind, checked, said in _chunks(data):
        if kind == b"IDAT" and zlib.crc32(checked) != said:
            raise _wrong(offset)


def require_whole(data: bytes) -> None:
    """Every chunk as written, up to the end chunk."""
    for offset, kind, checked, said in _chunks(data):
        if zlib.crc32(checked) != said:
            raise _wrong(offset)
        if kind == b"IEND":
            return
    raise CorruptInputError(f"truncated PNG: ends after {len(data)} bytes, before its end chunk")


def _wrong(offset: int) -> CorruptInputError:
    return CorruptInputError(f"damaged PNG: wrong checksum at byte {offset}")


def _chunks(data: bytes) -> Iterator[tuple[int, bytes, memoryview, int]]:
    """Offset, type, what is checked and its checksum, of each chunk that is there to its end."""
    view, offset, kind = memoryview(data), len(SIGNATURE), b""
    while kind != b"IEND":
        start = offset + 4
        end = start + 4 + int.from_bytes(view[offset:start], "big")
        if end + 4 > len(data):
            return
        kind = bytes(view[start : start + 4])
        yield offset, kind, view[start:end], int.from_bytes(view[end : end + 4], "big")
        offset = end + 4
