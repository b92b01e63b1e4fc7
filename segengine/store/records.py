"""Commit records: the only truth about what is done.

One JSON object a shard while a scene is worked on, packed into one parquet file a scene when it is
finished; of a scene of very many shards also while it is worked on, so that a run which is killed
near its end does not leave them all to be read one by one. A single record always stands above a
packed one; a single `void` record says that the packed one no longer holds.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, TypeVar, overload

from segengine.ahead import requested
from segengine.store.blobs import Objects
from segengine.store.keys import (
    MASK,
    PACKED,
    RECORDS,
    SCENES,
    array_folder,
    pack_key,
    records_folder,
    shards_folder,
    single_key,
    single_of,
)
from segengine.store.kinds import DraftRecord, Record, VoidRecord
from segengine.store.singles import from_json, to_json
from segengine.types import Place

if TYPE_CHECKING:  # a worker writes single records, and never loads pyarrow for it
    import pyarrow as pa

    from segengine.store.packs import Pack

R = TypeVar("R", bound=Record)
ASKED_TOGETHER = 1 << 14
"""Shards of scenes whose records are asked for, and held, at a time; of one scene there may be more."""


@dataclass(frozen=True, slots=True)
class SceneRecords:
    """A scene's records as they were when they were read."""

    singles: Mapping[tuple[str, Place], Record]
    pack: Pack | None
    packed: bool
    """Whether there is a pack, be it damaged."""

    def of(self, only: type[R]) -> Iterator[R]:
        """Those of a type: single ones first, then the packed ones they do not replace."""
        for record in self.singles.values():
            if isinstance(record, only) and not isinstance(record, VoidRecord):
                yield record
        if self.pack is not None:
            from segengine.store.packs import from_pack

            for record in from_pack(self.pack, only):
                if (record.kind, record.shard) not in self.singles:
                    yield record


