"""What public data sets have in common: pictures below a root, and truth for each of them.

    list (driver)  -> names of the pictures        find_truth (driver) -> where each one's truth lies
                                                   load_truth (worker) -> its labels and objects

A class that is not asked for is void, as is what the set itself leaves open: not scored, never
background.
"""

from __future__ import annotations

import difflib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np
import xxhash
from numpy.typing import NDArray

from segengine.asked import palette
from segengine.errors import (
    CorruptInputError,
    MissingTruthError,
    SegengineError,
    TransientInputError,
)
from segengine.guards.schemes import filesystem
from segengine.sources._color import Color as ColorOption
from segengine.sources._color import require_color
from segengine.sources._files import is_url, open_failure
from segengine.sources.images import ImageSource
from segengine.sources.listing import Listing, Unlisted, list_entries
from segengine.types import (
    Color,
    Entry,
    FrameRef,
    Labels,
    Probe,
    Tile,
    Truth,
    TruthRef,
    Unreadable,
)

if TYPE_CHECKING:
    import pyarrow as pa

TruthRefs = list[TruthRef]
"""`list` is a method's name below."""
Item = Entry | Unlisted
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class DataSet(ABC):
    """A public data set: reads its pictures as `ImageSource` does, and knows their truth."""

    title: ClassVar[str]
    marks: ClassVar[tuple[str, ...]]
    """Folders or files of which one shows that a folder is the root."""
    inside: ClassVar[tuple[str, ...]] = ()
    """Where the root may be below the path that was given."""

    paths: tuple[str, ...] = ()
    """Root folders, local or URLs; for the classes that are told by the set's own files."""
    split: str | None = None
    """Part of the set, as the set names it; None: all parts that are there."""
    classes: tuple[str, ...] | None = None
    """Names of the classes to score, in the order to number them; None: all, in the set's order."""
    color: ColorOption | None = None
    """Force gray or rgb pictures; None: as stored."""

    def __post_init__(self) -> None:
        require_color(self.color)
        object.__setattr__(self, "paths", tuple(self.paths))
        if self.classes is None:
            return
        asked: object = self.classes
        if not isinstance(asked, Sequence) or isinstance(asked, str) or not asked:
            raise ValueError(f"classes: is {asked!r}; it must list names of classes")
        object.__setattr__(self, "classes", tuple(asked))
        if len(set(self.classes)) != len(self.classes):
            raise ValueError(f"classes: a name is there twice: {', '.join(self.classes)}")

    def probe(self, entry: Entry) -> Probe:
        """As `ImageSource.probe`."""
        return ImageSource(self.color).probe(entry)

    def read(
        self, frames: Sequence[FrameRef], rows: slice, cols: slice
    ) -> Iterator[Tile | Unreadable]:
        """As `ImageSource.read`."""
        return ImageSource(self.color).read(frames, rows, cols)

    def list(self, paths: Sequence[str]) -> Listing:
        """The pictures of the split, named by their paths below the root.

        What the set names and does not hold is unlisted, with the reason. Raises ValueError where
        a path is no such data set or has no such split.
        """
        found: dict[str, Item] = {}
        try:
            for path in paths:
                for item in self._pictures(self._root(path)):
                    other = found.setdefault(item.name, item)
                    if other.uri != item.uri:
                        both = f"{other.uri} and {item.uri} would both be named {item.name}"
                        raise ValueError(f"paths: {both}")
            if not found:
                raise ValueError(f"paths: no picture in {', '.join(paths)}; check the path")
        except ValueError as error:
            raise ValueError(f"source.{error}") from error
        names = sorted(found, key=lambda name: name.encode("utf-8", "surrogateescape"))
        items = [found[name] for name in names]
        return Listing(
            tuple(item for item in items if isinstance(item, Entry)),
            tuple(item for item in items if isinstance(item, Unlisted)),
            "images",
        )

    @property
    def truth_classes(self) -> tuple[str, ...]:
        """Names of the truth's labels 0, 1, 2 ..."""
        with _driver():
            return self._chosen([name for name, _ in self._catalog()])

    @property
    def truth_instances(self) -> bool:
        """Whether it tells objects apart."""
        return True

    @property
    def truth_colors(self) -> tuple[Color, ...]:
        """One colour a class: the published one, else of our palette."""
        with _driver():
            catalog = self._catalog()
        spare = palette(len(catalog))
        colors = {name: own or spare[i] for i, (name, own) in enumerate(catalog)}
        return tuple(colors[name] for name in self.truth_classes)

    def find_truth(self, refs: Sequence[FrameRef]) -> TruthRefs:
        """Where the truth of each frame lies; a big file is read once for all of them."""
        with _driver():
            return by_root(refs, self._find)

    def load_truth(self, ref: FrameRef, truth: TruthRef, rows: slice, cols: slice) -> Truth:
        """Labels and instances (1, y, x) of a window, and the objects of the whole frame.

        Raises MissingTruthError with the file and what is wrong with it.
        """
        if not truth.uri:
            raise MissingTruthError(f"no truth at {truth.looked}")
        whole = _whole(self, root_of(ref), (ref.height, ref.width), truth)
        return whole.crop((slice(None), rows, cols))

    @abstractmethod
    def _pictures(self, root: str) -> Iterable[Item]:
        """The pictures of the split."""

    @abstractmethod
    def _catalog(self) -> Sequence[tuple[str, Color | None]]:
        """All classes of the set in its order, with their published colours."""

    @abstractmethod
    def _find(self, root: str, refs: Sequence[FrameRef]) -> TruthRefs:
        """`find_truth` for the frames of one root."""

    @abstractmethod
    def decode(self, root: str, size: tuple[int, int], truth: TruthRef) -> Truth:
        """The truth of a whole frame of `size` (y, x)."""

    def _root(self, path: str) -> str:
        path = path.removeprefix("file://").rstrip("/") or "/"
        for folder in (path, *(f"{path}/{name}" for name in self.inside)):
            if any(exists(f"{folder}/{mark}") for mark in self.marks):
                return folder
        raise ValueError(
            f"paths: {path} is no {self.title} data set: it holds none of {', '.join(self.marks)}"
        )

    def _chosen(self, names: Sequence[str]) -> tuple[str, ...]:
        """The classes to score. Raises ValueError for one that the set does not have."""
        if self.classes is None:
            return tuple(names)
        for name in self.classes:
            if name not in names:
                close = difflib.get_close_matches(name, names, n=1)
                hint = f"; did you mean {close[0]!r}?" if close else f"; it has {', '.join(names)}"
                raise ValueError(f"classes: {name!r} is no class of {self.title}{hint}")
        return self.classes


