"""A store: create it, write whole shards, open it for reading.

scenes/<scene>/mask/0   labels          records/   what is done
scenes/<scene>/mask/1.. pyramid         tables/    frames, shards, instances
"""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
from numpy.typing import NDArray

from segengine.errors import (
    CorruptInputError,
    DamagedStoreError,
    JobError,
    StoreError,
    TransientInputError,
    UntrustedError,
)
from segengine.guards.trust import is_trusting, named_by_store
from segengine.job import source_options
from segengine.notebook import Figures, scene_html, store_html, thinned
from segengine.registry import reader
from segengine.store.blobs import Objects, open_objects
from segengine.store.keys import (
    COLORS,
    CONFIDENCE,
    INSTANCES,
    LAYOUTS,
    MASK,
    METRICS,
    PROBABILITIES,
    array_folder,
    layout_key,
    level_path,
    metadata_key,
    scene_folder,
    table_key,
)
from segengine.store.kinds import MaskRecord, Record, type_of
from segengine.store.layouts import Layout, load_layout
from segengine.store.parquet import read_parquet
from segengine.store.records import RecordLog
from segengine.store.remote import zarr_store
from segengine.store.root import attributes_or_lost, read_attributes
from segengine.store.sealbook import CHANGED
from segengine.store.seals import SealedObjects
from segengine.store.shards import _opened, read_region
from segengine.types import FrameRef, Place, Tile, Unreadable

if TYPE_CHECKING:
    import pyarrow as pa
    import xarray
    import zarr


GLANCE = 1 << 26
"""Pixels read at most for the picture of a scene."""


def open_store(path: str | os.PathLike[str], trust: bool | None = None) -> Store:
    """Open a finished or half-finished store for reading. Raises StoreError, JobError.

    `path`: a folder or an s3:// URL. `trust`: code that the store's own job names,
    `package.module:Class`, may be used. `store["scene"].mask` is a zarr.Array (frame, y, x).
    """
    return _open(path, trust, read_attributes)


def open_lost(path: str, trust: bool | None = None) -> Store:
    """As `open_store`; where the root is lost, with no attributes."""
    return _open(path, trust, attributes_or_lost)


def _open(
    path: str | os.PathLike[str],
    trust: bool | None,
    attributes_of: Callable[[Objects], dict[str, Any] | None],
) -> Store:
    text = os.fspath(path)
    objects = SealedObjects(open_objects(text if "://" in text else os.path.abspath(text)))
    try:
        attributes = attributes_of(objects)
    except OSError as error:
        raise StoreError(f"{text}: cannot be read: {error}") from error
    if attributes is None:
        raise JobError(f"{text}: no segengine store is there")
    return Store(objects, attributes, is_trusting(trust))


