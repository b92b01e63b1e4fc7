"""What a job asks of inputs that they cannot give: told before a pixel is labelled."""

from __future__ import annotations

import os
from collections.abc import Mapping

import numpy as np

from segengine import asked
from segengine.errors import JobError, SegengineError, UntrustedError
from segengine.guards.trust import UNTRUSTED, is_code
from segengine.job import Job
from segengine.store.layouts import Layout


def check_readers(job: Job, layouts: Mapping[str, Layout]) -> None:
    """Raise UntrustedError where a scene in the store names code that reads it, and not the job's."""
    for layout in layouts.values():
        if is_code(layout.kind) and layout.kind != job.source.kind and not job.trust:
            raise UntrustedError(
                f"store.path: scene {layout.scene} is read by {layout.kind}, which {UNTRUSTED}; "
                "name it in source.kind, or write to a new store.path"
            )


def check_prompts(job: Job) -> None:
    """Raise JobError where a network is asked for the objects of the very store that it would write."""
    asked_of = job.segmenter.options.get("prompts")
    if isinstance(asked_of, str) and _place(asked_of) == _place(job.store.path):
        raise JobError(
            "segmenter.prompts: is the store that the job writes; write to a new store.path"
        )


def _place(path: str) -> str:
    return path.rstrip("/") if "://" in path else os.path.realpath(path)


def check_layouts(job: Job, layouts: Mapping[str, Layout], whole: bool) -> None:
    """Raise JobError for scenes that cannot be labelled, SegengineError for one that is too large.

    `whole`: frames are labelled whole.
    """
    _check_pixels(job, layouts)
    _check_resolution(job, layouts)
    for layout in layouts.values() if whole else ():
        if layout.cut:
            raise JobError(
                f"segmenter.kind: {job.segmenter.kind} needs whole frames, and scene {layout.scene} "
                f"is stored in shards of {layout.shard[1]} pixels; write to a new store.path"
            )
        _, height, width = layout.shape
        size = height * width * (layout.bands * np.dtype(layout.dtype).itemsize + 64)
        limit = _worker_memory(job)
        if size > limit:
            raise SegengineError(
                f"scene {layout.scene}: {job.segmenter.kind} needs the whole frame of {height} x "
                f"{width} pixels in memory, about {size / 2**30:.1f} GiB, and a worker has "
                f"{limit / 2**30:.1f} GiB; use fewer workers or smaller scenes"
            )


def _check_pixels(job: Job, layouts: Mapping[str, Layout]) -> None:
    """Raise JobError for scenes that cannot be labelled; of a surveyor, where that is all of them: else
    those fail by name, and the rest goes on."""
    wrong: list[JobError] = []
    for layout in layouts.values():
        try:
            asked.check_pixels(job.plugin, layout.bands, layout.dtype)
        except ValueError as error:
            wrong.append(JobError(f"segmenter.{error} (scene {layout.scene})"))
    if wrong and (len(wrong) == len(layouts) or not asked.surveys(job.plugin)):
        raise wrong[0]


def _check_resolution(job: Job, layouts: Mapping[str, Layout]) -> None:
    """Raise JobError for one that leaves nothing to see."""
    side = job.source.resolution
    if side is not None and layouts and all(la.shape[1:] == (1, 1) for la in layouts.values()):
        raise JobError(
            f"source.resolution: {side} makes one pixel of all that there is; a number is in units of the "
            "CRS, as degrees, and 10 m is metres"
        )


def check_still(job: Job, layouts: Mapping[str, Layout]) -> None:
    """Raise JobError where frames that do not move are to be skipped, and cannot be."""
    if job.still is None:
        return
    if layouts and all(layout.times is None for layout in layouts.values()):
        raise JobError("source.skip.still: source.paths has no video; leave the key out")
    if asked.is_by_name(job.plugin):
        raise JobError(
            f"source.skip.still: {job.segmenter.kind} with these options is asked for other objects in "
            "each frame, by its name: none keeps the mask of another; leave the key out"
        )
    if job.still and asked.scope(job.plugin) == "frame":
        raise JobError(
            f"source.skip.still: {job.segmenter.kind} with these options looks at each frame by "
            "itself: only 0 is possible"
        )


def check_followed(job: Job, layouts: Mapping[str, Layout], outputs: tuple[str, ...]) -> None:
    """Raise JobError where objects are to be followed, and there are none, or nothing they go through."""
    found = list(layouts.values())
    for block, asked_for, through, missing in (
        ("tracks", job.tracks, [la.times is not None for la in found], "no video"),
        ("solids", job.solids, [la.slices is not None for la in found], "no volume"),
    ):
        if asked_for is None:
            continue
        if "instances" not in outputs:
            raise JobError(
                f"{block}: {job.segmenter.kind} finds no objects; set segmenter.instances: components, "
                "or leave the block out"
            )
        if found and not any(through):
            raise JobError(f"{block}: source.paths has {missing}; leave the block out")


def _worker_memory(job: Job) -> float:
    import psutil

    from segengine.cores import cores

    told = job.cluster.worker_bytes
    if told is not None:
        return float(told)
    return float(psutil.virtual_memory().total) / job.cluster.most(cores())
