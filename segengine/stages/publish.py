"""The publish stage: pyramid, colours, tables, metrics.json, report; then records are packed.

Packing comes last: as long as a scene has single records, its publish is not finished, whatever was
killed in between.
"""

from __future__ import annotations

import heapq
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segengine import asked
from segengine.ahead import each_of
from segengine.fingerprint import digest
from segengine.measuring import truth as truths
from segengine.planning.plan import Plan
from segengine.planning.stored import StandIn
from segengine.stages import history, precision
from segengine.stages.aggregate import Measurer
from segengine.stages.budget import Budget
from segengine.stages.metrics_json import WORST, add_figures, text
from segengine.stages.segment import Counts
from segengine.stages.tables import TABLES, SceneFigures, unplaced_failures
from segengine.store.arrays import ArraySpec
from segengine.store.keys import (
    COLORS,
    COUNTS,
    CUT_INSTANCES,
    METRICS,
    UNPLACED,
    WORK,
    fit_key,
    pack_key,
    table_key,
)
from segengine.store.layouts import Unplaced, commit_unplaced
from segengine.store.records import RecordLog
from segengine.store.shardcodec import encode_shard
from segengine.types import CERTAIN
from segengine.urls import public_values
from segengine.worker.fits import read_fit

VERSION = 2
"""Raised when figures of `metrics.json` can change."""
OBJECTS = (*map(table_key, TABLES), COUNTS, METRICS, CUT_INSTANCES)
"""What every publish writes again, beside the report, colours and packs."""


