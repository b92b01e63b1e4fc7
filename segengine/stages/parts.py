"""Clean components on the driver: which windows' parts are one, who splits those, and their ids."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segengine.instances.cleaning import Cleaning, classes_of
from segengine.instances.parts import Linked, Parts, link
from segengine.store.blobs import NOBODY, Writer
from segengine.store.keys import split_key
from segengine.types import Cell, FrameRef, Place
from segengine.worker.tasks import Component, LinkedParts, SplitComponents, SplitPart, SplitTask


@dataclass(frozen=True, slots=True)
class _Members:
    """Numbers of components that are yet to be split, one entry each, by component and then by cell."""

    group: NDArray[np.int64]
    cell: NDArray[np.int64]
    """Place of the cell among the frame's, in their order."""
    number: NDArray[np.int64]
    """In its window."""
    owner: NDArray[np.int64]
    """The first cell of the component."""


def split_tasks(
    windows: Mapping[Cell, Parts],
    cleaning: Cleaning,
    scene: str,
    ref: FrameRef,
    store: str,
    writer: Writer = NOBODY,
) -> Iterator[SplitTask]:
    """Components of a frame that no window has the whole of, by the first shard that has a part.

    `store`: where the drafts lie; its frame `ref` is cut, so that it has a row of shards of its own.
    """
    cells, f = sorted(windows), ref.index
    linked = link(windows, cleaning)
    members = _members(linked, cells, windows)
    for owner in np.unique(members.owner).tolist():
        mine = np.flatnonzero(members.owner == owner)
        found = []
        for at in _runs(members.group[mine]):
            rows = mine[at]
            held = []
            for part in _runs(members.cell[rows]):
                numbers = members.number[rows[part]]
                cell = cells[int(members.cell[rows[part][0]])]
                held.append(((f, *cell), windows[cell].origin, tuple(numbers.tolist())))
            top, left, bottom, right = linked.boxes[members.group[rows[0]]].tolist()
            found.append(Component((top, left, bottom, right), tuple(held)))
        yield SplitTask(
            store=store,
            scene=scene,
            place=(f, *cells[owner]),
            size=(ref.height, ref.width),
            cleaning=cleaning,
            components=tuple(found),
            writer=writer,
        )


def decided_parts(
    scene: str,
    f: int,
    windows: Mapping[Cell, Parts],
    cleaning: Cleaning,
    found: Mapping[Place, SplitComponents],
) -> Callable[[Cell], LinkedParts]:
    """What becomes of each window's components; `found`: what those of `split_tasks` became, by place."""
    cells = sorted(windows)
    linked = link(windows, cleaning)
    members = _members(linked, cells, windows)
    owners = np.unique(members.owner)
    splits = [found[(f, *cells[owner])] for owner in owners.tolist()]
    # ids of the frame: of the groups that are whole, then of what the others were split into
    plain = np.flatnonzero(~linked.split)
    firsts = np.concatenate([linked.first[plain], *(split.first for split in splits)])
    ids = np.empty(len(firsts), np.uint32)
    ids[np.argsort(firsts)] = np.arange(1, len(firsts) + 1, dtype=np.uint32)
    of_group = np.zeros(len(linked.first) + 1, np.uint32)  # the last is of -1
    of_group[plain] = ids[: len(plain)]
    classes = np.append(classes_of(linked.kind), np.uint16(0))
    several = np.append(linked.windows > 1, False)
    whole = np.append(linked.whole, False)
    parts, at = [], len(plain)
    for owner, split in zip(owners.tolist(), splits, strict=True):
        groups = members.group[members.owner == owner]
        group = groups[np.unique(groups, return_index=True)[1]][split.component]
        about = (ids[at : at + len(group)], classes[group], several[group])
        parts.append(tuple(np.concatenate([[0], each]).astype(each.dtype) for each in about))
        at += len(group)
    owner_of = np.zeros(len(linked.first) + 1, np.int32)
    owner_of[members.group] = 1 + np.searchsorted(owners, members.owner)

    def of(cell: Cell) -> LinkedParts:
        count = len(windows[cell].first) if cell in windows else 0
        group = linked.groups(cell, count) if count else np.full(1, -1)
        here, split = np.unique(owner_of[group], return_inverse=True)  # the first is 0, of number 0
        told = tuple(
            SplitPart(split_key(scene, (f, *cells[int(owners[k - 1])]), (f, *cell)), *parts[k - 1])
            for k in here[1:].tolist()
        )
        return LinkedParts(
            ids=of_group[group],
            labels=classes[group],
            parts=several[group],
            whole=whole[group],
            split=split.astype(np.int32),
            splits=told,
        )

    return of


def _members(linked: Linked, cells: list[Cell], windows: Mapping[Cell, Parts]) -> _Members:
    sizes = [len(windows[cell].first) for cell in cells]
    cell = np.repeat(np.arange(len(cells)), sizes)
    number = np.concatenate([np.zeros(0, np.int64), *(np.arange(1, n + 1) for n in sizes)])
    mine = np.flatnonzero((linked.group >= 0) & np.append(linked.split, False)[linked.group])
    mine = mine[np.lexsort((mine, linked.group[mine]))]
    group = linked.group[mine]
    owner = np.full(len(linked.first), len(cells), np.int64)
    np.minimum.at(owner, group, cell[mine])
    return _Members(group, cell[mine], number[mine], owner[group])


def _runs(values: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Places of equal values beside each other."""
    return np.split(np.arange(len(values)), np.flatnonzero(np.diff(values)) + 1)
