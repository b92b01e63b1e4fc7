"""Overlapping scenes as one map: its grid, who is in it, and how later runs add to it.

    members, ranked   ->  mosaic      what all of them cover, or the area's extent; it never changes again
    a later night's   ->  members that lie in the map are in it; for what lies beyond it there is a further
                          map, mosaic.2, on the same lattice, which is void where the first one lies

A map is what its members are now: one that has vanished takes no part any more. What a shard is made of are
those that its window reaches, so that nothing else makes it stale.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from segengine.errors import CorruptInputError, JobError, TransientInputError
from segengine.mosaics import Cells, Member, Mosaic
from segengine.planning._cells import hull, moved_by, whole_shards, without
from segengine.planning._members import (
    Known,
    described,
    kind_of,
    looked_at,
    name_bytes,
    names_of,
    ranked,
)
from segengine.planning.layout import Cut, Probed, own_layout
from segengine.sources._area import BETWEEN, AreaOn, missed, outlines_on, touching
from segengine.sources._bounds import require_bounded
from segengine.sources._grid import Grid, called_crs, same_crs
from segengine.sources._lattice import Lattice, lattice, require_placed, told_of
from segengine.sources._polygons import Polygon
from segengine.store.layouts import Layout, Unplaced
from segengine.types import Entry, Probe
from segengine.urls import public

NAME = "mosaic"
"""Of the scene, and of its one frame."""


@dataclass(frozen=True, slots=True)
class Mapped:
    """Layouts of a run's maps, and the inputs that are in none of them."""

    layouts: dict[str, Layout]
    bad: tuple[Unplaced, ...]
    outside: int
    """Inputs of which no pixel lies in the area."""
    dropped: frozenset[str]
    """Committed scenes that are no maps of these."""
    vanished: int
    """Scenes that were part of a map, and are not there any more."""


def known_members(previous: Mapping[str, Layout]) -> dict[str, Member]:
    """Members of committed maps by name."""
    return {
        member.name: member
        for layout in previous.values()
        if layout.mosaic is not None
        for member in layout.mosaic.members
    }


def map_out(
    spec: Mapping[str, Any],
    previous: Mapping[str, Layout],
    entries: Mapping[str, Entry],
    probed: Sequence[Probed],
    waiting: Iterable[str],
    cut: Cut,
    unchanged_source: bool,
) -> Mapped:
    """The maps of this run.

    `entries` are all inputs now listed, by name; `probed` those of them whose header has been read;
    `waiting` names those that cannot be looked at now: they stay as they were. Raises JobError where
    scenes cannot be one map.
    """
    return _Mapping(spec, previous, cut, unchanged_source).run(entries, probed, frozenset(waiting))