def write_colors(plan: Plan, scenes: Mapping[str, SceneFigures]) -> None:
    """The colours that fits gave their classes, where they differ from what is stored."""
    fitted: dict[str, Any] = {}
    changed: dict[str, bytes] = {}
    for scene, figures in scenes.items():
        arrays = plan.arrays[scene]
        if COLORS not in arrays:
            continue
        spec, colors = arrays[COLORS], _scene_colors(plan, figures, arrays[COLORS], fitted)
        step = spec.shard[0]
        for i in range(0, len(colors), step):
            key = spec.shard_key(scene, (i // step, 0, 0))
            data = encode_shard(colors[i : i + step], spec.shard, spec.chunk, spec.fill)
            if not plan.objects.has(key, data):
                changed[key] = data
    plan.objects.open(changed)
    with plan.objects.together(len(changed)):
        each_of(changed.items(), lambda item: plan.objects.put(*item), plan.objects.root)


def _scene_colors(
    plan: Plan, figures: SceneFigures, spec: ArraySpec, fitted: dict[str, Any]
) -> NDArray[np.uint8]:
    """(frame or 1, class, 3)"""
    void = ((0, 0, 0),) * plan.classes
    if spec.shape[0] == 1 and not figures.colors:
        group = plan.group(figures.layout, 0) or ""
        return np.asarray([_fit_colors(plan, group, fitted) or void], np.uint8)
    rows = []
    for frame in range(spec.shape[0]):
        own = figures.colors.get(frame)
        if own is None and figures.layout.cut:
            group = plan.group(figures.layout, frame) or ""
            own = _fit_colors(plan, group, fitted)
        # A vanished input's may be of an earlier job, with other classes.
        rows.append(own if own is not None and len(own) == len(void) else void)
    return np.asarray(rows, np.uint8)


def _fit_colors(plan: Plan, group: str, known: dict[str, Any]) -> Any:
    if group not in known:
        fit = read_fit(plan.objects, fit_key(group), plan.plugin)
        known[group] = None if fit is None else asked.colors(fit[1])
    return known[group]


def write_metrics(
    plan: Plan,
    scenes: Mapping[str, SceneFigures],
    measurer: Measurer | None,
) -> dict[str, Any]:
    """`metrics.json`: merged figures per class, per scene and overall."""
    classes = list(plan.plugin.classes)
    document: dict[str, Any] = {"version": 1, "classes": classes}
    document["overall"] = {}
    document["scenes"] = {name: {} for name in sorted(scenes)}
    document["frames"] = []
    document["losses"] = {}
    if measurer is not None:
        add_figures(document, measurer, measurer.merge())
    areas = np.zeros(len(classes) + 1, np.int64)
    metres: dict[str, float] = {}
    for name, figures in sorted(scenes.items()):
        areas += figures.areas
        own = figures.metres
        document["scenes"][name]["areas"] = _areas(classes, figures.areas, own)
        for label, area in zip(classes, own or (), strict=False):
            metres[label] = metres.get(label, 0.0) + area
    document["areas"] = {
        label: {"pixels": count, "square_metres": metres.get(label)}
        for label, count in zip([*classes, "void"], areas.tolist(), strict=True)
    }
    sure = _confidence(scenes)
    if sure is not None:
        document["confidence"] = sure
    if isinstance(plan.plugin, StandIn):  # whose fits cannot be read
        before = json.loads(plan.objects.get(METRICS) or b"{}")
        document |= {"inertia": before.get("inertia"), "fits": before.get("fits", [])}
    else:
        document["inertia"] = _inertia(plan, scenes)
        document["fits"] = _fits(plan, scenes)
    document["throughput"] = _throughput(scenes)
    alike = precision.figure(plan)
    if alike is not None:
        document["label_agreement"] = alike
    cut = plan.objects.get(CUT_INSTANCES)
    if cut is not None:
        flagged = "cut_instances" if plan.cleaning is None else "unsplit_instances"
        document[flagged] = json.loads(cut)
    if plan.job.still is not None:
        document["still_frames"] = _still(scenes)
    stored: dict[str, Any] = public_values(_finite(document))
    plan.objects.put(METRICS, json.dumps(stored, indent=1).encode())
    return stored


def _areas(classes: list[str], counts: Any, metres: list[float] | None) -> dict[str, Any]:
    names = [*classes, "void"]
    areas: Sequence[float | None] = metres or [None] * len(counts)
    return {
        label: {"pixels": count, "square_metres": area}
        for label, count, area in zip(names, counts.tolist(), areas, strict=True)
    }


def _confidence(scenes: Mapping[str, SceneFigures]) -> dict[str, Any] | None:
    """Mean probability of the labels, and of each frame, the least sure first; None: not stored."""
    total = pixels = 0
    rows: list[tuple[float, str, int]] = []
    for scene, figures in scenes.items():
        total, pixels = total + int(figures.sure.sum()), pixels + int(figures.told.sum())
        for frame in np.flatnonzero(figures.told).tolist():
            mean = int(figures.sure[frame]) / (CERTAIN * int(figures.told[frame]))
            rows.append((mean, scene, frame))
    if not pixels:
        return None
    frames = [
        {
            "scene": scene,
            "frame": frame,
            "name": text(scenes[scene].layout.frame_name(frame)),
            "confidence": mean,
        }
        for mean, scene, frame in heapq.nsmallest(WORST, rows)
    ]
    return {"mean": total / (CERTAIN * pixels), "frames": frames}


def _inertia(plan: Plan, scenes: Mapping[str, SceneFigures]) -> float | None:
    """Sum of the fits' inertia, where the segmenter has one."""
    own = [value for figures in scenes.values() for value in figures.inertia]
    groups = {plan.group(figures.layout, 0) for figures in scenes.values()} - {None}
    for group in sorted(str(g) for g in groups):
        fit = read_fit(plan.objects, fit_key(group), plan.plugin)
        if fit is not None:
            inertia = asked.inertia(fit[1])
            if inertia is not None:
                own.append(inertia)
    return math.fsum(own) if own else None


def _fits(plan: Plan, scenes: Mapping[str, SceneFigures]) -> list[dict[str, Any]]:
    """The fits that label whole scenes or the run: what was found, and on how many frames."""
    groups = {plan.group(figures.layout, 0) for figures in scenes.values()} - {None}
    found = []
    for group in sorted(str(g) for g in groups)[:WORST]:
        fit = read_fit(plan.objects, fit_key(group), plan.plugin)
        if fit is None:
            continue
        about, segmenter = fit
        entry: dict[str, Any] = {
            "name": group,
            "frames": len(about["inputs"]),
            "digest": about["digest"],
            "colors": [list(c) for c in asked.colors(segmenter)],
        }
        found.append(entry | asked.findings(segmenter))
    return found


def _still(scenes: Mapping[str, SceneFigures]) -> dict[str, int]:
    """Frames of video that no segmenter was asked about, and of how many."""
    videos = [figures for figures in scenes.values() if figures.layout.times is not None]
    return {
        "frames": sum(figures.still for figures in videos),
        "of": sum(figures.layout.shape[0] for figures in videos),
    }


def _throughput(scenes: Mapping[str, SceneFigures]) -> dict[str, Any]:
    pixels = sum(figures.done_pixels for figures in scenes.values())
    seconds = math.fsum(s for figures in scenes.values() for s in figures.done_seconds)
    return {
        "pixels": pixels,
        "worker_seconds": round(seconds, 3),
        "pixels_per_worker_second": round(pixels / seconds) if seconds else None,
    }


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    if isinstance(value, np.generic):
        return _finite(value.item())
    return value


def run_row(
    plan: Plan,
    scenes: Mapping[str, SceneFigures],
    metrics: Mapping[str, Any],
    counts: Counts,
    budget: Budget,
) -> dict[str, Any]:
    """What `tables/runs.parquet` says of a run, but for its times."""
    frames: Counter[str] = Counter()
    for figures in scenes.values():
        frames.update(figures.counts())
    failed = frames.total() - frames["done"] - frames["pending"] - frames["gone"]
    bad = unplaced_failures(plan)
    failed += sum(frame.scene is None for frame in bad)
    return {
        "version": version("segengine"),
        "exit_code": 5 if budget.words else 3 if failed or bad else 0,
        "computed": counts.computed,
        "left": plan.pending,
        "shards": plan.shards,
        "pixels": counts.pixels,
        "frames.done": frames["done"],
        "frames.failed": failed,
        "frames.left": frames["pending"],
        "frames.gone": frames["gone"],
        **history.areas(metrics),
        **history.flat(metrics),
        **history.inputs(figures.sampled for figures in scenes.values()),
        **{f"pace.{stage}": 1e6 * pace for stage, pace in budget.paces.items()},
    }


def unshown(plan: Plan, measurer: Measurer | None) -> dict[str, Any]:
    """What the report needs to see images and truth whose URLs the store holds without credentials."""
    found: dict[str, Any] = {}
    if any(layout.public is not layout for layout in plan.layouts.values()):
        found["layouts"] = plan.layouts
    if measurer is not None and measurer.truth != measurer.shown:
        found["truth"] = measurer.truth
    return found


def published_mark(plan: Plan) -> str:
    """What a finished publish stands for; anything else is to be published."""
    layouts = [
        [la.scene, la.public.uris, la.fingerprints, la.gone.tolist()]
        for la in plan.layouts.values()
    ]
    evaluate = [plan.job.evaluate.model_dump(mode="json"), plan.job.name]
    if plan.job.still is not None:
        evaluate.append({"still": plan.job.still})
    if plan.job.tracks is not None:
        evaluate.append(plan.job.tracks.model_dump(mode="json"))
    if plan.job.solids is not None:
        evaluate.append({"solids": plan.job.solids.model_dump(mode="json")})
    truth = truths.of_job(plan.job.as_json())
    unplaced = [[u.name, u.fingerprint, u.reason] for u in _without_place(plan)]
    return digest([plan.fingerprint, layouts, evaluate, truth, unplaced, VERSION])


def _without_place(plan: Plan) -> tuple[Unplaced, ...]:
    return (*plan.scan.unplaced, *plan.scan.waiting, *plan.scan.beyond)


def finish(plan: Plan, log: RecordLog) -> None:
    """Pack the records of every scene, seal it all, and say that the publish is complete.

    A scene with drafts that a later run decides keeps them, and with them its single records.
    """
    singles, _ = log.scenes()
    drafted = {scene for scene in plan.layouts if has_drafts(plan, scene)}
    done = [scene for scene in plan.layouts if scene in singles and scene not in drafted]
    plan.objects.adopt_all()
    plan.objects.open([UNPLACED, *map(pack_key, done)])
    with plan.objects.together(len(done)):
        each_of(done, log.write_pack, plan.objects.root)
        commit_unplaced(plan.objects, _without_place(plan))
    plan.objects.commit(published_mark(plan))
    with plan.objects.together(len(done)):
        each_of(done, log.clear, plan.objects.root)
    if not drafted:
        plan.objects.delete_tree(WORK)


def has_drafts(plan: Plan, scene: str) -> bool:
    """Whether shards of a scene are drafted, and left for a later run to decide."""
    state = plan.states[scene]
    return plan.drafts(plan.layouts[scene]) and bool(state.pending)
