"""From the paths of a job to STAC items: catalogs, collections, items, lists of items and GeoParquet.

    catalog -> child, child -> item, item ...      level by level, the documents of one together

Each document is read once, wherever it is linked from, and a link back to a catalog that it came
from is a loop, which is said and not followed. What is wrong with a document is that document's
alone: it is left out by name, and the rest goes on.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from segengine.ahead import several
from segengine.errors import CorruptInputError, MissingInputError, TransientInputError
from segengine.guards.schemes import filesystem, refusal
from segengine.sources import _stac_parquet
from segengine.sources._files import is_url, is_web, open_failure
from segengine.sources._signed import unsigned
from segengine.sources._stac_documents import read_document
from segengine.sources._stac_items import Item, name_of
from segengine.sources._stac_links import Reach, resolved, shown
from segengine.sources.listing import Unlisted, list_entries
from segengine.urls import public

_DEEPEST = 64
_MOST_CATALOGS = 20_000
_MOST_ITEMS = 2_000_000
EXPORTED = "Masks by segengine:"
"""How what is said of an exported catalog, and of each of its items, begins."""
_CATALOGS = ("catalog.json", "collection.json")
Read = Callable[[Mapping[str, Any], str], Item]
"""What is used of an item, and where it lies."""


@dataclass(frozen=True, slots=True)
class Document:
    """One that is to be read."""

    uri: str
    above: tuple[str, ...] = ()
    """uris of the catalogs that led here, from the job's path on."""
    item: bool = False
    """Linked as an item."""
    order: int = 0
    """Which of the job's paths led here."""
    found: str = ""
    """The glob that it was found by: the job does not name it."""
    stands_for: bool = False
    """It is the catalog of a folder, whose other documents nobody looked for."""


@dataclass(frozen=True, slots=True)
class _Page:
    """What a document holds."""

    found: tuple[Item | Unlisted, ...] = ()
    links: tuple[Document, ...] = ()


