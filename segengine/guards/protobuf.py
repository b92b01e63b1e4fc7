"""Protocol buffers, walked without being loaded: only fields that a schema names, only within bounds.

A file of several GB is not copied: values are slices of a mapping. A library reads a field that stands
twice as its last, or as both merged; here each of them is seen, so that nothing hides behind another.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping
from pathlib import Path

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
Schema = Mapping[int, tuple[str, int]]
"""Name and wire type of each field by its number; numbers that are repeated may be packed as well."""
Value = int | memoryview


def mapped(path: Path) -> memoryview:
    """The bytes of a file, without reading them all; let go with the last slice of them."""
    if path.stat().st_size == 0:
        return memoryview(b"")
    with open(path, "rb") as file:
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def fields(data: memoryview, schema: Schema, what: str) -> Iterator[tuple[str, Value]]:
    """Names and values of a message. Raises ValueError for one that the schema does not have."""
    at, end = 0, len(data)
    while at < end:
        tag, at = _varint(data, at, what)
        number, kind = tag >> 3, tag & 7
        value: Value
        if kind == VARINT:
            value, at = _varint(data, at, what)
        else:
            if kind == BYTES:
                size, at = _varint(data, at, what)
            elif kind in (FIXED32, FIXED64):
                size = 4 if kind == FIXED32 else 8
            else:
                raise _damaged(what)
            if size > end - at:
                raise _damaged(what)
            value = data[at : at + size]
            at += size
        if number not in schema:
            raise ValueError(f"{what} has a field {number} that is not known, which is refused")
        name, wanted = schema[number]
        if kind != wanted and kind != BYTES:
            raise _damaged(what)
        if kind != wanted:  # packed numbers
            continue
        yield name, value


def text(value: Value) -> str:
    """A field of bytes as text; what is no UTF-8 is marked."""
    return bytes(value).decode("utf-8", "replace") if isinstance(value, memoryview) else str(value)


def _varint(data: memoryview, at: int, what: str) -> tuple[int, int]:
    found = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise _damaged(what)
        byte = data[at]
        at += 1
        found |= (byte & 0x7F) << shift
        if byte < 0x80:
            return found, at
    raise _damaged(what)


def _damaged(what: str) -> ValueError:
    return ValueError(f"{what} is damaged or cut off")
