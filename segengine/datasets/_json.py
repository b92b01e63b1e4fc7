"""Records of a big JSON file and where they lie, in one pass that holds a block of it at a time.

    {"info": {...}, "images": [{...}, {...}], "annotations": [{...}, ...], "categories": [...]}
     depth 1        section    record at depth 3

Quotes and brackets are found a block at a time with NumPy, and strings and depth follow from running
sums over them (after Langdale & Lemire 2019, "Parsing gigabytes of JSON per second"); what lies
between them is not looked at, so a record is parsed by whoever needs it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Container, Iterator
from typing import Any, BinaryIO, NamedTuple

import numpy as np

BLOCK = 1 << 20
LARGEST = 1 << 29
"""Bytes of a record; each is held once while it is read."""
_LONGEST = 1 << 10
"""Bytes of a key that may name a section."""
_ESCAPE = re.compile(rb"\\.", re.DOTALL)
_QUOTE, _ARRAY, _OPEN, _CLOSE = b'"[{}'


class Found(NamedTuple):
    """An object in an array right below the root."""

    section: str
    """Key of the array."""
    offset: int
    """Of its first byte in the file."""
    text: bytes | bytearray


def records(
    file: BinaryIO,
    sections: Container[str],
    block: int = BLOCK,
    seen: set[str] | None = None,
) -> Iterator[Found]:
    """The objects in the arrays named by `sections`, in the order of the file.

    The order of the sections, white space and nesting do not matter; those that are there, also
    empty, are added to `seen`. Raises ValueError where brackets or strings are left open, or the root
    is no object.
    """
    data, base, done = b"", 0, 0  # the text from `base` on; up to `done` it has been looked at
    depth, inside = 0, False
    quotes = (-1, -1)  # the last two at depth 1: those of a key, when an array opens
    section, opened = "", False
    start, offset, held = -1, 0, bytearray()  # of a record: what is not held yet begins at `start`
    while fresh := file.read(block):
        if start >= 0:
            held += data[start:done]
            start = done
            if len(held) > LARGEST:
                raise ValueError(f"a record of more than {LARGEST >> 20} MB at byte {offset}")
        quotes = (_near(quotes[0], done), _near(quotes[1], done))
        kept = min((place for place in quotes if place >= 0), default=done)
        data, base, done = data[kept:] + fresh, base + kept, done - kept
        start, quotes = start - kept, (quotes[0] - kept, quotes[1] - kept)
        part = data[done:]
        if b"\\" in part:
            part = _ESCAPE.sub(b"__", part)
            part = part.removesuffix(b"\\")  # its other half is in the next block
        codes = np.frombuffer(part, np.uint8)
        folded = codes | 0x20  # [ and { are one bit apart, and so are ] and }
        at = np.flatnonzero((codes == _QUOTE) | (folded == _OPEN) | (folded == _CLOSE))
        codes, folded = codes[at], folded[at]
        quote = codes == _QUOTE
        in_string = (np.cumsum(quote) + inside) & 1 == 1
        step = np.where(quote | in_string, 0, np.where(folded == _OPEN, 1, -1))
        depths = depth + np.cumsum(step)
        told = (quote & (depths == 1)) | ((step != 0) & (depths + (step < 0) <= 3))
        for place, code, level, move in zip(
            (at[told] + done).tolist(),
            codes[told].tolist(),
            depths[told].tolist(),
            step[told].tolist(),
            strict=True,
        ):
            if move == 0:
                quotes = quotes[1], place
            elif level < 0 or (level == 1 and move > 0 and code == _ARRAY):
                raise ValueError(f"no JSON object: a stray bracket at byte {base + place}")
            elif level == 2 and move > 0:
                key = (
                    data[quotes[0] : quotes[1] + 1] if code == _ARRAY and quotes[0] >= 0 else b'""'
                )
                name = json.loads(key)
                section, quotes = name if name in sections else "", (-1, -1)
                if section and seen is not None:
                    seen.add(section)
            elif level == 3 and move > 0 and section and code == _OPEN:
                start, offset, held = place, base + place, bytearray()
            elif level == 2 and start >= 0:
                held += data[start : place + 1]
                yield Found(section, offset, held)
                start = -1
            elif level == 1:
                section, opened = "", True
        done += len(part)
        if len(at):
            depth, inside = int(depths[-1]), bool(in_string[-1])
    if depth or inside or not opened:
        raise ValueError(f"the JSON ends inside it, after {base + len(data)} bytes")


def _near(place: int, done: int) -> int:
    """A quote's place; below 0: it is so far back that no key begins there."""
    return place if place > done - _LONGEST else -1


def parsed(text: bytes | bytearray) -> Any:
    """A record's value. Raises ValueError with one line, also for one nested too deeply."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not UTF-8 at byte {error.start}") from None
