"""Frames that a person names in a file: the very name, or as any command prints it.

    in the file               of a stored name
    ----------------------------------------------------------------------
    the very name             whatever else there is
    as it is shown            new\\nline.png of a name with a line feed
    the same letters          of another Unicode normal form: a Mac's é is e and an accent

What could be several names is refused: nothing is deleted by a guess.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Sequence

from segengine.errors import JobError
from segengine.stages.metrics_json import text
from segengine.urls import printable

LARGEST = 1 << 28
"""Bytes of a file of names."""


def read_names(path: str) -> tuple[str, ...]:
    """The names in a file, one a line. Raises JobError where it cannot be read, or holds none."""
    try:
        with open(path, "rb") as file:
            data = file.read(LARGEST + 1)
    except OSError as error:
        raise JobError(f"--frames: {path} cannot be read: {error.strerror or error}") from None
    if len(data) > LARGEST:
        raise JobError(f"--frames: {path} has more than {LARGEST:,} bytes; name fewer at once")
    if b"\0" in data:
        raise JobError(
            f"--frames: {path} is no text: byte {data.index(0)} is 0, which no name holds; write a "
            "name a line, in UTF-8"
        )
    lines = data.decode("utf-8", "surrogateescape").removeprefix("\ufeff").split("\n")
    names = tuple(dict.fromkeys(line.removesuffix("\r") for line in lines if line.strip()))
    if not names:
        raise JobError(f"--frames: {path} holds no name; write one a line")
    return names


def resolved(asked: Sequence[str], names: Iterable[str]) -> dict[str, str]:
    """The stored name that each of `asked` stands for; those of none are left out.

    Raises JobError for one that could be several.

    >>> resolved(["b.png", "new\\\\nline.png", "z"], ["b.png", "new\\nline.png"])
    {'b.png': 'b.png', 'new\\\\nline.png': 'new\\nline.png'}
    """
    there = set(names)
    found = {name: name for name in asked if name in there}
    left = {name: list(_forms(name)) for name in asked if name not in found}
    if not left:
        return found
    wanted = {form for forms in left.values() for form in forms}
    of: dict[str, set[str]] = {}
    for name in there:
        for form in {name, text(name), printable(name), printable(text(name))}:
            for each in _forms(form):
                if each in wanted:
                    of.setdefault(each, set()).add(name)
    for name, forms in left.items():
        several = next((of[form] for form in forms if form in of), set())
        if len(several) > 1:
            raise JobError(
                f"--frames: {name} could be any of {len(several)} names that look like it; write the "
                "bytes of the one that is meant"
            )
        if several:
            (found[name],) = several
    return found


def _forms(name: str) -> Iterator[str]:
    """The name, and what is alike in all its normal forms."""
    yield name
    yield unicodedata.normalize("NFC", name)
