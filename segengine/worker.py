"""What travels to workers: survey a batch of shards, fit, segment one shard, finish a linked one.

A worker reads, computes, writes whole shards and commits a record last. Expected failures are
values: a frame that cannot be read is void in its shard's record, and what may go better next time
comes back as `Retry`. Nothing here knows of Dask.
"""

from __future__ import annotations

import base64
import errno
import io
import json
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash
from numpy.typing import NDArray

from segengine import gone, plugins, registry, tiling
from segengine.arrays import SceneArrays
from segengine.inputs import reader
from segengine.instances import TABLE_SCHEMA, objects_of, rows_key, to_bytes, with_frame
from segengine.linking import Pieces, find_pieces
from segengine.objects import Objects, open_objects
from segengine.records import (
    FrameFailure,
    Kind,
    Record,
    RecordLog,
    StoredObject,
    provenance,
    to_json,
)
from segengine.store import write_block
from segengine.types import Bool, FrameRef, Prediction, Source, Tile, Unreadable, Window
from segengine.values import decode, encode

BATCH_BYTES = 96 << 20
"""Decoded pixels handed to a segmenter in one call, where the frames are more than one."""
CACHE_BYTES = 512 << 20
"""Whole decoded frames kept in a worker while their shards are worked on."""
INVALID = 0x80
"""Bit of a stored draft: the pixel is nodata."""


@dataclass(frozen=True, slots=True)
class SegmenterSpec:
    """How a worker gets its segmenter: by name and options, or as a committed fit."""

    kind: str
    options: str
    """JSON"""
    fit: str = ""
    """Key of the committed fit, below the store."""
    digest: str = ""
    """Digest of that fit."""


@dataclass(frozen=True, slots=True)
class ShardTask:
    """All a worker needs to work on one shard."""

    store: str
    scene: str
    place: tuple[int, int, int]
    window: Window
    frames: tuple[FrameRef, ...]
    inputs: str
    kind: str
    """The source kind."""
    windowed: bool
    source: str
    """The job's `source` block as JSON."""
    segmenter: SegmenterSpec
    arrays: SceneArrays
    classes: int
    outputs: tuple[str, ...]
    job: str
    weights: str
    version: int
    draft: bool = False
    """Write a provisional map that the stitch stage decides."""
    had: str = ""
    """Where a record of this shard lies now: `single`, `packed`, or nowhere."""
    lost: tuple[FrameFailure, ...] = ()
    """Frames whose own survey failed: void here."""
    attempt: int = 1
    last: bool = False
    """No other attempt follows: frames that fail are given up."""
    cut: bool = False
    """A frame lies in more than this shard."""
    target: str = ""
    """Write to this store instead (to compare with what is stored)."""


@dataclass(frozen=True, slots=True)
class Retry:
    """A failure that may go better next time."""

    reason: str
    fatal: bool = False
    """The store cannot be written: trying on makes no sense."""


@lru_cache(maxsize=8)
def _plugin(kind: str, options: str) -> Any:
    return registry.create("segmenters", kind, json.loads(options))


@lru_cache(maxsize=8)
def _reader(kind: str, source: str) -> Source:
    return reader(kind, json.loads(source))


@lru_cache(maxsize=64)
def _fitted(store: str, key: str, digest: str, kind: str, options: str) -> Any:
    data = open_objects(store).get(key)
    if data is None:
        raise FileNotFoundError(f"{key}: the committed fit is gone from the store")
    return load_fit(data, _plugin(kind, options))[1]


@lru_cache(maxsize=1)
def _provenance() -> str:
    return provenance()


def store_fit(objects: Objects, key: str, surveyor: Any, state: Any, about: Any) -> str:
    """Commit a fit; returns its digest. `about`: job fingerprint, inputs, frames it saw."""
    segmenter = surveyor.fit(state)
    try:
        body = encode(segmenter)
    except TypeError:  # not of plain values: keep the state, and fit again when it is loaded
        body = encode(("state", state))
    digest = xxhash.xxh3_128_hexdigest(body)
    objects.put(key, encode({"about": about, "digest": digest, "body": body}))
    return digest


def load_fit(data: bytes, surveyor: Any) -> tuple[dict[str, Any], Any]:
    """(about with digest, segmenter) behind a committed fit."""
    found = decode(data)
    segmenter = decode(found["body"], (type(surveyor).__module__.partition(".")[0],))
    if isinstance(segmenter, tuple):
        segmenter = surveyor.fit(segmenter[1])
    return {**found["about"], "digest": found["digest"]}, segmenter


