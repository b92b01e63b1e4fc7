"""Whether a video's file ends before its container says: a copy that broke off, a disk that was full.

What is there is read, and so nothing else tells. Each container says in its own way how long its file
is, or that its last part is the last; one that was written to a pipe, or by a camera that lost power, may
say nothing, and neither do program streams and raw streams.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, BinaryIO

import numpy as np

from segengine.sources._boxes import boxes

_BOXES, _FAR = 2**17, 2**6
"""Of one file, fragments of a second for 18 hours; and of one behind a URL, where FFmpeg's index tells of
the last ones."""
_KINDS = frozenset(
    b"ftyp styp moov moof mdat sidx ssix mfra free skip wide uuid meta udta emsg prft pdin".split()
)
"""Boxes that may be the last; what else lies behind them was put there by another program."""
_INDEX = 2**20
"""Bytes of a segment index; it has 2^16 entries at most."""
_RIFFS = 2**12
_OBJECTS = 2**8
_AVI_SLACK = 8
"""Bytes that a size may be too large by: some writers count its own head."""
_ASF_HEADER = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_ASF_FILE = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
_MXF_PARTITION = bytes.fromhex("060e2b34020501010d01020101")


def cut(
    file: BinaryIO, formats: Iterable[str], entries: Iterable[Any], *, far: bool = False
) -> dict[str, Any]:
    """What the file has and what it says it has, in bytes, and of an MP4 how many of the frames that it
    tells of are lost, wholly or in part; empty: it does not end too early.

    `formats`: of its container, by FFmpeg's names; `entries`: FFmpeg's index of an MP4; `far`: few places
    are read.
    """
    end = file.seek(0, 2)
    names = set(formats)
    for name in names & _INSIDE.keys():
        part, ends_inside = _INSIDE[name]
        if ends_inside(file, end):
            return {"inside": part}
    if "mov" in names:
        ends = np.fromiter((entry.pos + entry.size for entry in entries), np.int64)
        said = max(_boxed(file, end, _FAR if far else _BOXES), int(ends.max(initial=0)))
        lost = int(np.count_nonzero(ends > end))
        frames = {"lost": lost, "frames": len(ends)} if lost else {}
        return {"bytes": end, "of": said, **frames} if said > end else {}
    said = max((find(file, end) for name, find in _SAID.items() if name in names), default=0)
    return {"bytes": end, "of": said} if said > end else {}


def _boxed(file: BinaryIO, end: int, most: int) -> int:
    """ISO/IEC 14496-12: where the last box ends, or what a segment index (8.16.3) refers to."""
    said = 0
    for box in boxes(file, most):
        if box.kind in _KINDS:
            said = max(said, box.stop)
        if box.kind == b"sidx" and box.stop <= end:
            file.seek(box.start + 8)
            said = max(said, box.stop + _referred(file.read(min(_INDEX, box.stop - box.start - 8))))
    return said


def _referred(index: bytes) -> int:
    """Bytes behind a segment index that it refers to."""
    wide = 8 if index[:1] == b"\1" else 4
    place = 12 + 2 * wide
    first = int.from_bytes(index[12 + wide : place], "big")
    count = int.from_bytes(index[place + 2 : place + 4], "big")
    sizes = (index[i : i + 4] for i in range(place + 4, place + 4 + 12 * count, 12))
    return first + sum(int.from_bytes(size, "big") & 0x7FFFFFFF for size in sizes)


def _riffs(file: BinaryIO, end: int) -> int:
    """AVI: lists of frames that follow each other (OpenDML); no size, or the largest: unknown."""
    at = 0
    for _ in range(_RIFFS):
        file.seek(at)
        head = file.read(12)
        size = int.from_bytes(head[4:8], "little")
        if head[:4] != b"RIFF" or head[8:] not in (b"AVI ", b"AVIX") or not 4 < size < 0x7FFFFFFF:
            return 0
        at += 8 + size + size % 2
        if at >= end:
            return at if at > end + _AVI_SLACK else 0
    return 0


def _segment(file: BinaryIO, end: int) -> int:
    """Matroska (RFC 9559): where its segment ends; a size of ones only is unknown."""
    at = size = length = 0
    for kind in (b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"):
        file.seek(at)
        head = file.read(12)
        if head[:4] != kind or len(head) < 12 or not head[4]:
            return 0
        length = 9 - head[4].bit_length()
        size = int.from_bytes(head[4 : 4 + length], "big") & (1 << 7 * length) - 1
        at += 4 + length + size
        if at >= end:
            break
    return 0 if size == (1 << 7 * length) - 1 else at


def _asf(file: BinaryIO, end: int) -> int:
    """The file's size in its properties, unless it is a broadcast (ASF specification, 3.2)."""
    file.seek(0)
    if file.read(16) != _ASF_HEADER:
        return 0
    at = 30
    for _ in range(_OBJECTS):
        file.seek(at)
        head = file.read(24)
        if head[:16] == _ASF_FILE:
            body = file.read(68)
            is_broadcast = len(body) < 68 or body[64] & 1
            return 0 if is_broadcast else int.from_bytes(body[16:24], "little")
        size = int.from_bytes(head[16:], "little")
        at += size
        if size < 24 or at >= end:
            return 0
    return 0