@dataclass(slots=True)
class _Mapping:
    spec: Mapping[str, Any]
    previous: Mapping[str, Layout]
    cut: Cut
    unchanged: bool
    bad: list[Unplaced] = field(default_factory=list)
    outside: int = 0
    vanished: int = 0
    missing: set[str] = field(default_factory=set)
    """Names of members that are not there any more."""

    @property
    def crs(self) -> str:
        return self.spec.get("crs") or ""

    @property
    def area(self) -> Any:
        area = self.spec.get("area")
        return tuple(area) if isinstance(area, list) else area

    @property
    def mark(self) -> str:
        return str(self.spec.get("area_mark") or "")

    def run(
        self, entries: Mapping[str, Entry], probed: Sequence[Probed], waiting: frozenset[str]
    ) -> Mapped:
        before = {name: la for name, la in self.previous.items() if la.mosaic is not None}
        known = self._known(before, entries, probed, waiting)
        maps = before if self.unchanged else {}
        found = [each for each in known if self._is_fit(each)]
        if not any(each.probe is not None for each in found):
            maps = before  # nothing can be laid out anew
        if not found:
            return self._mapped({n: self._emptied(la) for n, la in maps.items()})
        layouts = self._placed(maps, found)
        if maps:
            return self._mapped(layouts)
        if layouts.keys() == before.keys() and all(
            _same_map(layouts[name], layout) for name, layout in before.items()
        ):
            return self._mapped({n: _as_laid_out(before[n], la) for n, la in layouts.items()})
        return self._mapped(layouts, frozenset(self.previous))

    def _mapped(self, layouts: dict[str, Layout], dropped: frozenset[str] | None = None) -> Mapped:
        rest = frozenset(self.previous.keys() - layouts.keys())
        return Mapped(
            layouts=layouts,
            bad=tuple(self.bad),
            outside=self.outside,
            dropped=rest if dropped is None else dropped,
            vanished=0 if all(layout.gone[0] for layout in layouts.values()) else self.vanished,
        )

    def _emptied(self, layout: Layout) -> Layout:
        """A map in which no scene lies: gone with the last of them, and void where one was damaged, or
        lies elsewhere now."""
        assert layout.mosaic is not None
        names = {member.name for member in layout.mosaic.members}
        if names and names <= self.missing:
            return replace(layout, gone=np.ones(1, np.bool_))
        nothing = replace(layout.mosaic, members=(), boxes=np.zeros((0, 4), np.int64), crs=())
        return replace(layout, gone=np.zeros(1, np.bool_), mosaic=nothing)

    # Members

    def _known(
        self,
        maps: Mapping[str, Layout],
        entries: Mapping[str, Entry],
        probed: Sequence[Probed],
        waiting: frozenset[str],
    ) -> list[Known]:
        """All that may be members, the first on top."""
        fresh = {each.entry.name: each for each in probed}
        found, gone = [], set[str]()
        for layout in maps.values():
            assert layout.mosaic is not None
            for member in layout.mosaic.members:
                entry = entries.get(member.name)
                if member.name in fresh:
                    continue
                if entry is None and member.name not in waiting:
                    self.missing.add(member.name)
                    if not layout.gone[0]:
                        gone.add(member.name)
                    continue
                same = entry is not None and entry.fingerprint == member.fingerprint
                if entry is not None and not same and member.name not in waiting:
                    continue  # it has changed, and its header cannot be read any more
                grid = _grid(member, layout.mosaic)
                if same and entry is not None:  # URLs in the store are without credentials
                    member = replace(member, uri=entry.uri, parts=entry.parts)
                found.append(Known(member, grid, entry.order if entry is not None else 0))
        self.vanished = len(gone)
        unique = {each.member.name: each for each in found}
        unique |= {name: looked_at(each) for name, each in fresh.items()}
        return ranked(unique.values(), self.spec["mosaic"])

    def _refuse(self, known: Known, reason: str) -> None:
        member = known.member
        self.bad.append(Unplaced(member.name, member.uri, member.fingerprint, "corrupt", reason))

    def _is_fit(self, known: Known) -> bool:
        """Whether a scene is one frame, and lies anywhere."""
        try:
            if known.probe is not None and known.probe.frames > 1:
                raise CorruptInputError("has several frames, of which a map takes none")
            require_placed(known.grid, self.crs)
        except CorruptInputError as error:
            self._refuse(known, str(error))
            return False
        return True

    def _alike(self, found: list[Known], maps: Mapping[str, Layout]) -> list[Known]:
        """Those of the bands, dtype and CRS that a map has, or that most of the first ones have."""
        if maps:
            first = next(iter(maps.values()))
            assert first.mosaic is not None
            members = first.mosaic.members or [each.member for each in found]
            wanted = first.bands, first.dtype, first.kind, names_of(members[0])
            wkt = first.mosaic.wkt
        else:
            by_name = sorted(found, key=lambda each: name_bytes(each.member.name))
            tops = [kind_of(each.probe, each.member) for each in by_name if each.probe is not None]
            kinds = Counter(tops)
            most = max(kinds.values())
            wanted = next(kind for kind in tops if kinds[kind] == most)
            wkt = self._one_crs(
                [e for e in by_name if e.probe and kind_of(e.probe, e.member) == wanted]
            )
        kept = []
        for each in found:
            kind = wanted if each.probe is None else kind_of(each.probe, each.member)
            if kind != wanted:
                named = kind[:2] == wanted[:2]
                self._refuse(
                    each,
                    f"is {described(kind, named)}, and the others are {described(wanted, named)}: one "
                    "map has one kind of pixels",
                )
            elif not self.crs and not same_crs(each.grid.wkt, wkt):
                self._refuse(
                    each,
                    f"lies in {called_crs(each.grid.wkt)}, and the map in {called_crs(wkt)}; set "
                    "source.crs",
                )
            else:
                kept.append(each)
        return kept

    def _one_crs(self, by_name: Sequence[Known]) -> str:
        """The CRS of scenes of which a map is to be made. Raises JobError for several."""
        first = by_name[0]
        for each in by_name:
            if not self.crs and not same_crs(first.grid.wkt, each.grid.wkt):
                one, other = called_crs(first.grid.wkt), called_crs(each.grid.wkt)
                raise JobError(
                    f"source.crs: {first.member.name} lies in {one} and {each.member.name} in {other}; "
                    "name the CRS of the one map that they are to make"
                )
        return first.grid.wkt

    # Maps

    def _placed(self, maps: Mapping[str, Layout], found: list[Known]) -> dict[str, Layout]:
        found = self._alike(found, maps)
        ordered = dict(sorted(maps.items(), key=lambda item: (len(item[0]), item[0])))
        base = next(iter(ordered.values()), None)
        if base is not None:
            assert base.mosaic is not None
            ground = Lattice(Grid(1, 1, base.mosaic.transform, base.mosaic.wkt))
        else:
            by_name = sorted(found, key=lambda each: name_bytes(each.member.name))
            ground = lattice([e.grid for e in by_name], self.spec.get("resolution"), self.crs)
        found = [each for each in found if self._is_near(each, ground)]
        found = self._inside(ground, found)
        if base is None:
            corner = self._extent(ground, found)
            ground = ground.starting(*corner[:2])
            moved = (*corner[:2], *corner[:2])
            for each in found:
                each.covers, each.reaches = (
                    moved_by(each.covers, moved),
                    moved_by(each.reaches, moved),
                )
            size = corner[2] - corner[0], corner[3] - corner[1]
            return {NAME: self._layout(NAME, ground, (0, 0), size, (), found, self._like(found))}
        layouts = {name: self._updated(layout, ground, found) for name, layout in ordered.items()}
        rest = [] if self.area is not None else self._beyond(layouts, found)
        if rest:
            first = next(iter(layouts.values()))
            assert first.mosaic is not None
            corner = whole_shards(hull(rest), first.shard[1])
            name = _next(layouts)
            taken = tuple(
                moved_by(_place(la), (*corner[:2], *corner[:2])) for la in layouts.values()
            )
            size = corner[2] - corner[0], corner[3] - corner[1]
            like = Probe(
                kind=first.kind,
                height=0,
                width=0,
                bands=first.bands,
                dtype=first.dtype,
                windowed=True,
                attributes=first.attributes,
            )
            layouts[name] = self._layout(name, ground, corner[:2], size, taken, found, like)
        return layouts

    def _like(self, found: Sequence[Known]) -> Probe:
        """What the header of the scene on top says of pixels, in the order in which one file would."""
        first = next(each for each in found if each.probe is not None)
        probe = first.probe
        assert probe is not None
        asked = self.crs, self.area, self.spec.get("resolution")
        plain = not first.member.parts and not any(each not in ("", None) for each in asked)
        return replace(probe, attributes=told_of(first.grid, probe.attributes, ordered=plain))

    def _is_near(self, known: Known, ground: Lattice) -> bool:
        try:
            known.covers, known.reaches = ground.boxes(known.grid)
        except CorruptInputError as error:
            self._refuse(known, str(error))
            return False
        return True

    def _inside(self, ground: Lattice, found: list[Known]) -> list[Known]:
        """Those that the area touches. Raises JobError where there is none."""
        if self.area is None or not found:
            return found
        boxes = np.array([each.covers for each in found], np.int64).reshape(-1, 4)
        near = touching(self._outlines(ground), boxes)
        kept = [each for each, inside in zip(found, near.tolist(), strict=True) if inside]
        self.outside = len(found) - len(kept)
        if not kept:
            raise missed(len(found), ())
        if not self._any_centre(ground, kept):
            raise missed(len(found), [BETWEEN])
        return kept

    def _any_centre(self, ground: Lattice, found: Sequence[Known]) -> bool:
        """Whether the area has a pixel where scenes are."""
        top, left, bottom, right = hull([each.covers for each in found])
        outlines = tuple(
            tuple(ring - np.array([left, top], np.float64) for ring in outline)
            for outline in self._outlines(ground)
        )
        return AreaOn(Grid(bottom - top, right - left), outlines).anywhere()

    def _outlines(self, ground: Lattice) -> tuple[Polygon, ...]:
        try:
            return outlines_on(self.area, self.mark, ground.grid)
        except (CorruptInputError, TransientInputError) as error:
            raise JobError(f"source.area: the map {error}") from error

    def _extent(self, ground: Lattice, found: Sequence[Known]) -> Cells:
        """Rows and columns of a new map: the area's, or all that its scenes cover."""
        if self.area is not None:
            points = np.concatenate([each[0] for each in self._outlines(ground)])
            (left, top), (right, bottom) = points.min(axis=0), points.max(axis=0)
            extent = math.floor(top), math.floor(left), math.ceil(bottom), math.ceil(right)
        else:
            extent = hull([each.covers for each in found])
        height, width = extent[2] - extent[0], extent[3] - extent[1]
        try:
            require_bounded(height, width, 1)
        except CorruptInputError as error:
            far = max(found, key=lambda each: max(map(abs, each.covers))).member.name
            raise JobError(
                f"source.mosaic: the map {error}; the scene farthest out is {far}: leave it out, or set "
                "source.area"
            ) from error
        return extent

    def _beyond(self, layouts: Mapping[str, Layout], found: Sequence[Known]) -> list[Cells]:
        """What scenes cover outside of all maps, in boxes of the lattice."""
        places = [_place(layout) for layout in layouts.values()]
        rest: list[Cells] = []
        for each in found:
            left = [each.covers]
            for place in places:
                left = [part for box in left for part in without(box, place)]
            rest += left
        return rest

    def _layout(
        self,
        name: str,
        ground: Lattice,
        origin: tuple[int, int],
        size: tuple[int, int],
        taken: tuple[Cells, ...],
        found: Sequence[Known],
        like: Probe,
    ) -> Layout:
        """A new map, of pixels `like` others."""
        here = ground.starting(*origin).grid
        about = told_of(here, like.attributes, ordered=False)
        probe = replace(like, height=size[0], width=size[1], attributes=about)
        mosaic = Mosaic(
            transform=here.transform,
            wkt=here.wkt,
            bands=probe.bands,
            dtype=probe.dtype,
            members=(),
            boxes=np.zeros((0, 4), np.int64),
            crs=(),
            origin=origin,
            taken=taken,
        )
        layout = own_layout(name, Probed(Entry(name, "", ""), probe), self.cut)
        return self._updated(replace(layout, mosaic=mosaic), ground, found)

    def _updated(self, layout: Layout, ground: Lattice, found: Sequence[Known]) -> Layout:
        """A map with the members that it has now."""
        old = layout.mosaic
        assert old is not None
        top, left, bottom, right = _place(layout)
        here = [
            each
            for each in found
            if each.reaches[0] < bottom
            and each.reaches[2] > top
            and each.reaches[1] < right
            and each.reaches[3] > left
        ]
        if not here:
            return self._emptied(layout)
        crs = tuple(dict.fromkeys(each.grid.wkt for each in here))
        index = {wkt: i for i, wkt in enumerate(crs)}
        mosaic = replace(
            old,
            members=tuple(replace(each.member, crs=index[each.grid.wkt]) for each in here),
            boxes=np.array([each.reaches for each in here], np.int64).reshape(-1, 4)
            - np.array([top, left, top, left]),
            crs=crs,
        )
        return replace(
            layout,
            uris=(_folder(mosaic.files),),
            fingerprints=(mosaic.fingerprint,),
            gone=np.zeros(1, np.bool_),
            mosaic=mosaic,
        )


