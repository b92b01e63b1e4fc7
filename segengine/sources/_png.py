"""Whether the chunks of a PNG are as they were written (PNG specification, 5.3).

    signature  [size  type  content  checksum of type and content] ...  IEND

Pillow steps over the checksums of pixels, and stops inflating with the last row, before the stream's
own: a damaged byte near the end is another colour to it. A stream that ends with an earlier row is a
whole picture to it, the rest of which is 0. OpenCV returns what it has, and libpng tells
the terminal of it. So OpenCV gets nothing here but pixels that are known to be whole.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segengine.errors import CorruptInputError

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Colour types, and the samples that a pixel of them has."""
_PASSES = (
    (0, 8, 0, 8),
    (0, 8, 4, 8),
    (4, 8, 0, 4),
    (0, 4, 2, 4),
    (2, 4, 0, 2),
    (0, 2, 1, 2),
    (1, 2, 0, 1),
)
"""Of an interlaced PNG (Adam7): first row, step, first column, step."""
_MOST_FILTER = 4
_PIECE = 1 << 20
"""Bytes that are inflated at a time."""


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


def decoded(data: bytes) -> NDArray[Any]:
    """Pixels by OpenCV, as it orders them: (y, x), or (y, x, 3 or 4) with blue first.

    Raises CorruptInputError where not every byte is as written: a chunk, or a stream that ends early,
    goes on behind the last row, or does not have the sum that it says.
    """
    import cv2

    require_whole(data)
    rows = _rows(data)
    kept = [(b"IHDR", data[16:29])]
    kept += [(kind, bytes(part[4:])) for _, kind, part, _ in _chunks(data) if kind == b"PLTE"]
    kept += [(b"IDAT", zlib.compress(rows, 0)), (b"IEND", b"")]  # inflated once is enough
    plain = b"".join((SIGNATURE, *(_chunk(kind, content) for kind, content in kept)))
    found = cv2.imdecode(np.frombuffer(plain, np.uint8), cv2.IMREAD_UNCHANGED)
    if found is None:
        raise CorruptInputError("damaged PNG: cannot be decoded")
    return np.asarray(found)


def require_filled(data: bytes, image: Any) -> None:
    """Raise CorruptInputError where the stream ends before the last row; `image`: by Pillow, of `data`.

    Only where its last row is 0 throughout is the stream inflated once more.
    """
    width, height = image.size
    last = height - 1 if not data[28] or height % 2 == 0 else max(0, height - 2)
    if np.asarray(image.crop((0, last, width, last + 1))).any():
        return
    size = sum(count * length for count, length in _sizes(data))
    inflate, left = zlib.decompressobj(), size
    for _, kind, part, _ in _chunks(data):
        piece: bytes | memoryview = part[4:] if kind == b"IDAT" else b""
        while piece and left > 0 and not inflate.eof:
            left -= len(inflate.decompress(piece, min(left, _PIECE)))
            piece = inflate.unconsumed_tail
    if left:
        raise CorruptInputError(f"damaged PNG: its pixels end after {size - left} of {size} bytes")


def _chunk(kind: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(content, zlib.crc32(kind))
    return b"".join((struct.pack(">I", len(content)), kind, content, struct.pack(">I", checksum)))


def _rows(data: bytes) -> bytes:
    """The stream of pixels, inflated: each row of each pass behind the number of its filter."""
    passes = _sizes(data)
    size = sum(count * length for count, length in passes)
    stream = b"".join(part[4:] for _, kind, part, _ in _chunks(data) if kind == b"IDAT")
    inflate = zlib.decompressobj()
    try:
        rows = inflate.decompress(stream, size + 1)
    except zlib.error as error:
        raise CorruptInputError(f"damaged PNG: {error}") from error
    if len(rows) > size or inflate.unused_data:
        raise CorruptInputError("damaged PNG: its pixels go on behind the last row")
    if len(rows) < size or not inflate.eof:
        raise CorruptInputError(f"damaged PNG: its pixels end after {len(rows)} of {size} bytes")
    place, flat = 0, np.frombuffer(rows, np.uint8)
    for count, length in passes:
        if count and (flat[place : place + count * length : length] > _MOST_FILTER).any():
            raise CorruptInputError("damaged PNG: a row has a filter that there is not")
        place += count * length
    return rows


def _sizes(data: bytes) -> list[tuple[int, int]]:
    """How many rows each pass has, and the bytes of a row with its filter's number."""
    if data[12:16] != b"IHDR" or len(data) < 29:
        raise CorruptInputError("damaged PNG: it does not begin with its header")
    width, height, depth, kind, _, _, interlaced = struct.unpack(">IIBBBBB", data[16:29])
    if kind not in _SAMPLES or interlaced > 1:
        raise CorruptInputError("damaged PNG: its header is none")
    found = []
    for top, down, left, right in _PASSES if interlaced else ((0, 1, 0, 1),):
        rows, cols = len(range(top, height, down)), len(range(left, width, right))
        if rows and cols:
            found.append((rows, 1 + (cols * _SAMPLES[kind] * depth + 7) // 8))
    return found


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
