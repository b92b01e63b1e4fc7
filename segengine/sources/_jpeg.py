"""Whether a packet of Motion JPEG holds what its picture asks for, no less and no more.

FFmpeg's decoder takes what a damaged scan yields, and looks neither at what is left over nor, in
the last block, at what is missing. libjpeg-turbo decodes it a second time, of which little more
than the entropy code need be undone, and says so. What it cannot decode is not judged.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_SEQUENTIAL = frozenset({0xC0, 0xC1})
_TABLES, _START, _END, _SCAN = 0xC4, 0xD8, 0xD9, 0xDA
_SOI = b"\xff\xd8\xff"
_EOI = b"\xff\xd9"
_MARKER = re.compile(rb"\xff+[\x01-\xcf\xd8-\xfe]")
"""Behind coded data, in which 0xFF stands before 0 or a restart marker only."""
_HARM = re.compile(r"premature end of data|bad Huffman code|instead of RST|(\d+) extraneous bytes")
_STRAY = 16
"""Bytes that cameras may leave behind a scan; longer padding repeats one."""
_HOLE = bytes(256)
_END_OF_BLOCK = 0
_DEFAULT_FIRSTS = {0: 1, 1: _END_OF_BLOCK}
"""Of ITU-T T.81, K.3, whose tables cameras leave out: what zeros only stand for in each."""


def is_damaged(packet: bytes) -> bool:
    """Whether an image of a packet (one, or two fields) cannot be what an encoder wrote."""
    return any(_has_hole(image) or _misfits(image) for image in _images(packet))


def _images(packet: bytes) -> Iterator[bytes]:
    """Each image, from its start to the end of its last scan."""
    start = packet.find(_SOI)
    while start >= 0:
        segments = list(_segments(packet, start + 2))
        end = segments[-1][2] if segments else start + 2
        if any(kind == _SCAN for kind, _, _ in segments):
            yield packet[start:end]
        start = packet.find(_SOI, end)


def _segments(image: bytes, place: int) -> Iterator[tuple[int, int, int]]:
    """(marker, where its parameters begin, where it ends) of each up to the end of the image; a
    scan's coded data belongs to it."""
    while place + 4 <= len(image) and image[place] == 0xFF:
        kind = image[place + 1]
        if kind in (_START, _END):
            return
        if kind == 0xFF:
            place += 1
            continue
        end = place + 2 + int.from_bytes(image[place + 2 : place + 4], "big")
        if kind == _SCAN:
            found = _MARKER.search(image, end)
            end = len(image) if found is None else found.start()
        yield kind, place + 4, min(end, len(image))
        place = end


def _misfits(image: bytes) -> bool:
    """Whether libjpeg-turbo finds too little coded data, too much, or what is no code."""
    import simplejpeg

    try:
        # To gray in an eighth of the size, where it can be: the pixels are not wanted.
        simplejpeg.decode_jpeg(
            image + _EOI, "GRAY", fastdct=True, fastupsample=True,
            min_height=1, min_width=1, strict=True,
        )  # fmt: skip
    except ValueError as error:
        found = _HARM.search(str(error))
        if found is None:
            return False
        stray = int(found[1] or 0)
        return not stray or (stray > _STRAY and len(set(image[-stray:])) > 1)
    return False


def _has_hole(image: bytes) -> bool:
    """Whether there is a run of zeros that would be blocks in which no coefficient is nothing.

    Where zeros are the code for the end of a block they may be a picture without detail, and at the
    end they may be padding.
    """
    place = image.rstrip(b"\0").find(_HOLE)
    if place < 0:
        return False
    firsts, sequential = dict(_DEFAULT_FIRSTS), False
    for kind, start, end in _segments(image, 2):
        if kind == _TABLES:
            firsts |= _first_symbols(image[start:end])
        elif kind in _SEQUENTIAL:
            sequential = True
        elif kind == _SCAN and start <= place < end:
            chosen = image[start + 2 : start + 1 + 2 * image[start] : 2]
            return sequential and any(firsts.get(c & 15) != _END_OF_BLOCK for c in chosen)
    return False


def _first_symbols(tables: bytes) -> dict[int, int]:
    """What the code of zeros only stands for in each table of AC coefficients."""
    found, place = {}, 0
    while place + 17 < len(tables):
        if tables[place] >> 4:
            found[tables[place] & 15] = tables[place + 17]
        place += 17 + sum(tables[place + 1 : place + 17])
    return found