def without_members(layout: Layout, names: Collection[str]) -> Layout:
    """A map without some of its scenes, where it has others: its grid stays."""
    old = layout.mosaic
    assert old is not None
    left = [i for i, member in enumerate(old.members) if member.name not in names]
    mosaic = replace(old, members=tuple(old.members[i] for i in left), boxes=old.boxes[left])
    return replace(
        layout, uris=(_folder(mosaic.files),), fingerprints=(mosaic.fingerprint,), mosaic=mosaic
    )


def _grid(member: Member, mosaic: Mosaic) -> Grid:
    return Grid(member.height, member.width, member.transform, mosaic.crs[member.crs])


def _place(layout: Layout) -> Cells:
    """Rows and columns of a map on its lattice."""
    assert layout.mosaic is not None
    row, column = layout.mosaic.origin
    return row, column, row + layout.shape[1], column + layout.shape[2]


def _next(layouts: Mapping[str, Layout]) -> str:
    number = 2
    while f"{NAME}.{number}" in layouts:
        number += 1
    return f"{NAME}.{number}"


def _same_map(one: Layout, other: Layout) -> bool:
    """Whether two maps have the same pixels in the same places."""
    if one.mosaic is None or other.mosaic is None:
        return False
    keys = ("kind", "shape", "bands", "dtype")
    same = all(getattr(one, key) == getattr(other, key) for key in keys)
    place = one.mosaic.transform == other.mosaic.transform
    return same and place and same_crs(one.mosaic.wkt, other.mosaic.wkt)


def _as_laid_out(layout: Layout, now: Layout) -> Layout:
    """A committed map, with what it is made of now: how it is cut does not change."""
    return replace(
        layout, uris=now.uris, fingerprints=now.fingerprints, gone=now.gone, mosaic=now.mosaic
    )


def _folder(uris: Sequence[str]) -> str:
    """The deepest folder that holds all the files."""
    shown = [public(uri) for uri in uris]
    first, last = min(shown), max(shown)
    count = next(
        (i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first)
    )
    return first[:count].rpartition("/")[0] if first != last else first
