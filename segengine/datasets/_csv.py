"""Rows of a big CSV file by the picture they are of, in one pass that holds a block at a time."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence

from segengine.datasets._spans import Span, SpanIndex, locate, read_spans, span_of
from segengine.errors import CorruptInputError, SegengineError, TransientInputError
from segengine.sources._files import open_input

_BLOCK = 1 << 20
_LONGEST = 1 << 17
"""Bytes of a line, and letters of a field, which is what the csv module takes."""


def find_rows(
    uri: str, columns: Sequence[str], keys: Sequence[str], only: tuple[str, str] | None = None
) -> Iterator[tuple[str, list[Span]]]:
    """(locator, rows) of each key: where the rows lie that have it in the first of `columns`.

    `columns`: those that the rows must have; `only`: a column and the value that rows must have in
    it. Rows are lines: no field may hold a line break. Raises SegengineError where the file cannot
    be read or lacks a column.
    """
    numbers = {key.encode(): i for i, key in enumerate(keys)}
    index = SpanIndex()
    lines = _lines(uri)
    head = next(lines, (0, b""))
    names = _fields(head[1])
    for needed in (*columns, *(only or ())[:1]):
        if needed not in names:
            raise SegengineError(f"{uri}: has no column {needed}; it has {', '.join(names)}")
    place = names.index(columns[0])
    other, value = (names.index(only[0]), only[1]) if only else (place, None)
    for offset, line in lines:
        quoted = b'"' in line
        fields = [f.encode() for f in _fields(line)] if quoted else line.split(b",", place + 1)
        number = numbers.get(fields[place]) if place < len(fields) else None
        if number is None:
            continue
        if value is not None:
            values = _fields(line)
            if other >= len(values) or values[other] != value:
                continue
        index.add(number, offset, line)
    first = span_of(*head)
    for rows in index.lookup(range(len(keys))):
        yield f"{uri}#{locate([first, *rows])}", rows


def read_rows(locator: str) -> list[dict[str, str]]:
    """The rows at a place that `find_rows` told, by column. Raises MissingTruthError."""
    uri, _, places = locator.rpartition("#")
    head, *rows = (_fields(line) for line in read_spans(uri, places))
    return [dict(zip(head, row, strict=False)) for row in rows]


def read_table(text: str) -> list[list[str]]:
    """The rows of a small file."""
    return [row for row in map(_split, text.splitlines()) if row]


def _fields(line: bytes) -> list[str]:
    return _split(line.decode("utf-8-sig", "replace").rstrip("\r"))


def _split(line: str) -> list[str]:
    """The fields of a line; of one that is no CSV, a single one."""
    try:
        return next(csv.reader([line]), [])
    except csv.Error:
        return [line]


def _lines(uri: str) -> Iterator[tuple[int, bytes]]:
    try:
        with open_input(uri) as file:
            offset, rest = 0, b""
            while block := file.read(_BLOCK):
                *lines, rest = (rest + block).split(b"\n")
                if max(map(len, (*lines, rest))) > _LONGEST:
                    raise SegengineError(f"{uri}: a line of more than {_LONGEST:,} bytes")
                for line in lines:
                    yield offset, line
                    offset += len(line) + 1
            if rest:
                yield offset, rest
    except (CorruptInputError, TransientInputError) as error:
        raise SegengineError(f"{uri}: {error}") from error
