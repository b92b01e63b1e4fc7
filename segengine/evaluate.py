"""Metrics of a finished store against other or corrected truth, without segmenting again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from segengine import cluster, publish
from segengine.dispatch import InProcess, Pool
from segengine.errors import JobError
from segengine.figures import lines, unmeasured
from segengine.job import Job, TruthSpec
from segengine.lock import run_lock
from segengine.measure import measurer
from segengine.objects import Writer
from segengine.plan import stored_plan
from segengine.records import RecordLog, pack_key
from segengine.report import build
from segengine.seals import SealedObjects, damage_notices
from segengine.store import open_store

FEW = 16
"""Shards below which local workers are not worth their start."""


@dataclass(frozen=True, slots=True)
class EvaluateReport:
    """What `evaluate` measured."""

    store: str
    metrics: Mapping[str, Any]
    measured: int
    """Shards and frames measured by this call; the others had records that hold."""
    notices: tuple[str, ...] = ()
    """What of the store is damaged."""

    @property
    def exit_code(self) -> int:
        """Always 0: missing truth is a figure, not a failure."""
        return 0

    def lines(self) -> tuple[str, ...]:
        """Text for a terminal."""
        found = [f"{self.store}: {self.measured} shards and frames measured"]
        found += lines(self.metrics) + unmeasured(self.metrics)
        missing = self.metrics.get("missing_truth", [])
        if missing:
            found.append(f"{len(missing)} frames have no usable truth and are not scored:")
            found += [f"  {m['name']}: {m['reason']}" for m in missing]
        return (*found, *self.notices)


def evaluate(
    path: str, truth: TruthSpec | None = None, evaluate: Mapping[str, Any] | None = None
) -> EvaluateReport:
    """Measure what has no current measure record, merge, write `metrics.json` and the report.

    `truth`: instead of the job's; `evaluate`: metrics and losses instead of the job's. Nothing is
    segmented. The work goes to the job's cluster where it is much; what a killed call has
    measured is not measured again. Takes the store's lock. Raises JobError, StoreLockedError.
    """
    store = open_store(path)
    blocks: dict[str, Any] = {**store.attributes["job"]}
    if truth is not None:
        blocks["truth"] = truth.model_dump()
    if evaluate is not None:
        blocks["evaluate"] = dict(evaluate)
    job = Job.model_validate(blocks)
    with run_lock(store.objects.base.by(Writer(job.faults.fsync))) as lock:
        objects = SealedObjects(lock.objects, heals=True)
        published = objects.published
        plan = stored_plan(job, objects)
        measures = measurer(plan.job, objects, plan.layouts, plan.arrays, plan.plugin)
        if measures is None:
            raise JobError(
                f"{path}: nothing to measure against; give --truth, or metrics that need none"
            )
        stale = measures.stale()
        with _pool(job, len(stale)) as pool:
            for _ in measures.measure(pool, job.faults, stale):
                pass
        log = RecordLog(objects)
        figures = {
            scene: publish.scene_figures(log, layout, plan.classes)
            for scene, layout in plan.layouts.items()
        }
        metrics = publish.write_metrics(plan, figures, measures)
        singles = log.scenes()[0] & set(plan.layouts) if published else set()
        objects.open(map(pack_key, singles))
        for scene in singles:
            log.write_pack(scene)
        objects.commit(published)
        for scene in singles:
            log.clear(scene)
        build(objects.root, objects.writer, **publish.unshown(plan, measures))
        notices = tuple(damage_notices(objects))
    return EvaluateReport(store.path, json.loads(json.dumps(metrics)), len(stale), notices)


def _pool(job: Job, tasks: int) -> AbstractContextManager[Pool]:
    """The job's cluster, or this process where starting workers would take longer."""
    if tasks < FEW and job.cluster.kind == "local":
        return nullcontext(InProcess())
    return cluster.open_pool(job.cluster, tasks)
