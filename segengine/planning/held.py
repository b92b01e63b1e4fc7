"""Inputs that cannot be looked at now: what is stored of them stays as it is until a later run can.

a server answers 503, a link dangles      the fingerprint, the mask and the record stay; the input is
                                          named as `error`, and what is left of its scene waits
it is not there (404)                     vanished: marked gone
it can never be read as it stands         `corrupt`: its shards are stale, and say so
a catalog cannot be read                  what nobody else lists waits
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from segengine.planning.layout import homes
from segengine.sources.listing import Unlisted
from segengine.store.layouts import Layout, Reads, Unplaced
from segengine.types import Bool, Entry, Place
from segengine.urls import public


@dataclass(slots=True)
class Sorted:
    """What is wrong with inputs that were listed by name only, by what becomes of them."""

    bad: list[Unplaced] = field(default_factory=list)
    """To be named."""
    held: set[str] = field(default_factory=set)
    """Names of those with a place that cannot be looked at now."""
    corrupt: set[str] = field(default_factory=set)
    """Names of those with a place that can never be read as they stand."""


def sort_out(
    unlisted: Iterable[Unlisted], previous: Mapping[str, Layout], entries: Collection[str]
) -> Sorted:
    """What becomes of inputs of which only a name is known; `entries` are the names of all others.

    A document that cannot be read does not tell the names of its items: those that were read from it
    before are known by where it lies. Of a list of others nothing tells which it named: what nobody lists
    has not vanished then.
    """
    found = Sorted()
    names, by_uri = _placed(previous)
    unlisted = tuple(unlisted)
    for each in unlisted:
        own = by_uri.get(public(each.uri), ()) if each.kind == "error" else ()
        own = [name for name in own if name not in entries] or (
            [each.name] if each.name in names else []
        )
        if len(own) == 1:
            each = each._replace(name=own[0])
        if each.missing and own:
            continue  # it has vanished, as all do that nobody lists
        found.bad.append(Unplaced(each.name, each.uri, "", each.kind, each.reason))
        if own:
            (found.held if each.kind == "error" else found.corrupt).update(own)
    if any(each.lists for each in unlisted):  # nobody knows whether they are gone
        found.held |= _there(previous) - set(entries) - found.corrupt
    return found


def _placed(previous: Mapping[str, Layout]) -> tuple[set[str], dict[str, list[str]]]:
    """Names of all inputs that have a place or are part of a map, and the same by uri."""
    by_uri: dict[str, list[str]] = {}
    for layout in previous.values():
        members = () if layout.mosaic is None else layout.mosaic.members
        told = ((member.uri, member.name) for member in members)
        for uri, name in told if members else zip(layout.uris, layout.names, strict=True):
            by_uri.setdefault(public(uri), []).append(name)
    return {name for names in by_uri.values() for name in names}, by_uri


def _there(previous: Mapping[str, Layout]) -> set[str]:
    """Names of all inputs with a place, or part of a map, that the last run found there."""
    found: set[str] = set()
    for layout in previous.values():
        if layout.mosaic is None:
            found |= {n for n, gone in zip(layout.names, layout.gone, strict=True) if not gone}
        elif not layout.gone[0]:
            found |= {member.name for member in layout.mosaic.members}
    return found


def keep(
    entries: dict[str, Entry], previous: Mapping[str, Layout], found: Sorted
) -> dict[str, Entry]:
    """All inputs there are, by name: those that cannot be looked at as they were when they last could."""
    if not (found.held or found.corrupt):
        return entries
    home = homes(previous, entries)
    for layout in previous.values():
        for i, name in enumerate(layout.names):
            if name in found.corrupt:
                entries[name] = Entry(name, layout.uris[i], "unreadable")
            elif name in found.held and name not in entries and home[name] == layout.scene:
                entries[name] = Entry(
                    name, layout.uris[i], layout.fingerprints[i], parts=layout.parts
                )
    return entries


def waits(
    held: Collection[str],
    layout: Layout,
    left: Iterable[Place],
    reads: Callable[[Place], Reads | None],
) -> Bool:
    """(frame, y, x) shards of a scene that are not worked on: their input cannot be looked at now.

    `left`: the shards left to do; `reads`: what of a map each needs. Frames of other files in the same
    shard do not wait.
    """
    if layout.mosaic is None:
        return np.full(layout.grid, not layout.stacked and layout.names[0] in held)
    found = np.zeros(layout.grid, np.bool_)
    for place in left:
        read = reads(place)
        mosaic = layout.mosaic if read is None else layout.mosaic.touching(*read)
        found[place] = any(member.name in held for member in mosaic.members)
    return found


def places_of(
    unplaced: Iterable[Unplaced], layouts: Mapping[str, Layout]
) -> dict[str, tuple[str, int]]:
    """Scene and frame of each of these inputs that has a place all the same, by its name."""
    wanted = {each.name for each in unplaced if each.kind == "error"}
    if not wanted:
        return {}
    return {
        name: (scene, i)
        for scene, layout in layouts.items()
        if layout.mosaic is None
        for i, (name, gone) in enumerate(zip(layout.names, layout.gone, strict=True))
        if name in wanted and not gone
    }


def as_known(entry: Entry, fingerprint: str) -> Entry:
    """An input that has changed and cannot be looked at now, as it was when it last could."""
    return replace(entry, fingerprint=fingerprint)
