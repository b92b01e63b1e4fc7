"""What labels a frame by those before it: which scenes it can take, and what that costs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from segengine import asked, following
from segengine.errors import JobError
from segengine.job import Job
from segengine.store.layouts import Layout
from segengine.types import Plugin


def check_follows(job: Job, layouts: Mapping[str, Layout]) -> None:
    """Raise JobError where frames are to be labelled by those before, and are in no order."""
    if asked.follows(job.plugin) is None:
        return
    kind = job.segmenter.kind
    if asked.scope(job.plugin) == "frame":
        raise JobError(
            f"segmenter.kind: {kind} is fitted on each frame by itself, and would label it by others"
        )
    for layout in layouts.values():
        if layout.times is None or "volume" in layout.attributes:  # slices are in no order of time
            raise JobError(
                f"segmenter.kind: {kind} labels a frame by those before it, and scene {layout.scene} "
                "is no video; let source.paths name videos alone"
            )
    if job.still is not None:
        raise JobError(
            f"source.skip.still: {kind} has to see every frame, also those that do not move; leave "
            "the key out"
        )


def outside(job: Job, layouts: Mapping[str, Layout]) -> Iterator[str]:
    """A line on the lines and zones of `tracks` that no video shows a part of: nothing is counted there."""
    sizes = {
        layout.shape[1:]
        for layout in layouts.values()
        if layout.times is not None and "volume" not in layout.attributes and not layout.gone.all()
    }
    if job.tracks is None or not sizes:
        return
    height, width = (max(size[axis] for size in sizes) for axis in (0, 1))
    for key, shapes in (("lines", job.tracks.lines), ("zones", job.tracks.zones)):
        for name, points in shapes.items():
            xs, ys = zip(*points, strict=True)
            if max(xs) < 0 or max(ys) < 0 or min(xs) > width or min(ys) > height:
                yield (
                    f"tracks.{key}: {name} lies outside of every frame, the largest of {width:,} x "
                    f"{height:,} pixels, and nothing will be counted there"
                )


def costs(plugin: Plugin, layouts: Mapping[str, Layout]) -> Iterator[str]:
    """A line on each video of which shards look at more frames than whole segments would."""
    follows = asked.follows(plugin)
    if follows is None:
        return
    for name, layout in layouts.items():
        frames, side = layout.shape[0], layout.shard[0]
        if layout.gone[0] or side % follows.span == 0 or side >= frames:
            continue
        starts = range(0, frames, side)
        seen = sum(min(s + side, frames) - following.first_needed(s, follows) for s in starts)
        yield (
            f"{name}: shards of {side} frames look at up to {seen / frames:.1f} for each that they "
            f"store; with `store.frames: {follows.span}`, or a multiple, at "
            f"{1 + follows.warmup / follows.span:.1f} at most"
        )
