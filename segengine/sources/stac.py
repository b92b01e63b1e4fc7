"""STAC: items, collections, catalogs, GeoParquet of items and API searches; each item is a scene."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import islice
from typing import Any, ClassVar, TypeVar

import xxhash

from segengine import registry
from segengine.ahead import several
from segengine.errors import CorruptInputError, DeniedInputError, TransientInputError
from segengine.mosaics import Mosaic
from segengine.sources import _stac_absent
from segengine.sources._files import is_url, is_web, unreadable
from segengine.sources._mosaic import Order
from segengine.sources._signed import signed, unsigned
from segengine.sources._stac_again import Again
from segengine.sources._stac_items import Item, full_name, read_item
from segengine.sources._stac_links import Reach
from segengine.sources._stac_search import Block, Search
from segengine.sources._stac_walk import Walk
from segengine.sources._warp import Resampling
from segengine.sources.listing import Listing, Unlisted, mark_of
from segengine.sources.raster import RasterSource
from segengine.types import Bool, Entry, FrameRef, Part, Probe, Source, Tile, Unreadable
from segengine.urls import public


class _Assets(RasterSource):
    """Pixels as what is measured: what a file says of scale and offset counts, as in its item."""

    __slots__ = ()
    of_assets: ClassVar[bool] = True


Entries = list[Entry]
"""`list` is a method's name below."""
Texts = list[str]
Input = TypeVar("Input", Entry, FrameRef)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class StacSource:
    """Items as scenes, named by their ids; bands are assets, brought to the grid of the finest.

    - search: {url, collections, bbox, datetime, limit}, of a STAC API, in place of paths.
    - assets: keys of assets, or an `eo:common_name`, in the order of bands; `name:2` is the second band
      of an asset. Omitted: those with the role `data`.
    - signer: one of the entry points `segengine.signers`, which signs each URL as it is read.
    """

    search: Block | None = None
    assets: tuple[str, ...] | None = None
    signer: str | None = None
    paths: tuple[str, ...] = ()
    trust: bool = False
    """Links may lead anywhere, and GDAL may use all of its drivers."""
    resolution: float | str | None = None
    """As of `raster`, and so are those that follow."""
    crs: str | None = None
    resampling: Resampling = "nearest"
    area: str | tuple[float, float, float, float] | None = None
    area_mark: str = ""
    mosaic: Order | None = None

    def __post_init__(self) -> None:
        if self.search is not None:
            Search.of(self.search)
        object.__setattr__(self, "assets", _names(self.assets))
        object.__setattr__(self, "paths", tuple(self.paths))
        if self.signer is not None and self.signer not in registry.names("signers"):
            known = ", ".join(registry.names("signers"))
            raise ValueError(f"signer: {self.signer!r} is not installed; choose from {known}")
        self._raster  # noqa: B018 - looks at its own options

    def list(self, paths: Sequence[str]) -> Listing:
        """The items that the paths or the search name, and what is wrong with those that are no scene.

        Raises ValueError for a path that names nothing, TransientInputError where an API does not
        answer.
        """
        exported: Texts = []
        found = list(self._items(paths, exported))
        unlisted = [each for each in found if isinstance(each, Unlisted)]
        read = [each for each in found if isinstance(each, Item)]
        doubt = _stac_absent.doubt(self.assets, (item.lacks for item in read))
        items = list(_named(read, unlisted))
        far = any(is_url(part.uri) for _, item in items for part in item.parts)
        entries: Entries = []
        # Items may share a file; it is looked at once.
        for each in several(items, partial(self._entry, mark=cache(self._mark)), far=far):
            if isinstance(each, Entry):
                entries.append(each)
            else:
                unlisted.append(each)
        unlisted = list(_sorted(_apart(unlisted, entries)))
        notices = _passed_over(exported)
        return Listing(_sorted(entries), tuple(unlisted), "stac", doubt=doubt, notices=notices)

    def first(
        self, paths: Sequence[str], most: int
    ) -> Iterator[tuple[Entry, tuple[str, ...]] | Unlisted]:
        """Some of what `list` gives, each with the keys of its assets: of a catalog of any size."""
        for each in islice(self._items(paths), most):
            if isinstance(each, Unlisted):
                yield each
                continue
            entry = self._entry((each.name, each), self._mark) if not each.problem else None
            if isinstance(entry, Entry):
                yield entry, tuple(dict.fromkeys(each.keys))
            else:
                why = Unlisted(each.name, each.base, each.problem, "corrupt")
                yield entry if entry is not None else why

    def probe(self, entry: Entry) -> Probe:
        """What the headers of an item's assets say, on one grid."""
        probe = self._renewing(entry, self._raster.probe)
        return replace(probe, kind="stac", attributes={**probe.attributes, **entry.attributes})

    def read(
        self, frames: Sequence[FrameRef], rows: slice, cols: slice
    ) -> Iterator[Tile | Unreadable]:
        """One item a frame, its URLs signed as they are opened."""
        raster = self._raster
        for ref in frames:
            try:
                if not ref.parts and ref.mosaic is None:
                    raise self._lost(ref)
                use = partial(raster.tile, rows=rows, cols=cols)
                if ref.mosaic is not None:
                    yield self._renewing_members(ref, ref.mosaic, use)
                else:
                    yield self._renewing(ref, use)
            except (CorruptInputError, TransientInputError) as error:
                yield unreadable(error)
            except MemoryError:
                yield Unreadable("error", "not enough memory to decode it")

    def within(self, ref: FrameRef, rows: slice, cols: slice) -> Bool | None:
        """(y, x) pixels of a window that lie in the area; None: there is none. Raises as `probe`."""
        if self.area is None or ref.mosaic is not None:
            return self._raster.within(ref, rows, cols)
        return self._renewing(ref, partial(self._raster.within, rows=rows, cols=cols))

    def beyond(self, ref: FrameRef, side: int) -> Bool | None:
        """(y, x) squares of `side` pixels that surely lie outside the area; None: there is none."""
        if self.area is None:
            return None
        return self._renewing(ref, partial(self._raster.beyond, side=side))

    def mark(self, ref: FrameRef) -> str:
        """The fingerprint that an item has now. Raises CorruptInputError, TransientInputError."""
        why, found = "", ""
        try:
            for item in self._again(self.paths).items(ref.uri, ref.name):
                entry = self._entry((ref.name, item), self._mark)
                if isinstance(entry, Unlisted):
                    why = entry.reason
                    continue
                found = entry.fingerprint
                if found == ref.fingerprint:
                    break
        except (CorruptInputError, TransientInputError) as error:
            raise type(error)(f"its item {error}") from error
        if not found:
            raise CorruptInputError(why)
        return found

    # Listing

    def _items(
        self, paths: Sequence[str], exported: Texts | None = None
    ) -> Iterable[Item | Unlisted]:
        """`exported` takes the uris of documents of our own exports, which are passed over."""
        search = None if self.search is None else Search.of(self.search)
        reach = Reach.of([*paths, *([search.url] if search else [])], self.trust)
        read = partial(read_item, assets=self.assets, reach=reach)
        if search is None:
            return Walk(reach, read, [] if exported is None else exported).run(paths)
        return search.run(read, self.trust)

    def _entry(self, named: tuple[str, Item], mark: Callable[[str], str]) -> Entry | Unlisted:
        """An item as it is planned: with the marks of the files that it is made of."""
        name, item = named
        marks = {}
        for key, part in zip(item.keys, item.parts, strict=True):
            if part.uri in marks:
                continue
            try:
                marks[part.uri] = mark(part.uri)
            except (CorruptInputError, TransientInputError) as error:
                kind = "corrupt" if isinstance(error, CorruptInputError) else "error"
                return Unlisted(name, item.base, f"its asset {key}: {error}", kind)
        told = [(_marked(part), public(part.uri), marks[part.uri]) for part in item.parts]
        digest = xxhash.xxh3_64_hexdigest(repr((item.digest, told)).encode("utf-8", "replace"))
        return Entry(
            name=name,
            uri=item.base,
            fingerprint=digest,
            parts=item.parts,
            attributes=item.attributes,
            order=item.order,
        )

    def _mark(self, uri: str) -> str:
        try:
            return mark_of(signed(uri, self.signer))
        except DeniedInputError:
            if self.signer is None:
                raise
            return mark_of(signed(uri, self.signer, anew=True))

    # Reading

    @property
    def _raster(self) -> RasterSource:
        return _Assets(
            paths=self.paths,
            trust=self.trust,
            resolution=self.resolution,
            crs=self.crs,
            resampling=self.resampling,
            area=self.area,
            area_mark=self.area_mark,
            mosaic=self.mosaic,
        )

    def _renewing(self, about: Input, use: Callable[[Input], T]) -> T:
        """What `use` makes of an entry or a frame with signed parts; once more where they are refused."""
        about = replace(about, parts=self._whole(about))
        try:
            return use(replace(about, parts=self._signed(about.parts)))
        except DeniedInputError:
            parts = self._signed(about.parts, anew=True) if self.signer else self._fresh(about)
            if parts is None:
                raise
            return use(replace(about, parts=parts))

    def _renewing_members(self, ref: FrameRef, mosaic: Mosaic, use: Callable[[Any], T]) -> T:
        """The same of a map, whose scenes carry the parts."""

        def with_parts(parts_of: Callable[[FrameRef], tuple[Part, ...] | None]) -> FrameRef:
            members = tuple(
                replace(member, parts=parts_of(member.ref) or member.parts)
                for member in mosaic.members
            )
            return replace(ref, mosaic=replace(mosaic, members=members))

        mosaic = with_parts(self._whole).mosaic or mosaic
        try:
            return use(with_parts(lambda one: self._signed(one.parts)))
        except DeniedInputError:
            if self.signer:
                return use(with_parts(lambda one: self._signed(one.parts, anew=True)))
            return use(with_parts(self._fresh))

    def _signed(self, parts: Sequence[Part], *, anew: bool = False) -> tuple[Part, ...]:
        urls = {uri: signed(uri, self.signer, anew=anew) for uri in {part.uri for part in parts}}
        return tuple(replace(part, uri=urls[part.uri]) for part in parts)

    def _whole(self, about: Entry | FrameRef) -> tuple[Part, ...]:
        """The parts with the queries that a store does not keep, as the item has them now.

        Without them one URL may be that of several assets. Raises CorruptInputError,
        TransientInputError.
        """
        bare = {_known(part) for part in about.parts if part.uri.endswith("?")}
        if not bare:
            return about.parts
        try:
            for item in self._again(self.paths).items(about.uri, about.name):
                if bare <= set(map(_known, item.parts)):
                    return _renewed(about.parts, item)
        except (CorruptInputError, TransientInputError) as error:
            raise type(error)(f"its item {error}") from error
        raise TransientInputError("its item has other assets than those that it was planned with")

    def _fresh(self, about: Entry | FrameRef) -> tuple[Part, ...] | None:
        """The parts with the signatures that the item has now; None: there are no others."""
        if not is_web(about.uri):
            return None
        try:
            for item in self._again().items(about.uri, about.name):
                found = _renewed(about.parts, item)
                if found != tuple(about.parts):
                    return found
        except (CorruptInputError, TransientInputError):
            return None
        return None

    def _again(self, paths: Sequence[str] = ()) -> Again:
        search = None if self.search is None else Search.of(self.search)
        return Again(search, self.assets, paths, self.trust)

    def _lost(self, ref: FrameRef) -> CorruptInputError | TransientInputError:
        """Why a frame has no parts any more: its item is there, and is no scene."""
        try:
            problem = next(self._again().items(ref.uri, ref.name)).problem
        except (CorruptInputError, TransientInputError) as error:
            return type(error)(f"its item {error}")
        if problem:
            return CorruptInputError(problem)
        return TransientInputError("its item or an asset could not be read when it was planned")


