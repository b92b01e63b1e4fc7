"""What runs on workers to label a shard: segment it, or finish one whose pieces are linked.

A worker reads, computes, writes whole shards and commits a record last. Expected failures are
values: a frame that cannot be read is void in its shard's record, and what may go better next time
comes back as `Retry`. Nothing here knows of Dask.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segengine import asked, tiling
from segengine.instances.pieces import find_pieces
from segengine.store.blobs import Objects, open_objects
from segengine.store.keys import CONFIDENCE, PROBABILITIES, draft_key, parts_key
from segengine.store.kinds import FrameFailure, MaskRecord
from segengine.store.values import decode
from segengine.types import FrameRef, Frames, Linker, Prediction, Segmenter, Surveyor, Tile
from segengine.urls import public
from segengine.worker.attempts import tried
from segengine.worker.drafts import INVALID, read_numbers, read_objects_draft
from segengine.worker.fits import fitted, plugin_of
from segengine.worker.follow import follow
from segengine.worker.givenup import is_worth_retry
from segengine.worker.reading import Batch, Box, batches
from segengine.worker.shard import Block, Labelled
from segengine.worker.still import repeated, still_batches
from segengine.worker.tasks import (
    FinishTask,
    JoinedObjects,
    LinkedParts,
    LinkedPieces,
    MergedRegions,
    Retry,
    ShardTask,
)

LATER_BYTES = 64 << 20
"""Most bytes of a computed shard that are held while the next one is computed."""
MANY = 4
"""Shards from which flushing the file system is sooner done than their files and folders."""


def segment_shard(task: ShardTask) -> Labelled | Retry:
    """Read, segment, crop, write, commit: one shard."""
    found = compute_shard(task)
    return found.finish() if isinstance(found, Computed) else found


def compute_shard(task: ShardTask) -> Computed | Labelled | Retry:
    """Read, segment and crop one shard; later, or now where it is large, write and commit it."""
    started = time.perf_counter()
    found = tried(lambda: _computed(task))
    if isinstance(found, Retry):
        return found
    objects, block, failures = found
    computed = Computed(objects, block, tuple(failures), time.perf_counter() - started)
    return computed if computed.nbytes <= LATER_BYTES else computed.finish()


@dataclass(frozen=True, slots=True)
class Computed:
    """A shard that is yet to be stored: a `Later`."""

    objects: Objects
    block: Block
    failures: tuple[FrameFailure, ...]
    seconds: float
    """What computing it took."""

    @property
    def nbytes(self) -> int:
        """Bytes of its arrays."""
        return self.block.nbytes

    def finish(self) -> Labelled | Retry:
        """Write, commit and measure it."""
        return tried(
            lambda: _measured(
                self.block,
                self.objects,
                self.block.commit(self.objects, self.failures, self.seconds),
            )
        )

    @staticmethod
    def finish_all(works: Sequence[Computed]) -> list[Labelled | Retry]:
        """Write and commit several of one store step by step, each flushed once for all."""
        objects = works[0].objects
        if len(works) < MANY or not objects.writer.fsync:
            return [work.finish() for work in works]
        unflushed = objects.by(replace(objects.writer, fsync=False))
        found: list[Any] = [None] * len(works)

        def step(do: Callable[[Computed, Any], Any]) -> None:
            for i, work in enumerate(works):
                if not isinstance(found[i], Retry):
                    found[i] = tried(partial(do, work, found[i]))
            flushed = tried(objects.flush)
            if isinstance(flushed, Retry):
                found[:] = [flushed] * len(works)

        if any(work.block.replaces for work in works):
            step(lambda work, _: work.block.drop(unflushed))
        step(lambda work, _: work.block.write(unflushed, work.failures, work.seconds))
        step(lambda work, record: work.block.vouch(unflushed, record))
        if any(work.block.task.measuring for work in works):
            step(lambda work, record: _measured(work.block, unflushed, record))
        for i, work in enumerate(works):
            if not isinstance(found[i], Retry):
                forgot = tried(partial(work.block.forget_gone, objects))
                found[i] = forgot or found[i]
        return found


def _measured(block: Block, objects: Objects, record: Labelled) -> Labelled:
    """The record of a mask, which is measured while it is in memory where that is asked for."""
    if block.task.measuring is not None and isinstance(record, MaskRecord):
        from segengine.worker.measure import measure_stored

        measure_stored(block.task, record, dict(block.maps()), objects.writer)
    return record


def _computed(task: ShardTask) -> tuple[Objects, Block, list[FrameFailure]] | Retry:
    objects = open_objects(task.target or task.store, task.writer)
    spec = task.segmenter
    plugin = plugin_of(spec.kind, spec.options)
    segmenter: Segmenter | None = None
    surveyor: Surveyor[Any] | None = None
    if spec.fit:
        segmenter = fitted(task.store, spec.fit, spec.digest, spec.kind, spec.options)
    elif asked.surveys(plugin):
        surveyor = plugin  # each frame fits its own
    else:
        segmenter = plugin
    failures: list[FrameFailure] = list(task.lost)
    block = Block(task)
    halo, stride = (0, 1) if segmenter is None else (segmenter.halo, segmenter.stride)
    if halo is not None and task.cleaning is not None:
        halo += task.cleaning.reach  # where the labels must be right
    if segmenter is not None and asked.follows(segmenter) is not None:
        for box, ref, tile, found in follow(task, segmenter, halo, stride, failures):
            block.put([ref], [tile], found, box, segmenter)
    else:
        _label_batches(block, segmenter, surveyor, (halo, stride), failures)
    if is_worth_retry(task, failures):
        return Retry("; ".join(f.reason for f in failures if f.kind == "error"))
    failures += block.keep_gone(objects)
    return objects, block, failures


def _label_batches(
    block: Block,
    segmenter: Segmenter | None,
    surveyor: Surveyor[Any] | None,
    context: tuple[int | None, int],
    failures: list[FrameFailure],
) -> None:
    """Put the labels of all frames that can be read, each by itself. `context`: halo and stride."""
    task = block.task
    read = batches if task.still is None else still_batches
    for box, batch in read(task, *context, surveyor is not None, failures):
        if (
            task.skips_empty
            and not task.draft
            and segmenter is not None
            and not _is_valid(batch, box)
        ):
            continue  # void, as a block is until something is put
        pixels = box.padded(batch.pixels())
        labelled: Prediction | None = None
        if surveyor is not None:
            segmenter, labelled = asked.label_frame(surveyor, pixels, batch.valid())
            for ref in batch.frames:
                block.fitted(ref, segmenter)
            pixels = tiling.pad_to(pixels, segmenter.stride)
        block.still += batch.still
        assert segmenter is not None  # given, or just fitted
        kept = PROBABILITIES in task.arrays or CONFIDENCE in task.arrays
        if labelled is not None and not (task.draft or kept):
            found = repeated(asked.as_prediction(labelled, segmenter, batch.shape), batch.of)
            block.put(batch.frames, batch.shown, found, box, segmenter)
            continue
        corner = box.rows.start, box.cols.start
        merger = None
        if task.draft:
            merger = asked.merger(_placed(task, segmenter, corner, batch))
        if merger is not None:  # of a frame that is cut
            connected = merger.connect(pixels, batch.valid())
            block.put_regions(batch.frames[0], batch.tiles[0], connected, box, merger.least)
            continue
        for frames, tiles, prediction in _predict(task, segmenter, corner, pixels, batch, failures):
            block.put(frames, tiles, prediction, box, segmenter)


def _placed(
    task: ShardTask,
    segmenter: Segmenter,
    corner: tuple[int, int],
    batch: Batch,
    tile: int | None = None,
) -> Segmenter:
    """It, for a window of the frames of a batch, or of that of one tile alone."""
    ref, called = batch.frames[0], Frames(task.scene, batch.names, task.ground)
    if tile is not None:
        called = called.only(tile)
    return asked.placed(segmenter, corner, (ref.height, ref.width), called)


def _is_valid(batch: Batch, box: Box) -> bool:
    """Whether any pixel that the shard stores is valid, of any frame."""
    return any(tile.valid is None or bool(tile.valid[box.inner].any()) for tile in batch.tiles)


def _predict(
    task: ShardTask,
    segmenter: Segmenter,
    corner: tuple[int, int],
    pixels: NDArray[Any],
    batch: Batch,
    failures: list[FrameFailure],
) -> Iterator[tuple[list[FrameRef], list[Tile], Prediction]]:
    """Call the segmenter; where a batch fails, each of its frames alone, so that one loses no other."""
    try:
        there = _placed(task, segmenter, corner, batch)
        found = _call(task, there, pixels, batch.valid())
        yield batch.frames, batch.shown, repeated(found, batch.of)
        return
    except Exception:
        if len(batch.tiles) == 1 and not (task.last and len(task.frames) > 1):
            raise
    for i, tile in enumerate(batch.tiles):
        frames = batch.frames_of(i)
        try:
            there = _placed(task, segmenter, corner, batch, i)
            prediction = _call(task, there, pixels[i : i + 1], batch.valid()[i : i + 1])
        except Exception as error:  # noqa: BLE001 - a segmenter's failure is a value in a record
            for ref in frames:
                reason = public(f"{ref.name}: {type(error).__name__}: {error}")
                failures.append(FrameFailure(ref.index, "error", reason))
        else:
            of = None if batch.of is None else [0] * len(frames)
            yield frames, [tile] * len(frames), repeated(prediction, of)


def _call(
    task: ShardTask, segmenter: Segmenter, pixels: NDArray[Any], valid: NDArray[np.bool_]
) -> Prediction:
    if task.cut and not task.draft and isinstance(segmenter, Linker):
        raise TypeError(
            f"{type(segmenter).__name__} links pieces across windows; its surveyor must name it as "
            "`segmenter`"
        )
    if task.draft and isinstance(segmenter, Linker):
        return Prediction(np.asarray(segmenter.draft(pixels), np.uint8))
    if (merger := asked.merger(segmenter)) is not None:
        return asked.merged(merger, pixels, valid)
    stored, sure = PROBABILITIES in task.arrays, CONFIDENCE in task.arrays
    if stored:
        found = segmenter.segment(pixels)
    elif sure:
        found = asked.labels_confidently(segmenter, pixels)
    else:
        found = asked.labels_alone(segmenter, pixels)
    found = asked.as_prediction(found, segmenter, pixels.shape[:3])
    if stored and found.probabilities is not None:
        found = replace(found, probabilities=asked.as_probabilities(found.probabilities))
    return asked.with_confidence(found) if sure else found


def finish_shard(task: FinishTask) -> Labelled | Retry:
    """Decide a shard's draft with what the stitch stage linked, write and commit the mask."""
    shard = replace(task.shard, attempt=task.attempt)

    def finish() -> Labelled | Retry:
        started = time.perf_counter()
        objects = open_objects(shard.target or shard.store, shard.writer)
        data = objects.get(draft_key(shard.scene, shard.place))
        if data is None:
            return Retry("the shard's draft is gone from work/")
        block = Block(shard)
        block.sampled = task.sampled
        if isinstance(task.decided, JoinedObjects):
            block.put_joined(read_objects_draft(data), task.decided)
        elif isinstance(task.decided, MergedRegions):
            block.put_merged(read_objects_draft(data), task.decided)
        elif isinstance(task.decided, LinkedParts):
            _put_parts(block, objects, data, task.decided)
        else:
            _put_linked(block, decode(data)[0], task.decided)
        record = block.commit(objects, task.failures, time.perf_counter() - started)
        return _measured(block, objects, record)

    return tried(finish)


def _put_parts(block: Block, objects: Objects, draft: bytes, decided: LinkedParts) -> None:
    task = block.task
    drafted = read_objects_draft(draft)
    numbers = drafted.ids
    if numbers is None:
        data = objects.get(parts_key(task.scene, task.place))
        numbers = None if data is None else decode(data)
    pixels = [objects.get(split.key) for split in decided.splits]
    if any(data is None for data in pixels):
        raise ValueError("the shard's split components are gone from work/")
    block.put_linked_parts(
        drafted,
        None if numbers is None else read_numbers(numbers),
        decided,
        [decode(data) for data in pixels if data is not None],
    )


def _put_linked(block: Block, draft: NDArray[np.uint8], decided: LinkedPieces) -> None:
    pieces, ids = find_pieces(draft & ~np.uint8(INVALID))
    chosen = pieces.strength >= decided.keep
    chosen[decided.kept] = True
    chosen[0] = False
    block.labels[0] = chosen[ids]
    block.labels[0][(draft & INVALID) != 0] = block.void
