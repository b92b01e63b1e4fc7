"""What the report says, as plain values for its template."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from importlib.metadata import version
from itertools import islice
from typing import TYPE_CHECKING, Any

from segengine.ahead import requested
from segengine.pictures import draw
from segengine.pictures.view import matching
from segengine.reader import Store
from segengine.report import _charts, _counts, _gallery, _measures, _since
from segengine.report._asked import asked, job_text
from segengine.report._format import moment
from segengine.report._trends import trends
from segengine.store.columns import arrow_column, arrow_scalar, counted
from segengine.store.kinds import LOST
from segengine.store.layouts import load_unplaced
from segengine.store.runs import History
from segengine.urls import public, public_values

if TYPE_CHECKING:
    import pyarrow as pa

FAILED = ("corrupt", "error", "crash", "hang", LOST)
SCENES = 500
"""Rows of the scene table."""
PARTS = 12
"""Classes drawn of each scene, the largest ones."""
CLASSES = 200
"""Rows of classes."""
MISSING = 1000
"""Frames listed as without truth."""
LEFT = 1000
"""Frames listed as left to a later run."""
QUARANTINED = 1000
"""Frames in quarantine listed."""
MATRIX = 40
"""Classes up to which the confusion matrix is drawn."""
FITS = 24
"""Fits shown."""
SAMPLED = 20
"""Scenes whose records are asked who made them."""
_RATIOS = ("precision", "recall", "iou", "dice")


def content(store: Store, runs: pa.Table | None = None) -> dict[str, Any]:
    """The values of every section; `runs`: as `build`. Raises StoreError before the first publish."""
    import pyarrow.compute as pc

    metrics, job = store.metrics, public_values(store.job)
    frames, shards = store.frames, store.shards
    status = _by_status(frames)
    colors = [tuple(c) for c in store.attributes["colors"]]
    names = list(store.classes)
    truth = _truth(metrics, names)
    runs = History.read(store.objects).table if runs is None else runs
    waiting = [u for u in load_unplaced(store.objects) if u.waits]
    counts, count = _counts.counts(store)
    return {
        "name": job.get("name", "segengine"),
        "path": public(store.path),
        "segmenter": job["segmenter"]["kind"],
        "asked": asked(job),
        "run": _since.last_run(runs),
        "worked": _since.worked_on(runs, frames, shards),
        "area_changes": _since.area_changes(runs),
        "version": version("segengine"),
        "written": moment(time.time()),
        "status": status,
        "failed": sum(status.get(s, 0) for s in FAILED),
        "frames": sum(status.values()),
        "shards": shards.num_rows,
        "scene_count": pc.count_distinct(frames.column("scene")).as_py(),
        "throughput": metrics.get("throughput", {}),
        "classes": list(zip(names, colors, strict=True)),
        "truth": truth,
        "measures": _measures.measures(metrics),
        "side": _measures.SIDE,
        "areas": _areas(metrics.get("areas", {}), dict(zip(names, colors, strict=True))),
        "inertia": metrics.get("inertia"),
        "agreement": metrics.get("label_agreement"),
        "cut": metrics.get("cut_instances", {}).get("count", 0),
        "unsplit": metrics.get("unsplit_instances", {}).get("count", 0),
        "errors": {"wrong": draw.WRONG, "missing": draw.UNLABELLED},
        "missing": public_values(metrics.get("missing_truth", [])[:MISSING]),
        "missing_count": len(metrics.get("missing_truth", [])),
        "scenes": _scenes(metrics.get("scenes", {}), frames, colors, names, truth is not None),
        "quarantine": _quarantine(frames),
        "waiting": public_values([{"name": u.name, "reason": u.reason} for u in waiting[:LEFT]]),
        "waiting_count": len(waiting),
        "groups": [],
        "counts": counts,
        "counts_count": count,
        "chart": _charts.throughput(shards),
        "trends": trends(runs),
        "left": _left(frames),
        "fits": [_fit(fit) for fit in metrics.get("fits", [])[:FITS]],
        "fit_count": len(metrics.get("fits", [])),
        "provenance": _provenance(store),
        "fingerprint": store.attributes.get("fingerprints", {}).get("job", ""),
        "weights": store.attributes.get("fingerprints", {}).get("weights", ""),
        "job": job_text(job),
    }


def with_pictures(store: Store, values: Mapping[str, Any], room: int) -> dict[str, Any]:
    """The same with the gallery, whose pictures take no more bytes than there is `room`."""
    truth = values["truth"]
    cards = _gallery.gallery(
        store, store.frames, None if truth is None else truth["matching"], room
    )
    over = {layer["title"] for card in cards for layer in card["layers"][1:]}
    return {
        **values,
        "groups": _gallery.by_scene(cards),
        "first": cards[0] if cards else None,
        "shown": len(cards),
        "layers": [title for title in _gallery.LAYERS if title in over],
    }


def _by_status(frames: Any) -> dict[str, int]:
    counts = frames.column("status").value_counts().to_pylist()
    return {row["values"]: row["counts"] for row in sorted(counts, key=lambda r: -r["counts"])}


def _quarantine(frames: Any) -> list[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.compute as pc

    status, done = frames.column("status"), arrow_scalar("done", pa.string())
    failed = pc.is_in(status, arrow_column(FAILED, pa.string()))
    # Of what could not be looked at the mask of an earlier run stays, with the reason.
    held = pc.and_(
        pc.equal(status, done), pc.not_equal(frames.column("reason"), arrow_scalar("", pa.string()))
    )
    chosen = frames.filter(pc.or_kleene(failed, held))
    columns = ["name", "scene", "frame", "status", "reason"]
    rows = [
        row | {"status": "error" if row["status"] == "done" else row["status"]}
        for row in chosen.slice(0, QUARANTINED).select(columns).to_pylist()
    ]
    found: list[dict[str, Any]] = public_values(rows)
    return found


def _left(frames: Any) -> dict[str, Any] | None:
    """Frames that are left to a later run; None where there are none."""
    import pyarrow as pa
    import pyarrow.compute as pc

    chosen = frames.filter(pc.equal(frames.column("status"), arrow_scalar("pending", pa.string())))
    if not chosen.num_rows:
        return None
    named = chosen.slice(0, LEFT).select(["name", "scene"]).to_pylist()
    return {"count": chosen.num_rows, "rows": public_values(named)}


def _truth(metrics: Mapping[str, Any], names: list[str]) -> dict[str, Any] | None:
    """Figures against truth; None where there are none."""
    overall, confusion = metrics.get("overall") or {}, metrics.get("confusion")
    if not overall or not confusion:
        return None
    truths = confusion["rows"]
    pairs = matching(names, truths, metrics.get("matching"))
    of = {t: names[p] for p, t in pairs.items() if t is not None}
    classes = [
        {"name": name, "label": of.get(i), **overall["classes"][name]}
        for i, name in enumerate(truths[:CLASSES])
    ]
    means = [
        {"name": title, **{r: overall.get(f"{prefix}_{r}") for r in _RATIOS}}
        for title, prefix in (
            ("mean of the classes", "mean"),
            ("weighted by true pixels", "frequency_weighted"),
        )
    ]
    known = {"classes", "pixel_accuracy"} | {
        f"{prefix}_{r}" for prefix in ("mean", "frequency_weighted") for r in _RATIOS
    }
    other = {k: v for k, v in overall.items() if k not in known and isinstance(v, float)}
    return {
        "accuracy": overall.get("pixel_accuracy"),
        "iou": overall.get("mean_iou"),
        "classes": classes,
        "means": means,
        "other": other,
        "matching": pairs,
        "renamed": metrics.get("matching") or {},
        "corrected": metrics.get("corrected_frames", 0),
        "matrix": _matrix(confusion, pairs) if len(truths) <= MATRIX >= len(names) else None,
    }


def _matrix(confusion: Mapping[str, Any], pairs: Mapping[int, int | None]) -> dict[str, Any]:
    """Rows with each cell's share of its row; columns in the order of what they are matched to."""
    last = len(confusion["rows"])
    order = sorted(pairs, key=lambda p: (last if pairs[p] is None else pairs[p], p))
    columns = [*order, len(pairs)]  # void at the end
    rows = []
    for t, (name, counts) in enumerate(zip(confusion["rows"], confusion["counts"], strict=True)):
        total = sum(counts)
        cells = [
            {
                "count": counts[c],
                "share": counts[c] / total if total else None,
                "right": pairs.get(c) == t,
            }
            for c in columns
        ]
        rows.append({"name": name, "total": total, "cells": cells})
    return {"columns": [confusion["columns"][c] for c in columns], "rows": rows}


