"""Frames of a shard, read in batches of equal size, each with the context its segmenter needs.

What cannot be read becomes a failure of that frame; a decoded photo is kept while its shards are
worked on. Where a task hints at the shard that comes next, that is read while this one is computed.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import lru_cache
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segengine import tiling
from segengine.registry import reader
from segengine.store.kinds import FrameFailure
from segengine.types import Bool, FrameRef, Source, Tile, Unreadable, Window
from segengine.worker.tasks import ShardTask

BATCH_BYTES = 96 << 20
"""Decoded pixels handed to a segmenter in one call, where the frames are more than one."""
CACHE_BYTES = 512 << 20
"""Whole decoded frames kept in a worker while their shards are worked on."""


@lru_cache(maxsize=8)
def _reader(kind: str, source: str) -> Source:
    return reader(kind, json.loads(source))


class _FrameCache:
    """Whole decoded frames: shards of one photo must not each decode it."""

    def __init__(self) -> None:
        self.lock = Lock()  # a photo may be read ahead
        self.frames: OrderedDict[tuple[str, str, str, int], Tile | Unreadable] = OrderedDict()

    def get(self, source: Source, spec: str, ref: FrameRef) -> Tile | Unreadable:
        with self.lock:
            return self._get(source, spec, ref)

    def _get(self, source: Source, spec: str, ref: FrameRef) -> Tile | Unreadable:
        key = (spec, ref.uri, ref.fingerprint, ref.position)  # a video has many frames
        if key not in self.frames:
            whole = slice(0, ref.height), slice(0, ref.width)
            ((_, tile),) = read_frames(source, (ref,), *whole)
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


def read_frames(
    source: Source, frames: Sequence[FrameRef], rows: slice, cols: slice
) -> Iterator[tuple[FrameRef, Tile | Unreadable]]:
    """Each frame with its pixels; where a source raises, that frame is unreadable for now.

    What a source raises is its own: it says nothing of the store, whatever its errno is.
    """
    left = list(frames)
    while left:
        try:
            for ref, tile in zip(tuple(left), source.read(tuple(left), rows, cols), strict=True):
                del left[0]
                yield ref, tile
        except Exception as error:
            if not left:
                raise
            said = "out of memory" if isinstance(error, MemoryError) else _one_line(error)
            yield left.pop(0), Unreadable("error", said)


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def source_of(task: ShardTask) -> Source:
    """What reads a task's frames."""
    return _reader(task.kind, task.source)


def _read(
    task: ShardTask, frames: Sequence[FrameRef], rows: slice, cols: slice
) -> Iterator[tuple[FrameRef, Tile | Unreadable]]:
    source = _reader(task.kind, task.source)
    whole = (rows.start, cols.start) == (0, 0) and all(
        (rows.stop, cols.stop) == (f.height, f.width) for f in frames
    )
    if task.windowed or whole or len(frames) > 1:
        yield from read_frames(source, frames, rows, cols)
        return
    for ref in frames:
        tile = _CACHE.get(source, task.source, ref)
        if isinstance(tile, Tile):
            valid = None if tile.valid is None else tile.valid[rows, cols]
            tile = replace(tile, pixels=tile.pixels[rows, cols], valid=valid)
        yield ref, tile


@dataclass(slots=True)
class Batch:
    """Frames of equal size, read and ready for one call, which labels the tiles."""

    frames: list[FrameRef] = field(default_factory=list)
    tiles: list[Tile] = field(default_factory=list)
    of: list[int] | None = None
    """Which tile each frame has the mask of; None: each its own."""
    still: int = 0
    """Frames that have the mask of another."""

    def add(self, ref: FrameRef, tile: int, still: bool) -> None:
        """A frame that has the mask of one of the tiles."""
        assert self.of is not None
        self.frames.append(ref)
        self.of.append(tile)
        self.still += still

    @property
    def shown(self) -> list[Tile]:
        """The tile of each frame."""
        return self.tiles if self.of is None else [self.tiles[i] for i in self.of]

    def frames_of(self, tile: int) -> list[FrameRef]:
        """The frames that have the mask of a tile."""
        if self.of is None:
            return [self.frames[tile]]
        return [ref for ref, i in zip(self.frames, self.of, strict=True) if i == tile]

    @property
    def names(self) -> tuple[str, ...]:
        """Of the frame that each tile is of, or of several that have its mask the first."""
        own = (
            range(len(self.frames))
            if self.of is None
            else map(self.of.index, range(len(self.tiles)))
        )
        return tuple(self.frames[i].name for i in own)

    @property
    def bytes(self) -> int:
        return sum(int(t.pixels.nbytes) for t in self.tiles)

    def pixels(self) -> NDArray[Any]:
        if len(self.tiles) == 1:
            return self.tiles[0].pixels[None]
        return np.stack([t.pixels for t in self.tiles])

    @property
    def shape(self) -> tuple[int, int, int]:
        """(n, y, x) of the tiles"""
        height, width = self.tiles[0].pixels.shape[:2]
        return len(self.tiles), height, width

    def valid(self) -> Bool:
        found = np.ones(self.shape, np.bool_)
        for valid, tile in zip(found, self.tiles, strict=True):
            if tile.valid is not None:
                valid[:] = tile.valid
        return found


