"""Since when no run has seen the inputs of frames that are gone; by it they are pruned in time.

A run that finds an input vanished notes when it began, and when the run before did, which saw it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

import numpy as np

from segengine.store.blobs import Objects
from segengine.store.keys import UNSEEN
from segengine.store.layouts import Layout
from segengine.store.values import decode, encode


class Unseen(NamedTuple):
    """Of one frame, or of all of a scene of its own; in Unix time."""

    missed: float
    """When the first run without it began."""
    seen: float
    """When the last run with it did, as far as that is known; else as `missed`."""


Notes = Mapping[str, Mapping[int, Unseen]]
"""By scene and place among its names."""


def read_unseen(objects: Objects) -> dict[str, dict[int, Unseen]]:
    """The notes of a store; none where there are none, or only damaged remains."""
    data = objects.get(UNSEEN)
    try:
        found = {} if data is None else decode(data)
        return {
            scene: {
                int(place): Unseen(float(missed), float(seen))
                for place, missed, seen in zip(*columns, strict=True)
            }
            for scene, columns in found.items()
        }
    except (ValueError, TypeError, AttributeError):
        return {}


def write_unseen(objects: Objects, notes: Notes) -> None:
    """Put the notes in their place, atomically; none: nothing lies there."""
    found = {
        scene: (
            np.fromiter(frames, np.int64, len(frames)),
            np.array([note.missed for note in frames.values()], np.float64),
            np.array([note.seen for note in frames.values()], np.float64),
        )
        for scene, frames in sorted(notes.items())
        if frames
    }
    if found:
        objects.put(UNSEEN, encode(found))
    else:
        objects.delete(UNSEEN)


def noted(
    notes: Notes, layouts: Mapping[str, Layout], anew: Collection[str], now: Unseen
) -> dict[str, dict[int, Unseen]]:
    """The notes of a run: of each frame that is gone since when, or now for the first time.

    `anew`: scenes that are laid out anew, whose places were others' before.
    """
    found = {}
    for scene, layout in layouts.items():
        before = {} if scene in anew else notes.get(scene, {})
        gone = np.flatnonzero(layout.gone & ~layout.pruned).tolist() if layout.gone.any() else []
        if gone:
            found[scene] = {place: before.get(place, now) for place in gone}
    return found
