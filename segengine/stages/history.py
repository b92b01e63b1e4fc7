"""What the store's runs so far tell a run, and what it adds to them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from functools import reduce
from typing import Any

from segengine.store.runs import RUNS_SCHEMA, History
from segengine.worker.sampled import Sampled, added, moments

MOST_FIGURES = 1000
"""Figures of a run that have a column."""


def flat(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The overall figures of `metrics.json` by name, those inside others as `outer.inner`."""
    found = dict(_flat(metrics.get("overall") or {}))
    found |= {f"losses.{name}": value for name, value in _flat(metrics.get("losses") or {})}
    inertia = metrics.get("inertia")
    if isinstance(inertia, float):
        found["inertia"] = inertia
    sure = metrics.get("confidence")
    if sure is not None:
        found["confidence"] = sure["mean"]
    taken = {*RUNS_SCHEMA.names}
    named = ((name, value) for name, value in found.items() if name not in taken)
    return dict(list(named)[:MOST_FIGURES])


def inputs(sampled: Iterable[Sampled]) -> dict[str, float]:
    """Mean and spread of what was segmented, of all bands and, where there are several, of each."""
    bands = moments(reduce(added, sampled, ()))
    if not bands:
        return {}
    mean = math.fsum(band.mean for band in bands) / len(bands)
    square = math.fsum(band.std**2 + band.mean**2 for band in bands) / len(bands)
    found = {"inputs.mean": mean, "inputs.std": math.sqrt(max(0.0, square - mean**2))}
    for number, band in enumerate(bands if len(bands) > 1 else (), 1):
        found |= {f"inputs.{number}.mean": band.mean, f"inputs.{number}.std": band.std}
    return found


def _flat(figures: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, float]]:
    for name, value in figures.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{name}.")
        elif (
            isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        ):
            yield f"{before}{name}", float(value)


def areas(metrics: Mapping[str, Any]) -> dict[str, int]:
    """Pixels of each class, and of void."""
    return {f"area.{name}": area["pixels"] for name, area in metrics.get("areas", {}).items()}


def paces(history: History) -> dict[str, float]:
    """Seconds a pixel by stage, as the last run that knew them measured them."""
    found: dict[str, float] = {}
    for row in history.last:
        for name, value in row.items():
            stage = name.removeprefix("pace.")
            if stage != name and value is not None:
                found[stage] = value / 1e6
    return found


def closed(row: Mapping[str, Any]) -> float:
    """Seconds that a run took to measure and to publish."""
    return math.fsum(row.get(f"seconds.{stage}") or 0.0 for stage in ("aggregate", "publish"))


def closing_seconds(history: History, shards: int) -> float | None:
    """Seconds that measuring and publishing take with so many shards done, by the runs so far.

    A straight line through those with the fewest and the most shards done; of one run alone it goes
    through nothing: what is published takes its time for each.
    """
    known: list[tuple[int, float]] = []
    for row in history.busy:
        took = closed(row)
        if took > 0:
            known.append((row["shards"] - row["left"], took))
    if not known:
        return None
    (few, quick), (many, slow) = min(known), max(known)
    slope = (slow - quick) / (many - few) if many > few else slow / max(1, many)
    longest = max(took for _, took in known)
    return max(longest, slow + max(0.0, slope) * (shards - many))
