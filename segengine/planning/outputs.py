"""What a job stores of each pixel: what its segmenter says, or shows in one window."""

from __future__ import annotations

import numpy as np

from segengine import asked
from segengine.errors import JobError, SegengineError
from segengine.job import Job
from segengine.planning.scan import Scan
from segengine.registry import reader
from segengine.types import Segmenter, Unreadable
from segengine.worker.reading import read_frames
from segengine.worker.tasks import retry_of


def outputs_of(job: Job, found: Scan) -> tuple[str, ...]:
    """What is stored: what the segmenter says it predicts, or what one probed window shows."""
    outputs = asked.outputs(job.plugin)
    if outputs is None and not asked.surveys(job.plugin):
        outputs = _probe_outputs(job, found, job.plugin)
    outputs = outputs or ("labels",)
    if job.segmenter.instances is not None:
        if "instances" in outputs or asked.links(job.plugin):
            raise JobError(
                f"segmenter.instances: {job.segmenter.kind} with these options finds its own "
                "objects, or links its labels; leave the key out"
            )
        asked.cleaning(job.segmenter.instances, job.plugin.classes)  # or a class is none
        outputs = (*outputs, "instances")
    unsure = "probabilities" not in outputs
    if job.store.probabilities and unsure:
        raise JobError(
            f"store.probabilities: {job.segmenter.kind} predicts no probabilities; leave the key out"
        )
    if job.store.confidence and unsure and "confidence" not in outputs:
        raise JobError(
            f"store.confidence: {job.segmenter.kind} predicts no probabilities, of which confidence is "
            "made; leave the key out"
        )
    optional = {"probabilities": job.store.probabilities, "confidence": job.store.confidence}
    kept = [o for o in outputs if o not in optional]
    return (*kept, *(name for name, wanted in optional.items() if wanted))


def _probe_outputs(job: Job, found: Scan, segmenter: Segmenter) -> tuple[str, ...] | None:
    for layout in found.layouts.values():
        ref = layout.frame(0)
        if ref.gone:
            continue
        side = 64 if segmenter.halo is not None else max(ref.height, ref.width)
        source = reader(layout.kind, job.source_options())
        rows, cols = slice(0, min(side, ref.height)), slice(0, min(side, ref.width))
        for _, tile in read_frames(source, (ref,), rows, cols):
            if isinstance(tile, Unreadable):
                break
            pad = [(0, -n % segmenter.stride) for n in tile.pixels.shape[:2]]
            pixels = np.pad(tile.pixels[None], [(0, 0), *pad, (0, 0)], mode="reflect")
            try:
                return asked.probed_outputs(segmenter.segment(pixels))
            except Exception as error:
                raise SegengineError(
                    f"segmenter.kind: {job.segmenter.kind} fails on a window of {ref.name}: "
                    f"{retry_of(error).reason}"
                ) from error
    return None
