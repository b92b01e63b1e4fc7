"""Which packets of a video a decoder can start from and be exact.

Containers call every recovery point a key frame. In H.264 that includes the start of a gradual
refresh, after which frames are complete only some frames later (ITU-T H.264, D.2.8:
recovery_frame_cnt > 0).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

_SLICE, _IDR, _SEI = 1, 5, 6
_RECOVERY_POINT = 6


def key_frame_test(stream: Any) -> Callable[[Any], bool]:
    """For packets that the container calls key frames: whether decoding may start there."""
    if stream.codec_context.name != "h264":
        return lambda packet: True
    extra = bytes(stream.codec_context.extradata or b"")
    length = (extra[4] & 3) + 1 if extra[:1] == b"\x01" and len(extra) > 4 else None
    return lambda packet: exact_start(bytes(packet), length)


def exact_start(data: bytes, length: int | None) -> bool:
    """Whether an H.264 access unit refreshes the decoder at once.

    `length`: bytes of the size in front of each unit (ISO/IEC 14496-15); None: start codes (Annex
    B).
    """
    for unit in _annex_b(data) if length is None else _sized(data, length):
        kind = unit[0] & 31 if unit else 0
        if kind == _IDR:
            return True
        if kind == _SEI:
            count_is_zero = _recovers_at_once(unit)
            if count_is_zero is not None:
                return count_is_zero
        if kind == _SLICE:
            return False
    return False


def _sized(data: bytes, length: int) -> Iterator[bytes]:
    place = 0
    while place + length < len(data):
        size = int.from_bytes(data[place : place + length], "big")
        place += length
        yield data[place : place + min(size, 256)]
        place += size


def _annex_b(data: bytes) -> Iterator[bytes]:
    place = data.find(b"\0\0\1")
    while place >= 0:
        yield data[place + 3 : place + 259]
        place = data.find(b"\0\0\1", place + 3)


def _recovers_at_once(unit: bytes) -> bool | None:
    """Of a SEI unit: None without a recovery point message, else whether its frame count is 0."""
    place = 1
    while place + 2 <= len(unit):
        kind = size = 0
        while place < len(unit) and unit[place] == 255:
            kind, place = kind + 255, place + 1
        kind, place = kind + unit[place] if place < len(unit) else -1, place + 1
        while place < len(unit) and unit[place] == 255:
            size, place = size + 255, place + 1
        size, place = size + unit[place] if place < len(unit) else 0, place + 1
        if kind == _RECOVERY_POINT and place < len(unit):
            return bool(unit[place] & 0x80)  # ue(v): a leading 1 is the number 0
        place += size
    return None
