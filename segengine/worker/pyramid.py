"""One shard of a level of the pyramid: the level below halved by mode, lowest label on ties."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segengine import tiling
from segengine.store.access import store_access
from segengine.store.arrays import ArraySpec
from segengine.store.blobs import NOBODY, Objects, Writer
from segengine.store.keys import array_folder
from segengine.store.kinds import LevelRecord, level_kind
from segengine.store.records import RecordLog
from segengine.store.shards import open_array, read_region, write_block
from segengine.types import Place
from segengine.worker.attempts import recorded
from segengine.worker.tasks import Damaged, Retry


def halve(labels: NDArray[Any], void: int) -> NDArray[Any]:
    """(n, y, x) -> (n, ceil(y / 2), ceil(x / 2)): the mode of each 2 x 2 block.

    >>> halve(np.array([[[1, 2, 255], [2, 1, 255]]], np.uint8), 255)
    array([[[  1, 255]]], dtype=uint8)
    """
    _, height, width = labels.shape
    if height % 2 or width % 2:
        labels = np.pad(labels, ((0, 0), (0, height % 2), (0, width % 2)), constant_values=void)
    a, b = labels[:, ::2, ::2], labels[:, ::2, 1::2]
    c, d = labels[:, 1::2, ::2], labels[:, 1::2, 1::2]
    # A sorting network for four; void, the maximum, comes last.
    a, b = np.minimum(a, b), np.maximum(a, b)
    c, d = np.minimum(c, d), np.maximum(c, d)
    a, c = np.minimum(a, c), np.maximum(a, c)
    b, d = np.minimum(b, d), np.maximum(b, d)
    b, c = np.minimum(b, c), np.maximum(b, c)
    # Two or more of the lowest win, also against two of another; else a pair further up; else the
    # lowest of four singles. A pair of void is no pair.
    middle = (a != b) & (b == c) & (b != void)
    upper = (a != b) & (b != c) & (c == d) & (c != void)
    mode: NDArray[Any] = np.where(middle, b, np.where(upper, c, a))
    return mode


@dataclass(frozen=True, slots=True)
class LevelTask:
    """One shard of a level."""

    store: str
    scene: str
    level: int
    place: Place
    spec: ArraySpec
    below: ArraySpec
    inputs: str
    stored: frozenset[Place]
    """Shards of the level below, under this one, that records vouch for."""
    had: str = ""
    """Where a record of this shard lies now: `single`, `packed`, or nowhere."""
    writer: Writer = NOBODY
    """Who writes, and whether it is flushed."""
    attempt: int = 1
    last: bool = False


def build_level_shard(task: LevelTask) -> LevelRecord | Retry | Damaged:
    """Read the level below, halve it, write one shard and its record."""
    return recorded(task.store, task.writer, task.attempt, lambda objects: _built(task, objects))


def _built(task: LevelTask, objects: Objects) -> LevelRecord:
    window = tiling.shard_window(task.place, task.spec.shape, task.spec.shard)  # type: ignore[arg-type]
    (f0, y0, x0), (f1, y1, x1) = window.start, window.stop
    index = (slice(f0, f1), slice(2 * y0, 2 * y1), slice(2 * x0, 2 * x1))
    with store_access(f"{task.store}/{array_folder(task.scene, task.below.path)}"):
        below = open_array(task.store, task.scene, task.below)
        labels = read_region(objects, below, index, lambda place: place in task.stored)
    block = halve(labels, int(task.spec.fill))
    if task.had:
        log = RecordLog(objects)
        log.drop(level_kind(task.level), task.scene, task.place, packed=task.had == "packed")
    stored = write_block(objects, task.spec, task.scene, task.place, block)
    return LevelRecord(
        level=task.level,
        scene=task.scene,
        shard=task.place,
        box=(*window.start, *window.stop),
        below=task.inputs,
        objects=(stored,),
    )
