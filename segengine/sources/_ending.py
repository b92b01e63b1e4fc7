"""Whether the last packet of a stream is cut short, where neither container nor decoder tells.

FFmpeg's decoder of HEVC takes what lies behind a slice's end for its data, and nothing in the last
packet of a raw or transport stream says how long it is. So the end is decoded twice, once with
other bytes behind it: a slice that is whole has ended before them.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from segengine.errors import CorruptInputError
from segengine.sources._damage import Listener
from segengine.sources._keyframes import unit_length, units
from segengine.sources._sure import new_decoder

_MORE = bytes(range(0x51, 0xC1, 2))
"""Behind the end: neither a start code nor anything else that is no data."""
_LEADING = range(6, 10)
"""Types of units that are shown before the key frame that they follow (ITU-T H.265, 7.4.2.2)."""
MOST_BYTES = 2**26
"""Of the packets from the last key frame on; where there are more, the last is not judged."""


def with_last(packets: Iterable[Any]) -> Iterator[tuple[Any, bool]]:
    """Each, and whether it is the last."""
    before = None
    for packet in packets:
        if before is not None:
            yield before, False
        before = packet
    if before is not None:
        yield before, True


def ends_silently(stream: Any, containers: frozenset[str]) -> bool:
    """Whether the end of a stream is to be looked at: other containers say how long packets are."""
    return (
        stream.codec_context.codec.canonical_name == "hevc"
        and containers.isdisjoint({"mov", "mp4", "matroska", "avi", "flv", "asf"})
        and unit_length(stream) is None
    )


def is_cut(stream: Any, options: dict[str, str], packets: Sequence[bytes], key: int) -> bool:
    """Whether the last of the packets builds on bytes behind it.

    It builds on those from the key frame on, and if it is shown before that, on those before.
    """
    *rest, last = packets
    leads = any(unit and unit[0] >> 1 in _LEADING for unit in units(last, None, 1))
    rest = rest if leads else rest[key:]
    last = last.rstrip(b"\0")
    return _decoded(stream, options, [*rest, last]) != _decoded(
        stream, options, [*rest, last + _MORE]
    )


def _decoded(stream: Any, options: dict[str, str], packets: Sequence[bytes]) -> list[int]:
    """Checksums of the planes of all frames."""
    from av import Packet

    listener, found = Listener(), list[int]()
    with listener:
        decoder = new_decoder(stream, options)
    for data in [*packets, None]:
        try:
            with listener:
                frames = decoder.decode(None if data is None else Packet(data))
        except CorruptInputError:
            continue
        found += [zlib.crc32(plane) for frame in frames for plane in frame.planes]
    return found