@dataclass(slots=True)
class Walk:
    """One pass over all that the paths of a job name."""

    reach: Reach
    read: Read
    exported: list[str] = field(default_factory=list)
    """uris of documents of our own exports, which lie among those that were looked for."""
    seen: set[str] = field(default_factory=set)
    catalogs: int = 0
    items: int = 0

    def run(self, paths: Sequence[str]) -> Iterator[Item | Unlisted]:
        """Items, and what is none by its name. Raises ValueError for a path that names nothing."""
        level = [
            replace(document, order=order)
            for order, path in enumerate(paths)
            for document in documents(path)
        ]
        while level:
            fresh = [each for each in level if self._is_fresh(each.uri)]
            level = []
            far = any(is_url(each.uri) for each in fresh)
            for document, page in zip(fresh, several(fresh, self._page, far=far), strict=True):
                for found in page.found:
                    self.items += 1
                    if self.items > _MOST_ITEMS:
                        yield _too_many(f"more than {_MOST_ITEMS:,} items")
                        return
                    yield _of_path(found, document.order)
                level += page.links
            self.catalogs += sum(not each.item for each in level)
            if self.catalogs > _MOST_CATALOGS:
                yield _too_many(f"more than {_MOST_CATALOGS:,} catalogs")
                return

    def one(self, uri: str) -> tuple[Item | Unlisted, ...]:
        """What one document holds, without what it links to."""
        return self._page(Document(uri)).found

    def _is_fresh(self, uri: str) -> bool:
        key = unsigned(uri)
        if key in self.seen:
            return False
        self.seen.add(key)
        return True

    def _page(self, document: Document) -> _Page:
        """What a document holds; reads it."""
        try:
            if _stac_parquet.is_parquet(document.uri):
                return _Page(tuple(_stac_parquet.read_items(document.uri, self.read)))
            return self._of(read_document(document.uri), document)
        except (CorruptInputError, TransientInputError) as error:
            if not document.above and _is_missing(error, document.uri):
                message = f"source.paths: {shown(document.uri)} is not there; check the path"
                raise ValueError(message) from error
            if _is_unknown(error, document):
                raise type(error)(f"{shown(document.uri)}: {error}") from error
            # A list of others: what the job names by itself, too.
            lists = not document.item and (not document.found or document.stands_for)
            return _Page((_unlisted(document.uri, error)._replace(lists=lists),))

    def _of(self, found: dict[str, Any], document: Document) -> _Page:
        kind = found.get("type")
        if document.found and is_exported(found):
            self.exported.append(document.uri)
            others = _listed(document.found) if document.stands_for else []
            return _Page(links=tuple(replace(each, order=document.order) for each in others))
        if kind == "Feature":
            return _Page((self.read(found, document.uri),))
        if kind == "FeatureCollection":
            features = found.get("features")
            if not isinstance(features, list):
                raise CorruptInputError("is a list of items without items")
            items = tuple(read_one(each, document.uri, self.read) for each in features)
            return self._pages(found, document, items)
        if kind in ("Catalog", "Collection") or (kind is None and "stac_version" in found):
            return self._catalog(found, document)
        raise CorruptInputError("is no STAC item, catalog or collection")

    def _pages(
        self, found: Mapping[str, Any], document: Document, items: tuple[Item | Unlisted, ...]
    ) -> _Page:
        """A list of items, and the next page of it where a server sends it in pages.

        Where nobody can tell what that holds, nothing of it has vanished.
        """
        links = found.get("links")
        links = links if isinstance(links, list) and is_url(document.uri) and items else []
        links = [each for each in links if isinstance(each, Mapping) and each.get("rel") == "next"]
        if not links:
            return _Page(items)
        try:
            if str(links[0].get("method", "GET")).upper() != "GET":
                raise CorruptInputError("goes on with a page that only source.search asks for")
            uri = resolved(links[0].get("href"), document.uri)
            self.reach.require_document(uri, document.uri)
        except CorruptInputError as error:
            return _Page((*items, _unlisted(document.uri, error)._replace(lists=True)))
        above = document.above or (document.uri,)
        return _Page(items, (Document(uri, above, order=document.order),))

    def _catalog(self, found: Mapping[str, Any], document: Document) -> _Page:
        links = found.get("links")
        if not isinstance(links, list):
            raise CorruptInputError("is a catalog without links")
        above = (*document.above, document.uri)
        follow: list[Document] = []
        bad: list[Unlisted] = []
        dynamic = False
        for link in links:
            rel = link.get("rel") if isinstance(link, Mapping) else None
            dynamic |= rel in ("items", "search")
            if rel not in ("child", "item"):
                continue
            try:
                uri = resolved(link.get("href"), document.uri)
                self.reach.require_document(uri, document.uri)
                if rel == "child" and unsigned(uri) in map(unsigned, above):
                    raise CorruptInputError(
                        f"links back to {shown(uri)}, which it came from: a loop, not followed"
                    )
                if len(above) >= _DEEPEST:
                    raise CorruptInputError(f"lies more than {_DEEPEST} catalogs deep")
            except CorruptInputError as error:
                bad.append(
                    Unlisted(_name(document.uri, found), document.uri, str(error), "corrupt")
                )
                continue
            follow.append(Document(uri, above, item=rel == "item", order=document.order))
        if dynamic and not follow and not bad:
            raise CorruptInputError(
                "is of an API, which lists its items only when it is asked: name it in "
                "source.search.url, with source.search.collections"
            )
        return _Page(tuple(bad), tuple(follow))


def _of_path(found: Item | Unlisted, order: int) -> Item | Unlisted:
    return replace(found, order=order) if isinstance(found, Item) else found


def read_one(item: object, place: str, read: Read) -> Item | Unlisted:
    """One item of the list at `place`; what is none has the list's name."""
    try:
        if not isinstance(item, Mapping):
            raise CorruptInputError("holds an item that is no JSON object")
        return read(item, own_place(item) or place)
    except CorruptInputError as error:
        return _unlisted(place, error)


