"""Provisional maps below `work/`, which the stitch stage decides, and their border summaries.

A Linker's draft holds strengths, and its summary the pieces at its border (`segengine.instances.pieces`). A
draft of objects holds the window's own ids, and its summary its objects (`segengine.instances.join`), or
the parts of regions that are merged (`segengine.instances.merging`). That of clean components has an
object of its own for their numbers (`segengine.instances.parts`).
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from segengine.instances.along import Runs, runs_of
from segengine.instances.boxes import row_of
from segengine.instances.cleaning import Cleaned, Sides
from segengine.instances.join import Seen, see
from segengine.instances.merging import Parcels
from segengine.instances.parts import Parts, parts_of
from segengine.instances.pieces import Pieces, find_pieces
from segengine.instances.rle import decode_rle
from segengine.store.blobs import Objects
from segengine.store.keys import draft_key, parts_key
from segengine.store.kinds import DraftRecord
from segengine.store.values import decode, encode
from segengine.types import Cell, FrameRef, Place, Window

if TYPE_CHECKING:
    import pyarrow as pa

    from segengine.worker.tasks import ShardTask

INVALID = 0x80
"""Bit of a stored draft: the pixel is nodata."""
Row = dict[str, Any]


def read_summary(record: DraftRecord) -> Any:
    """The border summary in a draft's record: Pieces, Seen, Parcels or Parts."""
    return decode(base64.b64decode(record.summary))


def write_draft(objects: Objects, scene: str, place: Place, labels: NDArray[np.uint8]) -> str:
    """Store a Linker's provisional map (1, y, x); returns its border summary for the record."""
    objects.put(draft_key(scene, place), encode(labels))
    pieces: Pieces
    pieces, _ = find_pieces(labels[0] & ~np.uint8(INVALID))
    return _text(pieces)


@dataclass(frozen=True, slots=True)
class WindowObjects:
    """A window's objects as they are drafted."""

    ids: NDArray[np.int32]
    """(y, x) in the shard, dense from 1."""
    seen: Seen | Parcels
    rows: dict[int, Row]
    """The rows of overlapping objects by id, cropped to the shard; others follow from the map."""


def window_objects(
    window: Window,
    ref: FrameRef,
    size: tuple[int, int],
    ids: NDArray[np.uint32],
    labels: NDArray[Any],
    objects: pa.Table | None,
    inner: tuple[slice, slice],
    band: int,
    valid: NDArray[np.bool_] | None = None,
) -> WindowObjects:
    """What one window (of one frame) found.

    `ids` and `labels` (y, x) of all that was read, `size`; `inner`: the shard's part of it. `valid` as
    for `see`.
    """
    scores = None
    given = [] if objects is None else objects.to_pylist()
    if given:
        scores = np.ones(max(int(ids.max()), *(row["id"] for row in given)) + 1, np.float32)
        for row in given:
            scores[row["id"]] = row["score"]
    corner = (window.start[1], window.start[2])
    seen, core, values = see(
        ids, labels, inner, corner, ref.width, score=scores, band=band, valid=valid
    )
    local = {int(v): i for i, v in enumerate(values)}
    rows = {}
    for row in given:
        number = local.get(row["id"])
        if number is None:  # wholly behind others in this window
            continue
        mask = decode_rle(row["rle"], _rle_size(objects, size))[inner]
        if mask.any():
            rows[number] = row_of(
                number, row["class"], row["score"], mask, corner, (ref.height, ref.width)
            )
    return WindowObjects(core, seen, rows)


def _rle_size(objects: Any, size: tuple[int, int]) -> tuple[int, int]:
    """The size the segmenter's run lengths are for: its window, padded to its stride."""
    given = (objects.schema.metadata or {}).get(b"size")
    if given is None:
        return size
    height, width = given.decode().split()
    return int(height), int(width)


def write_objects_draft(
    objects: Objects,
    task: ShardTask,
    labels: NDArray[Any],
    probabilities: NDArray[np.float32] | None,
    found: WindowObjects | None,
    confidence: NDArray[np.uint8] | None = None,
) -> str:
    """Store a window's labels, ids and rows; returns its summary for the record."""
    if found is None:  # nothing could be read
        objects.put(draft_key(task.scene, task.place), encode((labels, None, {}, None)))
        return ""
    body = (labels, found.ids, found.rows, probabilities, confidence)
    objects.put(draft_key(task.scene, task.place), encode(body))
    return _text(found.seen)


@dataclass(frozen=True, slots=True)
class WindowParts:
    """A window's clean components as they are drafted."""

    numbers: NDArray[Any] | Runs
    """By runs; a map (y, x) where these are too many, in as few bytes as hold it."""
    seen: Parts

    @classmethod
    def of(cls, found: Cleaned, goes_on: Sides, corner: Cell, width: int) -> WindowParts:
        """Those of a window whose first pixel is `corner` in a frame `width` pixels wide."""
        runs, count = runs_of(found.ids), len(found.kind) - 1
        seen = parts_of(found, goes_on, corner, width, runs)
        if runs is not None:
            return cls(runs, seen)
        fits = count <= np.iinfo(np.uint16).max
        return cls(found.ids.astype(np.uint16, copy=False) if fits else found.ids, seen)

    @property
    def nbytes(self) -> int:
        """Bytes of the numbers."""
        if isinstance(self.numbers, Runs):
            return self.numbers.starts.nbytes + self.numbers.numbers.nbytes
        return self.numbers.nbytes

    def stored(self) -> Any:
        """What is stored of the numbers: runs are a tenth of a map."""
        if not isinstance(self.numbers, Runs):
            return self.numbers
        width = self.numbers.shape[1]
        kind = np.uint16 if width <= np.iinfo(np.uint16).max else np.int64
        return self.numbers.shape, self.numbers.each.astype(kind), self.numbers.numbers


def read_numbers(stored: Any) -> NDArray[Any] | Runs:
    """The numbers of a window's components (y, x) from what is stored of them."""
    if not isinstance(stored, tuple):
        return np.asarray(stored)
    shape, each, numbers = stored
    return Runs(shape, np.cumsum(each, dtype=np.int64) - each, numbers)


def write_parts_draft(
    objects: Objects,
    task: ShardTask,
    labels: NDArray[Any],
    probabilities: NDArray[np.float32] | None,
    window: WindowParts | None,
    confidence: NDArray[np.uint8] | None = None,
) -> str:
    """Store a window's labels, and the numbers of its components; returns its summary for the record.

    Numbers that others read too, to split what crosses shards, are an object of their own.
    """
    numbers = None if window is None else window.stored()
    apart = task.cleaning is not None and bool(task.cleaning.split)
    body: tuple[Any, ...] = (labels, None if apart else numbers, {}, probabilities, confidence)
    objects.put(draft_key(task.scene, task.place), encode(body))
    if window is None:  # nothing could be read
        return ""
    if apart:
        objects.put(parts_key(task.scene, task.place), encode(numbers))
    return _text(window.seen)


@dataclass(frozen=True, slots=True)
class DraftedObjects:
    """A draft of objects, read again."""

    labels: NDArray[Any]
    ids: Any
    """(y, x); of clean components what is stored of their numbers, where they are not apart."""
    rows: dict[int, Row]
    probabilities: NDArray[np.float32] | None
    confidence: NDArray[np.uint8] | None = None


def read_objects_draft(data: bytes) -> DraftedObjects:
    """The draft behind stored bytes."""
    return DraftedObjects(*decode(data))


def _text(value: Any) -> str:
    return base64.b64encode(encode(value)).decode()
