"""The classes of a map as strata: their areas, and pixels drawn from them.

Areas are whole numbers of square metres times a power of two, from the records of the shards; what of a
shard is not vouched for is void. A pixel is drawn with a probability that is as its area, and never
twice:

    areas of one class     | shard 0 | shard 1  |  shard 2 ...     a whole number below their sum leads
    its pixels                        | | | | | |                  to a shard, what is left of it to a pixel
"""

from __future__ import annotations

import bisect
import itertools
import math
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segengine.errors import DamagedStoreError, JobError
from segengine.ground import Ground
from segengine.reader import SceneStore, Store
from segengine.store.keys import MASK, array_folder
from segengine.store.kinds import MaskRecord
from segengine.types import Place


@dataclass(frozen=True, slots=True, order=True)
class Pixel:
    """A pixel of a store."""

    scene: str
    frame: int
    row: int
    column: int


@dataclass(frozen=True, slots=True)
class _Part:
    """A shard."""

    scene: str
    place: Place
    areas: tuple[int, ...]
    """Of each class, in the scene's unit."""


@dataclass(frozen=True)
class Strata:
    """Each class of a map with its area."""

    store: Store
    parts: tuple[_Part, ...] = field(repr=False)
    exponents: dict[str, int] = field(repr=False)
    """Of each scene's unit: 2 to this power square metres."""
    unplaced: tuple[str, ...] = ()
    """Scenes that are not georeferenced, and left out."""
    unfinished: int = 0
    """Shards without a mask."""

    @classmethod
    def of(cls, store: Store) -> Strata:
        """Of all scenes with a place on earth. Raises JobError where there is none."""
        parts, exponents, unplaced, unfinished = [], {}, [], 0
        for name, scene in store.scenes.items():
            ground = scene.layout.placing.ground
            if ground is None or ground.exponent is None:
                unplaced.append(name)
                continue
            exponents[name] = ground.exponent
            found = list(_parts(store, scene, ground))
            unfinished += scene.layout.shards - len(found)
            parts += found
        if not exponents:
            raise JobError(
                f"{store.path}: no scene of it is georeferenced, so that nothing has an area"
                if unplaced
                else f"{store.path}: has no scene yet; run the job first"
            )
        return cls(store, tuple(parts), exponents, tuple(unplaced), unfinished)

    @property
    def least(self) -> int:
        """Exponent of the smallest unit of a scene."""
        return min(self.exponents.values())

    def _units(self, part: _Part, label: int) -> int:
        """Area of a class in a shard, in the smallest unit."""
        return part.areas[label] << (self.exponents[part.scene] - self.least)

    @property
    def areas(self) -> list[float]:
        """Square metres of each class."""
        return [
            math.ldexp(sum(self._units(part, label) for part in self.parts), self.least)
            for label in range(len(self.store.classes))
        ]

    def draw(self, label: int, size: int, seed: int) -> list[Pixel]:
        """Pixels of a class, in the order in which they are drawn; fewer where there are not so many."""
        parts = [part for part in self.parts if part.areas[label]]
        ends = list(itertools.accumulate(self._units(part, label) for part in parts))
        if not ends:
            return []
        rng = random.Random(f"segengine sample {seed} {label}")
        found: dict[Pixel, None] = {}
        while len(found) < size:
            before, wanted = len(found), size - len(found)
            marks = [rng.randrange(ends[-1]) for _ in range(wanted)]
            found.update(dict.fromkeys(self._resolved(label, parts, ends, marks)))
            if len(found) - before < wanted / 2:  # most of the class is drawn, and is hit again
                rest = self._rest(label, parts, found, size - len(found), rng.getrandbits(64))
                return [*found, *rest]
        return list(found)

    def _resolved(
        self, label: int, parts: Sequence[_Part], ends: list[int], marks: Sequence[int]
    ) -> list[Pixel]:
        """The pixel of each mark; a shard is read once for all marks in it."""
        places = [bisect.bisect_right(ends, mark) for mark in marks]
        found: list[Pixel | None] = [None] * len(marks)
        in_order = sorted(range(len(marks)), key=places.__getitem__)
        for i, group in itertools.groupby(in_order, key=places.__getitem__):
            part, own = parts[i], list(group)
            begin = ends[i - 1] if i else 0
            shift = self.exponents[part.scene] - self.least
            rests = [(marks[k] - begin) >> shift for k in own]
            for k, pixel in zip(own, self._in_shard(part, label, rests), strict=True):
                found[k] = pixel
        return [pixel for pixel in found if pixel is not None]

    def _in_shard(self, part: _Part, label: int, rests: Sequence[int]) -> Iterator[Pixel]:
        labels, weights = self._read(part)
        ends = np.cumsum(np.where(labels == label, weights, 0), dtype=np.int64)
        if not len(ends) or not ends[-1]:
            raise DamagedStoreError(
                f"{self.store.path}/{array_folder(part.scene, MASK)}",
                f"shard {part.place} has no pixel of the class that its record says",
            )
        # one of an earlier release may count a pixel's area a little differently
        marks = [rest * int(ends[-1]) // part.areas[label] for rest in rests]
        return self._pixels(part, labels.shape, np.searchsorted(ends, marks, "right"))

    def _rest(
        self, label: int, parts: Sequence[_Part], found: Iterable[Pixel], size: int, seed: int
    ) -> list[Pixel]:
        """So many of the pixels that are not drawn yet, as drawing on would come to them.

        Each has the key log(u) / area, u uniform, and the greatest are taken: Efraimidis, Spirakis
        (2006), Weighted random sampling with a reservoir, doi:10.1016/j.ipl.2005.11.003.
        """
        drawn: dict[tuple[str, Place], list[Pixel]] = {}
        for pixel in found:
            each = zip(
                (pixel.frame, pixel.row, pixel.column),
                self.store[pixel.scene].layout.shard,
                strict=True,
            )
            frame, row, column = (at // side for at, side in each)
            drawn.setdefault((pixel.scene, (frame, row, column)), []).append(pixel)
        rng = np.random.default_rng(seed)
        keys = np.zeros(0, np.float64)
        where = np.zeros((0, 2), np.int64)
        shapes: dict[int, tuple[int, ...]] = {}
        for i, part in enumerate(parts):
            labels, weights = self._read(part)
            there = labels == label
            starts = self._starts(part)
            for pixel in drawn.get((part.scene, part.place), ()):
                at = (pixel.frame, pixel.row, pixel.column)
                there[tuple(a - start for a, start in zip(at, starts, strict=True))] = False
            places = np.flatnonzero(there)
            own = np.broadcast_to(weights, labels.shape).reshape(-1)[places].astype(np.float64)
            own = np.ldexp(own, self.exponents[part.scene] - self.least)
            keys = np.concatenate([keys, np.log1p(-rng.random(len(places))) / own])
            where = np.concatenate([where, np.stack([np.full_like(places, i), places], axis=1)])
            shapes[i] = labels.shape
            best = np.argsort(-keys, kind="stable")[:size]
            keys, where = keys[best], where[best]
        taken: list[Pixel | None] = [None] * len(keys)
        for i in np.unique(where[:, 0]).tolist():
            own_places = np.flatnonzero(where[:, 0] == i)
            pixels = self._pixels(parts[i], shapes[i], where[own_places, 1])
            for k, pixel in zip(own_places.tolist(), pixels, strict=True):
                taken[k] = pixel
        return [pixel for pixel in taken if pixel is not None]

    def _read(self, part: _Part) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """(frame, y, x) labels of a shard, and (y, x) areas of its pixels."""
        scene = self.store[part.scene]
        frames, rows, cols = scene.layout.window(part.place).slices
        ground = scene.layout.placing.ground
        assert ground is not None
        return scene.read(MASK, frames, rows, cols), ground.weights(rows, cols)

    def _starts(self, part: _Part) -> tuple[int, ...]:
        slices = self.store[part.scene].layout.window(part.place).slices
        return tuple(each.start for each in slices)

    def _pixels(
        self, part: _Part, shape: tuple[int, ...], places: NDArray[np.int64]
    ) -> Iterator[Pixel]:
        """Pixels of a shard by their places in it, counted along its rows."""
        starts = self._starts(part)
        indices = zip(np.unravel_index(places, shape), starts, strict=True)
        frames, rows, columns = ((index + start).tolist() for index, start in indices)
        return map(Pixel, itertools.repeat(part.scene), frames, rows, columns)


def left_out(unplaced: Sequence[str]) -> str:
    """A line on scenes that lie nowhere on earth.

    >>> left_out(["a", "b", "c"])
    'scene a and 2 more: not georeferenced, left out'
    """
    more = f" and {len(unplaced) - 1:,} more" if len(unplaced) > 1 else ""
    return f"scene {unplaced[0]}{more}: not georeferenced, left out"


def _parts(store: Store, scene: SceneStore, ground: Ground) -> Iterator[_Part]:
    """The shards that are done, in raster order."""
    classes = len(store.classes)
    records = sorted(store.records(scene.name), key=lambda record: record.shard)
    for record in records:
        if record.status != "done" or not _lies_in(record, scene):
            continue
        areas: Any = record.ground
        if len(areas) != classes + 1:  # an earlier release's, or of other classes
            labels = scene.read(MASK, *scene.layout.window(record.shard).slices)
            areas = ground.totals(labels, classes, scene.layout.window(record.shard).start[1:])
        if areas is not None:
            yield _Part(scene.name, record.shard, tuple(areas)[:classes])


def _lies_in(record: MaskRecord, scene: SceneStore) -> bool:
    return all(i < n for i, n in zip(record.shard, scene.layout.grid, strict=True))
