"""A shard while its frames come in, and its commit: bytes first, the record last."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from segengine import asked
from segengine.instances.along import Runs, look_up
from segengine.instances.boxes import objects_in, shown_in
from segengine.instances.cleaning import WHOLE, clean, clean_frame, kinds_of
from segengine.instances.join import STRIP, components, renumber, renumbered
from segengine.instances.merging import parcels_of
from segengine.store.blobs import Objects
from segengine.store.keys import CONFIDENCE, INSTANCES, MASK, PROBABILITIES, ROWS, rows_key
from segengine.store.kinds import DraftRecord, FrameFailure, MaskRecord, StoredObject
from segengine.store.records import RecordLog, provenance
from segengine.store.shards import checksum, write_block
from segengine.types import (
    NO_CONFIDENCE,
    Color,
    Connected,
    FrameRef,
    Prediction,
    Segmenter,
    Tile,
)
from segengine.worker import vanished
from segengine.worker.attempts import timed
from segengine.worker.drafts import (
    INVALID,
    DraftedObjects,
    WindowObjects,
    WindowParts,
    window_objects,
    write_draft,
    write_objects_draft,
    write_parts_draft,
)
from segengine.worker.reading import Box
from segengine.worker.sampled import Sampled, added, sample
from segengine.worker.tasks import JoinedObjects, LinkedParts, MergedRegions, ShardTask

if TYPE_CHECKING:  # and loaded where there are instances: it takes 35 MB of a worker
    import pyarrow as pa

FEW = 12
"""Classes up to which counting each is faster than a histogram, whose long runs of one label are slow."""


Labelled = MaskRecord | DraftRecord


class Block:
    """A shard while its frames come in: void until a frame is put."""

    def __init__(self, task: ShardTask) -> None:
        self.task = task
        shape = task.window.shape
        spec = task.arrays[MASK]
        self.void = int(spec.fill)
        self.joined = task.draft and INSTANCES in task.arrays
        """Objects are drafted: windows number them, the stitch stage says which are one."""
        self.linked = task.draft and not self.joined
        """Pieces are drafted, for a Linker."""
        dtype = np.dtype(np.uint8) if self.linked else np.dtype(spec.dtype)
        self.labels = np.full(shape, INVALID if self.linked else self.void, dtype)
        self.instances: NDArray[np.uint32] | None = None
        self.probabilities: NDArray[np.float32] | None = None
        self.tables: dict[int, pa.Table] = {}
        self.inputs = task.inputs
        clean_draft = task.draft and task.cleaning is not None  # its numbers are `parts`
        if INSTANCES in task.arrays and not clean_draft:
            self.instances = np.zeros(shape, np.uint32)
        self.window: WindowObjects | None = None
        self.parts: WindowParts | None = None
        if not self.linked and PROBABILITIES in task.arrays:
            frames, height, width = shape
            self.probabilities = np.full((frames, task.classes, height, width), np.nan, np.float32)
        self.confidence: NDArray[np.uint8] | None = None
        if not self.linked and CONFIDENCE in task.arrays:
            self.confidence = np.full(shape, NO_CONFIDENCE, np.uint8)
        self.colors: dict[int, tuple[Color, ...]] = {}
        self.inertia: dict[int, float] = {}
        self.sampled: Sampled = ()
        self.still = 0
        """Frames that have the mask of another."""
        self.engine = ""
        """What ran the segmenter, where that is more than this package."""

    def fitted(self, ref: FrameRef, segmenter: Segmenter) -> None:
        """Note what a frame's own fit found."""
        self.colors[ref.index] = asked.colors(segmenter)
        inertia = asked.inertia(segmenter)
        if inertia is not None:
            self.inertia[ref.index] = inertia

    def put(
        self,
        frames: list[FrameRef],
        tiles: list[Tile],
        prediction: Prediction,
        box: Box,
        segmenter: Segmenter,
    ) -> None:
        """Crop a prediction to what the shard stores, and set void."""
        self.engine = asked.provenance(segmenter)
        first = self.task.window.start[0]
        height, width = box.shape
        for i, (ref, tile) in enumerate(zip(frames, tiles, strict=True)):
            at = (ref.index - first, slice(0, height), slice(0, width))
            valid = None if tile.valid is None else tile.valid[box.inner]
            invalid = None if valid is None else ~valid
            labels = prediction.labels[i][box.inner]
            self.labels[at] = labels
            if self.task.samples:
                corner = self.task.window.start[1:]
                self.sampled = added(self.sampled, sample(tile.pixels[box.inner], valid, corner))
            if invalid is not None:
                if self.linked:
                    self.labels[at][invalid] |= INVALID
                else:
                    self.labels[at][invalid] = self.void
            if self.probabilities is not None and prediction.probabilities is not None:
                values = np.moveaxis(prediction.probabilities[i][box.inner], -1, 0)
                self.probabilities[ref.index - first, :, :height, :width] = values
                if invalid is not None:
                    self.probabilities[ref.index - first, :, :height, :width][:, invalid] = np.nan
            if self.confidence is not None and prediction.confidence is not None:
                self.confidence[at] = prediction.confidence[i][box.inner]
                if invalid is not None:
                    self.confidence[at][invalid] = NO_CONFIDENCE
            if self.task.cleaning is not None:
                self._put_clean(ref, tile, prediction.labels[i], box)
            elif self.instances is not None:
                self._put_objects(ref, tile, prediction, i, box, segmenter)

    def _put_objects(
        self,
        ref: FrameRef,
        tile: Tile,
        prediction: Prediction,
        i: int,
        box: Box,
        segmenter: Segmenter,
    ) -> None:
        """Ids and rows of frame i of a prediction; where frames are cut, as a draft."""
        from segengine.instances.rows import (
            objects_of,
            of_frame,
            renumbered_objects,
            with_frame,
        )

        assert self.instances is not None
        height, width = box.shape
        at = (ref.index - self.task.window.start[0], slice(0, height), slice(0, width))
        labels, inner, valid = prediction.labels[i], box.inner, tile.valid
        objects = None
        if not self.task.components:
            objects = of_frame(prediction.objects, i, len(prediction.labels))
        band = asked.band(segmenter)
        if self.task.components:
            labels, inner, valid = self.labels[at], (slice(0, height), slice(0, width)), None
            without = (*asked.background(segmenter.classes), self.void)
            ids, band = components(labels, without).astype(np.uint32), 0
        elif prediction.instances is not None:
            ids = prediction.instances[i]
        else:
            return
        real = tile.pixels.shape[:2]  # what was padded beyond the frame is no object
        if not self.task.components:
            ids, labels = ids[: real[0], : real[1]], labels[: real[0], : real[1]]
        # What goes on behind nodata is one object in a whole frame: its parts are joined before it is cut.
        behind = self.joined and not self.task.components and asked.agrees(segmenter)
        if valid is not None and not behind:
            ids, valid = np.where(valid, ids, np.uint32(0)), None
        if self.joined:
            self.window = window_objects(
                self.task.window, ref, real, ids, labels, objects, inner, band, valid
            )
            self.instances[at] = self.window.ids
            return
        shown, new = renumbered(ids[inner])
        self.instances[at] = shown
        rows = (
            objects_of(shown, self.labels[at])
            if objects is None
            else renumbered_objects(objects, new)
        )
        sure = self._sure(at, shown, rows.column("id").to_pylist())
        self.tables[ref.index] = with_frame(rows, self.task.scene, ref.index, sure=sure)

    def _sure(
        self, at: tuple[Any, ...], ids: NDArray[Any], rows: Sequence[int]
    ) -> list[int] | None:
        """Confidence over the pixels of each row's number in `ids`, added up; None: none is stored."""
        if self.confidence is None:
            return None
        known = self.confidence[at]
        known = np.where(known == NO_CONFIDENCE, np.uint8(0), known)  # a hole that is filled
        totals = np.bincount(ids.reshape(-1), known.reshape(-1))
        return [int(totals[i]) if i < len(totals) else 0 for i in rows]

    def _put_clean(self, ref: FrameRef, tile: Tile, labels: NDArray[Any], box: Box) -> None:
        """Ids and rows of a frame's clean components; where frames are cut, as a draft."""
        cleaning = self.task.cleaning
        assert cleaning is not None
        height, width = tile.pixels.shape[:2]  # what was padded beyond the frame is no object
        seen = np.array(labels[:height, :width], self.labels.dtype)
        if tile.valid is not None:
            seen[~tile.valid] = self.void
        if not self.joined:
            assert self.instances is not None
            ids, classes, whole = clean_frame(seen[box.inner], self.void, cleaning)
            at = (ref.index - self.task.window.start[0], slice(0, box.shape[0]))
            self.instances[(*at, slice(0, box.shape[1]))] = ids
            about = np.arange(len(classes)), classes, whole
            self._put_rows(ref, ids, (0, 0), ids.shape, about)
            return
        goes_on = WHOLE
        if self.task.cut:
            (_, top, left), (_, bottom, right) = self.task.window.start, self.task.window.stop
            goes_on = (top > 0, bottom < ref.height, left > 0, right < ref.width)
        kinds = kinds_of(seen, self.void, cleaning, box.inner)
        del seen
        found, corner = clean(kinds, cleaning, goes_on), self.task.window.start[1:]
        self.parts = WindowParts.of(found, goes_on, corner, ref.width)

    def put_regions(
        self, ref: FrameRef, tile: Tile, found: Connected, box: Box, least: int
    ) -> None:
        """What a window of a frame that is cut connects, as a draft; `least` pixels are no small region."""
        assert self.instances is not None
        height, width = box.shape
        valid = np.ones(tile.pixels.shape[:2], np.bool_) if tile.valid is None else tile.valid
        corner = (self.task.window.start[1], self.task.window.start[2])
        parcels, ids = parcels_of(found, valid, box.inner, corner, ref.width, least)
        at = ref.index - self.task.window.start[0], slice(0, height), slice(0, width)
        self.labels[at] = np.where(valid[box.inner], 1, self.void)
        self.instances[at] = ids
        self.window = WindowObjects(ids, parcels, {})

    def put_merged(self, draft: DraftedObjects, decided: MergedRegions) -> None:
        """Number a draft's regions as the whole frame does, and make their rows; what has no id is none."""
        self.labels[...] = draft.labels
        if self.instances is None or draft.ids is None:
            return
        ids = decided.ids[draft.ids]
        height, width = ids.shape
        self.instances[0, :height, :width] = ids
        shown = self.labels[0, :height, :width]
        shown[(ids == 0) & (shown != self.void)] = 0
        # many a number has one id
        own = np.flatnonzero(decided.ids)
        known, first = np.unique(decided.ids[own], return_index=True)
        ref, corner = self.task.frames[0], (self.task.window.start[1], self.task.window.start[2])
        about = known, np.ones(len(known), np.uint16), np.zeros(len(known), np.bool_)
        self._put_rows(ref, ids, corner, (ref.height, ref.width), about, decided.parts[own][first])

    def put_linked_parts(
        self,
        draft: DraftedObjects,
        numbers: NDArray[Any] | Runs | None,
        decided: LinkedParts,
        pixels: list[NDArray[np.int32]],
    ) -> None:
        """Number a draft's components as the whole frame does, and make their rows.

        `numbers` (y, x) of the draft; `pixels`: what each of the parts that were split elsewhere is of.
        """
        self.labels[...] = draft.labels
        if self.probabilities is not None and draft.probabilities is not None:
            self.probabilities[...] = draft.probabilities
        if self.confidence is not None and draft.confidence is not None:
            self.confidence[...] = draft.confidence
        if self.instances is None or numbers is None:
            return
        height, width = numbers.shape
        ids = self.instances[0, :height, :width]
        _decide(ids, numbers, decided, pixels)
        own = np.append(0, np.flatnonzero(decided.ids))  # a window may have none
        tables = [(decided.ids[own], decided.labels[own], decided.parts[own], decided.whole[own])]
        for split in decided.splits:
            whole = np.zeros(len(split.ids), np.bool_)
            tables.append((split.ids, split.labels, split.parts, whole))
        about = [np.concatenate(column) for column in zip(*tables, strict=True)]
        # a component's parts in one window have one id
        _, first = np.unique(about[0], return_index=True)
        known, classes, parts, flagged = (column[first] for column in about)
        ref, corner = self.task.frames[0], (self.task.window.start[1], self.task.window.start[2])
        size = ref.height, ref.width
        self._put_rows(ref, ids, corner, size, (known, classes, flagged), parts)

    def _put_rows(
        self,
        ref: FrameRef,
        ids: NDArray[np.uint32],
        corner: tuple[int, int],
        size: tuple[int, ...],
        about: tuple[NDArray[Any], NDArray[np.uint16], NDArray[np.bool_]],
        parts: NDArray[np.bool_] | None = None,
    ) -> None:
        """Rows of the objects of a map (y, x) at `corner` of a frame of `size`.

        about: ids in their order, all that the map has among them, and of each the class, and whether
        it is flagged; `parts`: which are parts of an object.
        """
        from segengine.instances.rows import table_of_shown, with_frame

        known, classes, flagged = about
        shown = shown_in(ids, corner, (size[0], size[1]))
        row = np.searchsorted(known, shown.numbers)
        rows = table_of_shown(shown, shown.numbers, classes[row])
        sure = None
        if self.confidence is not None:
            at = (ref.index - self.task.window.start[0], *(slice(0, n) for n in ids.shape))
            dense, values = renumber(ids)
            sure = self._sure(at, dense, range(1, len(values)))
        part = None if parts is None else parts[row]
        table = with_frame(rows, self.task.scene, ref.index, part, flagged[row], sure)
        self.tables[ref.index] = table

    def put_joined(self, draft: DraftedObjects, decided: JoinedObjects) -> None:
        """Number a draft's objects as the whole frame does, and make their rows."""
        self.labels[...] = draft.labels
        if self.probabilities is not None and draft.probabilities is not None:
            self.probabilities[...] = draft.probabilities
        if self.confidence is not None and draft.confidence is not None:
            self.confidence[...] = draft.confidence
        if self.instances is None or draft.ids is None:
            return
        from segengine.instances.rows import table_of, with_frame

        height, width = draft.ids.shape
        at = 0, slice(0, height), slice(0, width)
        self.instances[at] = decided.ids[draft.ids]
        ref = self.task.frames[0]
        mapped = objects_in(draft.ids, self.task.window.start[1:], (ref.height, ref.width))
        rows, numbers, parts, cut = [], [], [], []
        for number in np.flatnonzero(decided.ids).tolist():
            row = draft.rows.get(number) or mapped.get(number)
            if row is None:  # seen in the neighbour's shard only
                continue
            kind, score = int(decided.labels[number]), float(decided.scores[number])
            rows.append(row | {"id": int(decided.ids[number]), "class": kind, "score": score})
            numbers.append(number)
            parts.append(bool(decided.parts[number]))
            cut.append(bool(decided.cut[number]))
        sure = self._sure(at, draft.ids, numbers)
        self.tables[ref.index] = with_frame(
            table_of(rows), self.task.scene, ref.index, parts, cut, sure
        )

    def keep_gone(self, objects: Objects) -> tuple[FrameFailure, ...]:
        """Carry over what is stored of vanished frames; those of which that is damaged."""
        task = self.task
        refs = [r for r in task.frames if r.gone]
        if not refs:
            return ()
        if task.draft:  # all of them are windows of one frame
            return vanished.lost(task, objects)
        kept = vanished.carried(task, objects)
        made = (task.job, task.weights, task.segmenter.digest)
        clean = kept is not None and kept.made == made
        lost = {r.index for r in refs if not clean or (kept and r.index in kept.failed)}
        inputs = task.inputs.split(" ")
        if len(inputs) == len(task.frames) > 1:
            # A mask of another job must not count as done when its input comes back.
            self.inputs = " ".join(
                "-" if r.index in lost else i for r, i in zip(task.frames, inputs, strict=True)
            )
        if kept is None:
            return vanished.lost(task, objects)
        for path, block in self.maps():
            for index, values in kept.maps.get(path, {}).items():
                block[index - task.window.start[0]] = values
        self.colors |= {i: c for i, c in kept.colors.items() if len(c) == task.classes}
        self.inertia |= kept.inertia
        if kept.rows and self.instances is not None:
            from segengine.instances.rows import read_rows

            rows = read_rows(kept.rows)
            for ref in refs:
                at = np.asarray(rows.column("frame")) == ref.index
                self.tables[ref.index] = rows.filter(at)
        return vanished.still_lost(task, kept)

    def maps(self) -> list[tuple[str, NDArray[Any]]]:
        """The arrays there are, with their paths."""
        maps = (
            (MASK, self.labels),
            (INSTANCES, self.instances),
            (PROBABILITIES, self.probabilities),
            (CONFIDENCE, self.confidence),
        )
        return [(path, block) for path, block in maps if block is not None]

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        drafted = 0 if self.parts is None else self.parts.nbytes
        return drafted + sum(block.nbytes for _, block in self.maps())

    def commit(
        self, objects: Objects, failures: tuple[FrameFailure, ...], seconds: float
    ) -> Labelled:
        """Drop the old record, store the bytes, commit the new record; `seconds`: spent so far."""
        self.drop(objects)
        record = self.vouch(objects, self.write(objects, failures, seconds))
        self.forget_gone(objects)
        return record

    @property
    def replaces(self) -> bool:
        """True where there may be a record to drop; of an earlier draft nothing else tells."""
        return self.task.draft or bool(self.task.had)

    def drop(self, objects: Objects) -> None:
        """Take back the record that is there: it must not vouch for other bytes."""
        task, log = self.task, RecordLog(objects)
        if task.draft:  # which leaves the mask that is there alone
            log.drop(DraftRecord.KIND, task.scene, task.place, packed=False)
        elif task.had:
            log.drop(MaskRecord.KIND, task.scene, task.place, packed=task.had == "packed")

    def vouch(self, objects: Objects, record: Labelled) -> Labelled:
        """Commit the record of the bytes that are stored."""
        RecordLog(objects).write(record)
        return record

    def forget_gone(self, objects: Objects) -> None:
        """Delete what was kept of vanished frames, once the record vouches for their new place."""
        if any(r.gone for r in self.task.frames):
            vanished.forget(self.task, objects)

    def write(
        self, objects: Objects, failures: tuple[FrameFailure, ...], seconds: float
    ) -> Labelled:
        """Store the bytes; the record that will vouch for them. `seconds`: spent so far."""
        started = time.perf_counter()
        task = self.task
        about: dict[str, Any] = {
            "scene": task.scene,
            "shard": task.place,
            "box": (*task.window.start, *task.window.stop),
            "inputs": self.inputs,
            "job": task.job,
            "weights": task.weights,
            "fit": task.segmenter.digest,
            "failures": failures,
            "version": task.version,
            "provenance": provenance(self.engine),
        }
        write = self._write_draft if task.draft else self._write_mask
        record = write(objects, about)
        return timed(record, task.attempt, seconds + time.perf_counter() - started)

    def _write_draft(self, objects: Objects, about: dict[str, Any]) -> DraftRecord:
        task = self.task
        if task.cleaning is not None:
            summary = write_parts_draft(
                objects, task, self.labels, self.probabilities, self.parts, self.confidence
            )
        elif self.joined:
            summary = write_objects_draft(
                objects, task, self.labels, self.probabilities, self.window, self.confidence
            )
        else:
            summary = write_draft(objects, task.scene, task.place, self.labels)
        return DraftRecord(**about, summary=summary, sampled=self.sampled)

    def _write_mask(self, objects: Objects, about: dict[str, Any]) -> MaskRecord:
        task = self.task
        stored = tuple(
            write_block(objects, task.arrays[path], task.scene, task.place, block)
            for path, block in self.maps()
        )
        if self.instances is not None:
            from segengine.instances.rows import to_bytes, together

            tables = [table for _, table in sorted(self.tables.items())]
            rows = to_bytes(together(tables))
            objects.put(rows_key(task.scene, task.place), rows)
            stored = (*stored, StoredObject(ROWS, checksum(rows), len(rows)))
        areas = class_areas(self.labels, task.classes, self.void)
        ground: tuple[int, ...] | None = ()
        if task.ground is not None:
            corner = task.window.start[1:]
            ground = task.ground.totals(self.labels, task.classes, corner, areas)
        order = range(task.window.start[0], task.window.stop[0])
        void = ((0, 0, 0),) * task.classes
        return MaskRecord(
            **about,
            objects=stored,
            areas=areas,
            colors=tuple(self.colors.get(i, void) for i in order) if self.colors else (),
            inertia=tuple(self.inertia.get(i, 0.0) for i in order) if self.inertia else (),
            pixels=sum(sum(row[:-1]) for row in areas),
            ground=ground or (),
            confidence=() if self.confidence is None else _totals(self.confidence),
            sampled=self.sampled,
            still=self.still,
        )


