"""JSON documents of a STAC catalog, local or behind a URL: fetched and parsed within bounds.

A document is refused by its size before it is read where that is told, else after so many bytes; and
by the values in it before they take memory as Python objects.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from time import monotonic, sleep
from typing import Any, TypeVar

from segengine.errors import CorruptInputError, TransientInputError
from segengine.guards.schemes import filesystem
from segengine.sources._files import is_url, is_web, open_failure

MOST_BYTES = 64 << 20
"""Of one document."""
MOST_VALUES = 4_000_000
"""Of one document: brackets, braces and commas, of which each value has at least one."""
_STEP = 1 << 20
_TRIES = 6
_LONGEST = 60.0
"""Seconds that a server may have us wait before another try."""
_BUSY = frozenset((429, 500, 502, 503, 504))
_REMEMBERED = 30.0
"""Seconds for which a document that could not be had is not asked for again by the next shard."""
_MOST_FAILED = 1000
_FAILED: dict[str, tuple[float, TransientInputError]] = {}
"""Until when, and why, by uri or what else was asked for; of this process."""
T = TypeVar("T")


def read_document(uri: str) -> dict[str, Any]:
    """The JSON object at a path or URL. Raises CorruptInputError, TransientInputError."""
    _FAILED.pop(uri, None)
    return parsed(patiently(lambda: _fetch(uri), uri))


def read_again(uri: str) -> dict[str, Any]:
    """The same for each of many shards: a server that could not answer is not waited for by all."""
    return remembered(uri, lambda: read_document(uri))


def remembered(key: str, look: Callable[[], T]) -> T:
    """What `look` gives; where it could not just before, the same error at once."""
    failed = _FAILED.get(key)
    if failed is not None and monotonic() < failed[0]:
        raise type(failed[1])(str(failed[1]))
    try:
        return look()
    except TransientInputError as error:
        while len(_FAILED) >= _MOST_FAILED:
            _FAILED.pop(next(iter(_FAILED)), None)
        _FAILED[key] = monotonic() + _REMEMBERED, error
        raise


def parsed(data: bytes) -> dict[str, Any]:
    """A JSON object of bounded size. Raises CorruptInputError."""
    values = sum(map(data.count, (b",", b"[", b"{")))
    if values > MOST_VALUES:
        raise CorruptInputError(
            f"JSON of more than {values:,} values; at most {MOST_VALUES:,} are read: split it"
        )
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        looks = " (an HTML page)" if data.lstrip()[:1] == b"<" else ""
        raise CorruptInputError(f"is no JSON{looks}") from error
    if not isinstance(found, dict):
        raise CorruptInputError("its JSON is no object; a STAC document is one")
    return found


def patiently(request: Callable[[], T], uri: str) -> T:
    """What a request gives; it is made again where a server says that it is busy, as often as it asks.

    Raises CorruptInputError, TransientInputError.
    """
    for attempt in range(_TRIES):
        try:
            return request()
        except Exception as error:
            wait = _wait(error, attempt)
            if wait is None or attempt == _TRIES - 1:
                raise open_failure(uri, error) from error
            sleep(wait)
    raise AssertionError("unreachable")


def _wait(error: Exception, attempt: int) -> float | None:
    """Seconds until another try; None: it will not help."""
    if getattr(error, "status", None) not in _BUSY:
        return None
    return pause(getattr(error, "headers", None) or {}, attempt)


def pause(headers: Any, attempt: int) -> float:
    """Seconds that a busy server asks for in `Retry-After`, bounded; else 0.5, 1, 2 ..."""
    try:
        asked = float(headers.get("Retry-After", ""))
    except (ValueError, TypeError):
        asked = 0.5 * 2**attempt
    return min(max(asked, 0.0), _LONGEST) if asked == asked else _LONGEST


def bounded(read: Callable[[int], bytes]) -> bytes:
    """All that `read` gives, piece by piece. Raises CorruptInputError where that is too much."""
    pieces, size = [], 0
    while piece := read(_STEP):
        pieces.append(piece)
        size += len(piece)
        if size > MOST_BYTES:
            raise too_large(None)
    return b"".join(pieces)


def too_large(size: int | None) -> CorruptInputError:
    """The error for a document of so many bytes; None: nobody knows how many."""
    told = f"{size:,}" if size is not None else f"more than {MOST_BYTES:,}"
    return CorruptInputError(
        f"JSON of {told} bytes; at most {MOST_BYTES:,} are read: split it, or name GeoParquet"
    )


def _fetch(uri: str) -> bytes:
    if not is_url(uri):
        status = os.stat(uri)
        if not stat.S_ISREG(status.st_mode):
            what = "directory" if stat.S_ISDIR(status.st_mode) else "special file"
            raise CorruptInputError(f"is a {what}, and no STAC document")
        if status.st_size > MOST_BYTES:
            raise too_large(status.st_size)
        with open(uri, "rb") as file:
            return bounded(file.read)
    system, path = filesystem(uri)
    if is_web(uri):
        # One request, read as it comes: asking for the size first would be another.
        with system.open(path, "rb", block_size=0, size=1) as file:
            told = file.r.content_length
            if told is not None and told > MOST_BYTES:
                raise too_large(told)
            return bounded(file.read)
    size = system.info(path)["size"]
    if size is not None and size > MOST_BYTES:
        raise too_large(size)
    data = system.cat_file(path, start=0, end=MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise too_large(None)
    return bytes(data)