# ---------------------------------------------------------------------------------------- reading


class _FrameCache:
    """Whole decoded frames: shards of one photo must not each decode it."""

    def __init__(self) -> None:
        self.frames: OrderedDict[tuple[str, str, str], Tile | Unreadable] = OrderedDict()

    def get(self, source: Source, spec: str, ref: FrameRef) -> Tile | Unreadable:
        key = (spec, ref.uri, ref.fingerprint)
        if key not in self.frames:
            (tile,) = source.read((ref,), slice(0, ref.height), slice(0, ref.width))
            if isinstance(tile, Unreadable) and tile.kind == "error":
                return tile  # the next attempt must look again
            self.frames[key] = tile
            while (
                len(self.frames) > 1 and sum(map(_tile_bytes, self.frames.values())) > CACHE_BYTES
            ):
                self.frames.popitem(last=False)
        self.frames.move_to_end(key)
        return self.frames[key]


def _tile_bytes(tile: Tile | Unreadable) -> int:
    return 0 if isinstance(tile, Unreadable) else int(tile.pixels.nbytes)


_CACHE = _FrameCache()


def _read(
    task: ShardTask, frames: Sequence[FrameRef], rows: slice, cols: slice
) -> Iterator[tuple[FrameRef, Tile | Unreadable]]:
    source = _reader(task.kind, task.source)
    whole = (rows.start, cols.start) == (0, 0) and all(
        (rows.stop, cols.stop) == (f.height, f.width) for f in frames
    )
    if task.windowed or whole or len(frames) > 1:
        yield from zip(frames, source.read(frames, rows, cols), strict=True)
        return
    for ref in frames:
        tile = _CACHE.get(source, task.source, ref)
        if isinstance(tile, Tile):
            valid = None if tile.valid is None else tile.valid[rows, cols]
            tile = Tile(tile.pixels[rows, cols], valid)
        yield ref, tile


@dataclass(slots=True)
class _Batch:
    """Frames of equal size, read and ready for one call."""

    frames: list[FrameRef] = field(default_factory=list)
    tiles: list[Tile] = field(default_factory=list)

    @property
    def bytes(self) -> int:
        return sum(int(t.pixels.nbytes) for t in self.tiles)

    def pixels(self) -> NDArray[Any]:
        if len(self.tiles) == 1:
            return self.tiles[0].pixels[None]
        return np.stack([t.pixels for t in self.tiles])

    def valid(self) -> Bool:
        shape = self.tiles[0].pixels.shape[:2]
        return np.stack(
            [np.ones(shape, np.bool_) if t.valid is None else t.valid for t in self.tiles]
        )


@dataclass(frozen=True, slots=True)
class _Box:
    """The part of a shard inside frames of one size, and what is read for it."""

    rows: tiling.Span
    cols: tiling.Span
    inner: tuple[slice, slice]
    """Rows and columns of what was read that the shard stores."""
    shape: tuple[int, int]
    """Size of the stored part."""

    @classmethod
    def of(cls, window: Window, ref: FrameRef, halo: int | None, stride: int) -> _Box | None:
        (_, y0, x0), (_, y1, x1) = window.start, window.stop
        y1, x1 = min(y1, ref.height), min(x1, ref.width)
        if y1 <= y0 or x1 <= x0:
            return None
        rows = tiling.span(y0, y1, ref.height, halo, stride)
        cols = tiling.span(x0, x1, ref.width, halo, stride)
        return cls(rows, cols, (rows.inside(y0, y1), cols.inside(x0, x1)), (y1 - y0, x1 - x0))


def _batches(
    task: ShardTask, halo: int | None, stride: int, single: bool, failures: list[FrameFailure]
) -> Iterator[tuple[_Box, _Batch]]:
    """Read the shard's frames in batches of equal size; what cannot be read goes to `failures`."""
    lost = {f.frame for f in task.lost}
    sizes: dict[tuple[int, int], list[FrameRef]] = {}
    for ref in task.frames:
        if not ref.gone and ref.index not in lost:
            sizes.setdefault((ref.height, ref.width), []).append(ref)
    for frames in sizes.values():
        box = _Box.of(task.window, frames[0], halo, stride)
        if box is None:
            continue
        batch = _Batch()
        rows = slice(box.rows.start, box.rows.stop)
        cols = slice(box.cols.start, box.cols.stop)
        for ref, tile in _read(task, frames, rows, cols):
            if isinstance(tile, Unreadable):
                failures.append(FrameFailure(ref.index, tile.kind, f"{ref.name}: {tile.reason}"))
                continue
            tile = _without_nan(tile)
            if batch.tiles and (
                single
                or batch.bytes + tile.pixels.nbytes > BATCH_BYTES
                or batch.tiles[0].pixels.shape != tile.pixels.shape
                or batch.tiles[0].pixels.dtype != tile.pixels.dtype
            ):
                yield box, batch
                batch = _Batch()
            batch.frames.append(ref)
            batch.tiles.append(tile)
        if batch.tiles:
            yield box, batch


