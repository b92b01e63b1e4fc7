"""Figures that pass a limit of the job's, or shift from what they were in the runs before."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from segengine.progress import Alert
from segengine.store.runs import History
from segengine.terms.nights import AlertSpec

ROUNDING = 1e-9
"""Of a shift: 1.2 is 20 % more than 1, whatever floats say."""


def judged(
    specs: Iterable[AlertSpec], row: Mapping[str, Any], history: History
) -> tuple[list[Alert], list[str]]:
    """The alerts that a run gives, and the figures they name that it does not have."""
    found, unknown = [], []
    for spec in specs:
        value = row.get(spec.figure)
        if isinstance(value, bool) or not isinstance(value, int | float):
            unknown.append(spec.figure)
            continue
        values = history.values(spec.figure)
        for rule, limit in spec.rules.items():
            before = values[-1] if values else None
            if rule == "shift":
                before = statistics.median(values) if values else None
                fires = before is not None and is_shifted(float(value), before, limit)
            else:
                fires = value < limit if rule == "below" else value > limit
            if fires:
                found.append(Alert(spec.figure, float(value), before, f"{rule}: {limit:g}"))
    return found, list(dict.fromkeys(unknown))


def unknown_figures(names: Sequence[str]) -> Iterator[str]:
    """A line on figures that alerts name and that a run does not have."""
    if names:
        yield (
            f"alerts: this run has no figure {', '.join(names)}; tables/runs.parquet has those that there "
            "are, a column each"
        )


def is_shifted(value: float, before: float, share: float) -> bool:
    """Whether a value differs from one before it by a share of that, or more; of 0 by anything."""
    difference = abs(value - before)
    return difference > 0 and difference >= share * abs(before) * (1 - ROUNDING)