@dataclass(frozen=True, repr=False)
class Store:
    """A store as a reader sees it: masks, tables, records, metrics."""

    objects: SealedObjects
    attributes: dict[str, Any] = field(repr=False)
    """The root's: version, job, fingerprints, classes, colors."""
    trust: bool = False
    """Code that it names may be used."""
    live: Mapping[str, Layout] = field(default_factory=dict, repr=False)
    """Layouts of the run that holds the store, whose URLs are as the job gave them."""
    truth: str = field(default="", repr=False)
    """How that run reads truth; empty: as `metrics.json` says."""

    @property
    def path(self) -> str:
        """Folder or URL."""
        return self.objects.root

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, by label."""
        return tuple(self.attributes["classes"])

    @property
    def job(self) -> dict[str, Any]:
        """The stored job."""
        return dict(self.attributes["job"])

    @cached_property
    def scenes(self) -> Mapping[str, SceneStore]:
        """Scenes by name, sorted; opened when asked for."""
        _, names = self.objects.children(LAYOUTS)
        return _Scenes(self, tuple(names))

    def __getitem__(self, scene: str) -> SceneStore:
        return self.scenes[scene]

    @property
    def log(self) -> RecordLog:
        """The records' reader."""
        return RecordLog(self.objects)

    @overload
    def records(
        self, scene: str | None = None, kind: Literal["mask"] = "mask"
    ) -> Iterator[MaskRecord]: ...
    @overload
    def records(self, scene: str | None, kind: str | None) -> Iterator[Record]: ...
    def records(
        self, scene: str | None = None, kind: str | None = "mask"
    ) -> Iterator[MaskRecord] | Iterator[Record]:
        """Commit records, one at a time; of one scene or all, of one kind or (None) all."""
        only = Record if kind is None else type_of(kind)
        names = [scene] if scene is not None else sorted(set[str]().union(*self.log.scenes()))
        for name in names:
            for record in () if only is None else self.log.read(name, only):
                if kind in (None, record.kind):
                    yield record

    @property
    def frames(self) -> pa.Table:
        """`tables/frames.parquet`: one row a frame. Raises StoreError before the first publish."""
        return self.table("frames")

    @property
    def shards(self) -> pa.Table:
        """`tables/shards.parquet`: one row a shard."""
        return self.table("shards")

    @property
    def runs(self) -> pa.Table:
        """`tables/runs.parquet`: one row a run."""
        return self.table("runs")

    @property
    def metrics(self) -> dict[str, Any]:
        """`metrics.json`; empty before the first publish. A notebook shows it as tables."""
        try:
            found = json.loads(self.objects.get(METRICS) or b"{}")
        except (ValueError, RecursionError):
            found = None
        return Figures(found if isinstance(found, dict) else {})

    def __repr__(self) -> str:
        names, count = self.classes, len(self.scenes)
        return f"<store {self.path}: {count:,} scene{'s' * (count != 1)}, {len(names)} classes>"

    def _repr_html_(self) -> str:
        scenes = list(self.scenes)
        first = self[scenes[0]]._repr_html_() if scenes else ""
        return store_html(self.path, self.classes, scenes, first, Figures(self.metrics))

    def table(self, name: str) -> pa.Table:
        """A table below `tables/`."""
        key = table_key(name)
        data = self.objects.get(key)
        if key in self.objects.damaged:
            raise DamagedStoreError(f"{self.path}/{key}", self.objects.damaged[key])
        if data is None:
            raise StoreError(f"{self.path}: {key} is not there yet; finish the run")
        try:
            return read_parquet(data)
        except (ValueError, OSError) as error:
            raise DamagedStoreError(f"{self.path}/{key}", f"it cannot be read: {error}") from error


class _Scenes(Mapping[str, "SceneStore"]):
    def __init__(self, store: Store, names: tuple[str, ...]) -> None:
        self._store, self._names = store, names
        self._open: dict[str, SceneStore] = {}

    def __getitem__(self, name: str) -> SceneStore:
        if name not in self._open:
            layout = self._store.live.get(name)
            if layout is None and name not in self._names and not self._has_remains(name):
                raise KeyError(name)
            layout = layout or load_layout(self._store.objects, name)
            if layout is None:
                raise DamagedStoreError(f"{self._store.path}/{layout_key(name)}", CHANGED)
            self._open[name] = SceneStore(self._store, layout)
        return self._open[name]

    def _has_remains(self, name: str) -> bool:
        """True where something is stored of a scene whose layout is lost."""
        return bool(name) and any(self._store.objects.children(scene_folder(name)))

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __repr__(self) -> str:
        return f"<{len(self)} scenes>"


def _consolidated(group: Mapping[str, Any] | None) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = dict((group or {})["consolidated_metadata"]["metadata"])
    except (KeyError, TypeError, ValueError):
        return None
    return found


