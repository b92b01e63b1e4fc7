"""From listed inputs to readers and layouts: list, probe what is new or changed, place.

Listing reads no pixels, and an input whose fingerprint is known is not opened again.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from segengine import asked
from segengine.ahead import several
from segengine.errors import (
    CorruptInputError,
    JobError,
    OutsideError,
    SegengineError,
    TransientInputError,
)
from segengine.planning.held import as_known, keep, places_of, sort_out
from segengine.planning.layout import Cut, Probed, homes, outgrown, place
from segengine.progress import NowAndThen, Progress, result_of
from segengine.registry import parameters, reader
from segengine.sources._files import with_remedy
from segengine.sources._growing import fresh, growing
from segengine.store.layouts import OUTSIDE, WAITING, Layout, Unplaced
from segengine.store.tombstones import Tombstones
from segengine.store.values import encode
from segengine.types import Entry, Probe, Source
from segengine.urls import public

if TYPE_CHECKING:
    from segengine.sources.listing import Listing

EVERY = 0.25
"""Seconds between two words on how many inputs have been looked at."""
INPUTS = "inputs"
"""What is counted then."""


@dataclass(frozen=True, slots=True)
class Scan:
    """What this run found, and where it lies."""

    layouts: dict[str, Layout]
    unplaced: tuple[Unplaced, ...]
    changed: frozenset[str]
    """Scenes whose layout differs from the committed one."""
    probed: int
    """Headers read."""
    dropped: frozenset[str] = frozenset()
    """Committed scenes that the job's new source options leave without a use."""
    notices: tuple[str, ...] = ()
    """What else the listing has to say, a line each."""
    skipped: Mapping[str, int] = field(default_factory=dict)
    """Files among the inputs that are none by their suffix, counted by it."""
    waiting: tuple[Unplaced, ...] = ()
    """Inputs that are still being written: left as they were until the next run."""
    outside: int = 0
    """Inputs without a place of which no pixel lies in the job's area."""
    beyond: tuple[Unplaced, ...] = ()
    """Those of them that are scenes of their own, as the next run knows them again."""
    vanished: int = 0
    """Scenes of a map that are not there any more."""
    pruned: int = 0
    """Inputs that were pruned, and are left out."""
    held: frozenset[str] = frozenset()
    """Names of inputs that cannot be looked at now: what is stored of them stays as it is."""
    unsettled: bool = False
    """Some inputs are laid out as other options of the source had it: they could not be looked at. The
    next run looks at all of them anew."""

    @property
    def frames(self) -> int:
        """All frames there are, placed or not; those gone are not counted."""
        nowhere = len(self.unplaced) - len(places_of(self.unplaced, self.layouts))
        return nowhere + sum(
            int((~layout.gone).sum()) if layout.stacked else layout.shape[0] * (not layout.gone[0])
            for layout in self.layouts.values()
        )


def scan(
    spec: Mapping[str, Any],
    previous: Mapping[str, Layout],
    unplaced: Sequence[Unplaced],
    cut: Cut,
    unchanged_source: bool = True,
    outside: Sequence[Unplaced] = (),
    pruned: Tombstones | None = None,
) -> Scan:
    """As `scanning`, for those whom its progress is nothing to."""
    return result_of(scanning(spec, previous, unplaced, cut, unchanged_source, outside, pruned))


