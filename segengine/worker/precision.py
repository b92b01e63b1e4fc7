"""What runs on workers to measure a lower precision: one window, labelled in both, counted.

A record of kind `precision` holds the counts. Both labels are made of the same pixels by the same
engine, cut in the same way, so that the precision is all that differs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segengine import asked, tiling
from segengine.store.kinds import Counts, FrameFailure, PrecisionRecord
from segengine.types import Frames, Pixels, Segmenter
from segengine.worker.attempts import recorded
from segengine.worker.fits import segmenter_of
from segengine.worker.reading import batches
from segengine.worker.tasks import Damaged, Retry, ShardTask


@dataclass(frozen=True, slots=True)
class PrecisionTask:
    """Label a part of a shard as the job does, and in float32."""

    shard: ShardTask
    """Its window is the part, its only frame the one that is looked at."""
    exact: str
    """The segmenter's options with float32, as JSON."""
    box: tuple[int, int, int, int, int, int]
    """The whole shard's."""
    checksum: str
    """Of the shard's mask."""
    attempt: int = 1
    last: bool = False


def compare(task: PrecisionTask) -> PrecisionRecord | Retry | Damaged:
    """Count the pixels that both precisions label, and those they label alike; commit the counts."""
    shard = task.shard
    return recorded(shard.store, shard.writer, task.attempt, lambda _: _compared(task))


def _compared(task: PrecisionTask) -> PrecisionRecord:
    shard = task.shard
    return PrecisionRecord(
        scene=shard.scene,
        shard=shard.place,
        box=task.box,
        inputs=shard.inputs,
        job=shard.job,
        weights=shard.weights,
        mask=task.checksum,
        counts=_counts(task),
    )


def _counts(task: PrecisionTask) -> Counts:
    kind, options = task.shard.segmenter.kind, task.shard.segmenter.options
    lower, exact = segmenter_of(kind, options), segmenter_of(kind, task.exact)
    same = pixels = 0
    lost: list[FrameFailure] = []
    for box, batch in batches(task.shard, lower.halo, lower.stride, False, lost):
        padded = tiling.pad_to(batch.pixels(), lower.stride)
        valid = batch.valid()[:, *box.inner]
        ref, corner = batch.frames[0], (box.rows.start, box.cols.start)
        called = Frames(task.shard.scene, batch.names, task.shard.ground)
        placed = (
            asked.placed(each, corner, (ref.height, ref.width), called) for each in (lower, exact)
        )
        a, b = (_labels(each, padded) for each in placed)
        alike = a == b
        same += int(np.count_nonzero(alike[:, *box.inner] & valid))
        pixels += int(np.count_nonzero(valid))
    if lost:
        raise OSError(lost[0].reason)
    return Counts(same, pixels)


def _labels(segmenter: Segmenter, pixels: Pixels) -> NDArray[Any]:
    found = asked.labels_alone(segmenter, pixels)
    return np.asarray(found.labels)