def _mxf(file: BinaryIO, end: int) -> int:
    """Where the last partition begins, as the first says (SMPTE ST 377-1, 7.1); 0: unknown."""
    file.seek(0)
    head = file.read(64)
    if not head.startswith(_MXF_PARTITION) or len(head) < 64:
        return 0
    body = 17 + (head[16] & 0x7F if head[16] & 0x80 else 0)
    footer = int.from_bytes(head[body + 24 : body + 32], "big")
    return footer + 16 if footer else 0


_SAID: dict[str, Callable[[BinaryIO, int], int]] = {
    "avi": _riffs,
    "matroska": _segment,
    "asf": _asf,
    "mxf": _mxf,
}
"""Bytes that a file of another container must have; 0: it does not say."""


def _ends_inside_packet(file: BinaryIO, end: int) -> bool:
    """Transport streams are packets of 188 bytes, with 4 more in front or 16 behind (ISO/IEC 13818-1)."""
    file.seek(0)
    head = file.read(1024)
    for size, before in ((188, 0), (192, 4), (204, 0)):
        if len(head) > 4 * size and all(head[before + i * size] == 0x47 for i in range(4)):
            over = end % size
            file.seek(end - over + before)
            # What is no packet was put behind them.
            return over > before and file.read(1) == b"\x47"
    return False


def _ends_inside_tag(file: BinaryIO, end: int) -> bool:
    """Behind each tag of FLV stands its length."""
    file.seek(max(0, end - 4))
    length = int.from_bytes(file.read(4), "big")
    if not 11 <= length <= end - 4:
        return end > 13
    file.seek(end - 4 - length)
    head = file.read(4)
    return head[0] & 0x1F not in (8, 9, 18) or int.from_bytes(head[1:], "big") + 11 != length


def _ends_inside_ogg(file: BinaryIO, end: int) -> bool:
    """The last page of a stream says that it is (RFC 3533, section 6)."""
    file.seek(max(0, end - 2 * _PAGE))
    tail = file.read(2 * _PAGE)
    place = tail.rfind(b"OggS\0")
    if place < 0:
        return False  # what lies behind is none
    if place + 27 > len(tail):
        return True
    lengths = tail[place + 27 : place + 27 + tail[place + 26]]
    whole = place + 27 + tail[place + 26] + sum(lengths) <= len(tail)
    return not (whole and tail[place + 5] & 4)


def _ends_inside_ivf(file: BinaryIO, end: int) -> bool:
    """Each frame has its size in front, in a head of 12 bytes."""
    file.seek(0)
    at = int.from_bytes(file.read(8)[6:], "little")
    for _ in range(_IVF_FRAMES):
        if at + 12 > end:
            return at != end
        file.seek(at)
        at += 12 + int.from_bytes(file.read(4), "little")
    return False


def _ends_inside_y4m(file: BinaryIO, end: int) -> bool:
    """All frames are of one size, behind a line each."""
    file.seek(0)
    head = file.read(1024)
    line, _, rest = head.partition(b"\n")
    told = {word[:1]: word[1:].decode("ascii", "replace") for word in line.split()[1:]}
    found = _SUBSAMPLED.fullmatch(told.get(b"C", "420jpeg"))
    sides = told.get(b"W", ""), told.get(b"H", "")
    if found is None or not rest.startswith(b"FRAME\n") or not all(map(str.isdecimal, sides)):
        return False
    width, height = map(int, sides)
    down, across = {"420": (2, 2), "411": (1, 4), "422": (1, 2)}.get(found[1], (1, 1))
    pixels = width * height
    if found[1] != "mono":
        pixels += 2 * (-(-width // across) * -(-height // down))
    size = 6 + pixels * (2 if found[2] else 1)
    return (end - len(line) - 1) % size != 0


_PAGE = 65_307
"""Bytes of the largest page of Ogg."""
_IVF_FRAMES = 2**18
_SUBSAMPLED = re.compile(r"(420|411|422|444|mono)(?:jpeg|paldv|mpeg2)?(p?1[0246])?")
_INSIDE: dict[str, tuple[str, Callable[[BinaryIO, int], bool]]] = {
    "mpegts": ("packet", _ends_inside_packet),
    "flv": ("tag", _ends_inside_tag),
    "ogg": ("stream", _ends_inside_ogg),
    "ivf": ("frame", _ends_inside_ivf),
    "yuv4mpegpipe": ("frame", _ends_inside_y4m),
}
"""What a file of a container must not end inside of."""
