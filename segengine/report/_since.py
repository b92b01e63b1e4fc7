"""What the last run did, and what it changed against the run before: by `runs.parquet` and the shards."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from segengine.report._format import moment
from segengine.store.columns import arrow_scalar
from segengine.urls import public

FRAMES = (
    ("frames.done", "done"),
    ("frames.failed", "in quarantine"),
    ("frames.left", "left to do"),
    ("frames.gone", "whose input has vanished"),
)
FIGURES = {
    "mean_iou": "mean IoU",
    "pixel_accuracy": "pixel accuracy",
    "mean_dice": "mean Dice",
    "mean_pq": "mean panoptic quality",
    "inertia": "inertia",
}
"""Figures told where both runs have them, with their names for a reader."""
STAGES = ("plan", "survey", "segment", "stitch", "aggregate", "publish")
NAMED = 200
"""Frames worked on that are named."""
_SHARDS = 100
"""Shards looked into for that."""


def last_run(runs: pa.Table | None) -> dict[str, Any] | None:
    """When the last run began, what it did, and what it took; None where no run has a row."""
    if runs is None or not runs.num_rows:
        return None
    row, before = _row(runs, -1) or {}, _row(runs, -2)
    return {
        "started": moment(row["started"]),
        "before": None if before is None else moment(before["started"]),
        "number": runs.num_rows,
        "seconds": row["seconds"],
        "computed": row["computed"],
        "pixels": row["pixels"],
        "rate": row["rate"],
        "version": row["version"],
        "old_version": _changed(before, row, "version"),
        "frames": [
            _compared(name, text, row, before)
            for name, text in FRAMES
            if name == "frames.done" or row[name] or (before or {}).get(name)
        ],
        "figures": [
            _compared(name, text, row, before)
            for name, text in FIGURES.items()
            if row.get(name) is not None
        ],
        "alerts": row["alerts"] or [],
        "stages": _stages(row, before),
    }


def area_changes(runs: pa.Table | None) -> dict[str, int]:
    """By class, pixels more or less than after the run before; of one run, none."""
    if runs is None or runs.num_rows < 2:
        return {}
    row, before = _row(runs, -1) or {}, _row(runs, -2) or {}
    return {
        name.removeprefix("area."): value - (before.get(name) or 0)
        for name, value in row.items()
        if name.startswith("area.") and value is not None
    }


def worked_on(runs: pa.Table | None, frames: pa.Table, shards: pa.Table) -> dict[str, Any]:
    """Frames of the shards that the last run has ended: how many, in how many scenes, and the first
    of them by name."""
    import pyarrow.compute as pc

    if runs is None or not runs.num_rows:
        return {"frames": 0, "scenes": 0, "rows": []}
    ended = pc.greater_equal(shards.column("finished"), runs.column("started")[-1])
    boxes = shards.filter(ended).select(["scene", "box"]).to_pylist()
    spans = dict.fromkeys((row["scene"], row["box"][0], row["box"][3]) for row in boxes)
    return {
        "frames": sum(stop - start for _, start, stop in spans),
        "scenes": len({scene for scene, _, _ in spans}),
        "rows": _named(list(spans)[:_SHARDS], frames),
    }


def _named(spans: list[tuple[str, int, int]], frames: pa.Table) -> list[dict[str, Any]]:
    import pyarrow.compute as pc

    found: list[dict[str, Any]] = []
    for scene, start, stop in spans:
        if len(found) >= NAMED:
            break
        inside = pc.and_(
            pc.equal(frames.column("scene"), arrow_scalar(scene, pa.string())),
            pc.and_(
                pc.greater_equal(frames.column("frame"), arrow_scalar(start, pa.int64())),
                pc.less(frames.column("frame"), arrow_scalar(stop, pa.int64())),
            ),
        )
        rows = frames.filter(inside).slice(0, NAMED - len(found))
        found += rows.select(["name", "scene", "status"]).to_pylist()
    return [{**row, "name": public(row["name"])} for row in found]


def _row(runs: pa.Table, at: int) -> dict[str, Any] | None:
    """A run's row, from the end; None where there are not so many."""
    if runs.num_rows < -at:
        return None
    row: dict[str, Any] = runs.slice(runs.num_rows + at, 1).to_pylist()[0]
    return row


def _changed(before: Mapping[str, Any] | None, row: Mapping[str, Any], name: str) -> Any:
    """What a column was, where it was something else."""
    return None if before is None or before[name] == row[name] else before[name]


def _compared(
    name: str, text: str, row: Mapping[str, Any], before: Mapping[str, Any] | None
) -> dict[str, Any]:
    value, old = row.get(name), None if before is None else before.get(name)
    change = None if value is None or old is None else value - old
    return {"name": text, "value": value, "old": old, "change": change}


def _stages(row: Mapping[str, Any], before: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Seconds of each stage, as shares of all of them."""
    took = {stage: row.get(f"seconds.{stage}") or 0.0 for stage in STAGES}
    longest = max(took.values()) or 1.0
    return [
        {
            "name": stage,
            "seconds": seconds,
            "share": seconds / longest,
            "old": None if before is None else before.get(f"seconds.{stage}"),
        }
        for stage, seconds in took.items()
    ]