def _areas(areas: Mapping[str, Any], colors: Mapping[str, tuple[int, ...]]) -> list[dict[str, Any]]:
    total = sum(a["pixels"] for a in areas.values())
    return [
        {
            "name": name,
            "color": colors.get(name),
            "share": area["pixels"] / total if total else 0.0,
            **area,
        }
        for name, area in areas.items()
        if area["pixels"] or name != "void"
    ]


def _scenes(
    figures: Mapping[str, Any],
    frames: Any,
    colors: list[tuple[int, ...]],
    names: list[str],
    measured: bool,
) -> list[dict[str, Any]]:
    """One row a scene: the worst first where there is truth, else those with failed frames."""
    counts: dict[str, dict[str, int]] = {}
    for (scene, status), count in counted(frames, ("scene", "status")).items():
        if scene is not None:
            counts.setdefault(scene, {})[status] = count
    rows = []
    for name, by_status in counts.items():
        own = figures.get(name, {})
        areas = own.get("areas", {})
        pixels = {n: areas.get(n, {}).get("pixels", 0) for n in [*names, "void"]}
        total = sum(pixels.values())
        bar = [
            {"name": n, "color": color, "share": pixels[n] / total}
            for n, color in zip([*names, "void"], [*colors, None], strict=True)
            if pixels[n]
        ]
        if len(bar) > PARTS:
            bar = sorted(bar, key=lambda part: -part["share"])[:PARTS]
        rows.append(
            {
                "name": name,
                "frames": sum(by_status.values()),
                "failed": sum(by_status.get(s, 0) for s in FAILED),
                "pixels": total - pixels["void"],
                "bar": bar,
                "accuracy": own.get("pixel_accuracy"),
                "iou": own.get("mean_iou"),
            }
        )

    def key(row: dict[str, Any]) -> tuple[Any, ...]:
        iou = row["iou"]
        rank = (2.0 if iou is None else iou) if measured else 0.0
        return rank, -row["failed"], row["name"]

    return sorted(rows, key=key)[:SCENES]


def _fit(fit: Mapping[str, Any]) -> dict[str, Any]:
    known = ("name", "frames", "digest", "colors", "centres")
    centres = fit.get("centres") or [None] * len(fit.get("colors", []))
    chips = list(zip(fit.get("colors", []), centres, strict=False))
    values = {k: v for k, v in fit.items() if k not in known}
    return {"name": fit["name"], "frames": fit.get("frames"), "chips": chips, "values": values}


def _provenance(store: Store) -> list[dict[str, Any]]:
    """Who made the masks: each host once, from the first records of some scenes."""
    names = list(store.scenes)
    step = max(1, len(names) // SAMPLED)

    def made(name: str) -> dict[str, None]:
        records = islice(store.records(name, "mask"), 1000)
        return {record.provenance: None for record in records if record.provenance}

    found: dict[str, None] = {}
    for texts in requested(names[::step], made, store.objects.root):
        found |= texts
    return [json.loads(text) for text in found]
