"""The boxes of a JP2 file, checked before GDAL walks them: a length of zero inside one ends never.

    length (4)  type (4)  [length (8) where the first is 1]  content      jp2h, asoc, res hold boxes

Source: ISO/IEC 15444-1, annex I.
"""

from __future__ import annotations

from typing import BinaryIO

from segengine.errors import CorruptInputError

_HOLDERS = frozenset((b"jp2h", b"asoc", b"res ", b"uinf", b"jpch", b"jplh"))
_MOST_BOXES, _DEEPEST = 10_000, 16


def require_sound(file: BinaryIO) -> None:
    """Raise CorruptInputError where a box is not inside what holds it.

    A bare codestream has none. The last box of a file may be cut short, as its codestream is.
    """
    end = file.seek(0, 2)
    file.seek(0)
    if file.read(4) == b"\xff\x4f\xff\x51":
        return
    try:
        _walk(file, 0, end, 0, 0)
    except ValueError as error:
        raise CorruptInputError(f"damaged JP2 header: {error}") from error


def _walk(file: BinaryIO, start: int, end: int, depth: int, seen: int) -> int:
    """The number of boxes seen, those of [start, end) among them."""
    while end - start >= 8:
        file.seek(start)
        head = file.read(16)
        size, kind, inner = int.from_bytes(head[:4], "big"), head[4:8], 8
        if size == 1:
            size, inner = int.from_bytes(head[8:16], "big"), 16
        if size == 0 and depth == 0:
            size = end - start  # to the end of the file
        if size < inner:
            raise ValueError(f"a box of {size} bytes at byte {start}")
        seen += 1
        if seen > _MOST_BOXES or depth > _DEEPEST:
            raise ValueError(f"more than {_MOST_BOXES:,} boxes, or {_DEEPEST} in one another")
        if size > end - start and (depth > 0 or kind != b"jp2c"):
            raise ValueError(f"the box at byte {start} ends outside of what holds it")
        if kind in _HOLDERS:
            seen = _walk(file, start + inner, start + size, depth + 1, seen)
        start += size
    if depth and start != end:
        raise ValueError(f"a box of {end - start} bytes at byte {start}")
    return seen
