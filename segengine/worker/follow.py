"""Frames of a shard that are labelled by those before them.

A shard's task names the frames back to where its first segment begins. They are read once, in order, one
in memory at a time. What a worker knows when a shard ends amid a segment it keeps for the next shard of
that video: it goes on from there where that is not behind, and begins anew where it is. No label depends
on which of the two happened.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from threading import Lock

import numpy as np

from segengine import asked
from segengine.following import Chain
from segengine.store.keys import MASK
from segengine.store.kinds import FrameFailure
from segengine.types import FrameRef, Prediction, Segmenter, Tile, Unreadable
from segengine.worker.reading import Box, read_frames, source_of
from segengine.worker.tasks import ShardTask

KEPT_BYTES = 512 << 20
"""Of what is known of the videos that shards were last labelled of."""


@dataclass(slots=True)
class _Kept:
    """Chains by what they are of; the latest ones, as far as they fit."""

    chains: OrderedDict[tuple[object, ...], Chain] = field(default_factory=OrderedDict)
    lock: Lock = field(default_factory=Lock)

    def take(self, key: tuple[object, ...]) -> Chain | None:
        """The chain, which nobody else has from now on."""
        with self.lock:
            return self.chains.pop(key, None)

    def put(self, key: tuple[object, ...], chain: Chain) -> None:
        """Keep it until it is taken, or until others need the room."""
        with self.lock:
            self.chains[key] = chain
            while sum(kept.nbytes for kept in self.chains.values()) > KEPT_BYTES:
                self.chains.popitem(last=False)


_KEPT = _Kept()


def follow(
    task: ShardTask,
    segmenter: Segmenter,
    halo: int | None,
    stride: int,
    failures: list[FrameFailure],
) -> Iterator[tuple[Box, FrameRef, Tile, Prediction]]:
    """Each frame of the shard that can be read, with its labels; why others cannot goes to `failures`."""
    frames = [ref for ref in task.frames if not ref.gone]
    box = Box.of(task.window, frames[0], halo, stride) if frames else None
    if box is None:
        return
    start, stop = task.window.start[0], task.window.stop[0]
    key = _key(task, box)
    chain = (_KEPT.take(key) if key else None) or _begun(segmenter, frames[0], box)
    first = chain.aim(start, stop)
    told = [ref for ref in (*task.before, *frames) if ref.index >= first]
    for ref, tile in read_frames(source_of(task), told, *box.slices):
        here = ref.index >= start
        if isinstance(tile, Unreadable):
            chain.miss(ref.index, for_good=tile.kind == "corrupt")
            if here:
                failures.append(FrameFailure(ref.index, tile.kind, f"{ref.name}: {tile.reason}"))
            continue
        pixels = box.padded(tile.pixels[None])
        labels = chain.see(ref.index, pixels[0])
        if not here:
            continue
        if labels is None:
            reason = f"{ref.name}: a frame before it cannot be read now"
            failures.append(FrameFailure(ref.index, "error", reason))
            continue
        found = Prediction(np.asarray(labels)[None])
        yield box, ref, tile, asked.as_prediction(found, segmenter, pixels.shape[:3])
    if key and stop < task.arrays[MASK].shape[0] and chain.nbytes and not chain.blind:
        _KEPT.put(key, chain)


def _begun(segmenter: Segmenter, ref: FrameRef, box: Box) -> Chain:
    corner = box.rows.start, box.cols.start
    follows = asked.follows(asked.placed(segmenter, corner, (ref.height, ref.width)))
    assert follows is not None  # or it would label each frame by itself
    return Chain(follows)


def _key(task: ShardTask, box: Box) -> tuple[object, ...] | None:
    """What a chain is of; None: nothing tells whether the video is the same as before."""
    spec, ref = task.segmenter, task.frames[0]
    if not ref.fingerprint:
        return None
    segmenter = spec.kind, spec.options, spec.fit, spec.digest
    return task.kind, task.source, *segmenter, ref.uri, ref.fingerprint, box.rows, box.cols