def own_place(item: Mapping[str, Any]) -> str:
    """Where an item of a list lies by what it says itself; empty: it does not say so."""
    links = item.get("links")
    for link in links if isinstance(links, list) else ():
        if isinstance(link, Mapping) and link.get("rel") == "self":
            href = link.get("href")
            if isinstance(href, str) and is_url(href) and refusal(href) is None:
                return "" if href.lower().startswith("file://") else href
    return ""


def _unlisted(uri: str, error: CorruptInputError | TransientInputError) -> Unlisted:
    kind = "corrupt" if isinstance(error, CorruptInputError) else "error"
    return Unlisted(_stem(uri), uri, str(error), kind, isinstance(error, MissingInputError))


def _name(uri: str, catalog: Mapping[str, Any]) -> str:
    try:
        return name_of(catalog)
    except CorruptInputError:
        return _stem(uri)


def _stem(uri: str) -> str:
    """What an item is likely to be called whose document cannot be read: static ones have such names."""
    base = public(uri).rstrip("/").rpartition("/")[2]
    return os.path.splitext(base)[0] or public(uri)


def _too_many(what: str) -> Unlisted:
    said = f"name {what}, and no more are looked at"
    return Unlisted("source.paths", "", said, "corrupt", lists=True)


def _is_unknown(error: BaseException, document: Document) -> bool:
    """True where nobody can say which items a catalog holds: they must not count as gone."""
    transient = isinstance(error, TransientInputError) and not isinstance(error, MissingInputError)
    return transient and is_url(document.uri) and not document.item


def _is_missing(error: BaseException, uri: str) -> bool:
    return isinstance(error, MissingInputError) and not (is_url(uri) and not is_web(uri))


# Paths of a job


def documents(path: str) -> list[Document]:
    """The documents that a path of a job names. Raises ValueError for one that names none."""
    path = path.removeprefix("file://")
    if is_url(path) and (is_web(path) or not path.endswith("/")) and "*" not in path:
        return [Document(path)]
    if is_url(path) and "*" not in path:
        system, root = filesystem(path)
        try:
            folder = root.rstrip("/")
            named = [f"{path}{name}" for name in _CATALOGS if system.exists(f"{folder}/{name}")]
        except Exception as error:
            raise open_failure(path, error) from error
        return _of_folder(named, f"{path}**/*.json")
    if os.path.isdir(path):
        return _of_folder(_catalogs(path), _below(path))
    return [Document(path)] if os.path.exists(path) else _listed(path)


def _catalogs(folder: str) -> list[str]:
    """What stands for all documents of a local folder, at most one."""
    paths = (os.path.join(folder, name) for name in _CATALOGS)
    return [path for path in paths if os.path.isfile(path)][:1]


def _of_folder(catalogs: Sequence[str], pattern: str) -> list[Document]:
    found = [Document(each, found=pattern, stands_for=True) for each in catalogs[:1]]
    return found or _listed(pattern)


def _listed(pattern: str) -> list[Document]:
    found = list_entries([pattern], "stac")
    return [Document(entry.uri, found=pattern) for entry in found.entries]


def _below(folder: str) -> str:
    """The documents of a local folder without a catalog."""
    return os.path.join(_escaped(folder), "**", "*.json")


def looked_for(path: str) -> str:
    """The glob by which a path of a job finds local documents; empty: it names one, or is elsewhere."""
    path = path.removeprefix("file://")
    if is_url(path) or not os.path.isdir(path):
        return "" if is_url(path) or os.path.exists(path) else path
    return _below(path) if all(map(_is_exported_at, _catalogs(path))) else ""


def _is_exported_at(uri: str) -> bool:
    try:
        return is_exported(read_document(uri))
    except (CorruptInputError, TransientInputError):
        return False


def is_exported(said: Mapping[str, Any]) -> bool:
    """Whether a document is of the catalog that an export of ours writes: its assets are masks."""
    about = said.get("properties") if said.get("type") == "Feature" else said
    if not isinstance(about, Mapping):
        return False
    texts = (about.get("label:description"), about.get("description"))
    return any(isinstance(each, str) and each.startswith(EXPORTED) for each in texts)


def _escaped(path: str) -> str:
    import glob

    return glob.escape(path)
