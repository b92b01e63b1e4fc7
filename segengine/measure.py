"""The aggregate stage: measure masks against truth, a record a shard, and merge them exactly.

A measure record is keyed by the mask's checksum, the truth's fingerprints and the metrics' names and
options; one that no longer holds is made again from the stored mask, never by segmenting again.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache, reduce
from typing import Any

import numpy as np

from segengine import registry
from segengine.arrays import ArraySpec, SceneArrays
from segengine.dispatch import Pool, Work
from segengine.errors import JobError, SegengineError
from segengine.fingerprint import digest
from segengine.job import FaultsSpec, TruthSpec
from segengine.layout import Layout
from segengine.objects import Objects, open_objects
from segengine.progress import Progress
from segengine.records import Record, RecordLog
from segengine.store import open_array
from segengine.truth import MissingTruthError, TruthRef, find_truth, load_truth
from segengine.types import FrameRef, Prediction, Window
from segengine.values import decode, encode
from segengine.work import Retry

Place = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """The metrics of a job: names, options, and the classes on both sides."""

    metrics: tuple[tuple[str, str], ...]
    """(name, options as JSON)"""
    classes: tuple[str, ...]
    truth_classes: tuple[str, ...]
    codes: tuple[int, ...] | None = None
    """Pixel values of the truth's classes; None: 0, 1, 2 ..."""
    void: int | None = None
    """Pixel value of the truth that is not scored."""

    @classmethod
    def of(
        cls, evaluate: Mapping[str, Any], truth: TruthSpec, classes: tuple[str, ...]
    ) -> MetricSpec:
        """From the job's `evaluate` and `truth` blocks. Raises JobError for an unknown metric."""
        named = []
        for item in evaluate.get("metrics") or ["confusion"]:
            if isinstance(item, str):
                named.append((item, "{}"))
            else:
                options = dict(item)
                name = str(options.pop("metric", options.pop("name", "")))
                named.append((name, json.dumps(options, sort_keys=True)))
        if evaluate.get("losses"):
            raise JobError("evaluate.losses: no losses are installed in this version")
        codes = None if truth.values is None else tuple(truth.values)
        spec = cls(tuple(named), classes, tuple(truth.classes or classes), codes, truth.void)
        try:
            spec.build()
        except JobError as error:
            raise JobError(f"evaluate.metrics: {error}") from error
        return spec

    def build(self) -> list[Any]:
        """The metrics."""
        return [
            registry.create(
                "metrics",
                name,
                {
                    "classes": self.classes,
                    "truth_classes": self.truth_classes,
                    **json.loads(options),
                },
            )
            for name, options in self.metrics
        ]

    @property
    def key(self) -> str:
        """Digest of names, versions, options and classes, and of how truth's pixels name these."""
        versions = [getattr(m, "version", 1) for m in _metrics(self)]
        sides = [self.classes, self.truth_classes, self.codes, self.void]
        return digest([self.metrics, versions, *sides])


@lru_cache(maxsize=4)
def _metrics(spec: MetricSpec) -> list[Any]:
    return spec.build()


@dataclass(frozen=True, slots=True)
class MeasureTask:
    """Measure one shard's stored mask."""

    store: str
    scene: str
    place: Place
    window: Window
    frames: tuple[FrameRef, ...]
    """Those with a mask."""
    truths: tuple[TruthRef, ...]
    truth: str
    """The job's `truth` block as JSON."""
    metrics: MetricSpec
    mask: ArraySpec
    checksum: str
    """Of the mask."""
    key: str
    had_packed: bool
    attempt: int = 1
    last: bool = False


def measure_shard(task: MeasureTask) -> Record | Retry:
    """States of all metrics for each frame of a shard, committed as one record."""
    started = time.perf_counter()
    try:
        spec = TruthSpec.model_validate_json(task.truth)
        metrics = _metrics(task.metrics)
        mask = open_array(task.store, task.scene, task.mask)
        states: dict[int, list[Any]] = {}
        missing: dict[int, str] = {}
        (_, y0, x0), (_, y1, x1) = task.window.start, task.window.stop
        for ref, truth in zip(task.frames, task.truths, strict=True):
            rows, cols = slice(y0, min(y1, ref.height)), slice(x0, min(x1, ref.width))
            if rows.stop <= rows.start or cols.stop <= cols.start:
                continue
            try:
                labels = load_truth(spec, truth, ref, rows, cols)
            except MissingTruthError as error:
                missing[ref.index] = str(error)
                continue
            prediction = Prediction(np.asarray(mask[ref.index : ref.index + 1, rows, cols]))
            states[ref.index] = [m.update(m.empty(), prediction, labels[None]) for m in metrics]
        payload = base64.b64encode(encode({"states": states, "missing": missing})).decode()
        record = Record(
            "measure",
            task.scene,
            task.place,
            (*task.window.start, *task.window.stop),
            "done",
            " ".join(t.fingerprint or "-" for t in task.truths),
            task.key,
            fit=task.checksum,
            attempts=task.attempt,
            seconds=round(time.perf_counter() - started, 6),
            finished=time.time(),
            payload=payload,
        )
        RecordLog(open_objects(task.store)).write(record)
        return record
    except OSError as error:
        return Retry(f"{type(error).__name__}: {error}")