@dataclass(frozen=True, repr=False)
class SceneStore:
    """One scene of a store."""

    store: Store = field(repr=False)
    layout: Layout = field(repr=False)

    def __repr__(self) -> str:
        frames, height, width = self.layout.shape
        return (
            f"<scene {self.name}: {frames:,} frame{'s' * (frames != 1)} of {height:,} x {width:,}>"
        )

    def _repr_html_(self) -> str:
        ref = next((ref for ref in self.frames if not ref.pruned), self.layout.frame(0))
        try:
            labels = None if ref.pruned else self._glance(ref)
        except (StoreError, OSError):  # a notebook's cell is no place to end in
            labels = None
        crs = self.layout.placing.crs
        about = {"first frame": ref.name, **({"CRS": crs} if crs else {})}
        shape, classes = self.layout.shape, self.store.classes
        return scene_html(self.name, shape, labels, self.colors(), classes, about)

    def _glance(self, ref: FrameRef) -> NDArray[Any] | None:
        """(y, x) labels of a frame, made small from the next level of its pyramid.

        None: an unfinished run has no pyramid, and too much would be read.
        """
        step = thinned(ref.height, ref.width)
        level = min(step.bit_length(), len(self.levels)) - 1
        rows, cols = -(-ref.height >> level), -(-ref.width >> level)
        if rows * cols > GLANCE:
            return None
        labels = self.read(level_path(level), ref.index, slice(0, rows), slice(0, cols))
        step = thinned(rows, cols)
        return labels[::step, ::step]

    @property
    def name(self) -> str:
        """The scene's name."""
        return self.layout.scene

    @cached_property
    def group(self) -> zarr.Group:
        """The scene's Zarr group."""
        import zarr

        path = f"{self.store.path}/{scene_folder(self.name)}"
        return zarr.open_group(zarr_store(path), mode="r")

    @cached_property
    def _arrays(self) -> dict[str, zarr.Array[Any]]:
        """Arrays by path: as the group's metadata say, or where that is damaged, as their own do."""
        nodes = _consolidated(self._document(""))
        if nodes is None:
            nodes = {path: self._document(path) for path in self._paths()}
        found = {}
        for path, node in nodes.items():
            if (node or {}).get("node_type") == "array":
                found[path] = _opened(self.store.path, array_folder(self.name, path), node or {})
        return found

    def _document(self, path: str) -> dict[str, Any] | None:
        """A node's metadata; None where there are none that can be trusted."""
        data = self.store.objects.get(metadata_key(self.name, path))
        try:
            found = json.loads(data or b"")
        except (ValueError, RecursionError):
            return None
        return found if isinstance(found, dict) else None

    def _paths(self) -> Iterator[str]:
        """Where the scene's arrays may lie."""
        base = scene_folder(self.name)
        for name in self.store.objects.children(base)[0]:
            yield name
            yield from (f"{name}/{n}" for n in self.store.objects.children(f"{base}/{name}")[0])

    def array(self, path: str) -> zarr.Array[Any] | None:
        """The array at a path below the scene; None where there is none."""
        return self._arrays.get(path)

    def read(self, path: str, *index: int | slice) -> NDArray[Any]:
        """`array(path)[index]`, whole or not at all; slices have a step of 1.

        Raises DamagedStoreError where a record vouches for bytes that are gone or damaged.
        """
        array = self.array(path)
        if array is None:
            raise self._damaged(path)

        def is_stored(place: Place) -> bool:
            return (path, place) in self._stored

        return read_region(self.store.objects, array, index, is_stored)

    @cached_property
    def _stored(self) -> frozenset[tuple[str, Place]]:
        """(array, shard) of all that a record vouches for."""
        records = self.store.records(self.name, None)
        return frozenset((stored.array, r.shard) for r in records for stored in r.objects)

    def _damaged(self, path: str) -> DamagedStoreError:
        return DamagedStoreError(f"{self.store.path}/{metadata_key(self.name, path)}", CHANGED)

    @property
    def mask(self) -> zarr.Array[Any]:
        """(frame, y, x) labels; void is the dtype's maximum."""
        found = self.array(MASK)
        if found is None:
            raise self._damaged(MASK)
        return found

    def mask_of(self, name: str) -> NDArray[Any]:
        """(y, x) labels of the frame of a name, cropped to its size. Raises KeyError."""
        frame = self._frame_numbers.get(name)
        if frame is None:
            near = difflib.get_close_matches(name, self._frame_numbers, n=3)
            hint = f"did you mean {', '.join(near)}?" if near else "scene.frames has them"
            raise KeyError(f"no frame of scene {self.name} is called {name}; {hint}")
        ref = self.layout.frame(frame)
        return self.read(MASK, frame, slice(0, ref.height), slice(0, ref.width))

    @cached_property
    def _frame_numbers(self) -> Mapping[str, int]:
        return {ref.name: ref.index for ref in self.frames if not ref.pruned}

    def to_xarray(self) -> xarray.DataArray:
        """The mask as a DataArray `mask` (frame, y, x): read by Dask a shard at a time, with frame
        names, time, the centres of pixels, and CRS and transform as rioxarray has them; void is
        `_FillValue`. Raises JobError where xarray is not installed.
        """
        from segengine.xarrays import data_array

        return data_array(
            self.layout, _Labels(self), self.mask.dtype, self.void, self.store.classes
        )

    @cached_property
    def levels(self) -> tuple[zarr.Array[Any], ...]:
        """The mask and its pyramid, finest first."""
        found: list[zarr.Array[Any]] = []
        while (array := self.array(level_path(len(found)))) is not None:
            found.append(array)
        return tuple(found)

    @property
    def instances(self) -> zarr.Array[Any] | None:
        """(frame, y, x) uint32 ids, 0 = none; None where the segmenter finds no instances."""
        return self.array(INSTANCES)

    @property
    def probabilities(self) -> zarr.Array[Any] | None:
        """(frame, class, y, x) float32, NaN = void; None where not asked for."""
        return self.array(PROBABILITIES)

    @property
    def confidence(self) -> zarr.Array[Any] | None:
        """(frame, y, x) uint8 round(254 x the label's probability), 255 = void; None: not asked for."""
        return self.array(CONFIDENCE)

    @property
    def attributes(self) -> dict[str, Any]:
        """The scene group's attributes: `crs_wkt` and `transform` where georeferenced."""
        return dict(self.layout.attributes)

    @property
    def void(self) -> int:
        """The label of an unlabelled pixel."""
        return int(np.iinfo(self.mask.dtype).max)

    @property
    def times(self) -> NDArray[np.float64] | None:
        """(frame,) seconds from the start of the video."""
        return self.layout.times

    @property
    def frames(self) -> tuple[FrameRef, ...]:
        """Frames in order, with their real sizes; one that was pruned has no name, and no pixel."""
        return self.layout.frames()

    def colors(self, frame: int = 0) -> NDArray[np.uint8]:
        """(class, 3) colours of the classes in a frame: the job's, or its clusters' means."""
        array = self.array(COLORS)
        if array is not None:
            try:
                found = np.asarray(array[min(frame, array.shape[0] - 1)])
            except (ValueError, RuntimeError):  # damaged: colours of its own are no pixels
                found = np.zeros(0, np.uint8)
            if found.any():
                return found
        return np.asarray(self.store.attributes["colors"], np.uint8).reshape(-1, 3)

    def pixels(self, frame: int, rows: slice | None = None, cols: slice | None = None) -> Tile:
        """The source image again. Raises CorruptInputError or TransientInputError."""
        ref = self.layout.frame(frame)
        if ref.gone:
            raise TransientInputError(f"{ref.name}: the input is gone")
        rows = slice(*(rows or slice(None)).indices(ref.height)[:2])
        cols = slice(*(cols or slice(None)).indices(ref.width)[:2])
        try:
            with named_by_store(self.store.trust):
                options = source_options(self.store.job, self.store.trust)
                source = reader(self.layout.kind, options)
        except UntrustedError as error:
            raise TransientInputError(str(error)) from None
        (tile,) = source.read((ref,), rows, cols)
        if isinstance(tile, Unreadable):
            kind = CorruptInputError if tile.kind == "corrupt" else TransientInputError
            raise kind(f"{ref.name}: {tile.reason}")
        return tile


class _Labels:
    """Labels of windows of a scene; a process that gets it opens the store for itself."""

    def __init__(self, scene: SceneStore) -> None:
        self._scene = scene

    def __call__(self, frames: slice, rows: slice, cols: slice) -> NDArray[Any]:
        return self._scene.read(MASK, frames, rows, cols)

    def __reduce__(self) -> tuple[Callable[[str, str], _Labels], tuple[str, str]]:
        return _labels_of, (self._scene.store.path, self._scene.name)


def _labels_of(path: str, scene: str) -> _Labels:
    return _Labels(open_store(path)[scene])
