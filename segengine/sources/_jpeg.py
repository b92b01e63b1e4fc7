"""Whether a JPEG (a photo, a strip of a TIFF, a packet of Motion JPEG) holds what its picture asks for.

No less, and no more. Pillow and libtiff fill up with gray what a damaged scan lacks, and say nothing.
FFmpeg's decoder takes what a damaged scan yields, and looks neither at what is left over nor, in
the last block, at what is missing. libjpeg-turbo decodes it a second time, of which little more
than the entropy code need be undone, and says so. What it cannot decode is not judged.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from segengine.errors import CorruptInputError

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


def require_sound(data: bytes) -> None:
    """Raise CorruptInputError where the first image of a file cannot be what an encoder wrote."""
    image = next(_images(data), None)
    if image is None:
        return
    if (
        data[len(image) : len(image) + 2] != _EOI
    ):  # what follows is no segment: libjpeg steps over it
        image = data
    if _has_hole(image):
        raise CorruptInputError("damaged JPEG: a run of zeros that no encoder writes")
    found = _harm(image)
    if found:
        raise CorruptInputError(f"damaged JPEG: {found}")


def require_strip(image: bytes) -> None:
    """The same of a strip of a TIFF, in which there is an image and nothing else."""
    if _said(image):
        if next(_images(image), None) is None:
            raise CorruptInputError("damaged JPEG: its segments do not lead to a scan")
        require_sound(image)
    elif _has_hole(image):
        require_sound(image)


def joined(tables: bytes, image: bytes) -> bytes:
    """An image whose tables are stored apart from it, as those of a TIFF are (TIFF Technical Note 2)."""
    if not tables.startswith(_SOI) or not image.startswith(_SOI):
        return image
    return tables.removesuffix(_EOI) + image[2:]


def is_harm(said: str) -> bool:
    """Whether what libjpeg warns of is damage to pixels, as far as the words alone tell."""
    found = _HARM.search(said)
    return found is not None and (found[1] is None or int(found[1]) > _STRAY)


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
    return bool(_harm(image))


def _harm(image: bytes) -> str:
    """What libjpeg-turbo says where it does; empty: nothing that matters."""
    found = _HARM.search(_said(image))
    if found is None:
        return ""
    stray = int(found[1] or 0)
    harmful = not stray or (stray > _STRAY and len(set(image[-stray:])) > 1)
    return found[0] if harmful else ""


def _said(image: bytes) -> str:
    """What libjpeg-turbo says of an image."""
    import simplejpeg

    said = ""
    for colours in ("GRAY", "CMYK"):  # of four inks it makes no gray
        try:
            # To gray in an eighth of the size, where it can be: the pixels are not wanted.
            simplejpeg.decode_jpeg(
                image + _EOI, colours, fastdct=True, fastupsample=True,
                min_height=1, min_width=1, strict=True,
            )  # fmt: skip
            return ""
        except ValueError as error:
            said = str(error)
        if "color conversion" not in said:
            break
    return said


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
