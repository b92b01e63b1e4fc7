"""The pictures of an annotation file: their names, and where what was drawn on each lies in it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple, cast

from segengine.datasets._json import Found, parsed, records
from segengine.datasets._spans import digest, read_spans, span_of
from segengine.errors import CorruptInputError, SegengineError, TransientInputError
from segengine.sources._files import open_input

LARGEST = 1 << 26
"""Bytes of a file, or of a picture's part of one, that is parsed at once."""
SLIM = "save it without the picture in it (labelme --nodata), or split it"
_HEAD = b'{"items":'


class Picture(NamedTuple):
    """A picture in an annotation file."""

    name: str
    """As the file has it, `/` between folders; empty: the file is of one picture and does not say."""
    place: str = ""
    """Where its records lie: groups separated by `;`; empty: the file is all its own."""
    mark: str = ""
    """Digest of the records."""


def records_at(uri: str, picture: Picture) -> list[list[bytes]]:
    """The records of a picture, by group. Raises ValueError where they are not those any more."""
    groups = [read_spans(uri, group) for group in picture.place.split(";")]
    if digest(*(span_of(0, text) for group in groups for text in group)) != picture.mark:
        raise ValueError("has changed since the run began; run again")
    if max((len(text) for group in groups for text in group), default=0) > LARGEST:
        raise ValueError(f"has a record of more than {LARGEST >> 20} MB")
    return groups


def whole(uri: str) -> bytes:
    """A file that is read at once. Raises ValueError for one that is too large."""
    with open_input(uri) as file:
        data = file.read(LARGEST + 1)
    if len(data) > LARGEST:
        raise ValueError(f"is of more than {LARGEST >> 20} MB; {SLIM}")
    return data


def items(uri: str, sections: tuple[str, ...], seen: set[str] | None = None) -> Iterator[Found]:
    """The objects of a JSON's arrays of these names; of none: in the array that it is.

    seen: gets those that are there, also empty. Raises SegengineError where the file is damaged.
    """
    try:
        with open_input(uri) as file:
            if sections:
                yield from records(file, sections, seen=seen)
                return
            for found in records(cast("BinaryIO", _Wrapped(file)), ("items",)):
                yield found._replace(offset=found.offset - len(_HEAD))
    except (ValueError, CorruptInputError, TransientInputError) as error:
        raise SegengineError(f"{uri}: {error}; get it again") from error


class _Wrapped:
    """A JSON as the value of a key of an object, read from its beginning."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._next, self._ended = file, _HEAD, False

    def read(self, size: int) -> bytes:
        found = self._next or self._file.read(size)
        self._next = b""
        if not found and not self._ended:
            self._ended, found = True, b"}"
        return found


def object_of(text: bytes | bytearray) -> dict[str, Any]:
    """A JSON object. Raises ValueError where it is none."""
    try:
        found = parsed(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise ValueError("is no JSON object")
    return found


def listed(found: Any, what: str) -> list[Any]:
    """A JSON array, nothing for null. Raises ValueError where it is none."""
    if found is None:
        return []
    if not isinstance(found, list):
        raise ValueError(f"has {what} that are no list")
    return found


def worded(value: Any) -> str | None:
    """A class's name; None where there is none. Raises ValueError for what is no text."""
    if value is None or value == "":
        return None
    if not isinstance(value, str) or any("\ud800" <= letter <= "\udfff" for letter in value):
        raise ValueError(f"has {value!r:.40} for the name of a class")
    return value