def scanning(
    spec: Mapping[str, Any],
    previous: Mapping[str, Layout],
    unplaced: Sequence[Unplaced],
    cut: Cut,
    unchanged_source: bool = True,
    outside: Sequence[Unplaced] = (),
    pruned: Tombstones | None = None,
) -> Generator[Progress, None, Scan]:
    """List the inputs and lay them out; yields how many of those to be looked at have been.

    `unchanged_source`: the `source` block's options are those of the committed layouts, so that a
    known fingerprint spares reading the header. `outside`: inputs that the last run found there.
    `pruned`: names that are left out. Raises JobError for a path that matches nothing, or that names
    one of these itself.
    """
    try:
        listing = _listing(spec)
    except ValueError as error:
        raise JobError(str(error)) from error
    except TransientInputError as error:
        said = str(error)
        where = "" if said.startswith("source.") else "source.paths: "
        raise SegengineError(f"{where}{with_remedy(said)}") from error
    if listing.doubt and not (previous and unchanged_source):  # once it was right, inputs are wrong
        raise JobError(f"source.{listing.doubt}")
    listed = len(listing.entries)
    listing = _without_pruned(listing, spec, pruned)
    left_out = listed - len(listing.entries)
    entries = {e.name: e for e in listing.entries}
    mapped = spec.get("mosaic") is not None
    known = _known(previous, entries, mapped)
    final = {u.name: u for u in unplaced if u.kind == "corrupt"} if unchanged_source else {}
    where = "" if mapped else _where(spec)
    away = {u.name: u for u in outside if u.reason == where} if unchanged_source and where else {}
    placed_names = {n for layout in previous.values() for n in layout.names if not mapped}
    probes: list[Probed] = []
    alike = {n: la for n, la in previous.items() if (la.mosaic is not None) == mapped}
    found = sort_out(listing.unlisted, alike, entries)
    bad = found.bad
    beyond: list[Unplaced] = []
    todo: list[Entry] = []
    for entry in listing.entries:
        old = final.get(entry.name)
        there = away.get(entry.name)
        if (
            there is not None
            and there.fingerprint == entry.fingerprint
            and entry.name not in placed_names
        ):
            beyond.append(there)
        elif old is not None and old.fingerprint == entry.fingerprint:
            bad.append(old)
        elif known.get(entry.name) != entry.fingerprint or not unchanged_source:
            todo.append(entry)
    due = NowAndThen(EVERY)
    before = fresh(todo)
    probed, photos = [], dict[Any, Probe]()
    for done, (entry, outcome) in enumerate(_probe_all(todo, listing, spec), 1):
        if due():
            yield Progress("plan", done, len(todo), len(bad), message=entry.name, unit=INPUTS)
        if isinstance(outcome, Probe) and outcome.stacked and not outcome.attributes:
            outcome = photos.setdefault(_said(outcome), outcome)  # one for all of a size
        probed.append((entry, outcome))
    waiting, missing = [], set[str]()
    for entry, outcome in probed:
        if entry.name in before and (why := growing(entry, before[entry.name])):
            waiting.append(Unplaced(entry.name, entry.uri, "", WAITING, why))
            if entry.name in known:  # what is there of it stays as it is
                entries[entry.name] = as_known(entry, known[entry.name])
        elif isinstance(outcome, OutsideError):
            if entry.name not in placed_names:
                kept_out = (entry.name, entry.uri, entry.fingerprint, OUTSIDE, where)
                beyond.append(Unplaced(*kept_out))
                missing.add(str(outcome))
        elif isinstance(outcome, Unplaced):
            if outcome.kind == "error" and entry.name in known:
                found.held.add(entry.name)
                bad.append(outcome)
                if not mapped:
                    entries[entry.name] = as_known(entry, known[entry.name])
            elif entry.name not in placed_names:
                bad.append(outcome)
        else:
            probes.append(Probed(entry, outcome))
    if due.said:
        yield Progress("plan", len(todo), len(todo), len(bad), unit=INPUTS)
    if beyond and len(beyond) == len(listing.entries):
        from segengine.sources._area import missed

        raise missed(len(beyond), missing)
    held = frozenset(found.held)
    unsettled = not unchanged_source and bool(
        held or {each.name for each in waiting} & known.keys()
    )
    if mapped:
        from segengine.planning.mosaic import map_out

        later = held | {each.name for each in (*bad, *waiting) if each.kind != "corrupt"}
        maps = map_out(spec, previous, entries, probes, later, cut, unchanged_source)
        return Scan(
            layouts=maps.layouts,
            unplaced=_sorted([*bad, *maps.bad]),
            changed=_changed(maps.layouts, previous, maps.dropped),
            probed=len(todo),
            dropped=maps.dropped,
            skipped=listing.skipped,
            notices=listing.notices,
            waiting=tuple(waiting),
            outside=maps.outside,
            vanished=maps.vanished,
            pruned=left_out,
            held=held,
            unsettled=unsettled,
        )
    maps_of_before = {n: la for n, la in previous.items() if la.mosaic is not None}
    previous = {n: la for n, la in previous.items() if la.mosaic is None}
    entries = keep(entries, previous, found)
    bad = [each for each in bad if each.name not in found.corrupt]  # a worker says so
    dropped = frozenset() if unchanged_source else outgrown(previous, probes)
    kept = {scene: layout for scene, layout in previous.items() if scene not in dropped}
    layouts = place(kept, entries, probes, cut)
    dropped |= maps_of_before.keys()
    return Scan(
        layouts=layouts,
        unplaced=_sorted(bad),
        changed=_changed(layouts, previous, dropped),
        probed=len(todo),
        dropped=dropped,
        skipped=listing.skipped,
        notices=listing.notices,
        waiting=tuple(waiting),
        outside=len(beyond),
        beyond=_sorted(beyond),
        pruned=left_out,
        held=held,
        unsettled=unsettled,
    )


def _without_pruned(
    listing: Listing, spec: Mapping[str, Any], pruned: Tombstones | None
) -> Listing:
    """What is listed, but for the names of what was pruned.

    Raises JobError where a path names one of them itself, and not only reaches it.
    """
    if pruned is None or not pruned.hashes:
        return listing
    from segengine.sources.listing import names_itself

    away = {entry.name for entry in listing.entries if entry.name in pruned}
    for entry in listing.entries:
        for path in spec.get("paths", ()) if entry.name in away else ():
            if names_itself(path, entry):
                raise JobError(
                    f"source.paths: {public(path)} was pruned from the store by its name, and stays out "
                    "of it; take it out of source.paths"
                )
    return replace(
        listing,
        entries=tuple(entry for entry in listing.entries if entry.name not in away),
        unlisted=tuple(each for each in listing.unlisted if each.name not in pruned),
    )