def _without_nan(tile: Tile) -> Tile:
    """NaN is nodata, whatever the source says."""
    if tile.pixels.dtype.kind != "f":
        return tile
    finite: Bool = np.asarray(~np.isnan(tile.pixels).any(axis=-1))
    if finite.all():
        return tile
    return Tile(tile.pixels, finite if tile.valid is None else finite & tile.valid)


# ---------------------------------------------------------------------------------------- segment


def segment_shard(task: ShardTask) -> Record | Retry:
    """Read, segment, crop, write, commit: one shard."""
    started = time.perf_counter()
    try:
        return _segment_shard(task, started)
    except OSError as error:
        return _store_failure(error)
    except MemoryError:
        return Retry("out of memory")
    except Exception as error:  # noqa: BLE001 - a segmenter's failure is a value in a record
        return Retry(f"{type(error).__name__}: {error}")


def _store_failure(error: OSError) -> Retry:
    fatal = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)
    return Retry(f"{type(error).__name__}: {error}", fatal)


def _segment_shard(task: ShardTask, started: float) -> Record | Retry:
    objects = open_objects(task.target or task.store)
    plugin = _plugin(task.segmenter.kind, task.segmenter.options)
    own_fit = plugins.scope(plugin) is not None and not task.segmenter.fit
    segmenter = plugin
    if task.segmenter.fit:
        spec = task.segmenter
        segmenter = _fitted(task.store, spec.fit, spec.digest, spec.kind, spec.options)
    failures: list[FrameFailure] = list(task.lost)
    block = _Block(task)
    halo, stride = (0, 1) if own_fit else (segmenter.halo, segmenter.stride)
    for box, batch in _batches(task, halo, stride, own_fit, failures):
        pixels = _padded(batch.pixels(), box)
        if own_fit:
            segmenter = plugin.fit(plugin.survey(pixels, batch.valid()))
            block.fitted(batch.frames[0], segmenter)
            pixels = tiling.pad_to(pixels, segmenter.stride)
        for frames, tiles, prediction in _predict(task, segmenter, pixels, batch, failures):
            block.put(frames, tiles, prediction, box)
    if not task.last and any(f.kind == "error" for f in failures):
        return Retry("; ".join(f.reason for f in failures if f.kind == "error"))
    block.keep_gone(objects)
    return block.commit(objects, tuple(failures), started)


def _padded(pixels: NDArray[Any], box: _Box) -> NDArray[Any]:
    if not (box.rows.pad or box.cols.pad):
        return pixels
    return np.pad(pixels, ((0, 0), (0, box.rows.pad), (0, box.cols.pad), (0, 0)), mode="reflect")


def _predict(
    task: ShardTask,
    segmenter: Any,
    pixels: NDArray[Any],
    batch: _Batch,
    failures: list[FrameFailure],
) -> Iterator[tuple[list[FrameRef], list[Tile], Prediction]]:
    """Call the segmenter; where a batch fails, each of its frames alone, so that one loses no other."""
    try:
        yield batch.frames, batch.tiles, _call(task, segmenter, pixels)
        return
    except Exception:
        if len(batch.frames) == 1 and not (task.last and len(task.frames) > 1):
            raise
    for i, (ref, tile) in enumerate(zip(batch.frames, batch.tiles, strict=True)):
        try:
            prediction = _call(task, segmenter, pixels[i : i + 1])
        except Exception as error:  # noqa: BLE001 - a segmenter's failure is a value in a record
            reason = f"{ref.name}: {type(error).__name__}: {error}"
            failures.append(FrameFailure(ref.index, "error", reason))
        else:
            yield [ref], [tile], prediction


def _call(task: ShardTask, segmenter: Any, pixels: NDArray[Any]) -> Prediction:
    if task.cut and not task.draft and plugins.links(segmenter):
        raise TypeError(
            f"{type(segmenter).__name__} links pieces across windows; its surveyor must name it as "
            "`segmenter`"
        )
    if task.draft:
        return Prediction(np.asarray(segmenter.draft(pixels), np.uint8))
    return plugins.as_prediction(segmenter.segment(pixels), segmenter, pixels.shape[:3])


