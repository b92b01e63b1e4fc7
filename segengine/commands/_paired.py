"""The figures of two stores side by side, over the frames that both have scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segengine import asked
from segengine.differences.bootstrap import DRAWS, draws, interval
from segengine.differences.frames import Matched
from segengine.errors import SegengineError
from segengine.guards.trust import named_by_store, trusting
from segengine.measuring.measures import Measure
from segengine.planning.plan import stored_plan
from segengine.planning.stored import stored_job
from segengine.reader import Store
from segengine.stages.aggregate import Measured, Measurer, measurer
from segengine.stages.history import flat
from segengine.stages.metrics_json import put_figures

MOST_MERGES = 200_000
"""Merges of states that are no arrays, and cannot be added up at once."""


@dataclass(frozen=True, slots=True)
class Paired:
    """A figure of both stores; `low`, `high`: where the difference lies, with 95 % confidence."""

    a: float | None
    b: float | None
    low: float | None = None
    high: float | None = None

    @property
    def difference(self) -> float | None:
        """b - a."""
        return None if self.a is None or self.b is None else self.b - self.a

    def as_json(self) -> dict[str, float | None]:
        """As `--json` has it."""
        return {
            "a": self.a,
            "b": self.b,
            "difference": self.difference,
            "low": self.low,
            "high": self.high,
        }


@dataclass(frozen=True, slots=True)
class _Scored:
    """What a store's records say of its frames."""

    measurer: Measurer
    states: Mapping[tuple[str, int], Sequence[Any]]

    @classmethod
    def of(cls, store: Store) -> _Scored | None:
        """None where nothing is measured, or not with what the store's job names."""
        try:
            with trusting(store.trust), named_by_store(store.trust):
                job = stored_job(store.attributes, store.trust).job
                plan = stored_plan(job, store.objects)
                found = measurer(job, store.objects, plan.layouts, plan.arrays, plan.plugin)
                if found is None:
                    return None
                found.stale()  # reads what is measured
                merged: Measured = found.merge()
        except (SegengineError, OSError, ValueError):
            return None
        return cls(found, {(scene, frame): states for scene, frame, states in merged.frames})


def figures(
    a: Store, b: Store, pairs: Sequence[Matched], seed: int
) -> tuple[dict[str, Paired], int]:
    """Every overall figure of either store by name, and of how many frames those with intervals are."""
    told = _told(a.metrics), _told(b.metrics)
    found = {name: Paired(told[0].get(name), told[1].get(name)) for name in {**told[0], **told[1]}}
    one, other = _Scored.of(a), _Scored.of(b)
    frames = 0
    if one is None or other is None:
        return dict(sorted(found.items())), frames
    by_key = {m.asked.key: m for m in other.measurer.spec.measures}
    for measure in one.measurer.spec.measures:
        twin = by_key.get(measure.asked.key)
        if twin is None or not asked.per_frame(measure.metric):
            continue
        states = _states(one, other, measure, twin, pairs)
        if states:
            frames = max(frames, len(states))
            found |= _compared(measure, twin, states, one.measurer, other.measurer, seed)
    return dict(sorted(found.items())), frames


def _told(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The overall figures, without what is counted and is none."""
    return {name: v for name, v in flat(metrics).items() if not name.endswith(".pixels")}


def _states(
    one: _Scored, other: _Scored, measure: Measure, twin: Measure, pairs: Sequence[Matched]
) -> list[tuple[Any, Any]]:
    """The states of frames that both have scored."""
    found = []
    for pair in pairs:
        a = one.states.get((pair.scene, pair.frame))
        b = other.states.get((pair.scene_b, pair.frame_b))
        if a is not None and b is not None:
            both = a[measure.fold], b[twin.fold]
            if both[0] is not None and both[1] is not None:
                found.append(both)
    return found


class _Side:
    """One store's states of a measure, and what they add up to when some are drawn."""

    def __init__(self, measurer: Measurer, measure: Measure, states: Sequence[Any]) -> None:
        self.measure, self.metric = measure, measurer.spec.folds[measure.fold].metric
        self.states = states
        self.whole = reduce(self.metric.merge, states, self.metric.empty())
        self.matching = asked.matching(measure.metric, self.whole)
        self.rows = self._rows()

    def _rows(self) -> NDArray[Any] | None:
        """The states as rows, where merging them is adding them up."""
        first = self.states[0]
        if not all(
            isinstance(s, np.ndarray) and s.shape == first.shape and s.dtype.kind in "iu"
            for s in self.states
        ):
            return None
        rows = np.stack(self.states)
        return rows if np.array_equal(rows.sum(axis=0), self.whole) else None

    def figures(self, state: Any) -> dict[str, float]:
        """By the names that they have in `metrics.json`."""
        document: dict[str, Any] = {"overall": {}, "losses": {}}
        put_figures(
            document, self.measure, asked.figures(self.measure.metric, state, self.matching)
        )
        return _told(document)

    def drawn(self, counts: NDArray[np.int64]) -> dict[str, float]:
        """The same of frames that are drawn so often each."""
        if self.rows is not None:
            return self.figures(np.tensordot(counts.astype(self.rows.dtype), self.rows, 1))
        state = self.metric.empty()
        for count, one in zip(counts.tolist(), self.states, strict=True):
            for _ in range(count):
                state = self.metric.merge(state, one)
        return self.figures(state)


def _compared(
    measure: Measure,
    twin: Measure,
    states: list[tuple[Any, Any]],
    one: Measurer,
    other: Measurer,
    seed: int,
) -> dict[str, Paired]:
    a, b = _Side(one, measure, [s for s, _ in states]), _Side(other, twin, [s for _, s in states])
    first, second = a.figures(a.whole), b.figures(b.whole)
    names = list({**first, **second})
    values = np.full((DRAWS, len(names)), np.nan)
    quick = a.rows is not None and b.rows is not None
    if len(states) > 1 and (quick or len(states) * DRAWS <= MOST_MERGES):
        for i, counts in enumerate(draws(len(states), seed)):
            left, right = a.drawn(counts), b.drawn(counts)
            for k, name in enumerate(names):
                if name in left and name in right:
                    values[i, k] = right[name] - left[name]
    found = {}
    for k, name in enumerate(names):
        within = interval(values[:, k])
        low, high = within if within is not None else (None, None)
        found[name] = Paired(first.get(name), second.get(name), low, high)
    return found
