"""How far a lower precision labels as float32 does: a sample of the run, measured once.

Asked for by the segmenter's option `precision`. One window of each of a few scenes is labelled
again in both; its counts are a record, which holds as long as the shard's mask does.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from segengine import asked
from segengine.dispatch.pool import Pool, Work
from segengine.fingerprint import digest
from segengine.job import FaultsSpec
from segengine.planning.plan import Plan
from segengine.progress import Progress
from segengine.stages.outcomes import outcomes
from segengine.store.kinds import MaskRecord, PrecisionRecord
from segengine.store.layouts import Layout
from segengine.store.records import RecordLog
from segengine.types import FrameRef, Window
from segengine.worker.precision import PrecisionTask, compare

LOWER = ("bfloat16",)
"""Precisions that are compared with float32."""
SCENES = 4
"""Scenes sampled."""
SIDE = 512
"""Most pixels of a sampled window along an axis; of a network that needs whole frames, one frame."""


def stale(plan: Plan) -> list[PrecisionTask]:
    """The sampled windows without counts that hold; none where the job asks for float32."""
    return [task for task, record in _sample(plan) if record is None]


def measure(pool: Pool, faults: FaultsSpec, tasks: list[PrecisionTask]) -> Iterator[Progress]:
    """Count; a window that cannot be read any more is left out, and the next run tries again."""
    works = (Work(f"precision {t.shard.scene}/{t.shard.place}", compare, t) for t in tasks)
    for done, _ in enumerate(outcomes(pool, works, faults), 1):
        yield Progress("aggregate", done, len(tasks), message="precision")


def figure(plan: Plan) -> dict[str, Any] | None:
    """For `metrics.json`: pixels sampled and those labelled alike; None for a job in float32."""
    precision = plan.job.segmenter.options.get("precision")
    if precision not in LOWER:
        return None
    counts = [record.counts for _, record in _sample(plan) if record is not None]
    same, pixels = (sum(each) for each in zip((0, 0), *counts, strict=True))
    return {
        "precision": precision,
        "reference": "float32",
        "pixels": pixels,
        "same": same,
        "share": same / pixels if pixels else None,
    }


def _sample(plan: Plan) -> Iterator[tuple[PrecisionTask, PrecisionRecord | None]]:
    """Windows to look at, each with its record where that holds.

    Scenes are drawn by a digest of their names, so that new ones hardly change the sample.
    """
    options = plan.job.segmenter.options
    if options.get("precision") not in LOWER:
        return
    exact = json.dumps({**options, "precision": "float32"})
    for scene in sorted(plan.layouts, key=digest)[:SCENES]:
        masks, known = [], {}
        for record in RecordLog(plan.objects).read(scene):
            if isinstance(record, PrecisionRecord):
                known[record.shard] = record
            elif (
                isinstance(record, MaskRecord) and record.pixels and record.job == plan.fingerprint
            ):
                masks.append(record)
        task = _task(plan, plan.layouts[scene], masks, exact)
        if task is not None:
            old = known.get(task.shard.place)
            shard = task.shard
            wanted = (shard.inputs, shard.job, shard.weights, task.checksum)
            held = old is not None and (old.inputs, old.job, old.weights, old.mask) == wanted
            yield task, old if held else None


def _task(plan: Plan, layout: Layout, masks: list[MaskRecord], exact: str) -> PrecisionTask | None:
    """The middle of the middle frame of the fullest shard."""
    for mask in sorted(masks, key=lambda r: (-r.pixels, r.shard)):
        failed = {f.frame for f in mask.failures}
        refs = [r for r in layout.frames(mask.box[0], mask.box[3]) if not r.gone]
        refs = [r for r in refs if r.index not in failed]
        if refs:
            ref = refs[len(refs) // 2]
            task = plan.task(layout, mask.shard)
            window = _middle(mask, ref, asked.whole_frames(plan.plugin))
            shard = replace(task, window=window, frames=(ref,))
            return PrecisionTask(shard, exact, mask.box, mask.checksum)
    return None


def _middle(mask: MaskRecord, ref: FrameRef, whole: bool) -> Window:
    start, stop = [ref.index], [ref.index + 1]
    for axis, size in ((1, ref.height), (2, ref.width)):
        low, high = mask.box[axis], min(mask.box[axis + 3], size)
        if not whole:
            low += max(0, high - low - SIDE) // 2
            high = min(high, low + SIDE)
        start.append(low)
        stop.append(high)
    return Window((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))