class _Block:
    """A shard while its frames come in: void until a frame is put."""

    def __init__(self, task: ShardTask) -> None:
        self.task = task
        shape = task.window.shape
        spec = task.arrays["mask/0"]
        self.void = int(spec.fill)
        dtype = np.dtype(np.uint8) if task.draft else np.dtype(spec.dtype)
        self.labels = np.full(shape, INVALID if task.draft else self.void, dtype)
        self.instances: NDArray[np.uint32] | None = None
        self.probabilities: NDArray[np.float32] | None = None
        self.tables: dict[int, pa.Table] = {}
        self.inputs = task.inputs
        if not task.draft and "instances/0" in task.arrays:
            self.instances = np.zeros(shape, np.uint32)
        if not task.draft and "probabilities/0" in task.arrays:
            frames, height, width = shape
            self.probabilities = np.full((frames, task.classes, height, width), np.nan, np.float32)
        self.colors: dict[int, tuple[tuple[int, int, int], ...]] = {}
        self.inertia: dict[int, float] = {}

    def fitted(self, ref: FrameRef, segmenter: Any) -> None:
        """Note what a frame's own fit found."""
        self.colors[ref.index] = plugins.colors(segmenter)
        inertia = getattr(segmenter, "inertia", None)
        if inertia is not None:
            self.inertia[ref.index] = float(inertia)

    def put(
        self, frames: list[FrameRef], tiles: list[Tile], prediction: Prediction, box: _Box
    ) -> None:
        """Crop a prediction to what the shard stores, and set void."""
        first = self.task.window.start[0]
        height, width = box.shape
        for i, (ref, tile) in enumerate(zip(frames, tiles, strict=True)):
            at = (ref.index - first, slice(0, height), slice(0, width))
            invalid = None if tile.valid is None else ~tile.valid[box.inner]
            labels = prediction.labels[i][box.inner]
            self.labels[at] = labels
            if invalid is not None:
                if self.task.draft:
                    self.labels[at][invalid] |= INVALID
                else:
                    self.labels[at][invalid] = self.void
            if self.instances is not None and prediction.instances is not None:
                self.instances[at] = prediction.instances[i][box.inner]
                if invalid is not None:
                    self.instances[at][invalid] = 0
                self._add_rows(ref, prediction, i, len(frames))
            if self.probabilities is not None and prediction.probabilities is not None:
                values = np.moveaxis(prediction.probabilities[i][box.inner], -1, 0)
                self.probabilities[ref.index - first, :, :height, :width] = values
                if invalid is not None:
                    self.probabilities[ref.index - first, :, :height, :width][:, invalid] = np.nan

    def _add_rows(self, ref: FrameRef, prediction: Prediction, i: int, frames: int) -> None:
        """Rows of a frame's instances: the segmenter's own, or what its map shows."""
        at = ref.index - self.task.window.start[0], slice(0, ref.height), slice(0, ref.width)
        if prediction.objects is not None and frames == 1:
            objects = prediction.objects
        elif self.instances is not None and not self.task.draft:
            objects = objects_of(self.instances[at], self.labels[at])
        else:
            return
        self.tables[ref.index] = with_frame(objects, self.task.scene, ref.index)

    def keep_gone(self, objects: Objects) -> None:
        """Carry over what is stored of vanished frames."""
        task = self.task
        refs = [r for r in task.frames if r.gone]
        if not refs or task.draft:
            return
        kept = gone.carried(task, objects)
        made = (task.job, task.weights, task.segmenter.digest)
        clean = kept is not None and kept.made == made
        lost = {r.index for r in refs if not clean or (kept and r.index in kept.failed)}
        if len(task.frames) > 1:
            # A mask of another job must not count as done when its input comes back.
            inputs = zip(task.frames, task.inputs.split(" "), strict=True)
            self.inputs = " ".join("-" if r.index in lost else i for r, i in inputs)
        if kept is None:
            return
        for path, block in self.maps():
            for index, values in kept.maps.get(path, {}).items():
                block[index - task.window.start[0]] = values
        self.colors |= {i: c for i, c in kept.colors.items() if len(c) == task.classes}
        self.inertia |= kept.inertia
        if kept.rows and self.instances is not None:
            rows = pq.read_table(io.BytesIO(kept.rows))
            for ref in refs:
                at = np.asarray(rows.column("frame")) == ref.index
                self.tables[ref.index] = rows.filter(at)

    def maps(self) -> list[tuple[str, NDArray[Any]]]:
        """The arrays there are, with their paths."""
        maps = (
            ("mask/0", self.labels),
            ("instances/0", self.instances),
            ("probabilities/0", self.probabilities),
        )
        return [(path, block) for path, block in maps if block is not None]

    def commit(
        self, objects: Objects, failures: tuple[FrameFailure, ...], started: float
    ) -> Record:
        """Drop the old record, store the bytes, commit the new record."""
        task = self.task
        kind: Kind = "draft" if task.draft else "mask"
        log = RecordLog(objects)
        if task.had and not task.draft:  # a draft leaves the mask that is there alone
            log.drop("mask", task.scene, task.place, packed=task.had == "packed")
        payload = ""
        if task.draft:
            # An earlier draft's record, if there is one, must not vouch for these bytes.
            log.drop("draft", task.scene, task.place, packed=False)
            stored: tuple[StoredObject, ...] = ()
            payload = write_draft(objects, task.scene, task.place, self.labels)
        else:
            stored = tuple(
                write_block(objects, task.arrays[path], task.scene, task.place, block)
                for path, block in self.maps()
            )
            if self.instances is not None:
                tables = [table for _, table in sorted(self.tables.items())]
                rows = pa.concat_tables([TABLE_SCHEMA.empty_table(), *tables])
                objects.put(rows_key(task.scene, task.place), to_bytes(rows))
        areas = () if task.draft else class_areas(self.labels, task.classes, self.void)
        first = task.window.start[0]
        order = range(first, task.window.stop[0])
        void = ((0, 0, 0),) * task.classes
        record = Record(
            kind,
            task.scene,
            task.place,
            (*task.window.start, *task.window.stop),
            "done",
            self.inputs,
            task.job,
            task.weights,
            task.segmenter.digest,
            stored,
            failures=failures,
            areas=areas,
            colors=tuple(self.colors.get(i, void) for i in order) if self.colors else (),
            inertia=tuple(self.inertia.get(i, 0.0) for i in order) if self.inertia else (),
            attempts=task.attempt,
            seconds=round(time.perf_counter() - started, 6),
            finished=time.time(),
            pixels=sum(sum(row[:-1]) for row in areas),
            version=task.version,
            provenance=_provenance(),
            payload=payload,
        )
        log.write(record)
        if any(r.gone for r in task.frames):
            gone.forget(task, objects)
        return record


