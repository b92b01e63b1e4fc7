"""The outermost boxes of a file of the ISO family: MP4, MOV, AVIF, HEIC, JPEG 2000.

Source: ISO/IEC 14496-12, 4.2: a box begins with its length (32 bits; 1: 64 bits follow the type; 0: to
the end of the file) and its type.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO, NamedTuple


class Box(NamedTuple):
    """Where a box lies, with its head."""

    kind: bytes
    start: int
    stop: int
    """As it says: it may be behind the end of the file."""


def boxes(file: BinaryIO, most: int) -> Iterator[Box]:
    """At most so many, up to one that reaches the end of the file, or is none."""
    end, at = file.seek(0, 2), 0
    for _ in range(most):
        file.seek(at)
        head = file.read(16)
        if len(head) < 8:
            return
        length = int.from_bytes(head[:4], "big")
        if length == 1 and len(head) == 16:
            length = int.from_bytes(head[8:], "big")
        stop = at + length if length else end
        yield Box(head[4:8], at, stop)
        if length < 8 or stop >= end:
            return
        at = stop
