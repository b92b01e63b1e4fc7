"""The report's trends: how figures went from run to run, a line each, drawn small."""

from __future__ import annotations

import math
from typing import Any

import pyarrow as pa

from segengine.report._format import moment
from segengine.store.runs import is_figure

RUNS = 60
"""Runs drawn, the last ones."""
AREAS = 12
"""Classes drawn, the largest ones."""
NAMES = ("mean_iou", "pixel_accuracy", "mean_dice", "mean_pq", "inertia")
"""Figures drawn where a run has them, beside those that alerts are about."""
ALWAYS = ("frames.done", "frames.failed", "frames.left", "rate")
WIDTH, HEIGHT, EDGE = 240, 36, 4


def trends(runs: pa.Table | None) -> dict[str, Any] | None:
    """What is drawn of a store's runs; None of fewer than two."""
    if runs is None or runs.num_rows < 2:
        return None
    runs = runs.slice(max(0, runs.num_rows - RUNS))
    alerts = [row or [] for row in runs.column("alerts").to_pylist()]
    rows = [
        row
        for name in _chosen(runs, {alert["figure"] for row in alerts for alert in row})
        if (row := _row(name, runs, alerts)) is not None
    ]
    return {
        "rows": rows,
        "runs": runs.num_rows,
        "first": moment(runs.column("started")[0].as_py()),
        "last": moment(runs.column("started")[-1].as_py()),
        "width": WIDTH,
        "height": HEIGHT,
        "alerts": alerts[-1],
    }


def _chosen(runs: pa.Table, alerted: set[str]) -> list[str]:
    names = [field.name for field in runs.schema if is_figure(field)]
    areas = [name for name in names if name.startswith("area.") and name != "area.void"]
    last = {name: runs.column(name)[-1].as_py() or 0 for name in areas}
    largest = sorted(areas, key=lambda name: -last[name])[:AREAS]
    wanted = {*largest, *NAMES, *ALWAYS, *alerted}
    order = [*NAMES, *areas, *ALWAYS]
    rank = {name: i for i, name in reversed(list(enumerate(order)))}
    return sorted((n for n in names if n in wanted), key=lambda n: (rank.get(n, -1), n))


def _row(name: str, runs: pa.Table, alerts: list[list[dict[str, Any]]]) -> dict[str, Any] | None:
    """A figure's line; None where it has not two values."""
    found = runs.column(name).to_pylist()
    points = [(i, float(v)) for i, v in enumerate(found) if v is not None and math.isfinite(v)]
    if len(points) < 2:
        return None
    low, high = min(v for _, v in points), max(v for _, v in points)
    if name.startswith("frames.") and high == 0:
        return None
    span = high - low
    step = (WIDTH - 2 * EDGE) / (len(found) - 1)

    def place(i: int, value: float) -> tuple[str, str]:
        share = (value - low) / span if span else 0.5
        return f"{EDGE + i * step:.1f}", f"{HEIGHT - EDGE - share * (HEIGHT - 2 * EDGE):.1f}"

    fired = {i for i, row in enumerate(alerts) if any(a["figure"] == name for a in row)}
    value, before = points[-1][1], points[-2][1]
    shown: type = int if pa.types.is_integer(runs.schema.field(name).type) else float
    return {
        "name": name,
        "line": "M" + " L".join(",".join(place(i, v)) for i, v in points),
        "dots": [place(i, v) for i, v in points if i in fired],
        "end": place(*points[-1]),
        "value": shown(value),
        "change": (value - before) / abs(before) if before else None,
        "low": shown(low),
        "high": shown(high),
        "alert": len(found) - 1 in fired,
    }
