"""Where the coded pictures of a HEIC lie: an image of HEVC, or the tiles of one, and what is beside it.

    meta: iinf   what each item is          infe: hvc1, grid, Exif, ...
          iloc   where its bytes lie        extents of the file

Source: ISO/IEC 14496-12, 8.11. What is not as it says there is for libheif to tell.
"""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO

from segengine.sources._boxes import boxes

_MOST = 2**16
"""Boxes of a file, and of one in it."""
_SIZES = 21
"""Place of the size of lengths in what sets a decoder up (ISO/IEC 14496-15, 8.3.2.1)."""


def pictures(data: bytes) -> Iterator[list[bytes] | None]:
    """The units of each item that is coded in HEVC, as far as it is there; None: they do not fill it."""
    meta = _inside(data, b"meta")
    config = meta.find(b"hvcC")
    length = (meta[config + 4 + _SIZES] & 3) + 1 if 0 <= config < len(meta) - 4 - _SIZES else 4
    kinds = _kinds(_inside(meta[4:], b"iinf"))
    left = 2 * len(data)  # a table that is damaged may name the same bytes again and again
    for number, extents in _places(_inside(meta[4:], b"iloc")):
        if kinds.get(number) == b"hvc1":
            left -= sum(size for _, size in extents)
            if left < 0:
                return
            yield _units(b"".join(data[at : at + size] for at, size in extents), length)


def _units(item: bytes, length: int) -> list[bytes] | None:
    found, place = [], 0
    while place < len(item):
        start = place + length
        place = start + int.from_bytes(item[place:start], "big")
        if place > len(item) or place == start:
            return None
        found.append(item[start:place])
    return found


def _inside(data: bytes, kind: bytes) -> bytes:
    """The content of the first box of a kind; empty: there is none."""
    for box in boxes(BytesIO(data), _MOST):
        if box.kind == kind:
            return data[box.start + 8 : box.stop]
    return b""


def _kinds(iinf: bytes) -> dict[int, bytes]:
    """What each item is, by its number; of entries of versions 2 and 3, which have a kind."""
    found = {}
    entries = iinf[6 if iinf[:1] == b"\0" else 8 :]
    for box in boxes(BytesIO(entries), _MOST):
        entry = entries[box.start + 8 : box.stop]
        wide = 4 if entry[:1] == b"\3" else 2
        found[int.from_bytes(entry[4 : 4 + wide], "big")] = entry[6 + wide : 10 + wide]
    return found


def _places(iloc: bytes) -> Iterator[tuple[int, list[tuple[int, int]]]]:
    """Start and size of each extent of each item that lies in the file itself."""
    file = BytesIO(iloc)

    def number(size: int) -> int:
        return int.from_bytes(file.read(size), "big")

    version, _ = number(1), number(3)
    sizes = number(2)
    offset, length, base, index = (sizes >> shift & 15 for shift in (12, 8, 4, 0))
    wide, left = 4 if version == 2 else 2, _MOST
    for _ in range(min(number(wide), _MOST)):
        item = number(wide)
        method = number(2) & 15 if version else 0
        elsewhere = number(2)
        start = number(base)
        extents, count = [], number(2)
        left -= count
        if left < 0:
            return
        for _ in range(count):
            if version:
                number(index)
            place = start + number(offset)
            extents.append((place, number(length)))
        if not method and not elsewhere:
            yield item, extents
