"""What a run takes by the runs before: what is done again, and what comes beside labelling."""

from __future__ import annotations

import json
import math
import statistics
from typing import Any

from segengine.cores import cores
from segengine.planning.plan import Plan
from segengine.planning.redo import counted
from segengine.stages.history import closed, closing_seconds
from segengine.store.keys import METRICS
from segengine.store.runs import History

LABELLING = ("survey", "segment", "stitch")
"""Stages whose time is each shard's."""


def cost(plan: Plan, history: History) -> str:
    """In words; empty where nothing is done again."""
    shards = sum(redo.shards for redo in plan.redo)
    if not shards:
        return ""
    seconds = _measured(history, shards, plan.shards) or _recorded(plan, shards)
    if seconds is None:
        return f"cost: {counted(shards)} again; no run has measured how long one takes"
    return f"cost: {counted(shards)} again, about {math.ceil(seconds):,} s by the runs before"


def _measured(history: History, shards: int, done: int) -> float | None:
    """By the run that labelled most of the last ones, and what publishing took them."""
    rows = [(row["computed"], _labelling(row)) for row in history.busy]
    computed, took = max(rows, default=(0, 0.0))
    if took <= 0:
        return None
    return took / computed * shards + (closing_seconds(history, done) or 0.0)


def around(history: History, shards: int) -> float | None:
    """Seconds of a run beside labelling: its start and planning, as in the middle of the last runs,
    and measuring and publishing so many shards; None: no run has measured them."""
    closing = closing_seconds(history, shards)
    if closing is None:
        return None
    beside = [(row["seconds"] or 0.0) - _labelling(row) - closed(row) for row in history.busy]
    start = statistics.median(beside)
    return closing + (start if math.isfinite(start) and start > 0 else 0.0)


def _labelling(row: dict[str, Any]) -> float:
    return math.fsum(row.get(f"seconds.{stage}") or 0.0 for stage in LABELLING)


def _recorded(plan: Plan, shards: int) -> float | None:
    """By what the records of a store without rows of runs say: a worker's seconds, shared by all."""
    try:
        measured = json.loads(plan.objects.get(METRICS) or b"{}")["throughput"]
        seconds, pixels = float(measured["worker_seconds"]), float(measured["pixels"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    if not (math.isfinite(seconds) and seconds > 0 and pixels > 0):
        return None
    workers = max(1, min(plan.job.cluster.most(cores()), shards))
    return seconds * min(1.0, shards / max(1, plan.shards)) / workers
