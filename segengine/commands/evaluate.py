"""Metrics of a finished store against other or corrected truth, without segmenting again."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from segengine.ahead import each_of
from segengine.dispatch import clusters
from segengine.dispatch.pool import InProcess, Pool
from segengine.errors import JobError
from segengine.guards.trust import code_in, named_by_store, refuse_forbidden, trusting
from segengine.job import Job, TruthSpec, checked_evaluate
from segengine.measuring.corrected import UNCORRECTED
from segengine.measuring.measures import asked_for
from segengine.planning.plan import stored_plan
from segengine.planning.stored import stored_job
from segengine.reader import Store, open_store
from segengine.report import build
from segengine.stages import publish, tables
from segengine.stages.aggregate import Measurer, measurer
from segengine.stages.metrics_json import lines, unknown_labels, unmeasured
from segengine.store.blobs import Writer
from segengine.store.keys import pack_key
from segengine.store.lock import run_lock
from segengine.store.records import RecordLog
from segengine.store.seals import SealedObjects, damage_notices

FEW = 16
"""Shards below which local workers are not worth their start."""
FIRST = 3
"""Reasons that an error names."""


@dataclass(frozen=True, slots=True)
class EvaluateReport:
    """What `evaluate` measured."""

    store: str
    metrics: Mapping[str, Any]
    measured: int
    """Shards and frames measured by this call; the others had records that hold."""
    notices: tuple[str, ...] = ()
    """What of the store is damaged."""
    left_out: tuple[str, ...] = ()
    """What the store's own job names and was not used: it is not trusted."""

    @property
    def exit_code(self) -> int:
        """Always 0: missing truth is a figure, not a failure."""
        return 0

    def as_json(self) -> Mapping[str, Any]:
        """What `--json` prints: `metrics.json` as it is."""
        return self.metrics

    def lines(self) -> tuple[str, ...]:
        """Text for a terminal."""
        found = [f"{self.store}: {self.measured} shards and frames measured"]
        found += [f"not used, without --trust: {what}" for what in self.left_out]
        found += lines(self.metrics) + unmeasured(self.metrics) + unknown_labels(self.metrics)
        missing = list(self.metrics.get("missing_truth", []))
        left = [m for m in missing if UNCORRECTED in m["reason"]]
        if left:  # most frames are, and it is no mistake of theirs
            missing = [m for m in missing if UNCORRECTED not in m["reason"]]
            found.append(f"{len(left):,} frames are not scored: {UNCORRECTED} (segengine review)")
        if missing:
            found.append(f"{len(missing)} frames have no usable truth and are not scored:")
            found += [f"  {m['name']}: {m['reason']}" for m in missing]
        return (*found, *self.notices)


def evaluate(
    path: str,
    truth: TruthSpec | None = None,
    evaluate: Mapping[str, Any] | None = None,
    trust: bool | None = None,
) -> EvaluateReport:
    """Measure what has no current measure record, merge, write `metrics.json` and the report.

    `truth`: instead of the job's and of what was put right by hand, which else prevails over the
    job's; `evaluate`: metrics and losses instead of the job's. Nothing is
    segmented. The work goes to the job's cluster where it is much; what a killed call has
    measured is not measured again. Takes the store's lock. `trust`: code that the store's own job
    names may be used; without it what needs that is not measured. Raises JobError,
    StoreLockedError.
    """
    store = open_store(path, trust)
    blocks: dict[str, Any] = {}
    if truth is not None:
        blocks["truth"] = truth.model_dump()
    if evaluate is not None:
        blocks["evaluate"] = checked_evaluate(evaluate)
    refuse_forbidden(blocks)
    own = code_in(blocks).values()
    fsync = store.job.get("faults", {}).get("fsync") is not False
    with (
        trusting(store.trust),
        named_by_store(own=own),
        run_lock(store.objects.base.by(Writer(fsync))) as lock,
    ):
        return _evaluated(store, SealedObjects(lock.objects, heals=True), blocks)


def _evaluated(store: Store, objects: SealedObjects, blocks: Mapping[str, Any]) -> EvaluateReport:
    stored = stored_job(store.attributes, blocks=blocks)
    job = stored.job
    published = objects.published
    plan = stored_plan(job, objects)
    corrected = "truth" not in blocks
    measures = measurer(job, objects, plan.layouts, plan.arrays, plan.plugin, corrected)
    if measures is None:
        raise JobError(
            f"{store.path}: nothing to measure against; give --truth, or metrics that need none"
        )
    strange = any(":" in one.name for one, _ in measures.spec.unmet)  # code that may not be used
    if "evaluate" in blocks or strange:
        _require_any(store.path, job, measures)
    stale = measures.stale()
    with _pool(job, len(stale)) as pool:
        for _ in measures.measure(pool, job.faults, stale):
            pass
    log = RecordLog(objects)
    figures = {
        scene: tables.scene_figures(plan, scene, records)
        for batch in log.together(plan.counts)
        for scene, records in batch.items()
    }
    metrics = publish.write_metrics(plan, figures, measures)
    singles = log.scenes()[0] & set(plan.layouts) if published else set()
    # Drafts that a night has left to the next one lie there too.
    singles = {scene for scene in singles if not log.has_drafts(scene)}
    objects.open(map(pack_key, singles))
    each_of(singles, log.write_pack, objects.root)
    objects.commit(published)
    each_of(singles, log.clear, objects.root)
    build(objects.root, objects.writer, **publish.unshown(plan, measures))
    return EvaluateReport(
        store.path,
        metrics,
        len(stale),
        tuple(damage_notices(objects)),
        stored.left_out,
    )


def _require_any(path: str, job: Job, measures: Measurer) -> None:
    """Raise JobError where nothing that was asked for applies: what was measured before stays then."""
    wanted = {(one.group, one.name) for one in asked_for(job.evaluate.model_dump(mode="json"))}
    spec = measures.spec
    flat = all(layout.slices is None for layout in measures.layouts.values())
    lost = {m.asked for m in spec.measures if flat and spec.folds[m.fold].volume}
    if any((one.group, one.name) in wanted for one in spec.asked if one not in lost):
        return
    unmet = (*spec.unmet, *((one, "needs volumes, and there are none") for one in lost))
    told = "; ".join(f"{one.key} {reason}" for one, reason in unmet[:FIRST])
    more = f"; and {len(unmet) - FIRST} more" if len(unmet) > FIRST else ""
    raise JobError(f"{path}: nothing that was asked for can be measured: {told}{more}")


def _pool(job: Job, tasks: int) -> AbstractContextManager[Pool]:
    """The job's cluster, or this process where starting workers would take longer."""
    if tasks < FEW and job.cluster.kind == "local":
        return nullcontext(InProcess())
    return clusters.open_pool(job.cluster, tasks)
