"""A store: create it, write whole shards, open it for reading.

scenes/<scene>/mask/0   labels          records/   what is done
scenes/<scene>/mask/1.. pyramid         tables/    frames, shards, instances
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from segengine.arrays import ArraySpec, SceneArrays, group_metadata, scene_documents, to_bytes
from segengine.errors import CorruptInputError, JobError, StoreError, TransientInputError
from segengine.inputs import LAYOUTS, reader
from segengine.layout import Layout
from segengine.objects import LocalObjects, Objects, open_objects, zarr_store
from segengine.parquet import read_parquet
from segengine.records import Kind, Record, RecordLog, StoredObject
from segengine.shardcodec import encode_shard
from segengine.types import FrameRef, Tile, Unreadable
from segengine.values import decode

if TYPE_CHECKING:
    import pyarrow as pa
    import zarr

VERSION = 1
ROOT = "zarr.json"


def checksum(data: bytes) -> str:
    """Checksum of stored bytes: XXH3-128, 32 hex digits."""
    return xxhash.xxh3_128_hexdigest(data)


def shard_place(spec: ArraySpec, place: tuple[int, ...]) -> tuple[int, ...]:
    """A place (frame, y, x) in the shard grid of an array, which may have a class axis too."""
    return (place[0], 0, *place[1:]) if len(place) < len(spec.shape) else place


def write_block(
    objects: Objects, spec: ArraySpec, scene: str, place: tuple[int, ...], block: NDArray[Any]
) -> StoredObject:
    """Write one whole shard of an array; `block` fills its first corner."""
    place = shard_place(spec, place)
    data = encode_shard(block.astype(spec.dtype, copy=False), spec.shard, spec.chunk, spec.fill)
    objects.put(spec.shard_key(scene, place), data)
    return StoredObject(spec.path, checksum(data), len(data))


def read_attributes(objects: Objects) -> dict[str, Any] | None:
    """The root's `segengine` attributes; None where there is no store. Raises StoreError."""
    data = objects.get(ROOT)
    if data is None:
        return None
    try:
        attributes: dict[str, Any] = json.loads(data)["attributes"]["segengine"]
    except (ValueError, KeyError, TypeError):
        raise StoreError(
            f"{objects.root}: holds a zarr.json that is not segengine's; choose another store.path"
        ) from None
    if attributes.get("version") != VERSION:
        raise StoreError(
            f"{objects.root}: store version {attributes.get('version')}, this segengine reads "
            f"{VERSION}; use the release that wrote it or choose another store.path"
        )
    return attributes


def check_place(objects: Objects) -> None:
    """Raise JobError where no store can be made: a file, a folder of other files, below a file."""
    root = objects.root
    if not isinstance(objects, LocalObjects):
        return
    above = Path(root)
    while not above.exists() and above != above.parent:
        above = above.parent
    if not above.is_dir():
        raise JobError(f"store.path: {above} is a file; name a folder")
    if os.path.isdir(root) and not os.path.exists(os.path.join(root, ROOT)):
        names = set(os.listdir(root))
        if not names <= {"run.lock", "work", "records", "scenes"}:
            raise JobError(
                f"store.path: {root} holds other files and no store; name an empty folder"
            )


def write_root(objects: Objects, attributes: Mapping[str, Any]) -> None:
    """Write the root and the `scenes` group where they differ from what is there."""
    documents = {
        "scenes/zarr.json": to_bytes(group_metadata({})),
        ROOT: to_bytes(group_metadata({"segengine": dict(attributes)})),
    }
    for key, data in documents.items():
        if objects.get(key) != data:
            objects.put(key, data)


def write_scene(objects: Objects, layout: Layout, arrays: SceneArrays) -> None:
    """Write a scene's metadata where it differs from what is there; the group itself last."""
    for key, data in scene_documents(layout, arrays).items():
        path = f"scenes/{layout.scene}/{key}"
        if objects.get(path) != data:
            objects.put(path, data)


@lru_cache(maxsize=64)
def open_array(root: str, scene: str, spec: ArraySpec) -> zarr.Array[Any]:
    """An array for reading, opened once a process; `spec` tells it from one it was before."""
    import zarr

    path = f"{root}/scenes/{scene}/{spec.path}"
    return zarr.open_array(zarr_store(path), mode="r")


