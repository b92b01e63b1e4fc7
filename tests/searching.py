"""Every byte of a store, unfolded: what is compressed, packed or encoded in it, to search for a name."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Iterator
from contextlib import suppress

import pyarrow as pa
import pyarrow.parquet as pq
from numcodecs.zstd import decompress

from segengine.store.blobs import Objects

ZSTD = b"\x28\xb5\x2f\xfd"
_BASE64 = re.compile(rb"[A-Za-z0-9+/]{24,}={0,2}")


def unfolded(data: bytes, depth: int = 0) -> Iterator[bytes]:
    """Bytes as they lie there, and all that can be made of parts of them."""
    yield data
    if depth > 6:
        return
    if data[:4] == b"PAR1" == data[-4:]:
        with suppress(pa.ArrowInvalid, OSError):  # several of them, one after another
            yield from list(_table(data, depth))
            return
    for match in re.finditer(re.escape(ZSTD), data):
        inner = _frame(data, match.start())
        if inner:
            yield from unfolded(inner, depth + 1)
    for start in (match.start() for match in re.finditer(b"PAR1", data)):
        end = data.find(b"PAR1", start + 4) + 4
        if end > start + 12 and end - start < len(data):
            yield from unfolded(data[start:end], depth + 1)
    for match in _BASE64.finditer(data):
        text = match[0].rstrip(b"=")
        try:
            inner = base64.b64decode(text + b"=" * (-len(text) % 4))
        except ValueError:
            continue
        if ZSTD in inner or b"PAR1" in inner:
            yield from unfolded(inner, depth + 1)


def _frame(data: bytes, start: int) -> bytes:
    """What a frame of zstd holds, whatever follows it (RFC 8878); nothing where there is none."""
    flags = data[start + 4] if start + 4 < len(data) else 0
    single = flags >> 5 & 1
    size = (1 if single else 0, 2, 4, 8)[flags >> 6]
    at = start + 5 + (not single) + (0, 1, 2, 4)[flags & 3] + size
    last = 0
    while not last:
        header = int.from_bytes(data[at : at + 3], "little")
        last, kind, length = header & 1, header >> 1 & 3, header >> 3
        at += 3 + (1 if kind == 1 else length)
        if at > len(data) or kind == 3:
            return b""
    try:
        return bytes(decompress(data[start : at + 4 * (flags >> 2 & 1)]))
    except RuntimeError:
        return b""


def _table(data: bytes, depth: int) -> Iterator[bytes]:
    file = pq.ParquetFile(io.BytesIO(data))
    yield repr(file.metadata.metadata).encode()
    yield repr(file.schema_arrow).encode()
    for row in file.read().to_pylist():
        text = json.dumps(row, default=str, ensure_ascii=False)
        yield from unfolded(text.encode("utf-8", "surrogateescape"), depth + 1)


def holding(objects: Objects, needles: tuple[bytes, ...]) -> list[str]:
    """Keys that are, or hold, any of some bytes."""
    found = []
    for key in sorted(objects.keys("")):
        parts = [key.encode("utf-8", "surrogateescape"), *unfolded(objects.get(key) or b"")]
        if any(needle in part for part in parts for needle in needles):
            found.append(key)
    return found
