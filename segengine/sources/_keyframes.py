"""Which packets of a video a decoder can start from and be exact.

Containers call more than those a key frame: every recovery point, also the start of a gradual
refresh, after which frames are complete only some frames later (ITU-T H.264, D.2.8:
recovery_frame_cnt > 0), and without an index every packet. So the packet itself is asked, in the
manner of its codec. Of a codec that is not known here only the first packet is a place to start.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

_SLICE, _IDR, _SEI = 1, 5, 6
_RECOVERY_POINT = 6
_HEVC_RANDOM_ACCESS = range(16, 22)


def key_frame_test(stream: Any) -> Callable[[bytes], bool] | None:
    """Whether decoding may start at a packet, by its bytes; None: its codec is not known here."""
    codec = stream.codec_context.codec
    name = codec.canonical_name
    if name == "h264":
        length = unit_length(stream)
        return lambda data: exact_start(data, length)
    if name == "hevc":
        length = unit_length(stream)
        return lambda data: _hevc(data, length)
    return _TESTS.get(name) or (_always if codec.intra_only else None)


def unit_length(stream: Any) -> int | None:
    """Bytes of the size in front of each unit of H.264 and HEVC (ISO/IEC 14496-15); None: start
    codes (Annex B)."""
    extra = bytes(stream.codec_context.extradata or b"")
    place = 21 if stream.codec_context.codec.canonical_name == "hevc" else 4
    if len(extra) <= place or extra.startswith((b"\0\0\1", b"\0\0\0\1")):
        return None
    return (extra[place] & 3) + 1


def units(data: bytes, length: int | None, most: int | None = None) -> Iterator[bytes]:
    """The units of a packet of H.264 or HEVC, of each at most the first `most` bytes."""
    return _annex_b(data, most) if length is None else _sized(data, length, most)


def exact_start(data: bytes, length: int | None) -> bool:
    """Whether an H.264 access unit refreshes the decoder at once; `length` as of `unit_length`."""
    for unit in units(data, length, 256):
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


def _sized(data: bytes, length: int, most: int | None) -> Iterator[bytes]:
    place = 0
    while place + length < len(data):
        size = int.from_bytes(data[place : place + length], "big")
        place += length
        yield data[place : place + (size if most is None else min(size, most))]
        place += size


def _annex_b(data: bytes, most: int | None) -> Iterator[bytes]:
    place = data.find(b"\0\0\1")
    while place >= 0:
        end = data.find(b"\0\0\1", place + 3)
        stop = len(data) if end < 0 else end
        yield data[place + 3 : stop if most is None else min(stop, place + 3 + most)]
        place = end


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


def _hevc(data: bytes, length: int | None) -> bool:
    """Rec. ITU-T H.265, 7.4.2.2: an IRAP picture."""
    for unit in units(data, length, 2):
        kind = unit[0] >> 1 & 63 if unit else 64
        if kind < 32:
            return kind in _HEVC_RANDOM_ACCESS
    return False


def is_forward_vop(data: bytes) -> bool:
    """Whether a packet of MPEG-4 is one intra-coded or predicted VOP, surely with a picture.

    One that is marked as not coded yields no frame. It is a header and no more (ISO/IEC 14496-2,
    6.2.5): its type, a bit for each second that has gone by, and at most 19 bits up to the mark.
    """
    place = data.find(b"\0\0\1\xb6")
    if place < 0 or data.find(b"\0\0\1", place + 4) >= 0 or _bits(data, 8 * place + 32, 2) > 1:
        return False
    seconds = 0
    while _bits(data, 8 * place + 34 + seconds, 1) == 1:
        seconds += 1
    return 8 * (len(data) - place - 4) >= 3 + seconds + 19 + 8


# Other codecs: the type of the picture, where it is intra and all that it needs is in the packet.


def _always(data: bytes) -> bool:
    return bool(data)


def _mjpeg(data: bytes) -> bool:
    """With its own quantisation tables (without, those of a frame before are in use) or lossless."""
    return b"\xff\xdb" in data[:4096] or b"\xff\xc3" in data[:4096]


def _mpeg12(data: bytes) -> bool:
    """An I picture (ISO/IEC 13818-2, 6.3.9) with its sequence header before it."""
    picture = data.find(b"\0\0\1\0")
    if picture < 0 or picture + 5 >= len(data):
        return False
    header = data.find(b"\0\0\1\xb3")
    return 0 <= header < picture and data[picture + 5] >> 3 & 7 == 1


def _mpeg4(data: bytes) -> bool:
    """An intra-coded VOP (ISO/IEC 14496-2, 6.3.5)."""
    place = data.find(b"\0\0\1\xb6")
    return 0 <= place < len(data) - 4 and data[place + 4] >> 6 == 0


def _h263(data: bytes) -> bool:
    """INTRA in PTYPE or in MPPTYPE behind a full PLUSPTYPE (Rec. ITU-T H.263, 5.1.3 and 5.1.4)."""
    if _bits(data, 0, 22) != 32:
        return False
    if _bits(data, 35, 3) != 7:
        return _bits(data, 38, 1) == 0
    return _bits(data, 38, 3) == 1 and _bits(data, 59, 3) == 0


def _flv1(data: bytes) -> bool:
    """Sorenson's H.263: the picture type stands behind the size of the picture."""
    wide = {0: 16, 1: 32}.get(_bits(data, 30, 3), 0)
    return _bits(data, 0, 17) == 1 and _bits(data, 33 + wide, 2) == 0