@dataclass(slots=True)
class Measured:
    """Merged figures of a run."""

    overall: list[Any] = field(default_factory=list)
    """State of each metric."""
    scenes: dict[str, list[Any]] = field(default_factory=dict)
    frames: list[tuple[str, int, list[Any]]] = field(default_factory=list)
    """(scene, frame, state of each metric)"""
    missing: list[tuple[str, int, str]] = field(default_factory=list)
    """(scene, frame, reason)"""


class Measurer:
    """Measures what has no current measure record, and merges all records."""

    def __init__(
        self,
        objects: Objects,
        layouts: Mapping[str, Layout],
        arrays: Mapping[str, SceneArrays],
        truth: TruthSpec,
        spec: MetricSpec,
    ) -> None:
        self.objects, self.layouts, self.arrays = objects, layouts, arrays
        self.truth, self.spec = truth, spec
        self.key = spec.key
        self.log = RecordLog(objects)
        self.current: dict[str, dict[Place, Record]] = {}
        self.computed = 0

    def measure(
        self, pool: Pool, faults: FaultsSpec, stale: list[MeasureTask]
    ) -> Iterator[Progress]:
        """Measure shards; their records are committed by the workers."""
        works = (Work(f"{t.scene}/{t.place}", measure_shard, t) for t in stale)
        for outcome in pool.dispatch(works, retries=faults.retries, deadline=faults.deadline):
            self.computed += 1
            task: MeasureTask = outcome.work.task
            if outcome.status != "done":
                raise SegengineError(
                    f"aggregate: {task.scene} {task.place}: {outcome.status}: {outcome.reason}; "
                    "run again"
                )
            self.current[task.scene][task.place] = outcome.value
            yield Progress("aggregate", self.computed, len(stale))

    def stale(self) -> list[MeasureTask]:
        """Shards with a mask and no measure record that fits mask, truth and metrics."""
        found: list[MeasureTask] = []
        truth_json = self.truth.model_dump_json()
        _, packed = self.log.scenes()
        for scene, layout in self.layouts.items():
            masks: dict[Place, Record] = {}
            measures: dict[Place, Record] = {}
            for record in self.log.read(scene):
                if record.kind == "mask" and record.status == "done":
                    masks[record.shard] = record
                elif record.kind == "measure":
                    measures[record.shard] = record
            current = self.current.setdefault(scene, {})
            truths = self._truths(layout)
            for place, mask in sorted(masks.items()):
                window = layout.window(place)
                lost = {f.frame for f in mask.failures}
                refs = tuple(
                    r for r in layout.frames(window.start[0], window.stop[0]) if r.index not in lost
                )
                here = tuple(truths[r.index] for r in refs)
                old = measures.get(place)
                inputs = " ".join(t.fingerprint or "-" for t in here)
                if old is not None and (old.inputs, old.job, old.fit) == (
                    inputs,
                    self.key,
                    mask.checksum,
                ):
                    current[place] = old
                    continue
                found.append(
                    MeasureTask(
                        self.objects.root,
                        scene,
                        place,
                        window,
                        refs,
                        here,
                        truth_json,
                        self.spec,
                        self.arrays[scene]["mask/0"],
                        mask.checksum,
                        self.key,
                        scene in packed,
                    )
                )
        return found

    def _truths(self, layout: Layout) -> list[TruthRef]:
        frames = layout.frames()
        if any("://" in path for path in self.truth.paths):
            with ThreadPoolExecutor(16) as pool:
                return list(pool.map(lambda r: find_truth(self.truth, r, layout.scene), frames))
        return [find_truth(self.truth, ref, layout.scene) for ref in frames]

    def merge(self) -> Measured:
        """Merge all current records: exactly, in any order."""
        metrics = self.spec.build()
        result = Measured([m.empty() for m in metrics])
        for scene, records in sorted(self.current.items()):
            frames: dict[int, list[Any]] = {}
            missing: dict[int, str] = {}
            for record in records.values():
                body = decode(base64.b64decode(record.payload))
                missing.update(body["missing"])
                for frame, states in body["states"].items():
                    before = frames.get(frame)
                    frames[frame] = (
                        states
                        if before is None
                        else [
                            m.merge(a, b) for m, a, b in zip(metrics, before, states, strict=True)
                        ]
                    )
            total = [
                reduce(m.merge, (states[i] for states in frames.values()), m.empty())
                for i, m in enumerate(metrics)
            ]
            result.scenes[scene] = total
            result.overall = [
                m.merge(a, b) for m, a, b in zip(metrics, result.overall, total, strict=True)
            ]
            result.frames += [(scene, f, states) for f, states in sorted(frames.items())]
            result.missing += [(scene, f, reason) for f, reason in sorted(missing.items())]
        return result
