"""What of a store goes when it is pruned: by names, by age, or by the runs that have seen it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from segengine.commands._named import resolved
from segengine.errors import JobError
from segengine.stages.metrics_json import text
from segengine.store.kinds import MaskRecord
from segengine.store.layouts import Layout, Unplaced, load_layouts, load_unplaced
from segengine.store.records import RecordLog
from segengine.store.runs import History
from segengine.store.seals import SealedObjects
from segengine.store.tombstones import Tombstones
from segengine.store.unseen import Unseen, read_unseen
from segengine.terms.quantities import seconds_of


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked for: one of the three."""

    keep_last: int | None = None
    """Frames that are gone, and that none of so many runs has seen."""
    older: float | None = None
    """Those that no run has seen for so many seconds."""
    names: tuple[str, ...] | None = None
    """These, whether their inputs are there or not; they do not come back."""


class Frame(NamedTuple):
    """A frame that goes, or all of those of a file of many."""

    name: str
    scene: str | None
    frame: int | None
    """Its number in the scene; None: all of the scene, or it takes no place."""
    bytes: int
    """Of its masks, about."""


@dataclass(frozen=True, slots=True)
class Going:
    """What of a scene goes."""

    layout: Layout
    places: frozenset[int] = frozenset()
    """Photos by their place among the others."""
    members: frozenset[str] = frozenset()
    """Scenes of a map, by name."""
    whole: bool = False
    """All of it, with its name."""


@dataclass(frozen=True, slots=True)
class Prunable:
    """All that goes."""

    scenes: tuple[Going, ...]
    unplaced: tuple[Unplaced, ...]
    names: frozenset[str]
    """Those that nothing in the store may tell afterwards."""
    frames: tuple[Frame, ...]
    unknown: tuple[str, ...] = ()
    """Names that nothing is stored of, and that were not pruned before."""
    undated: int = 0
    """Frames that are gone, of which no run has noted since when."""
    unmatched: bool = False
    """Names were asked for, and all of them are unknown."""


def seconds_of_age(text: str) -> float:
    """An age in seconds. Raises JobError.

    >>> seconds_of_age("90d")
    7776000.0
    """
    try:
        return seconds_of(text)
    except ValueError:
        raise JobError(
            f"--older: {text!r} is no age; write a number and s, m, h or d: 90d"
        ) from None


def prunable(objects: SealedObjects, wanted: Wanted) -> Prunable:
    """What of a store goes. Raises JobError."""
    if wanted.keep_last is not None and wanted.keep_last < 1:
        raise JobError("--keep-last: must be 1 or more runs")
    layouts = load_layouts(objects)
    unplaced = load_unplaced(objects)
    if wanted.names is not None:
        return _by_names(objects, layouts, unplaced, wanted.names)
    return _by_time(objects, layouts, wanted)


# ---------------------------------------------------------------------------------------- by names


def _by_names(
    objects: SealedObjects,
    layouts: Mapping[str, Layout],
    unplaced: Sequence[Unplaced],
    names: tuple[str, ...],
) -> Prunable:
    stands_for = resolved(names, _names_in(layouts, unplaced))
    chosen = frozenset(stands_for.values())
    is_asked = chosen.__contains__
    going = []
    for layout in layouts.values():
        found = _going(layout, [is_asked(name) for name in layout.names], is_asked)
        if found is not None:
            going.append(found)
        elif not layout.stacked:
            _refuse_single(layout, frozenset(names))
    out = tuple(each for each in unplaced if is_asked(each.name))
    before = Tombstones.read(objects)
    unknown = tuple(name for name in names if name not in stands_for and name not in before)
    own = {name for each in going for name in _names_of(each)} | {each.name for each in out}
    frames = [frame for each in going for frame in _frames(objects, each)]
    frames += [Frame(text(each.name), None, None, 0) for each in out]
    return Prunable(
        scenes=tuple(going),
        unplaced=out,
        names=frozenset(own) | frozenset(names),
        frames=tuple(frames),
        unknown=unknown,
        unmatched=len(unknown) == len(names),
    )


def _names_in(layouts: Mapping[str, Layout], unplaced: Sequence[Unplaced]) -> Iterator[str]:
    """All that a store tells of, with scenes of maps."""
    for layout in layouts.values():
        yield from (name for name in layout.names if name)
        if layout.mosaic is not None:
            yield from (member.name for member in layout.mosaic.members)
    yield from (each.name for each in unplaced)