@dataclass(frozen=True, slots=True)
class Box:
    """The part of a shard inside frames of one size, and what is read for it."""

    rows: tiling.Span
    cols: tiling.Span
    inner: tuple[slice, slice]
    """Rows and columns of what was read that the shard stores."""
    shape: tuple[int, int]
    """Size of the stored part."""

    @classmethod
    def of(cls, window: Window, ref: FrameRef, halo: int | None, stride: int) -> Box | None:
        (_, y0, x0), (_, y1, x1) = window.start, window.stop
        y1, x1 = min(y1, ref.height), min(x1, ref.width)
        if y1 <= y0 or x1 <= x0:
            return None
        rows = tiling.span(y0, y1, ref.height, halo, stride)
        cols = tiling.span(x0, x1, ref.width, halo, stride)
        return cls(rows, cols, (rows.inside(y0, y1), cols.inside(x0, x1)), (y1 - y0, x1 - x0))

    @property
    def slices(self) -> tuple[slice, slice]:
        """Rows and columns of the frame that are read."""
        return slice(self.rows.start, self.rows.stop), slice(self.cols.start, self.cols.stop)

    def padded(self, pixels: NDArray[Any]) -> NDArray[Any]:
        """Pixels (n, y, x, band) that were read, up to the segmenter's grid."""
        if not (self.rows.pad or self.cols.pad):
            return pixels
        pads = ((0, 0), (0, self.rows.pad), (0, self.cols.pad), (0, 0))
        return np.pad(pixels, pads, mode="reflect")


def _reads(
    window: Window, frames: Sequence[FrameRef], lost: Collection[int], halo: int | None, stride: int
) -> Iterator[tuple[list[FrameRef], Box]]:
    """What a shard reads: frames of one size together."""
    sizes: dict[tuple[int, int], list[FrameRef]] = {}
    for ref in frames:
        if not ref.gone and ref.index not in lost:
            sizes.setdefault((ref.height, ref.width), []).append(ref)
    for group in sizes.values():
        box = Box.of(window, group[0], halo, stride)
        if box is not None:
            yield group, box


class _Ahead:
    """The pixels of the shard that this worker is likely to get next, read while it computes.

    One thread, one shard; what turns out not to be wanted is dropped.
    """

    def __init__(self) -> None:
        self.found: dict[Any, Future[list[tuple[FrameRef, Tile | Unreadable]]]] = {}
        self.pool = ThreadPoolExecutor(1, "segengine-read-ahead")

    def start(self, task: ShardTask, halo: int | None, stride: int) -> None:
        """Begin to read what the task's hint names."""
        if task.hint is None:
            return
        for frames, box in _reads(task.hint.window, task.hint.frames, (), halo, stride):
            key = self.key(task, frames, box)
            if key not in self.found:
                self.found[key] = self.pool.submit(self.read, task, frames, box)

    @staticmethod
    def key(task: ShardTask, frames: Sequence[FrameRef], box: Box) -> Any:
        """What is read, and of which files as they were then."""
        files = tuple((f.uri, f.fingerprint, f.position) for f in frames)
        return task.source, files, box.rows, box.cols

    @staticmethod
    def read(
        task: ShardTask, frames: Sequence[FrameRef], box: Box
    ) -> list[tuple[FrameRef, Tile | Unreadable]]:
        return list(_read(task, frames, *box.slices))

    def take(
        self, task: ShardTask, frames: Sequence[FrameRef], box: Box
    ) -> Iterable[tuple[FrameRef, Tile | Unreadable]]:
        """The pixels, from ahead where they are there; all else that was read ahead is dropped."""
        ahead = self.found.pop(self.key(task, frames, box), None)
        for other in self.found.values():
            other.cancel()
        self.found.clear()
        if ahead is None:
            return _read(task, frames, *box.slices)
        tiles = (tile for _, tile in ahead.result())
        return zip(frames, tiles, strict=True)


_AHEAD = _Ahead()


def batches(
    task: ShardTask, halo: int | None, stride: int, single: bool, failures: list[FrameFailure]
) -> Iterator[tuple[Box, Batch]]:
    """Read the shard's frames in batches of equal size; what cannot be read goes to `failures`."""
    groups = list(_reads(task.window, task.frames, {f.frame for f in task.lost}, halo, stride))
    for number, (frames, box) in enumerate(groups, 1):
        batch = Batch()
        for ref, tile in _AHEAD.take(task, frames, box):
            if isinstance(tile, Unreadable):
                failures.append(FrameFailure(ref.index, tile.kind, f"{ref.name}: {tile.reason}"))
                continue
            tile = _without_nan(tile)
            if tile.flaw:
                failures.append(FrameFailure(ref.index, "corrupt", f"{ref.name}: {tile.flaw}"))
            if batch.tiles and (
                single
                or batch.bytes + tile.pixels.nbytes > BATCH_BYTES
                or batch.tiles[0].pixels.shape != tile.pixels.shape
                or batch.tiles[0].pixels.dtype != tile.pixels.dtype
            ):
                yield box, batch
                batch = Batch()
            batch.frames.append(ref)
            batch.tiles.append(tile)
        if number == len(groups):
            _AHEAD.start(task, halo, stride)
        if batch.tiles:
            yield box, batch


def _without_nan(tile: Tile) -> Tile:
    """NaN is nodata, whatever the source says."""
    if tile.pixels.dtype.kind != "f":
        return tile
    finite: Bool = np.asarray(~np.isnan(tile.pixels).any(axis=-1))
    if finite.all():
        return tile
    return replace(tile, valid=finite if tile.valid is None else finite & tile.valid)
