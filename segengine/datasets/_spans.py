"""Where the records of each frame lie in a big file, so that a worker seeks instead of parsing it."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import xxhash

from segengine.errors import CorruptInputError, MissingTruthError, TransientInputError
from segengine.sources._files import open_input


class Span(NamedTuple):
    """A record: its place in the file, and a digest of its bytes."""

    offset: int
    length: int
    digest: int


class SpanIndex:
    """Records by an integer key, 32 bytes each, in the order in which they were added."""

    def __init__(self) -> None:
        self._rows = array("Q")

    def add(self, key: int, offset: int, record: bytes | bytearray) -> None:
        """Note a record. Raises OverflowError for a key that does not fit 64 bits."""
        mark = xxhash.xxh3_64_intdigest(record)
        self._rows.extend((key, offset, len(record), mark))

    def lookup(self, keys: Sequence[int]) -> Iterator[list[Span]]:
        """The records of each key, in the order of the file."""
        rows = np.frombuffer(self._rows, np.uint64).reshape(-1, 4)
        order = np.argsort(rows[:, 0], kind="stable")
        own = rows[order, 0]
        wanted = np.array(keys, np.uint64)
        first, last = np.searchsorted(own, wanted, "left"), np.searchsorted(own, wanted, "right")
        for a, b in zip(first.tolist(), last.tolist(), strict=True):
            yield [Span(*row) for row in rows[order[a:b], 1:].tolist()]

    def stranger(self, keys: Sequence[int]) -> int | None:
        """Offset of the first record of none of the keys."""
        rows = np.frombuffer(self._rows, np.uint64).reshape(-1, 4)
        other = ~np.isin(rows[:, 0], np.array(keys, np.uint64))
        return int(rows[other, 1][0]) if other.any() else None


def digest(*spans: Span) -> str:
    """Of the bytes of records, wherever they lie."""
    return xxhash.xxh3_64_hexdigest(np.array([span.digest for span in spans], np.uint64).tobytes())


def locate(spans: Sequence[Span]) -> str:
    """Places of records as text.

    >>> locate([Span(7, 3, 0), Span(20, 5, 0)])
    '7+3,20+5'
    """
    return ",".join(f"{span.offset}+{span.length}" for span in spans)


def read_spans(uri: str, located: str) -> list[bytes]:
    """The records at places that `locate` wrote. Raises MissingTruthError."""
    try:
        with open_input(uri) as file:
            found = []
            for place in filter(None, located.split(",")):
                offset, _, length = place.partition("+")
                file.seek(int(offset))
                found.append(file.read(int(length)))
            return found
    except (CorruptInputError, TransientInputError) as error:
        raise MissingTruthError(f"{uri}: {error}") from error


def span_of(offset: int, record: bytes | bytearray) -> Span:
    """The span of a record at hand."""
    return Span(offset, len(record), xxhash.xxh3_64_intdigest(record))