@contextmanager
def _driver() -> Iterator[None]:
    """Before a frame is at hand, what cannot be read stops the run."""
    try:
        yield
    except (CorruptInputError, TransientInputError, MissingTruthError) as error:
        raise SegengineError(f"source: {error}; check the path, or try again later") from error


@lru_cache(maxsize=2)
def _whole(source: DataSet, root: str, size: tuple[int, int], truth: TruthRef) -> Truth:
    """A frame that is cut in windows is decoded once."""
    return source.decode(root, size, truth)


def root_of(ref: FrameRef) -> str:
    """The data set's root, of which a frame's name is a path below."""
    return ref.uri.removesuffix(f"/{ref.name}")


def by_root(refs: Sequence[FrameRef], of: Callable[[str, Sequence[FrameRef]], list[T]]) -> list[T]:
    """What `of(root, refs)` gives for the frames of each root, in the order of all frames."""
    places: dict[str, list[int]] = {}
    for i, ref in enumerate(refs):
        places.setdefault(root_of(ref), []).append(i)
    found: dict[int, T] = {}
    for root, indices in places.items():
        found.update(zip(indices, of(root, [refs[i] for i in indices]), strict=True))
    return [found[i] for i in range(len(refs))]


def exists(uri: str) -> bool:
    """Whether there is a file or a folder."""
    if not is_url(uri):
        return os.path.exists(uri)
    try:
        system, path = filesystem(uri)
        return bool(system.exists(path))
    except Exception as error:
        raise open_failure(uri, error) from error