def _where(spec: Mapping[str, Any]) -> str:
    """By what it is known which inputs lie outside: the area's content and the grid; empty: nothing."""
    if spec.get("area") is None:
        return ""
    area = spec.get("area_mark") or spec["area"]
    return json.dumps([area, spec.get("resolution"), spec.get("crs")]) if _is_known(spec) else ""


def _is_known(spec: Mapping[str, Any]) -> bool:
    """Whether what the area's file says is known: else it may say another thing the next time."""
    return bool(spec.get("area_mark")) or not isinstance(spec["area"], str)


def _known(
    previous: Mapping[str, Layout], entries: Mapping[str, Entry], mapped: bool
) -> dict[str, str]:
    """Fingerprints of inputs as they are laid out, by name."""
    if mapped:
        from segengine.planning.mosaic import known_members

        return {name: member.fingerprint for name, member in known_members(previous).items()}
    home = homes(previous, entries)
    return {
        name: fingerprint
        for layout in previous.values()
        for name, fingerprint in zip(layout.names, layout.fingerprints, strict=True)
        if home[name] == layout.scene and layout.mosaic is None
    }


def _said(photo: Probe) -> tuple[Any, ...]:
    return photo.kind, photo.height, photo.width, photo.bands, photo.dtype


def _sorted(bad: Sequence[Unplaced]) -> tuple[Unplaced, ...]:
    return tuple(sorted(bad, key=lambda u: u.name.encode("utf-8", "surrogateescape")))


def _changed(
    layouts: Mapping[str, Layout], previous: Mapping[str, Layout], dropped: frozenset[str]
) -> frozenset[str]:
    """Scenes whose layout is to be committed."""
    return frozenset(
        name
        for name, layout in layouts.items()
        if name not in previous or name in dropped or not _is_same(layout, previous[name])
    )


def _is_same(layout: Layout, old: Layout) -> bool:
    """Whether a layout is the committed one; what a million inputs have is not written to be compared."""
    names = {"names": (), "uris": (), "fingerprints": ()}
    if all(getattr(layout, each) == getattr(old, each) for each in names):
        layout, old = replace(layout, **names), replace(old, **names)  # type: ignore[arg-type]
    return encode(layout.public) == encode(old)


def _listing(spec: Mapping[str, Any]) -> Listing:
    """What the paths name: as a data set lists its own images, or by file names."""
    from segengine.sources.listing import list_entries

    kind = spec.get("kind", "auto")
    if asked.lists_inputs(kind):
        lister = asked.lister(reader(kind, spec))
        assert lister is not None
        return lister.list(spec["paths"])
    return list_entries(spec["paths"], kind, bands=spec.get("bands"))


def _require_taken(kind: str, spec: Mapping[str, Any]) -> None:
    """Raise CorruptInputError where the source of a kind has no use for where things lie."""
    for name in ("resolution", "crs", "area", "mosaic"):
        if name == "resolution" and isinstance(spec.get(name), str):
            continue  # metres, which say nothing of what has no place
        if spec.get(name) is not None and name not in parameters("sources", kind):
            raise CorruptInputError(
                f"is read as {kind}, which has no source.{name}; set source.kind: raster, or leave the "
                "key out"
            )


def _probe_all(
    entries: Sequence[Entry], listing: Listing, spec: Mapping[str, Any]
) -> Iterator[tuple[Entry, Any]]:
    @lru_cache
    def source(kind: str) -> Source:
        return reader(kind, spec)

    def probe(entry: Entry) -> Any:
        try:
            kind = listing.kind_of(entry)
            found = source(kind).probe(entry)  # what is damaged says so, whatever it was to be
            _require_taken(kind, spec)
            return found
        except OutsideError as error:
            return error
        except CorruptInputError as error:
            return Unplaced(entry.name, entry.uri, entry.fingerprint, "corrupt", str(error))
        except (TransientInputError, OSError) as error:
            return Unplaced(entry.name, entry.uri, entry.fingerprint, "error", str(error))
        except MemoryError:
            reason = "not enough memory to read its header"
            return Unplaced(entry.name, entry.uri, entry.fingerprint, "error", reason)
        except SegengineError:
            raise
        except Exception as error:  # noqa: BLE001 - a reader's library may raise anything
            reason = f"cannot be read: {type(error).__name__}: {error}".partition("\n")[0]
            return Unplaced(entry.name, entry.uri, entry.fingerprint, "corrupt", reason)

    far = any("://" in e.uri for e in entries)
    yield from zip(entries, several(entries, probe, far=far), strict=True)
