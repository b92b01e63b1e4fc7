"""Components that lie in several shards, split: each seen whole, in a crop from the shards' drafts.

What each becomes is stored shard by shard: the objects of its pixels, in raster order.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segengine.instances.along import Runs
from segengine.instances.join import first_pixels
from segengine.store.blobs import Objects, open_objects
from segengine.store.keys import parts_key, split_key
from segengine.store.values import decode, encode
from segengine.types import Place
from segengine.worker.attempts import tried
from segengine.worker.drafts import read_numbers
from segengine.worker.tasks import Component, Retry, SplitComponents, SplitTask

DRAFTS = 4
"""Drafts that are held: a component that is no larger than a shard lies in no more."""
Ids = NDArray[np.int32]


class _Drafts:
    """The numbers of shards' components, read as they are wanted."""

    def __init__(self, objects: Objects, scene: str) -> None:
        self.objects, self.scene = objects, scene
        self.held: OrderedDict[Place, Ids] = OrderedDict()

    def get(self, place: Place) -> Ids:
        if place not in self.held:
            data = self.objects.get(parts_key(self.scene, place))
            if data is None:
                raise ValueError("a shard's draft is gone from work/")
            while len(self.held) >= DRAFTS:
                self.held.popitem(last=False)
            numbers = read_numbers(decode(data))
            self.held[place] = numbers.map() if isinstance(numbers, Runs) else numbers
        self.held.move_to_end(place)
        return self.held[place]


def split_components(task: SplitTask) -> SplitComponents | Retry:
    """Split the components of a task, store what their pixels are, and say where each object begins."""

    def done() -> SplitComponents:
        objects = open_objects(task.store, task.writer)
        drafts = _Drafts(objects, task.scene)
        first, component = [np.zeros(0, np.int64)], [np.zeros(0, np.int32)]
        pixels: dict[Place, list[tuple[NDArray[np.int64], Ids]]] = {}
        count = 0
        for i, each in enumerate(task.components):
            starts, found = _split(task, each, drafts)
            first.append(starts)
            component.append(np.full(len(starts), i, np.int32))
            for place, places, values in found:
                pixels.setdefault(place, []).append((places, values + np.int32(count)))
            count += len(starts)
        for place, both in pixels.items():
            order = np.argsort(np.concatenate([places for places, _ in both]), kind="stable")
            values = np.concatenate([values for _, values in both])[order]
            objects.put(split_key(task.scene, task.place, place), encode(values))
        return SplitComponents(np.concatenate(first), np.concatenate(component))

    return tried(done)


def _split(
    task: SplitTask, component: Component, drafts: _Drafts
) -> tuple[NDArray[np.int64], list[tuple[Place, NDArray[np.int64], Ids]]]:
    """First pixels of its objects, and in each shard where its pixels are and what each is of."""
    height, width = task.size
    top, left, bottom, right = component.box
    # a line of what it is not of itself, but at the frame's border
    top, left = max(0, top - 1), max(0, left - 1)
    bottom, right = min(height, bottom + 1), min(width, right + 1)
    crop = np.zeros((bottom - top, right - left), np.int32)
    members = []
    for place, (y, x), numbers in component.members:
        draft = drafts.get(place)
        rows = slice(max(top, y), min(bottom, y + draft.shape[0]))
        cols = slice(max(left, x), min(right, x + draft.shape[1]))
        part = draft[rows.start - y : rows.stop - y, cols.start - x : cols.stop - x]
        mine = part == numbers[0] if len(numbers) == 1 else np.isin(part, numbers)
        inside = (
            slice(rows.start - top, rows.stop - top),
            slice(cols.start - left, cols.stop - left),
        )
        crop[inside][mine] = 1
        at = np.flatnonzero(mine)
        down, along = np.divmod(at, part.shape[1])
        places = (down + rows.start - y) * draft.shape[1] + along + cols.start - x
        members.append((place, places, inside, at))
    parts, owner = task.cleaning.of(crop, 1)
    down, along = np.divmod(first_pixels(parts, len(owner) - 1)[1:], crop.shape[1])
    starts = (down + top) * width + along + left
    found: list[Any] = [
        (place, places, parts[inside].reshape(-1)[at]) for place, places, inside, at in members
    ]
    return starts, found