_: type[Source] = StacSource


def _marked(part: Part) -> Part:
    """A part as its fingerprint has it: a scale of 1 is as none, which earlier releases kept it as."""
    plain = part.scale in (None, 1.0) and part.offset in (None, 0.0)
    return replace(part, scale=None, offset=None) if plain else part


def _renewed(parts: Sequence[Part], item: Item) -> tuple[Part, ...]:
    """Parts with the URLs that an item has for them now, as far as it has them.

    An asset is known by what it is called, as no two files of a scene are: without their queries the
    URLs of several may be one.
    """
    urls = {_known(part): part.uri for part in item.parts}
    return tuple(replace(part, uri=urls.get(_known(part), part.uri)) for part in parts)


def _known(part: Part) -> tuple[str, int, str]:
    return part.name, part.band, public(part.uri)


def _names(value: object) -> tuple[str, ...] | None:
    """The option `assets`. Raises ValueError."""
    if value is None:
        return None
    names = [value] if isinstance(value, str) else value
    if (
        not isinstance(names, Sequence)
        or not names
        or not all(isinstance(name, str) and name for name in names)
    ):
        raise ValueError(f"assets: is {value!r}; it must list keys of assets, or common names")
    return tuple(names)


def _named(items: Iterable[Item], unlisted: list[Unlisted]) -> Iterator[tuple[str, Item]]:
    """Items under their names: the id, and where two collections have the same, both.

    What is no scene goes to `unlisted`.
    """
    groups: dict[str, dict[str, Item]] = {}
    for item in items:
        group = groups.setdefault(item.name, {})
        other = group.setdefault(item.collection, item)
        if other is item:
            continue
        if other.digest != item.digest or _files(other) != _files(item):
            differs = "names other files than" if other.digest == item.digest else "differs from"
            why = f"is there twice, and {differs} what {public(other.base)} says; name one of them"
            unlisted.append(Unlisted(item.name, item.base, why, "corrupt"))
    for name, group in groups.items():
        for item in group.values():
            own = name if len(group) == 1 else full_name(item)
            if item.problem:
                unlisted.append(Unlisted(own, item.base, item.problem, "corrupt"))
            else:
                yield own, item


def _passed_over(exported: Sequence[str]) -> tuple[str, ...]:
    if not exported:
        return ()
    count = len(exported)
    documents = "1 STAC document" if count == 1 else f"{count:,} STAC documents"
    return (
        f"source.paths: {documents} of an export of segengine ({public(min(exported))}) left out, whose "
        "assets are masks; move them, or name their catalog.json where masks are meant",
    )


def _files(item: Item) -> list[str]:
    """Where its assets lie: the same words in two folders may tell of two scenes."""
    uris = (part.uri for part in item.parts)
    return [unsigned(uri) if is_url(uri) else os.path.realpath(uri) for uri in uris]


def _apart(unlisted: Iterable[Unlisted], entries: Iterable[Entry]) -> Iterator[Unlisted]:
    """Each under a name that nothing else has: a catalog may be called as an item is."""
    taken = {entry.name for entry in entries}
    for each in unlisted:
        name, number = each.name, 1
        while name in taken:
            number += 1
            name = f"{each.name} ({number})"
        taken.add(name)
        yield each._replace(name=name)


def _sorted(found: Iterable[Any]) -> tuple[Any, ...]:
    return tuple(sorted(found, key=lambda each: each.name.encode("utf-8", "surrogateescape")))
