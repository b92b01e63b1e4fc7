"""Frames of a video that do not move: they keep the mask of the frame that they do not differ from.

    index     0   1   2   3   4  ..  31 | 32  33 ..         every 32nd frame is looked at in any case
    moves     x   -   -   x   -       - |  x   -
    mask of   0   0   0   3   3       3 | 32  32

A frame is compared with the last one before it that was not still, as a whole, and is still where in no
block of 16 x 16 pixels the mean difference is more than `still` grey levels: noise is everywhere, and
what moves is somewhere. A worker reads what lies before its shard back to the last 32nd frame, and
segments again the one whose mask the first frames have: the masks do not depend on where the cuts are.
Where `still` is 0, frames are equal, and so are their masks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from segengine.store.kinds import FrameFailure
from segengine.types import Pixels, Prediction, Tile, Unreadable
from segengine.worker.reading import BATCH_BYTES, Batch, Box, read_frames, source_of
from segengine.worker.tasks import ShardTask

EVERY = 32
"""Frames of which the first is never still."""
SIDE = 16
"""Of the blocks, in pixels."""


def first_needed(index: int) -> int:
    """The frame from which on those are read that a shard's first frame may have the mask of."""
    return index // EVERY * EVERY


def is_still(a: Pixels, b: Pixels, most: float) -> bool:
    """Whether two frames (y, x, band) of 8 bit differ by no more than `most` grey levels in any block."""
    if most == 0:
        return bool(np.array_equal(a, b))
    import cv2

    difference = cv2.absdiff(a, b)
    rows, cols = (np.arange(0, n, SIDE) for n in difference.shape[:2])
    lines = np.add.reduceat(difference, rows, axis=0, dtype=np.uint32)
    sums = np.add.reduceat(lines, cols, axis=1).reshape(len(rows), len(cols), -1).sum(axis=-1)
    high, wide = (
        np.diff(starts, append=n) for starts, n in zip((rows, cols), a.shape[:2], strict=True)
    )
    pixels = high[:, None] * wide * (a.size // (a.shape[0] * a.shape[1]))
    return bool((sums <= most * pixels).all())


def still_batches(
    task: ShardTask, halo: int | None, stride: int, single: bool, failures: list[FrameFailure]
) -> Iterator[tuple[Box, Batch]]:
    """As `reading.batches`: the frames to be segmented, with those that have the mask of each."""
    assert task.still is not None
    lost = {failure.frame for failure in task.lost}
    frames = [ref for ref in task.frames if not ref.gone and ref.index not in lost]
    box = Box.of(task.window, frames[0], halo, stride) if frames else None
    if box is None:
        return
    whole = slice(0, frames[0].height), slice(0, frames[0].width)
    source = source_of(task)
    moved: Tile | None = None  # the last that was not still
    placed: Tile | None = None  # the last that is in the batch
    blind = False
    batch = Batch(of=[])
    for ref, tile in read_frames(source, (*task.before, *frames), *whole):
        here = ref.index >= task.window.start[0]
        if ref.index % EVERY == 0:
            moved, blind = None, False
        if isinstance(tile, Unreadable):
            blind |= not here and tile.kind == "error"
            if here:
                failures.append(FrameFailure(ref.index, tile.kind, f"{ref.name}: {tile.reason}"))
            continue
        if blind:  # nothing tells which mask it has
            if here:
                reason = f"{ref.name}: a frame before it cannot be read now"
                failures.append(FrameFailure(ref.index, "error", reason))
            continue
        still = moved is not None and is_still(moved.pixels, tile.pixels, task.still)
        if moved is None or not still:
            moved = tile
        if not here:
            continue
        if placed is not moved:
            if batch.tiles and (single or batch.bytes + moved.pixels.nbytes > BATCH_BYTES):
                yield box, batch
                batch = Batch(of=[])
            batch.tiles.append(Tile(np.ascontiguousarray(moved.pixels[box.slices])))
            placed = moved
        batch.add(ref, len(batch.tiles) - 1, still)
    if batch.tiles:
        yield box, batch


def repeated(prediction: Prediction, of: Sequence[int] | None) -> Prediction:
    """The prediction of frames that are each as one of it; None: it as it is."""
    if of is None:
        return prediction
    places, objects = list(of), None
    if prediction.objects is not None:
        from segengine.instances.rows import of_frame, of_frames

        count = len(prediction.labels)
        tables = [of_frame(prediction.objects, i, count) for i in places]
        known = [table for table in tables if table is not None]
        objects = of_frames(known) if len(known) == len(places) else None
    probabilities, instances = prediction.probabilities, prediction.instances
    return Prediction(
        labels=prediction.labels[places],
        probabilities=None if probabilities is None else probabilities[places],
        instances=None if instances is None else instances[places],
        objects=objects,
        confidence=None if prediction.confidence is None else prediction.confidence[places],
    )
