"""What crosses lines and stands in zones, by time, as charts of the report."""

from __future__ import annotations

import csv
import io
from collections import Counter
from typing import Any

import numpy as np

from segengine.reader import Store
from segengine.report._charts import step_chart
from segengine.store.keys import COUNTS
from segengine.terms.quantities import seconds_of

CHARTS = 24
"""Lines and zones drawn."""
_PERIODS = 10_000
"""Of a chart, at most."""


def counts(store: Store) -> tuple[list[dict[str, Any]], int]:
    """A chart of each line and zone of each scene, and how many there are in all.

    Of a line it shows what crosses it in a period, of a zone the mean number inside.
    """
    data = store.objects.get(COUNTS)
    spec = store.job.get("tracks")
    if data is None or spec is None:
        return [], 0
    period = seconds_of(spec.get("period", "1m"))
    found: dict[tuple[str, str, str], list[dict[str, str]]] = {}
    for row in csv.DictReader(io.StringIO(data.decode())):
        found.setdefault((row["scene"], row["kind"], row["name"]), []).append(row)
    charts = [_chart(*key, rows, period) for key, rows in list(found.items())[:CHARTS]]
    return charts, len(found)


def _chart(
    scene: str, kind: str, name: str, rows: list[dict[str, str]], period: float
) -> dict[str, Any]:
    starts = sorted({float(row["start"]) for row in rows})
    first = starts[0]
    length = min(_PERIODS, round((starts[-1] - first) / period) + 1)
    values = np.zeros(length)
    sums: Counter[str] = Counter()
    for row in rows:
        place = min(length - 1, round((float(row["start"]) - first) / period))
        if kind == "line":
            values[place] += int(row["forward"]) + int(row["backward"])
            sums[f"{row['class']} forward"] += int(row["forward"])
            sums[f"{row['class']} backward"] += int(row["backward"])
        else:
            values[place] += float(row["mean"])
            sums[f"{row['class']} entered"] += int(row["entered"])
            sums[f"{row['class']} left"] += int(row["left"])
    return {
        **step_chart(values),
        "scene": scene,
        "kind": kind,
        "name": name,
        "peak": float(values.max()),
        "start": first,
        "stop": starts[-1] + period,
        "sums": {what: count for what, count in sums.items() if count},
    }
