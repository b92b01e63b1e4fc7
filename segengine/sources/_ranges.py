"""Files behind a URL, read in ranges; a worker fetches each of their pages once, as long as it keeps it.

    tile of 90 kB --> pages 7 8 9 --> 7 is kept; 8 and 9 are asked for together --> kept

Neighbouring shards share tiles, each opens its file anew, and there is one request for what lies
together. Pages are kept by what the server says of the file's state (ETag, time): of a file that has
changed none is taken for another, and where it says nothing they are kept only while it is open.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterator
from threading import Lock
from typing import Any

from segengine.sources import _buckets

PAGE = 1 << 15
"""Bytes; a tile's first and last page are shared with its neighbours in the file."""
KEPT = 64 << 20
"""Bytes that a process keeps, of all files."""
_STEP = 1 << 18
"""Bytes that are asked for where a reader takes small steps: headers, streams."""
_SMALL = 1 << 16
"""A step; a tile is more."""
_STATES = ("ETag", "etag", "generation", "VersionId", "LastModified", "Last-Modified", "mtime")


class _Pages:
    """Those that were asked for last, of all files."""

    def __init__(self) -> None:
        self.lock = Lock()  # a shard may be read ahead
        self.held: OrderedDict[tuple[object, int], bytes] = OrderedDict()
        self.bytes = 0

    def get(self, file: object, number: int) -> bytes | None:
        """A page of a file, where it is kept."""
        with self.lock:
            found = self.held.get((file, number))
            if found is not None:
                self.held.move_to_end((file, number))
            return found

    def put(self, file: object, number: int, page: bytes) -> None:
        """Keep one, and let go of those that nobody has asked for."""
        with self.lock:
            before = self.held.pop((file, number), b"")
            self.held[file, number] = page
            self.bytes += len(page) - len(before)
            while self.bytes > KEPT:
                _, dropped = self.held.popitem(last=False)
                self.bytes -= len(dropped)


_PAGES = _Pages()


class RangedFile:
    """A seekable file of a known size, opened for reading."""

    def __init__(self, file: Any, size: int, state: object) -> None:
        """`file`: of fsspec, which keeps nothing. `state`: equal where the bytes are."""
        self._file, self._size, self._state = file, size, state
        self._at = self._next = 0

    def read(self, size: int = -1) -> bytes:
        start = self._at
        end = self._size if size < 0 else min(self._size, start + size)
        if end <= start:
            return b""
        last = (end - 1) // PAGE
        # One who goes on in small steps, or begins, is likely to go on.
        eager = end - start < _SMALL and start == self._next
        pages = list(self._pages(start // PAGE, last, last + _STEP // PAGE if eager else last))
        offset = start - start // PAGE * PAGE
        found = b"".join(pages)[offset : offset + end - start]
        self._at = self._next = start + len(found)
        return found

    def _pages(self, first: int, last: int, eager: int) -> Iterator[bytes]:
        """Pages of these numbers; what is not kept is fetched with what is missing after it."""
        number = first
        while number <= last:
            page = _PAGES.get(self._state, number)
            if page is not None:
                yield page
                number += 1
                continue
            stop = number + 1
            while stop <= eager and _PAGES.get(self._state, stop) is None:
                stop += 1
            fetched = self._fetch(number, stop)
            yield from fetched[: last + 1 - number]
            number = stop

    def _fetch(self, first: int, stop: int) -> list[bytes]:
        start, end = first * PAGE, min(stop * PAGE, self._size)
        self._file.seek(start)
        data = self._file.read(end - start)
        if len(data) != end - start:
            raise OSError(f"the server sent {len(data):,} of {end - start:,} bytes")
        pages = [data[i : i + PAGE] for i in range(0, len(data), PAGE)]
        for number, page in enumerate(pages, first):
            _PAGES.put(self._state, number, page)
        return pages

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def tell(self) -> int:
        return self._at

    def close(self) -> None:
        self._file.close()


def open_ranged(system: Any, path: str) -> RangedFile | None:
    """A file of an fsspec filesystem; None where its server gives no ranges. Raises as that does."""
    if (found := _buckets.opened(system, path)) is not None:
        object_state = (path, found.size, found.tag)
        for number, page in _buckets.pages_of(found, PAGE):
            _PAGES.put(object_state, number, page)
        return RangedFile(found, found.size, object_state)
    told: dict[str, Any] = {}
    if "http" in (system.protocol if isinstance(system.protocol, tuple) else (system.protocol,)):
        told = system.info(path)  # opening would ask for it too, and tell only the size
        if told.get("size") is None or told.get("partial") is False:
            return None
    known = {"size": told["size"]} if told else {}
    file = system.open(path, "rb", block_size=PAGE, cache_type="none", **known)
    if not file.seekable() or file.size is None:
        file.close()
        return None
    told = told or getattr(file, "details", None) or system.info(path)
    states = tuple(str(told[name]) for name in _STATES if told.get(name))
    state = (system.unstrip_protocol(path), file.size, states) if states else object()
    return RangedFile(file, file.size, state)
