"""Which frames of two stores belong together, and how their masks differ: a band of one at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from segengine.errors import JobError
from segengine.reader import SceneStore, Store
from segengine.store.keys import MASK

BAND = 1 << 23
"""Pixels that are read at a time, of each store."""


class Matched(NamedTuple):
    """A frame that is in both stores."""

    name: str
    scene: str
    """Its scene in A."""
    frame: int
    scene_b: str
    frame_b: int


@dataclass(frozen=True, slots=True)
class Matches:
    """The frames of two stores, by name."""

    pairs: tuple[Matched, ...]
    only_a: int
    only_b: int
    unlike: tuple[str, ...]
    """Names of frames whose size, or place on the ground, is not the same in both."""


@dataclass(frozen=True, slots=True)
class Classes:
    """The classes of both stores, by name; the last label of all is void."""

    names: tuple[str, ...]
    a: NDArray[np.int64]
    """The place in `names` of each label of A."""
    b: NDArray[np.int64]

    @classmethod
    def of(cls, a: Store, b: Store) -> Classes:
        """Those of A, then what B has besides."""
        names = tuple(dict.fromkeys((*a.classes, *b.classes)))
        place = {name: i for i, name in enumerate(names)}
        found = [np.array([place[name] for name in store.classes], np.int64) for store in (a, b)]
        return cls(names, found[0], found[1])

    @property
    def void(self) -> int:
        """The place of what has no label."""
        return len(self.names)


@dataclass(slots=True)
class FrameDifference:
    """How a frame's masks differ."""

    pair: Matched
    valid: int = 0
    """Pixels that both have labelled."""
    same: int = 0

    @property
    def agreement(self) -> float | None:
        """Share of pixels labelled alike; None where none is labelled in both."""
        return self.same / self.valid if self.valid else None


@dataclass(slots=True)
class Differences:
    """What is counted of all frames; each table is (A's class, B's class), void last."""

    classes: Classes
    table: NDArray[np.int64]
    scenes: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    """(class, 4): pixels in A, in B, gained, lost, of those valid in both; by A's scene."""
    frames: list[FrameDifference] = field(default_factory=list)

    @property
    def both(self) -> NDArray[np.int64]:
        """The table without void."""
        return self.table[:-1, :-1]

    @property
    def agreement(self) -> float | None:
        """Of pixels that are valid in both."""
        valid = int(self.both.sum())
        return int(np.trace(self.both)) / valid if valid else None

    def add(self, frame: FrameDifference, table: NDArray[np.int64]) -> None:
        """Count a frame."""
        both = table[:-1, :-1]
        same = np.diagonal(both)
        frame.valid, frame.same = int(both.sum()), int(same.sum())
        a, b = both.sum(axis=1), both.sum(axis=0)
        counts = np.stack([a, b, b - same, a - same], axis=1)
        before = self.scenes.get(frame.pair.scene)
        self.scenes[frame.pair.scene] = counts if before is None else before + counts
        self.table += table
        self.frames.append(frame)


def matched(a: Store, b: Store) -> Matches:
    """Frames by name; of two stores with one frame each, of other names, those two.

    Raises JobError where no frame of one has a match in the other.
    """
    there, here = _by_name(b), _by_name(a)
    if len(there) == len(here) == 1 and there.keys() != here.keys():
        there = dict(zip(here, there.values(), strict=True))
    pairs: list[Matched] = []
    unlike: list[Matched] = []
    for name, (scene, frame) in here.items():
        if name in there:
            found = Matched(name, scene, frame, *there[name])
            (pairs if _alike(a, b, found) else unlike).append(found)
    if not pairs:
        why = (
            f"the size or the place of {unlike[0].name} is another"
            if unlike
            else "no frame of one has the name of a frame of the other"
        )
        raise JobError(f"{a.path} and {b.path} cannot be compared: {why}")
    known = {pair.name for pair in (*pairs, *unlike)}
    return Matches(
        tuple(pairs),
        len(here) - len(known),
        len(there) - len(known),
        tuple(pair.name for pair in unlike),
    )


def _by_name(store: Store) -> dict[str, tuple[str, int]]:
    """(scene, frame) of each frame; of several of a name, as where one has moved, the last that is
    not gone."""
    found: dict[str, tuple[str, int]] = {}
    for name, scene in store.scenes.items():
        for ref in scene.frames:
            if not ref.pruned and (ref.name not in found or not ref.gone):
                found[ref.name] = name, ref.index
    return found


def _alike(a: Store, b: Store, pair: Matched) -> bool:
    one, other = a[pair.scene].layout, b[pair.scene_b].layout
    first, second = one.frame(pair.frame), other.frame(pair.frame_b)
    if (first.height, first.width) != (second.height, second.width):
        return False
    here, there = one.placing, other.placing
    if here.transform and there.transform:
        return here.wkt == there.wkt and np.allclose(here.transform, there.transform, rtol=1e-12)
    return True


def compared(a: Store, b: Store, pairs: Matches) -> Iterator[Differences]:
    """Count all of it; yields what is counted so far after each frame, always the same object."""
    classes = Classes.of(a, b)
    size = len(classes.names) + 1
    found = Differences(classes, np.zeros((size, size), np.int64))
    for pair in pairs.pairs:
        table = np.zeros(size * size, np.int64)
        for one, other, _ in bands(a, b, pair, classes):
            table += np.bincount((one * size + other).ravel(), minlength=size * size)
        found.add(FrameDifference(pair), table.reshape(size, size))
        yield found


def bands(
    a: Store, b: Store, pair: Matched, classes: Classes
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], slice]]:
    """(A's places in `classes`, B's, their rows) of a frame, some rows at a time."""
    one, other = a[pair.scene], b[pair.scene_b]
    ref = one.layout.frame(pair.frame)
    chunk = one.layout.chunk[1]
    step = max(chunk, BAND // max(1, ref.width) // chunk * chunk)
    tables = _table(one, classes.a, classes.void), _table(other, classes.b, classes.void)
    for top in range(0, ref.height, step):
        rows, cols = slice(top, min(top + step, ref.height)), slice(0, ref.width)
        yield (
            tables[0][one.read(MASK, pair.frame, rows, cols)],
            tables[1][other.read(MASK, pair.frame_b, rows, cols)],
            rows,
        )


def _table(scene: SceneStore, places: NDArray[np.int64], void: int) -> NDArray[np.int64]:
    """The place of every value that a mask may hold."""
    found = np.full(scene.void + 1, void, np.int64)
    found[: len(places)] = places
    return found


def of_classes(found: Differences) -> Mapping[str, dict[str, float | int | None]]:
    """Pixels of each class in A and in B, of those valid in both, and their IoU."""
    both = found.both
    a, b, same = both.sum(axis=1), both.sum(axis=0), np.diagonal(both)
    union = a + b - same
    return {
        name: {
            "a": int(a[i]),
            "b": int(b[i]),
            "iou": int(same[i]) / int(union[i]) if union[i] else None,
        }
        for i, name in enumerate(found.classes.names)
    }


def transitions(found: Differences) -> list[str]:
    """Each change of class and its pixels, the largest first."""
    names, table = found.classes.names, found.both.copy()
    np.fill_diagonal(table, 0)
    pairs = sorted(((-int(table[i, j]), int(i), int(j)) for i, j in np.argwhere(table)))
    return [f"{names[i]} -> {names[j]}: {-count:,} pixels" for count, i, j in pairs]
