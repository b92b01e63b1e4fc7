"""Frames of a scene made void in all that is stored of them: shards, records, what is under way.

The record that will hold is written first, then the bytes: killed in between, the same call tells by
the checksums which of the two is there, and goes on.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

from segengine.errors import DamagedStoreError
from segengine.instances.rows import read_rows, to_bytes
from segengine.planning.damage import object_key
from segengine.store.blobs import Objects
from segengine.store.keys import (
    COLORS,
    MAPS,
    ROWS,
    draft_key,
    kept_key,
    metadata_key,
    parts_key,
    shard_key,
    split_folder,
)
from segengine.store.kinds import (
    DraftRecord,
    FrameMeasures,
    LevelRecord,
    MaskRecord,
    PrecisionRecord,
    Record,
    ShardMeasures,
    StoredObject,
)
from segengine.store.layouts import NOTHING, Layout
from segengine.store.records import RecordLog, SceneRecords
from segengine.store.sealbook import CHANGED, MISSING, digest
from segengine.store.seals import SealedObjects
from segengine.store.shardcodec import without_frames
from segengine.store.values import decode, encode
from segengine.types import Place
from segengine.worker.measure import read_payload
from segengine.worker.vanished import Kept

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Voiding:
    """Makes frames of a scene of photos void."""

    objects: SealedObjects
    layout: Layout
    frames: frozenset[int]

    def run(self) -> None:
        """All of it. Raises DamagedStoreError where what is stored is not what was committed."""
        records = self._records()
        found = list(records.of(Record))
        masks = {r.shard: r for r in found if isinstance(r, MaskRecord)}
        now = {
            place: self._void_mask(record, records.packed)
            for place, record in masks.items()
            if self._touches(record)
        }
        self._void_unrecorded(masks)
        for other in found:
            if isinstance(other, FrameMeasures | DraftRecord):
                if other.box[0] in self.frames:
                    self._drop(other, records.packed)
            elif isinstance(other, PrecisionRecord):
                if other.shard in now:
                    self._drop(other, records.packed)
            elif isinstance(other, ShardMeasures) and other.shard in now:
                self._void_measures(other, masks[other.shard], now[other.shard], records.packed)
        self._forget_work({*masks, *self._rows_of_shards()})
        self._void_colors()

    def _records(self) -> SceneRecords:
        log, scene = RecordLog(self.objects), self.layout.scene
        singles, pack = log.singles(scene), log.pack(scene)
        return SceneRecords(singles, pack, pack is not None)

    def _touches(self, record: Record) -> bool:
        return any(f in self.frames for f in range(record.box[0], record.box[3]))

    def _drop(self, record: Record, packed: bool) -> None:
        RecordLog(self.objects).drop(record.kind, record.scene, record.shard, packed=packed)

    def _rows_of_shards(self) -> list[Place]:
        """Shards that hold any of the frames."""
        rows = sorted({frame // self.layout.shard[0] for frame in self.frames})
        return [place for f in rows for place in self.layout.frame_shards(f)]

    # ------------------------------------------------------------------------------------- shards

    def _void_mask(self, record: MaskRecord, packed: bool) -> MaskRecord:
        """A shard's stored bytes, and the record that vouches for them, which is returned."""
        if record.status != "done":  # given up: the next run tries it again
            self._delete(record.shard)
            self._drop(record, packed)
            return record
        fresh = {stored: self._without(record, stored) for stored in record.objects}
        stored = tuple(StoredObject(old.array, digest(new), len(new)) for old, new in fresh.items())
        now = replace(self._cleared(record), objects=stored)
        if now != record:
            RecordLog(self.objects).write(now)
        for old, new in fresh.items():
            key = object_key(record, old.array)
            if self.objects.get(key) != new:
                self.objects.put(key, new)
        return now

    def _without(self, record: MaskRecord, stored: StoredObject) -> bytes:
        """A stored object without the frames."""
        key = object_key(record, stored.array)
        data = self.objects.get(key)
        if data is None:
            raise DamagedStoreError(f"{self.objects.root}/{key}", MISSING)
        try:
            if stored.array == ROWS:
                table = read_rows(data)
                frames = np.asarray(table.column("frame"))
                new = to_bytes(table.filter(~np.isin(frames, sorted(self.frames))))
                new = data if np.isin(frames, sorted(self.frames)).sum() == 0 else new
            else:
                new = self._without_in(stored.array, record.box[0], data)
        except ValueError as error:
            raise DamagedStoreError(f"{self.objects.root}/{key}", str(error)) from error
        if stored.checksum not in (digest(data), digest(new)):
            raise DamagedStoreError(f"{self.objects.root}/{key}", CHANGED)
        return new

    def _without_in(self, array: str, first: int, data: bytes) -> bytes:
        shard, chunk = shapes_of(self.objects, self.layout.scene, array)
        inside = [f - first for f in self.frames if 0 <= f - first < shard[0]]
        return without_frames(data, shard, chunk, inside)

    def _void_unrecorded(self, masks: Collection[Place]) -> None:
        """Bytes of a shard that no record vouches for: a run was killed over it."""
        for place in self._rows_of_shards():
            if place not in masks:
                self._delete(place)

    def _delete(self, place: Place) -> None:
        for array in MAPS:
            self.objects.delete(shard_key(self.layout.scene, array, place))

    # ------------------------------------------------------------------------------------ records

    def _cleared(self, record: MaskRecord) -> MaskRecord:
        """What a record says without the frames."""
        first, count = record.box[0], record.box[3] - record.box[0]

        def without(values: tuple[T, ...], blank: Any) -> tuple[T, ...]:
            made = blank if callable(blank) else lambda _: blank
            return tuple(
                made(value) if first + i in self.frames else value for i, value in enumerate(values)
            )

        marks = tuple(record.inputs.split(" "))
        if len(marks) == count:
            marks = without(marks, NOTHING)
        areas = without(record.areas, lambda row: (*(0 for _ in row[:-1]), sum(row)))
        return replace(
            record,
            inputs=" ".join(marks),
            failures=tuple(f for f in record.failures if f.frame not in self.frames),
            areas=areas,
            colors=without(record.colors, lambda row: ((0, 0, 0),) * len(row)),
            inertia=without(record.inertia, 0.0),
            confidence=without(record.confidence, 0),
            sampled=(),  # of all its frames together
            pixels=sum(sum(row[:-1]) for row in areas) if areas else record.pixels,
        )

    def _void_measures(
        self, record: ShardMeasures, mask: MaskRecord, now: MaskRecord, packed: bool
    ) -> None:
        """What was measured of a shard, less the frames: exact, for it is kept a frame.

        Where it is of other masks it goes, and the shard is measured anew.
        """
        if record.masks != mask.checksum or now.status != "done":
            self._drop(record, packed)
            return
        body = {
            name: {f: part for f, part in parts.items() if f not in self.frames}
            for name, parts in read_payload(record).items()
        }
        states = base64.b64encode(encode(body)).decode()
        truth = self._told(record.truth, mask)
        fresh = replace(record, truth=truth, masks=now.checksum, states=states)
        if fresh != record:
            RecordLog(self.objects).write(fresh)

    def _told(self, truth: str, mask: MaskRecord) -> str:
        """The marks of truths, and where metrics see images those of images too, but for the frames'.

        What cannot be told apart stays: it is measured anew then.
        """
        lost = {failure.frame for failure in mask.failures}
        here = [
            f for f in range(mask.box[0], mask.box[3]) if f not in lost and self.layout.names[f]
        ]
        start = " " if truth.startswith(" ") else ""
        marks = truth.removeprefix(start).split(" ")
        if not here or len(marks) not in (len(here), 2 * len(here)):
            return truth
        kept = [i for i, f in enumerate(here) if f not in self.frames]
        halves = range(0, len(marks), len(here))
        return start + " ".join(marks[half + i] for half in halves for i in kept)

    # ------------------------------------------------------------------------------ what else is

    def _forget_work(self, places: Collection[Place]) -> None:
        """What is provisional of the frames, and what a killed run has kept of them."""
        for place in places:
            key = kept_key(self.layout.scene, place)
            data = self.objects.get(key)
            if data is not None:
                self._void_kept(key, data)
        if not self.layout.cut:
            return
        for place in self._rows_of_shards():
            self.objects.delete(draft_key(self.layout.scene, place))
            self.objects.delete(parts_key(self.layout.scene, place))
            self.objects.delete_tree(split_folder(self.layout.scene, place))

    def _void_kept(self, key: str, data: bytes) -> None:
        kept: Kept | None = None
        with suppress(ValueError):
            kept = decode(data)
        if not isinstance(kept, Kept):
            self.objects.delete(key)
            return

        def left(values: dict[int, Any]) -> dict[int, Any]:
            return {i: value for i, value in values.items() if i not in self.frames}

        rows = kept.rows
        if rows:
            table = read_rows(rows)
            gone = np.isin(np.asarray(table.column("frame")), sorted(self.frames))
            rows = to_bytes(table.filter(~gone))
        fresh = replace(
            kept,
            maps={path: left(frames) for path, frames in kept.maps.items()},
            colors=left(kept.colors),
            inertia=left(kept.inertia),
            failed=tuple(f for f in kept.failed if f not in self.frames),
            lost=tuple(f for f in kept.lost if f not in self.frames),
            rows=rows,
        )
        self.objects.put(key, encode(fresh))

    def _void_colors(self) -> None:
        """The colours that were fitted for each frame."""
        scene = self.layout.scene
        if self.objects.get(metadata_key(scene, COLORS)) is None:
            return
        shard, _ = shapes_of(self.objects, scene, COLORS)
        if shape_of(self.objects, scene, COLORS)[0] != self.layout.shape[0]:
            return  # one fit for all of them
        for first in range(0, self.layout.shape[0], shard[0]):
            here = [f - first for f in self.frames if first <= f < first + shard[0]]
            key = shard_key(scene, COLORS, (first // shard[0], 0, 0))
            data = self.objects.get(key) if here else None
            if data is not None:
                self.objects.put(key, _recolored(data, shard, here))


def _recolored(data: bytes, shard: tuple[int, ...], frames: list[int]) -> bytes:
    """A shard of colours, one chunk, in which some frames have none."""
    from numcodecs.zstd import decompress

    from segengine.store.shardcodec import encode_shard

    if len(data) <= 20:  # an index of one chunk alone: all of them have none
        return data
    block = np.frombuffer(decompress(data[:-20]), np.uint8).reshape(shard).copy()
    block[frames] = 0
    return encode_shard(block, shard, shard, 0)


def _metadata(objects: Objects, scene: str, array: str) -> dict[str, Any]:
    key = metadata_key(scene, array)
    try:
        found: dict[str, Any] = json.loads(objects.get(key) or b"")
    except (ValueError, RecursionError):
        raise DamagedStoreError(f"{objects.root}/{key}", CHANGED) from None
    return found


def shape_of(objects: Objects, scene: str, array: str) -> tuple[int, ...]:
    """Of an array, as its metadata say."""
    return tuple(_metadata(objects, scene, array)["shape"])


def shapes_of(objects: Objects, scene: str, array: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of an array's shards and chunks, as its metadata say. Raises DamagedStoreError."""
    found = _metadata(objects, scene, array)
    try:
        shard = found["chunk_grid"]["configuration"]["chunk_shape"]
        chunk = found["codecs"][0]["configuration"]["chunk_shape"]
    except (KeyError, IndexError, TypeError):
        key = metadata_key(scene, array)
        raise DamagedStoreError(f"{objects.root}/{key}", CHANGED) from None
    return tuple(shard), tuple(chunk)


def drop_levels(objects: SealedObjects, records: SceneRecords, places: Collection[Place]) -> None:
    """Delete what a pyramid has of some shards: it is made anew of those that are left."""
    above = {(f, y >> n, x >> n, n) for f, y, x in places for n in range(1, 32)}
    log = RecordLog(objects)
    for record in records.of(LevelRecord):
        if (*record.shard, record.level) in above:
            for stored in record.objects:
                objects.delete(shard_key(record.scene, stored.array, record.shard))
            log.drop(record.kind, record.scene, record.shard, packed=records.packed)


def drop_shards(objects: SealedObjects, records: SceneRecords, places: Collection[Place]) -> None:
    """Delete shards with all their records: the next run makes them."""
    log = RecordLog(objects)
    for record in records.of(Record):
        if isinstance(record, LevelRecord):
            continue
        if isinstance(record, FrameMeasures) or record.shard in places:
            log.drop(record.kind, record.scene, record.shard, packed=records.packed)
            for stored in record.objects:
                objects.delete(object_key(record, stored.array))
