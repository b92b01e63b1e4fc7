"""Metrics of a finished store against other or corrected truth, without segmenting again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from segengine import publish
from segengine.dispatch import InProcess
from segengine.job import Job, TruthSpec
from segengine.lock import run_lock
from segengine.measure import Measurer, MetricSpec
from segengine.plan import stored_plan
from segengine.records import RecordLog
from segengine.report import build
from segengine.store import open_store


@dataclass(frozen=True, slots=True)
class EvaluateReport:
    """What `evaluate` measured."""

    store: str
    metrics: Mapping[str, Any]
    measured: int
    """Shards measured by this call; the others had records that hold."""

    @property
    def exit_code(self) -> int:
        """Always 0: missing truth is a figure, not a failure."""
        return 0

    def lines(self) -> tuple[str, ...]:
        """Text for a terminal."""
        found = [f"{self.store}: {self.measured} shards measured"]
        for name, value in self.metrics["overall"].items():
            if isinstance(value, float):
                found.append(f"{name:28} {value:.6f}")
        for name, row in self.metrics["overall"].get("classes", {}).items():
            figures = ", ".join(f"{k} {v:.4f}" for k, v in row.items() if isinstance(v, float))
            found.append(f"  {name}: {figures}")
        missing = self.metrics.get("missing_truth", [])
        if missing:
            found.append(f"{len(missing)} frames have no usable truth and are not scored:")
            found += [f"  {m['name']}: {m['reason']}" for m in missing]
        return tuple(found)


def evaluate(
    path: str, truth: TruthSpec, evaluate: Mapping[str, Any] | None = None
) -> EvaluateReport:
    """Measure what has no current measure record, merge, write `metrics.json` and the report.

    Takes the store's lock. Raises JobError, StoreLockedError.
    """
    store = open_store(path)
    objects = store.objects
    job = Job.model_validate({**store.attributes["job"], "truth": truth.model_dump()})
    with run_lock(objects):
        published = objects.get(publish.PUBLISHED) is not None
        plan = stored_plan(job, objects)
        spec = MetricSpec.of(
            dict(evaluate or job.evaluate.model_dump(mode="json")), truth, plan.plugin.classes
        )
        measurer = Measurer(objects, plan.layouts, plan.arrays, truth, spec)
        stale = measurer.stale()
        for _ in measurer.measure(InProcess(), job.faults, stale):
            pass
        log = RecordLog(objects)
        figures = {
            scene: publish.scene_figures(log, layout, plan.classes)
            for scene, layout in plan.layouts.items()
        }
        metrics = publish.write_metrics(plan, figures, measurer)
        build(objects.root)
        singles, _ = log.scenes()
        for scene in plan.layouts:
            if published and scene in singles:
                log.pack(scene)
    return EvaluateReport(store.path, json.loads(json.dumps(metrics)), len(stale))