def files(folder: str, pattern: str = "") -> dict[str, Item]:
    """Every picture below a folder, or what matches a pattern there, by its path below it."""
    path = folder if is_url(folder) else folder.replace("*", "[*]").replace("?", "[?]")
    try:
        listing = list_entries([f"{path}/{pattern}" if pattern else path], "images")
    except ValueError:
        return {}  # nothing there
    items: tuple[Item, ...] = (*listing.entries, *listing.unlisted)
    return {item.name: item for item in items}


def fingerprint(uri: str) -> str:
    """Of a file by its size and time, as in a listing; empty: there is none."""
    item = next(iter(files(uri).values()), None)
    return item.fingerprint if isinstance(item, Entry) else ""


def pictures(root: str, folder: str, wanted: Mapping[str, str] | None = None) -> Iterator[Item]:
    """What lies in a folder below the root, or of it what a list names.

    `wanted`: for each file, what to say where it is missing.
    """
    below = f"{folder}/" if folder else ""
    present = files(f"{root}/{folder}".rstrip("/"))
    for file in present if wanted is None else wanted:
        item = present.get(file)
        name, uri = f"{below}{file}", f"{root}/{below}{file}"
        if isinstance(item, Entry):
            yield Entry(name, uri, item.fingerprint)
        elif item is not None:
            yield Unlisted(name, uri, item.reason)
        elif wanted is not None:
            yield Unlisted(name, uri, f"no such file; {wanted[file]}")


def located(
    uris: Sequence[str], present: Mapping[str, Item], *more: object, uri: str | None = None
) -> TruthRef:
    """A reference to files that are all there, else to the first that is not.

    `present`: what is there, by uri; `more`: what else the truth depends on; `uri`: the locator
    where it is not the first file.
    """
    marks = []
    for each in uris:
        item = present.get(each)
        if not isinstance(item, Entry):
            return TruthRef("", "", f"{each}: {item.reason}" if item is not None else each)
        marks.append(item.fingerprint)
    mark = xxhash.xxh3_64_hexdigest(repr((*marks, *more)).encode("utf-8", "surrogateescape"))
    return TruthRef(uris[0] if uri is None else uri, mark, "")


def uris_below(*folders: str) -> dict[str, Item]:
    """Every picture below folders, by uri; each folder is listed once."""
    return {f"{folder}/{name}": item for folder in folders for name, item in files(folder).items()}


def truth_of(
    labels: Labels,
    instances: NDArray[Any] | None = None,
    objects: pa.Table | None = None,
) -> Truth:
    """Maps (y, x) of a frame as its truth."""
    if instances is not None:
        instances = np.ascontiguousarray(instances, np.uint32)[None]
    return Truth(labels[None], instances, objects)


def objects_of_rows(
    rows: Iterable[tuple[int, int, Sequence[float], int, str, bool]],
) -> pa.Table:
    """The objects of a frame from (id, class, x y width height, area, run lengths, crowd)."""
    import pyarrow as pa

    schema = _schema()
    columns = zip(*rows, strict=True)
    arrays = [pa.array(c, field.type) for c, field in zip(columns, schema, strict=False)]
    return pa.Table.from_arrays(arrays, schema=schema) if arrays else schema.empty_table()


def objects_of_maps(
    instances: NDArray[Any], kinds: Labels, crowds: AbstractSet[int] = frozenset()
) -> pa.Table:
    """One row an id of a map (y, x): its pixels' class, box, area and outline; `crowds`: their ids."""
    import pyarrow as pa

    from segengine.instances.rows import objects_of

    table = objects_of(np.asarray(instances, np.uint32), kinds).drop_columns("score")
    crowd = [each in crowds for each in table.column("id").to_pylist()]
    return table.append_column("crowd", pa.array(crowd, pa.bool_()))


def _schema() -> pa.Schema:
    import pyarrow as pa

    from segengine.instances.rows import SCHEMA

    fields = [field for field in SCHEMA if field.name != "score"]
    return pa.schema([*fields, pa.field("crowd", pa.bool_())])
