"""What runs on workers before the first mask: states of batches of shards, and what is fitted from them."""

from __future__ import annotations

from typing import Any

import numpy as np

from segengine.store.blobs import open_objects
from segengine.store.kinds import FrameFailure
from segengine.store.values import decode, encode
from segengine.worker.attempts import tried
from segengine.worker.fits import store_fit, surveyor_of
from segengine.worker.reading import batches
from segengine.worker.tasks import (
    FitTask,
    Fitted,
    Retry,
    Surveyed,
    SurveyTask,
)


def survey_batch(task: SurveyTask) -> Surveyed | Retry:
    """Survey shards, merge their states, commit the merged state."""
    return tried(lambda: _survey_batch(task))


def _survey_batch(task: SurveyTask) -> Surveyed | Retry:
    first = task.shards[0]
    surveyor = surveyor_of(first.segmenter.kind, first.segmenter.options)
    state: Any = None
    seen: dict[str, None] = {}
    lost: list[tuple[str, FrameFailure]] = []
    pixels = 0
    for shard in task.shards:
        failures: list[FrameFailure] = []
        here: set[int] = set()
        for _, batch in batches(shard, 0, 1, False, failures):
            valid = batch.valid()
            part = surveyor.survey(batch.pixels(), valid)
            state = part if state is None else surveyor.merge(state, part)
            seen.update((f"{shard.scene}\n{r.index}", None) for r in batch.frames)
            here.update(r.index for r in batch.frames)
            pixels += int(np.count_nonzero(valid))
            del batch, valid  # before the next is read: two are in memory as it is
        # A map that lacks a part of one of its scenes is seen all the same.
        lost += [(shard.scene, f) for f in failures if f.frame not in here]
    transient = [f.reason for _, f in lost if f.kind == "error"]
    if transient and not task.last:
        return Retry("; ".join(transient))
    found = Surveyed(task.key, tuple(seen), tuple(lost), pixels)
    objects = open_objects(first.store, first.writer)
    objects.put(task.key, encode({"found": found, "state": state}))
    return found


def fit_states(task: FitTask) -> Fitted | Retry:
    """Merge in the order given, fit, commit."""
    return tried(lambda: _fit_states(task))


def _fit_states(task: FitTask) -> Fitted | Retry:
    objects = open_objects(task.store, task.writer)
    surveyor = surveyor_of(task.segmenter.kind, task.segmenter.options)
    trusted = (type(surveyor).__module__.partition(".")[0],)
    state: Any = None
    for key in task.states:
        data = objects.get(key)
        if data is None:
            return Retry(f"{key}: the survey state is gone from the store")
        part = decode(data, trusted)["state"]
        if part is not None:
            state = part if state is None else surveyor.merge(state, part)
    if state is None:
        return Fitted(task.key, "")
    return Fitted(task.key, store_fit(objects, task.key, surveyor, state, dict(task.about)))
