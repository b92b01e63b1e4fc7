"""A bucket of S3 with very many photos, answered from a formula: pages of its listing, ranges of photos.

`python -m tests.bucket` serves one until it is ended, and prints its URL. What was asked for so far is
told at `URL/-/COUNT`, which forgets it, and lets there be so many photos from then on.
"""

from __future__ import annotations

import asyncio
import json
import re
import threading
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, ClassVar
from urllib.parse import parse_qs, unquote, urlsplit

import cv2
import numpy as np

PAGE = 1000
"""Keys in one answer, as S3 gives at most."""
NAME, PREFIX = "bench", "photos/"
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
}
_RANGE = re.compile(rb"range: *bytes=(\d+)-(\d+)", re.IGNORECASE)
_MISSING = b"<Error><Code>NoSuchKey</Code><Message>There is no such key.</Message></Error>"


class Photos(asyncio.Protocol):
    """One connection; all share how many photos there are, and what was asked for."""

    photos = 0
    markers: tuple[str, ...] = ()
    """Objects of nothing that stand for folders."""
    asked: ClassVar[Counter[str]] = Counter()
    picture = b""

    connections: ClassVar[set[Any]] = set()

    def connection_made(self, transport: Any) -> None:
        self.transport, self.held = transport, b""
        self.connections.add(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.connections.discard(self.transport)

    def data_received(self, data: bytes) -> None:
        self.held += data
        while (end := self.held.find(b"\r\n\r\n")) >= 0:
            head, self.held = self.held[:end], self.held[end + 4 :]
            line, _, headers = head.partition(b"\r\n")
            method, target, _ = line.decode().split(" ")
            self.transport.write(self.answer(method, target, headers))

    def answer(self, method: str, target: str, headers: bytes) -> bytes:
        """An answer to a request, whole."""
        url = urlsplit(target)
        path = unquote(url.path).strip("/")
        if path.startswith("-/"):
            told = json.dumps(Photos.asked).encode()
            Photos.asked, Photos.photos = Counter(), int(path[2:])
            return _http("200 OK", told)
        if path == NAME:
            self.asked["LIST"] += 1
            return _http("200 OK", self.page(parse_qs(url.query)))
        self.asked[method] += 1
        index = _index(path.removeprefix(f"{NAME}/"))
        head = method == "HEAD"
        if index is None or index >= self.photos:
            return _http("404 Not Found", b"" if head else _MISSING, head=head)
        more = f'ETag: "{_tag(index)}"\r\nLast-Modified: Mon, 01 Jun 2026 00:00:00 GMT\r\n'
        more += "Accept-Ranges: bytes\r\n"
        part = None if head else _RANGE.search(headers)
        if part is None:
            return _http("200 OK", self.picture, more, head=head)
        size = len(self.picture)
        first, last = int(part[1]), min(int(part[2]), size - 1)
        if first >= size:
            return _http("416 Range Not Satisfiable", b"")
        more += f"Content-Range: bytes {first}-{last}/{size}\r\n"
        return _http("206 Partial Content", self.picture[first : last + 1], more)

    def page(self, query: dict[str, list[str]]) -> bytes:
        """The keys behind a token, as many as are asked for."""
        prefix = query.get("prefix", [""])[0]
        first = int(query.get("continuation-token", ["0"])[0])
        most = min(PAGE, int(query.get("max-keys", [str(PAGE)])[0]))
        inside = PREFIX.startswith(prefix)
        stop = min(first + most, self.photos) if inside else first
        more = inside and stop < self.photos
        if "delimiter" in query and prefix != PREFIX and inside:
            names, more = [f"<CommonPrefixes><Prefix>{PREFIX}</Prefix></CommonPrefixes>"], False
        else:
            size = len(self.picture)
            names = [_content(_key(i), _tag(i), size) for i in range(first, stop)]
            if first == 0 and inside:
                names += [_content(key, _tag(0), 0) for key in self.markers]
        token = f"<NextContinuationToken>{stop}</NextContinuationToken>" if more else ""
        return (
            '<?xml version="1.0" encoding="UTF-8"?>\n'
            f'<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>{NAME}</Name>'
            f"<Prefix>{prefix}</Prefix><KeyCount>{len(names)}</KeyCount><MaxKeys>{most}</MaxKeys>"
            f"<IsTruncated>{str(more).lower()}</IsTruncated>{token}{''.join(names)}</ListBucketResult>"
        ).encode()


def _content(key: str, tag: str, size: int) -> str:
    return (
        f"<Contents><Key>{key}</Key><LastModified>2026-06-01T00:00:00.000Z</LastModified>"
        f"<ETag>&quot;{tag}&quot;</ETag><Size>{size}</Size><StorageClass>STANDARD</StorageClass>"
        "</Contents>"
    )


def _http(status: str, body: bytes, more: str = "", *, head: bool = False) -> bytes:
    start = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{more}\r\n".encode()
    return start if head else start + body


def _key(index: int) -> str:
    return f"{PREFIX}{index:08}.jpg"


def _index(key: str) -> int | None:
    found = re.fullmatch(rf"{PREFIX}(\d{{8}})\.jpg", key)
    return None if found is None else int(found[1])


def _tag(index: int) -> str:
    return f"{index * 0x9E3779B97F4A7C15 % 2**128:032x}"


async def _serve(told: Any) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
    Photos.picture = cv2.imencode(".jpg", pixels)[1].tobytes()
    server = await asyncio.get_running_loop().create_server(Photos, "127.0.0.1", 0)
    told(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    try:
        await server.serve_forever()
    finally:
        while Photos.connections:
            Photos.connections.pop().abort()
        await asyncio.sleep(0.01)  # until each has closed its socket


@contextmanager
def serving() -> Iterator[str]:
    """The URL of a server in this process."""
    loop, ready, urls = asyncio.new_event_loop(), threading.Event(), list[str]()

    def told(url: str) -> None:
        urls.append(url)
        ready.set()

    def run() -> None:
        with suppress(asyncio.CancelledError):
            loop.run_until_complete(task)

    task = loop.create_task(_serve(told))
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert ready.wait(10)
    try:
        yield urls[0]
    finally:
        loop.call_soon_threadsafe(task.cancel)
        thread.join(10)
        loop.close()
        Photos.markers = ()


def asked(url: str, photos: int) -> Counter[str]:
    """What was asked for since the last time; from now on there are so many photos."""
    with urllib.request.urlopen(f"{url}/-/{photos}") as answer:
        return Counter(json.load(answer))


if __name__ == "__main__":
    asyncio.run(_serve(lambda url: print(url, flush=True)))  # noqa: T201