def _decide(
    ids: NDArray[np.uint32],
    numbers: NDArray[Any] | Runs,
    decided: LinkedParts,
    pixels: list[NDArray[np.int32]],
) -> None:
    """Fill ids (y, x) with what became of a window's numbers; strip by strip, which takes less memory."""
    if isinstance(numbers, Runs):
        numbers.look_up(decided.ids, ids)
    else:
        look_up(numbers, decided.ids, ids)
    if not pixels:
        return
    if isinstance(numbers, Runs):
        numbers = numbers.map()
    seen = [0] * len(pixels)
    rows = max(1, STRIP // max(1, numbers.shape[1]))
    for start in range(0, len(numbers), rows):
        strip, there = numbers[start : start + rows], ids[start : start + rows]
        for i, (split, values) in enumerate(zip(decided.splits, pixels, strict=True)):
            own = (decided.split == i + 1)[strip]
            count = int(np.count_nonzero(own))
            there[own] = split.ids[values[seen[i] : seen[i] + count]]
            seen[i] += count


def _totals(confidence: NDArray[np.uint8]) -> tuple[int, ...]:
    """Of each frame, added up over what is not void."""
    return tuple(int(f.sum(dtype=np.int64, where=f != NO_CONFIDENCE)) for f in confidence)


def class_areas(labels: NDArray[Any], classes: int, void: int) -> tuple[tuple[int, ...], ...]:
    """Pixels of each class, then of void, one row a frame; labels (n, y, x)."""
    found = []
    for frame in labels:
        flat = frame.reshape(-1)
        if flat.dtype == np.uint8 and classes <= FEW:
            each = [int(np.count_nonzero(flat == label)) for label in range(classes)]
            found.append((*each, flat.size - sum(each)))
        elif flat.dtype == np.uint8:
            counts = _byte_counts(flat)
            found.append((*counts[:classes].tolist(), int(counts[void])))
        else:
            clipped = np.minimum(flat, classes)
            found.append(tuple(np.bincount(clipped, minlength=classes + 1).tolist()))
    return tuple(found)


def _byte_counts(flat: NDArray[np.uint8]) -> NDArray[np.int64]:
    """(256,) how often each byte occurs."""
    import cv2

    counts = np.zeros(256, np.int64)
    for start in range(0, flat.size, 1 << 23):  # calcHist counts in float32
        part = flat[start : start + (1 << 23)]
        counts += cv2.calcHist([part], [0], None, [256], [0, 256]).ravel().astype(np.int64)
    return counts