def open_store(path: str | os.PathLike[str]) -> Store:
    """Open a finished or half-finished store for reading. Raises StoreError, JobError."""
    text = os.fspath(path)
    objects = open_objects(text if "://" in text else os.path.abspath(text))
    try:
        attributes = read_attributes(objects)
    except OSError as error:
        raise StoreError(f"{text}: cannot be read: {error}") from error
    if attributes is None:
        raise JobError(f"{text}: no segengine store is there")
    return Store(objects, attributes)


@dataclass(frozen=True)
class Store:
    """A store as a reader sees it: masks, tables, records, metrics."""

    objects: Objects
    attributes: dict[str, Any] = field(repr=False)
    """The root's: version, job, fingerprints, classes, colors."""

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

    def records(self, scene: str | None = None, kind: Kind | None = "mask") -> Iterator[Record]:
        """Commit records, one at a time; of one scene or all, of one kind or (None) all."""
        singles, packed = self.log.scenes()
        for name in [scene] if scene is not None else sorted(singles | packed):
            yield from self.log.read(name, kind)

    @property
    def frames(self) -> pa.Table:
        """`tables/frames.parquet`: one row a frame. Raises StoreError before the first publish."""
        return self.table("frames")

    @property
    def shards(self) -> pa.Table:
        """`tables/shards.parquet`: one row a shard."""
        return self.table("shards")

    @property
    def metrics(self) -> dict[str, Any]:
        """`metrics.json`; empty before the first publish."""
        data = self.objects.get("metrics.json")
        return {} if data is None else json.loads(data)

    def table(self, name: str) -> pa.Table:
        """A table below `tables/`."""
        data = self.objects.get(f"tables/{name}.parquet")
        if data is None:
            raise StoreError(f"{self.path}: tables/{name}.parquet is not there yet; finish the run")
        return read_parquet(data)

    def write_object(self, key: str, data: bytes) -> None:
        """Write an object beside the masks, atomically (a report, say)."""
        self.objects.put(key, data)


class _Scenes(Mapping[str, "SceneStore"]):
    def __init__(self, store: Store, names: tuple[str, ...]) -> None:
        self._store, self._names = store, names
        self._open: dict[str, SceneStore] = {}

    def __getitem__(self, name: str) -> SceneStore:
        if name not in self._open:
            data = self._store.objects.get(f"{LAYOUTS}/{name}") if name in self._names else None
            if data is None:
                raise KeyError(name)
            self._open[name] = SceneStore(self._store, decode(data))
        return self._open[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __repr__(self) -> str:
        return f"<{len(self)} scenes>"


@dataclass(frozen=True)
class SceneStore:
    """One scene of a store."""

    store: Store = field(repr=False)
    layout: Layout = field(repr=False)

    @property
    def name(self) -> str:
        """The scene's name."""
        return self.layout.scene

    @cached_property
    def group(self) -> zarr.Group:
        """The scene's Zarr group."""
        import zarr

        objects = self.store.objects
        path = f"{objects.root}/scenes/{self.name}"
        return zarr.open_group(zarr_store(path), mode="r")

    def _array(self, path: str) -> Any:
        return self.group.get(path, None)

    @property
    def mask(self) -> zarr.Array[Any]:
        """(frame, y, x) labels; void is the dtype's maximum."""
        return self.group["mask/0"]  # type: ignore[return-value]

    @cached_property
    def levels(self) -> tuple[zarr.Array[Any], ...]:
        """The mask and its pyramid, finest first."""
        found: list[zarr.Array[Any]] = []
        while (array := self._array(f"mask/{len(found)}")) is not None:
            found.append(array)
        return tuple(found)

    @property
    def instances(self) -> zarr.Array[Any] | None:
        """(frame, y, x) uint32 ids, 0 = none; None where the segmenter finds no instances."""
        return self._array("instances/0")  # type: ignore[no-any-return]

    @property
    def probabilities(self) -> zarr.Array[Any] | None:
        """(frame, class, y, x) float32, NaN = void; None where not asked for."""
        return self._array("probabilities/0")  # type: ignore[no-any-return]

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
        """Frames in order, with their real sizes."""
        return self.layout.frames()

    def colors(self, frame: int = 0) -> NDArray[np.uint8]:
        """(class, 3) colours of the classes in a frame: the job's, or its clusters' means."""
        array = self._array("colors")
        if array is not None:
            found = np.asarray(array[min(frame, array.shape[0] - 1)])
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
        source = reader(self.layout.kind, self.store.job["source"])
        (tile,) = source.read((ref,), rows, cols)
        if isinstance(tile, Unreadable):
            kind = CorruptInputError if tile.kind == "corrupt" else TransientInputError
            raise kind(f"{ref.name}: {tile.reason}")
        return tile
