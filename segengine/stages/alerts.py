"""Figures that pass a limit of the job's, shift from what they were, or come to another level."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from segengine.progress import Alert
from segengine.stages.changes import MOST, new_change
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
        if value is None or not is_number(value):
            unknown.append(spec.figure)
            continue
        if spec.change:
            values = history.values(spec.figure, MOST - 1)
            change = new_change([*values, float(value)])
            if change is not None:
                found.append(Alert(spec.figure, float(value), change.before, "change: true"))
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


def not_yet(specs: Iterable[AlertSpec], history: History, classes: Sequence[str]) -> Iterator[str]:
    """A line on figures that alerts name and that no run before has had, nor will, so far as that is known.

    Before its first run a store has areas of its classes; other figures are told of when it ends.
    """
    row = history.last[-1] if history.last else None
    if row is None:
        known = {f"area.{name}" for name in (*classes, "void")}
        told = [s.figure for s in specs if s.figure.startswith("area.") and s.figure not in known]
        if told:
            yield (
                f"alerts: there will be no figure {', '.join(dict.fromkeys(told))}; areas are "
                f"{', '.join(sorted(known))}"
            )
        return
    told = [spec.figure for spec in specs if not is_number(row.get(spec.figure))]
    if told:
        yield (
            f"alerts: the last run had no figure {', '.join(dict.fromkeys(told))}; tables/runs.parquet "
            "has those that there are, a column each"
        )


def is_number(value: Any) -> bool:
    """Whether a figure can be compared."""
    return isinstance(value, int | float) and not isinstance(value, bool)


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