def class_areas(labels: NDArray[Any], classes: int, void: int) -> tuple[tuple[int, ...], ...]:
    """Pixels of each class, then of void, one row a frame; labels (n, y, x)."""
    found = []
    for frame in labels:
        counts = np.zeros(void + 1 if void < 256 else classes + 1, np.int64)
        flat = frame.reshape(-1)
        if void < 256:
            import cv2

            for start in range(0, flat.size, 1 << 23):  # calcHist counts in float32
                part = flat[start : start + (1 << 23)]
                counts += cv2.calcHist([part], [0], None, [256], [0, 256]).ravel().astype(np.int64)
            found.append((*counts[:classes].tolist(), int(counts[void])))
        else:
            clipped = np.minimum(flat, classes)
            found.append(tuple(np.bincount(clipped, minlength=classes + 1).tolist()))
    return tuple(found)


# ------------------------------------------------------------------------------- drafts and links


def draft_key(scene: str, place: tuple[int, int, int]) -> str:
    """Where a shard's provisional map lies."""
    return f"work/{scene}/draft/{'.'.join(map(str, place))}"


def write_draft(
    objects: Objects, scene: str, place: tuple[int, int, int], labels: NDArray[np.uint8]
) -> str:
    """Store a provisional map (1, y, x); returns its border summary for the record."""
    objects.put(draft_key(scene, place), encode(labels))
    pieces, _ = find_pieces(labels[0] & ~np.uint8(INVALID))
    return base64.b64encode(encode(pieces)).decode()


def read_pieces(record: Record) -> Pieces:
    """The border summary in a draft's record."""
    found: Pieces = decode(base64.b64decode(record.payload))
    return found


@dataclass(frozen=True, slots=True)
class FinishTask:
    """Write the final mask of a shard whose draft is stored."""

    shard: ShardTask
    kept: NDArray[np.int32]
    """Pieces at the shard's border that the whole frame keeps."""
    keep: int
    failures: tuple[FrameFailure, ...]
    attempt: int = 1
    last: bool = False


