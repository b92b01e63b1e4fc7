"""What a listing comes upon, whichever way it lists."""

from __future__ import annotations

from typing import NamedTuple

import xxhash

from segengine.types import Part


class Found(NamedTuple):
    """An input, or why something that is there by name is none."""

    name: str
    uri: str
    fingerprint: str
    zarr: bool = False
    reason: str = ""
    beside: tuple[str, ...] = ()
    skipped: bool = False
    """Reached, and no input by its suffix."""
    parts: tuple[Part, ...] = ()
    """Of a scene of several files."""
    order: int = 0
    """Which of the paths names it."""


def fingerprint_of(*parts: object) -> str:
    """Digest of what tells of a change."""
    return xxhash.xxh3_64_hexdigest(repr(parts).encode("utf-8", "surrogateescape"))