def _going(layout: Layout, asked: list[bool], is_asked: Callable[[str], bool]) -> Going | None:
    """What of a scene goes by its names; None: nothing."""
    if layout.mosaic is not None:
        every = [member.name for member in layout.mosaic.members]
        members = frozenset(name for name in every if is_asked(name))
        whole = bool(members) and len(members) == len(every)
        return Going(layout, members=members, whole=whole) if members else None
    if not any(asked):
        return None
    if layout.stacked:
        return Going(layout, frozenset(np.flatnonzero(asked).tolist()))
    return Going(layout, whole=True)


def _refuse_single(layout: Layout, asked: frozenset[str]) -> None:
    """Raise JobError where a frame is named that lies in a file of many, which stays."""
    own = [name for name in asked if name.startswith(f"{layout.names[0]}#")]
    if own:
        raise JobError(
            f"--frames: {text(min(own))} is a frame of {text(layout.names[0])}, which is pruned "
            "as a whole; name the file, or cut it and let the next run take it up"
        )


# ----------------------------------------------------------------------------------------- by time


def _by_time(objects: SealedObjects, layouts: Mapping[str, Layout], wanted: Wanted) -> Prunable:
    notes = read_unseen(objects)
    is_due = _due(objects, wanted)
    going: list[Going] = []
    undated = 0
    for scene, layout in layouts.items():
        gone = layout.gone & ~layout.pruned
        own = notes.get(scene, {})
        known = [i for i in np.flatnonzero(gone).tolist() if i in own]
        undated += int(gone.sum()) - len(known)
        places = frozenset(i for i in known if is_due(own[i]))
        left = len(layout.names) - int(layout.pruned.sum()) - len(places)
        if not left:  # a scene of which nothing is left is none
            going.append(Going(layout, places, whole=True))
        elif places:
            going.append(Going(layout, places))
    leaving = {name for each in going for name in _names_of(each)}
    staying = {
        name
        for layout in layouts.values()
        for i, name in enumerate(layout.names)
        if not any(each.layout is layout and (each.whole or i in each.places) for each in going)
    }
    frames = [frame for each in going for frame in _frames(objects, each)]
    return Prunable(tuple(going), (), frozenset(leaving - staying), tuple(frames), undated=undated)


def _due(objects: SealedObjects, wanted: Wanted) -> Callable[[Unseen], bool]:
    if wanted.older is not None:
        before = time.time() - wanted.older
        return lambda note: note.seen <= before
    assert wanted.keep_last is not None
    started = sorted(History.read(objects).table.column("started").to_pylist())
    if len(started) < wanted.keep_last:
        return lambda note: False
    first = started[-wanted.keep_last]
    return lambda note: note.missed <= first


# ------------------------------------------------------------------------------------- what it is


def _names_of(going: Going) -> Iterator[str]:
    """Names that its places tell."""
    layout = going.layout
    if layout.mosaic is not None:
        every = (member.name for member in layout.mosaic.members)
        yield from every if going.whole else going.members
    elif going.whole:
        yield from (name for name in layout.names if name)
    else:
        yield from (layout.names[i] for i in going.places)


def _frames(objects: SealedObjects, going: Going) -> Iterator[Frame]:
    """What goes, with about its bytes: a shard's are divided by its frames."""
    layout = going.layout
    sizes: dict[int, float] = {}
    total = 0
    for record in RecordLog(objects).read(layout.scene, MaskRecord):
        size = sum(stored.bytes for stored in record.objects)
        total += size
        first, last = record.box[0], record.box[3]
        for frame in range(first, last) if layout.stacked else ():
            sizes[frame] = sizes.get(frame, 0) + size / (last - first)
    if layout.stacked:
        named = [i for i, name in enumerate(layout.names) if name]
        places = named if going.whole else sorted(going.places)
        for place in places:
            name = text(layout.names[place])
            yield Frame(name, layout.scene, place, round(sizes.get(place, 0)))
        return
    names = sorted(_names_of(going))
    for name in names:
        yield Frame(text(name), layout.scene, None, total // len(names) if going.whole else 0)
