"""In which order shards are worked on, where a run may not come to all of them.

A row is a place along the frames of a scene's shard grid. What is asked for does not change a mask.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from segengine.instants import seconds_of
from segengine.store.layouts import Layout

Rows = NDArray[np.int64] | None
"""Rows in their order; None: all, from the first to the last."""
Key = tuple[Any, ...]


def in_order(
    layouts: Iterable[Layout], order: Literal["newest", "path", "smallest"]
) -> Iterator[tuple[Layout, Rows]]:
    """Scenes and their rows; the rows of one file stay together."""
    key = _KEYS[order]
    scenes = list(layouts)
    found: list[tuple[Key, int, int]] = []
    for i, layout in enumerate(scenes):
        if layout.stacked:
            found += [(key(layout, f), i, f) for f in range(layout.grid[0])]
        else:
            found.append((key(layout, 0), i, -1))
    found.sort()
    begin = 0
    while begin < len(found):
        scene = found[begin][1]
        end = begin + 1
        while end < len(found) and found[end][1] == scene:
            end += 1
        rows = np.array([f for _, _, f in found[begin:end]], np.int64)
        yield scenes[scene], rows if scenes[scene].stacked else None
        begin = end


def _path(layout: Layout, f: int) -> Key:
    """By the name of the first frame, as bytes."""
    return (layout.frame_name(f * layout.shard[0]).encode("utf-8", "surrogateescape"),)


def _smallest(layout: Layout, f: int) -> Key:
    """By the pixels of a shard's frames inside what is void around them."""
    step = layout.shard[0]
    if layout.stacked:
        part = slice(f * step, (f + 1) * step)
        pixels = int(np.sum(layout.heights[part].astype(np.int64) * layout.widths[part]))
    else:
        pixels = int(layout.heights[0]) * int(layout.widths[0]) * min(step, layout.shape[0])
    side = math.prod(layout.shard[1:])
    return min(pixels, step * side), *_path(layout, f)


def _newest(layout: Layout, f: int) -> Key:
    """By the newest of its frames; those of which no time is told come after, by name, the last first."""
    first = f * layout.shard[0]
    last = min(first + layout.shard[0], layout.shape[0]) if layout.stacked else first + 1
    time = max(_time(layout, frame) for frame in range(first, last))
    (name,) = _path(layout, f)
    return -time, tuple(-byte for byte in name)


def _time(layout: Layout, frame: int) -> float:
    """Unix time of an input: its item's datetime, else when its file was changed; -inf: not known."""
    item = layout.attributes.get("stac")
    told = seconds_of(item.get("datetime")) if isinstance(item, dict) else None
    if told is not None:
        return told
    uri = layout.uris[frame if layout.stacked else 0]
    if "://" in uri:
        return -math.inf
    try:
        return os.stat(uri).st_mtime
    except (OSError, ValueError):
        return -math.inf


_KEYS: dict[str, Callable[[Layout, int], Key]] = {
    "newest": _newest,
    "path": _path,
    "smallest": _smallest,
}