@dataclass(frozen=True, slots=True)
class RecordLog:
    """Reads and writes the records of a store."""

    objects: Objects

    def write(self, record: Record) -> None:
        """Commit a record, atomically."""
        self.objects.put(record.key, to_json(record))

    def drop(self, kind: str, scene: str, shard: Place, *, packed: bool) -> None:
        """Take a record back before its shard is written again; `packed`: one may lie in the pack."""
        if packed:
            void = VoidRecord(of=kind, scene=scene, shard=shard)
            self.objects.put(void.key, to_json(void))
        else:
            self.objects.delete(single_key(kind, scene, shard))

    def scenes(self) -> tuple[set[str], set[str]]:
        """Names of scenes with (single, packed) records."""
        folders, files = self.objects.children(RECORDS)
        packed = {f.removesuffix(PACKED) for f in files if f.endswith(PACKED)}
        return {f for f in folders if not f.startswith("+")}, packed

    def unrecorded(self, known: Collection[str]) -> list[str]:
        """Scenes with stored masks, but for the `known` ones, of which there are records."""
        return [
            scene
            for scene in self.objects.children(SCENES)[0]
            if scene not in known
            and any(self.objects.keys(shards_folder(array_folder(scene, MASK))))
        ]

    def table(self, scene: str, columns: list[str] | None = None) -> pa.Table | None:
        """The packed records of a scene, or None where there are none, or only damaged ones."""
        data = self.objects.get(pack_key(scene))
        if data is None:
            return None
        from segengine.store.packs import read_pack

        return read_pack(data, columns)

    def pack(self, scene: str) -> Pack | None:
        """The same, group by group."""
        data = self.objects.get(pack_key(scene))
        if data is None:
            return None
        from segengine.store.packs import Pack

        return Pack.of(data)

    def singles(self, scene: str) -> dict[tuple[str, Place], Record]:
        """The single records of a scene.

        Of a damaged one only its name counts: a `void` one, so that a packed one below it, which it
        may have taken back, does not hold.
        """
        found: dict[tuple[str, Place], Record] = {}
        keys = list(self.objects.keys(records_folder(scene)))
        read = requested(keys, self.objects.get, self.objects.root)
        for key, data in zip(keys, read, strict=True):
            if data is None:
                continue
            try:
                record = from_json(data)
            except ValueError:
                named = single_of(key)
                if named is None:
                    continue
                record = VoidRecord(of=named[0], scene=scene, shard=named[1])
            found[record.kind, record.shard] = record
        return found

    def damaged(self) -> Iterator[str]:
        """Keys of single records whose bytes are not those that were stored."""
        for scene in sorted(self.scenes()[0]):
            for key in sorted(self.objects.keys(records_folder(scene))):
                data = self.objects.get(key)
                try:
                    if data is not None:
                        from_json(data)
                except ValueError:
                    yield key

    @overload
    def read(self, scene: str) -> Iterator[Record]: ...
    @overload
    def read(self, scene: str, only: type[R]) -> Iterator[R]: ...
    def read(self, scene: str, only: type[Record] = Record) -> Iterator[Record]:
        """Records of a scene, all or of one type: as `SceneRecords.of`."""
        singles = self.singles(scene)  # first: a run that ends meanwhile moves them to the pack
        pack = self.pack(scene)
        yield from SceneRecords(singles, pack, pack is not None).of(only)

    def together(self, shards: Mapping[str, int]) -> Iterator[dict[str, SceneRecords]]:
        """The records of scenes, in their order, several scenes at a time; `shards`: of each scene.

        For who holds the lock: one listing tells of all scenes what there is. Where each object is a
        request, those of several scenes are on their way at once.
        """
        singles, packed = self.scenes()

        def read(scene: str) -> SceneRecords:
            return SceneRecords(
                self.singles(scene) if scene in singles else {},
                self.pack(scene) if scene in packed else None,
                scene in packed,
            )

        for batch in batches(shards):
            yield dict(zip(batch, requested(batch, read, self.objects.root), strict=True))

    def write_pack(self, scene: str) -> None:
        """Put a finished scene's records into its parquet file, ahead of `clear`.

        Killed between the two, the singles still say the same as the pack.
        """
        from segengine.store.packs import pack_records

        singles = self.singles(scene).values()
        final = (record for record in singles if not isinstance(record, DraftRecord))
        self.objects.put(pack_key(scene), pack_records(final, self.pack(scene)))

    def move_to_pack(self, scene: str, records: Collection[Record]) -> None:
        """Put some single records of a scene, which nobody writes any more, into its parquet file.

        Killed in between, the singles still say the same as the pack.
        """
        self.add_to_pack(scene, records)
        self.objects.delete_many([record.key for record in records])

    def add_to_pack(self, scene: str, records: Collection[Record]) -> None:
        """Put records of a scene that have no singles into its parquet file."""
        from segengine.store.packs import pack_records

        self.objects.put(pack_key(scene), pack_records(records, self.pack(scene)))

    def has_drafts(self, scene: str) -> bool:
        """Whether shards of a scene are drafted, for a later run to decide."""
        return any(kind == DraftRecord.KIND for kind, _ in self.singles(scene))

    def clear(self, scene: str) -> None:
        """Delete the single records of a scene, once it is packed."""
        self.objects.delete_tree(records_folder(scene))

    def forget(self, scene: str) -> None:
        """Delete all records of a scene."""
        self.objects.delete(pack_key(scene))
        self.clear(scene)


def batches(shards: Mapping[str, int]) -> Iterator[list[str]]:
    """Scenes that have few shards together, or one that has many.

    >>> list(batches({"a": 3, "b": 1 << 14, "c": 4, "d": 1}))
    [['a'], ['b'], ['c', 'd']]
    """
    batch: list[str] = []
    held = 0
    for scene, count in shards.items():
        if batch and held + count > ASKED_TOGETHER:
            yield batch
            batch, held = [], 0
        batch.append(scene)
        held += count
    if batch:
        yield batch


@lru_cache(maxsize=8)
def provenance(engine: str = "") -> str:
    """Host, processor and versions, as one JSON text; `engine`: what ran a network."""
    import platform
    from importlib.metadata import version

    return json.dumps(
        {
            "host": platform.node(),
            "processor": _processor(),
            "python": platform.python_version(),
            **{p: version(p) for p in ("segengine", "numpy", "opencv-python-headless", "zarr")},
            **({"engine": engine} if engine else {}),
        },
        separators=(",", ":"),
    )


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return f"{line.partition(':')[2].strip()} ({os.uname().machine})"
    except OSError:
        pass
    import platform

    return platform.processor() or platform.machine()