def _msmpeg4v1(data: bytes) -> bool:
    return _bits(data, 0, 32) == 256 and _bits(data, 37, 2) == 0


def _two_bits_zero(data: bytes) -> bool:
    """MS-MPEG-4 v2 and v3, WMV 7: the picture type is first."""
    return bool(data) and data[0] >> 6 == 0


def _wmv2(data: bytes) -> bool:
    return bool(data) and data[0] >> 7 == 0


def _svq1(data: bytes) -> bool:
    return len(data) > 4 and data[3] & 3 == 0


def _range_coded(data: bytes) -> bool:
    """FFV1 and Snow: the first symbol of the range coder says so, with even odds (RFC 9043, 3.8)."""
    return _bits(data, 0, 16) >= 0x7F80


def _cinepak(data: bytes) -> bool:
    """Nothing is taken over: neither code books nor, in any strip, entries or blocks of before."""
    if len(data) < 10 or data[0] & 1:
        return False
    size = int.from_bytes(data[1:4], "big")
    # Sega's files have two bytes more, or six, and are told by a size that does not fit.
    more = 0
    if size and size != len(data) and len(data) % size:
        more = 6 if data[10:16] == b"\xfe\0\0\6\0\0" else 2
    start = place = 10 + more
    for _ in range(int.from_bytes(data[8:10], "big")):
        end = place + int.from_bytes(data[place + 1 : place + 4], "big")
        place += 12
        while place + 4 <= end <= len(data):
            size = int.from_bytes(data[place + 1 : place + 4], "big")
            if size < 4 or data[place] & 1:
                return False
            place += size
        if place != end:
            return False
    return place > start


def _vp8(data: bytes) -> bool:
    return bool(data) and data[0] & 1 == 0


def _vp9(data: bytes) -> bool:
    """frame_marker, profile, show_existing_frame and frame_type of the uncompressed header."""
    if _bits(data, 0, 2) != 2:
        return False
    place = 5 if _bits(data, 2, 2) == 3 else 4
    return _bits(data, place, 2) == 0


def _av1(data: bytes) -> bool:
    """A shown key frame behind its sequence header (AV1 specification, 5.5 and 5.9.2)."""
    place, described = 0, False
    while place < len(data):
        kind, extended, sized = data[place] >> 3 & 15, data[place] >> 2 & 1, data[place] >> 1 & 1
        place += 1 + extended
        size, shift = 0, 0
        while sized and place < len(data) and shift < 56:
            size |= (data[place] & 127) << shift
            place, shift = place + 1, shift + 7
            if data[place - 1] < 128:
                break
        if kind == 1:
            described = True
        if kind in (3, 6):  # show_existing_frame 0, frame_type KEY_FRAME, show_frame 1
            return described and _bits(data, 8 * place, 4) == 1
        if not sized:
            return False
        place += size
    return False


def _zmbv(data: bytes) -> bool:
    return bool(data) and data[0] & 1 == 1


def _bits(data: bytes, place: int, count: int) -> int:
    """Bits from a place on, the highest first; -1 behind the end."""
    end = place + count
    if end > 8 * len(data):
        return -1
    whole = int.from_bytes(data[place // 8 : (end + 7) // 8], "big")
    return whole >> -end % 8 & (1 << count) - 1


_TESTS: dict[str, Callable[[bytes], bool]] = {
    "mjpeg": _mjpeg,
    "png": _always,
    "mpeg1video": _mpeg12,
    "mpeg2video": _mpeg12,
    "mpeg4": _mpeg4,
    "h263": _h263,
    "h263p": _h263,
    "flv1": _flv1,
    "msmpeg4v1": _msmpeg4v1,
    "msmpeg4v2": _two_bits_zero,
    "msmpeg4v3": _two_bits_zero,
    "wmv1": _two_bits_zero,
    "wmv2": _wmv2,
    "svq1": _svq1,
    "ffv1": _range_coded,
    "snow": _range_coded,
    "cinepak": _cinepak,
    "vp8": _vp8,
    "vp9": _vp9,
    "av1": _av1,
    "zmbv": _zmbv,
}