def finish_shard(task: FinishTask) -> Record | Retry:
    """Decide a shard's draft with what the stitch stage linked, write and commit the mask."""
    started = time.perf_counter()
    shard = replace(task.shard, attempt=task.attempt)
    try:
        objects = open_objects(shard.target or shard.store)
        data = objects.get(draft_key(shard.scene, shard.place))
        if data is None:
            return Retry("the shard's draft is gone from work/")
        draft = decode(data)
        pieces, ids = find_pieces(draft[0] & ~np.uint8(INVALID))
        chosen = pieces.strength >= task.keep
        chosen[task.kept] = True
        chosen[0] = False
        block = _Block(shard)
        block.labels[0] = chosen[ids]
        block.labels[0][(draft[0] & INVALID) != 0] = block.void
        return block.commit(objects, task.failures, started)
    except OSError as error:
        return _store_failure(error)
    except Exception as error:  # noqa: BLE001 - becomes a value in a record
        return Retry(f"{type(error).__name__}: {error}")


# ----------------------------------------------------------------------------------------- survey


@dataclass(frozen=True, slots=True)
class SurveyTask:
    """Shards that are surveyed together; their merged state is one object."""

    shards: tuple[ShardTask, ...]
    key: str
    """Where the state is committed."""
    attempt: int = 1
    last: bool = False


@dataclass(frozen=True, slots=True)
class Surveyed:
    """What a survey batch found."""

    key: str
    seen: tuple[str, ...]
    """Names of the frames in the state."""
    failures: tuple[tuple[str, FrameFailure], ...]
    """(scene, frame) that could not be read."""
    pixels: int


def survey_batch(task: SurveyTask) -> Surveyed | Retry:
    """Survey shards, merge their states, commit the merged state."""
    try:
        return _survey_batch(task)
    except OSError as error:
        return _store_failure(error)
    except Exception as error:  # noqa: BLE001 - becomes a value
        return Retry(f"{type(error).__name__}: {error}")


def _survey_batch(task: SurveyTask) -> Surveyed | Retry:
    first = task.shards[0]
    surveyor = _plugin(first.segmenter.kind, first.segmenter.options)
    state: Any = None
    seen: dict[str, None] = {}
    lost: list[tuple[str, FrameFailure]] = []
    pixels = 0
    for shard in task.shards:
        failures: list[FrameFailure] = []
        for _, batch in _batches(shard, 0, 1, False, failures):
            valid = batch.valid()
            part = surveyor.survey(batch.pixels(), valid)
            state = part if state is None else surveyor.merge(state, part)
            seen.update((f"{shard.scene}\n{r.index}", None) for r in batch.frames)
            pixels += int(np.count_nonzero(valid))
        lost += [(shard.scene, f) for f in failures]
    transient = [f.reason for _, f in lost if f.kind == "error"]
    if transient and not task.last:
        return Retry("; ".join(transient))
    found = Surveyed(task.key, tuple(seen), tuple(lost), pixels)
    open_objects(first.store).put(task.key, encode({"found": found, "state": state}))
    return found


@dataclass(frozen=True, slots=True)
class FitTask:
    """Merge committed survey states, fit, commit the fit."""

    store: str
    segmenter: SegmenterSpec
    states: tuple[str, ...]
    key: str
    about: Mapping[str, Any]
    attempt: int = 1
    last: bool = False


@dataclass(frozen=True, slots=True)
class Fitted:
    """A committed fit."""

    key: str
    digest: str


def fit_states(task: FitTask) -> Fitted | Retry:
    """Merge in the order given, fit, commit."""
    try:
        objects = open_objects(task.store)
        surveyor = _plugin(task.segmenter.kind, task.segmenter.options)
        trusted = (type(surveyor).__module__.partition(".")[0],)
        state: Any = None
        for key in task.states:
            data = objects.get(key)
            if data is None:
                return Retry(f"{key}: the survey state is gone from the store")
            part = decode(data, trusted)["state"]
            if part is not None:
                state = part if state is None else surveyor.merge(state, part)
        if state is None:
            return Fitted(task.key, "")
        return Fitted(task.key, store_fit(objects, task.key, surveyor, state, dict(task.about)))
    except OSError as error:
        return _store_failure(error)
    except Exception as error:  # noqa: BLE001 - becomes a value
        return Retry(f"{type(error).__name__}: {error}")


def record_bytes(record: Record) -> int:
    """Size of a record as stored, for estimates."""
    return len(to_json(record))
