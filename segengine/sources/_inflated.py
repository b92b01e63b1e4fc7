"""A gzip file read at any place, in bounded memory: a NIfTI volume is read by slabs, mostly forward.

    file   |======|======|======|==>            inflated once, from the start
    points ^      ^      ^                      copies of the decoder, from which to go on

There are at most `_POINTS` of them, about 45 kB each; where they get too many, every second goes.
"""

from __future__ import annotations

import zlib
from bisect import bisect_right
from dataclasses import dataclass
from typing import Any, BinaryIO

from segengine.errors import CorruptInputError

MOST_RATIO = 1032
"""Bytes that a byte of deflate can become (zlib's technical details)."""
_POINTS = 64
_STEP = 1 << 22
"""Bytes between points, at first."""
_READ = 1 << 16
_PIECE = 1 << 20
"""Bytes that are inflated at a time."""
_GZIP = 31


@dataclass(frozen=True, slots=True)
class _Point:
    out: int
    """Bytes inflated before it."""
    place: int
    """In the file."""
    decoder: Any


class Inflated:
    """What a gzip file holds; reading raises CorruptInputError where that is damaged or too little."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._step = _STEP
        self._start = _Point(0, 0, zlib.decompressobj(_GZIP))
        self._points = [self._start]
        self._go_to(self._start)

    def read(self, offset: int, length: int) -> bytes:
        """Bytes [offset, offset + length); all of them."""
        self._seek(offset)
        found = bytearray()
        skip = offset - self._out
        while len(found) < length:
            piece = self._inflate(min(_PIECE, skip + length - len(found)))
            if piece is None:
                raise CorruptInputError(
                    f"cut short: it holds {self._out:,} bytes, and says {offset + length:,}"
                )
            found += piece[skip:]
            skip = max(0, skip - len(piece))
        return bytes(found)

    def finish(self) -> None:
        """At the last byte that is asked for: look at the checksum that follows."""
        if self._decoder is not None:
            self._inflate(1)

    def _seek(self, offset: int) -> None:
        at = bisect_right([point.out for point in self._points], offset) - 1
        point = self._points[at]
        if offset < self._out or point.out > self._out:
            self._go_to(point)

    def _go_to(self, point: _Point) -> None:
        self._out, self._tail = point.out, b""
        self._decoder: Any = point.decoder.copy()
        self._file.seek(point.place)

    def _inflate(self, most: int) -> bytes | None:
        """The next bytes, of which there may be none; None: the end."""
        if self._decoder is None:
            return None
        data = self._tail or self._file.read(_READ)
        if not data and not self._decoder.eof:
            raise CorruptInputError(f"cut short: gzip ends after {self._out:,} bytes")
        try:
            piece: bytes = self._decoder.decompress(data, most)
        except zlib.error as error:
            raise CorruptInputError(f"damaged gzip: {error}") from error
        self._tail = self._decoder.unconsumed_tail
        self._out += len(piece)
        if self._decoder.eof:
            self._next_member(self._decoder.unused_data)
        elif self._out >= self._points[-1].out + self._step:
            self._keep()
        return piece

    def _next_member(self, rest: bytes) -> None:
        """A file may hold several, one after the other; zeros pad it."""
        rest = rest.lstrip(b"\0") or self._file.read(_READ).lstrip(b"\0")
        self._tail = rest
        self._decoder = zlib.decompressobj(_GZIP) if rest else None

    def _keep(self) -> None:
        place = self._file.tell() - len(self._tail)
        self._points.append(_Point(self._out, place, self._decoder.copy()))
        if len(self._points) > _POINTS:
            self._points = self._points[::2]
            self._step *= 2
