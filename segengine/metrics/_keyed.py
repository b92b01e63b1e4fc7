"""States that keep each frame apart: entries sorted by scene and frame, so that no order matters.

An entry is a tuple (scene, frame, ...) of values that can be compared. `update` knows no scene: it
numbers frames of the scene "" from the first that the state does not hold, and the engine renames
a frame's entries with `locate` before it merges them.
"""

from __future__ import annotations

from typing import Any

Entries = tuple[tuple[Any, ...], ...]
"""(scene, frame, ...) each, ascending."""


def merge(a: Entries, b: Entries) -> Entries:
    """The entries of both, in order."""
    if not a or not b or a[-1] <= b[0]:
        return a + b
    if b[-1] <= a[0]:
        return b + a
    return tuple(sorted(a + b))


def locate(entries: Entries, scene: str, frame: int) -> Entries:
    """The entries of one frame, with its place."""
    return tuple((scene, frame, *entry[2:]) for entry in entries)


def next_frame(entries: Entries) -> int:
    """The first frame of the scene "" that is not held."""
    return max((entry[1] for entry in entries if entry[0] == ""), default=-1) + 1
