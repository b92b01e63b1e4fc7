"""SPDY/3.1 frames, as `kubectl port-forward` speaks them: who is asked for streams.

https://www.chromium.org/spdy/spdy-protocol/spdy-protocol-draft3-1/ has the frames and the dictionary
of the headers' compression. Windows are not kept: kubectl does not keep them either.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field

_WORDS = """options head post put delete trace accept accept-charset accept-encoding accept-language
accept-ranges age allow authorization cache-control connection content-base content-encoding
content-language content-length content-location content-md5 content-range content-type date etag
expect expires from host if-match if-modified-since if-none-match if-range if-unmodified-since
last-modified location max-forwards pragma proxy-authenticate proxy-authorization range referer
retry-after server te trailer transfer-encoding upgrade user-agent vary via warning www-authenticate
method get status 200_OK version HTTP/1.1 url public set-cookie keep-alive origin"""
_TAIL = (
    "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505"
    "203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request"
    "401 Unauthorized403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented"
    "503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 "
    "Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,"
    "application/xml,application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age="
    "gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0."
)
DICTIONARY = (
    b"".join(
        struct.pack(">I", len(word)) + word.replace("_", " ").encode() for word in _WORDS.split()
    )
    + _TAIL.encode()
)
assert zlib.adler32(DICTIONARY) == 0xE3C6A7C2
SYN_STREAM, SYN_REPLY, RST_STREAM, PING, GOAWAY = 1, 2, 3, 6, 7
FIN = 1


@dataclass(frozen=True)
class Frame:
    """One that came: of a stream's data (`kind` 0), or of control."""

    kind: int
    stream: int
    data: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    fin: bool = False


class Frames:
    """Takes bytes as they come and gives whole frames; makes those that go the other way."""

    def __init__(self) -> None:
        self._left = bytearray()
        self._inflate = zlib.decompressobj(zdict=DICTIONARY)
        self._deflate = zlib.compressobj(zdict=DICTIONARY)

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames that are whole by now."""
        self._left += data
        while len(self._left) >= 8:
            size = 8 + int.from_bytes(self._left[5:8], "big")
            if len(self._left) < size:
                return
            head, body = bytes(self._left[:8]), bytes(self._left[8:size])
            del self._left[:size]
            yield self._frame(head, body)

    def _frame(self, head: bytes, body: bytes) -> Frame:
        fin = bool(head[4] & FIN)
        if not head[0] & 0x80:
            return Frame(0, int.from_bytes(head[:4], "big"), body, fin=fin)
        kind = int.from_bytes(head[2:4], "big")
        stream = int.from_bytes(body[:4], "big") & 0x7FFFFFFF
        headers = self._headers(body[10:]) if kind == SYN_STREAM else {}
        return Frame(kind, stream, body, headers, fin)

    def _headers(self, block: bytes) -> dict[str, str]:
        plain = self._inflate.decompress(block)
        (count,), at, words = struct.unpack(">I", plain[:4]), 4, []
        for _ in range(2 * count):
            (size,) = struct.unpack(">I", plain[at : at + 4])
            words.append(plain[at + 4 : at + 4 + size].decode())
            at += 4 + size
        return dict(zip(words[::2], words[1::2], strict=True))

    def reply(self, stream: int) -> bytes:
        """A stream is taken."""
        block = self._deflate.compress(struct.pack(">I", 0))
        block += self._deflate.flush(zlib.Z_SYNC_FLUSH)
        return self._control(SYN_REPLY, struct.pack(">I", stream) + block)

    def ping(self, body: bytes) -> bytes:
        """The same back."""
        return self._control(PING, body)

    def data(self, stream: int, data: bytes, *, fin: bool = False) -> bytes:
        """Bytes of a stream, at most 16 MiB."""
        return struct.pack(">IB", stream, fin) + len(data).to_bytes(3, "big") + data

    def reset(self, stream: int) -> bytes:
        """A stream is cancelled."""
        return self._control(RST_STREAM, struct.pack(">II", stream, 5))

    def _control(self, kind: int, body: bytes) -> bytes:
        return struct.pack(">HHB", 0x8003, kind, 0) + len(body).to_bytes(3, "big") + body
