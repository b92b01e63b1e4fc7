"""The budget of a run: what still begins, by how long its like took before.

    handed out --> on its way --> ended       each that ends tells how long a pixel takes
    left to do <-- no more of it, once the next would not end in time, with what comes after the stage

How long one takes is the slowest of the last few, pixel by pixel, with all that it waits for but the
queue. What comes after the stages that label (measures, tables, report) takes what it took in the
runs before, for as many shards as there are now.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from segengine.dispatch.pool import Outcome, Pool, Work
from segengine.job import FaultsSpec
from segengine.stages.hours import Hours
from segengine.stages.outcomes import outcomes
from segengine.types import Window
from segengine.worker.tasks import ShardTask

RECENT = 32
"""Works that tell how long the next takes."""
MARGIN = 1.25
"""What is foreseen of the last stages, to what they took: the store has grown, the machine is busy."""
FIRST = 0.02
"""Share of the hours that is kept for the last stages by a run that knows of none before it."""
LEAST = 2.0
"""Seconds that are kept at least: of a run that publishes nothing they are lost."""
ASKED = 1.0
"""Seconds for which a pool's number of workers is taken to hold."""
MOST = 0.5
"""Share of the hours that is kept at most, so that each night gets on."""


class Budget:
    """Keeps a run's hours; `hours` None: there is no end, and all is handed out."""

    def __init__(self, hours: Hours | None = None) -> None:
        self.hours = hours
        self.known: dict[str, float] = {}
        self.closing: Callable[[], float | None] = lambda: None
        self.recent: dict[str, deque[float]] = {}
        self.owed = 0.0
        """Pixels that are labelled in drafts, and that a later stage decides."""
        self.needed = 0.0
        """Seconds that the next shard takes, with what comes after it, where that is why none began."""
        self.ended = False
        """It has kept something from beginning."""

    @property
    def remarks(self) -> tuple[str, ...]:
        """What there is to say of a run that could not begin anything."""
        if not self.needed or self.recent or self.hours is None:
            return ()
        return (
            f"budget: the next shard and what comes after it take about {self.needed:,.0f} s, and the "
            f"whole budget is {self.hours.length:,.0f} s; more hours help, or a new store of smaller "
            "shards (store.shard, store.frames)",
        ) * (self.needed > self.hours.length)

    def take(self, paces: Mapping[str, float], closing: Callable[[], float | None]) -> None:
        """What earlier runs measured: seconds a pixel by stage.

        `closing`: seconds that the last stages take; None: nothing is known.
        """
        self.known, self.closing = dict(paces), closing

    @property
    def words(self) -> str:
        """When the budget ended the run, for people; empty where it did not."""
        return self.hours.words if self.ended and self.hours is not None else ""

    @property
    def paces(self) -> dict[str, float]:
        """Seconds a pixel by stage, as far as they are known."""
        return self.known | {stage: max(found) for stage, found in self.recent.items()}

    def reserve(self, workers: int) -> float:
        """Seconds that are kept for what comes after the stages that label."""
        assert self.hours is not None
        foreseen = self.closing()
        kept = FIRST * self.hours.length if foreseen is None else MARGIN * foreseen
        paces = self.paces
        decide = paces.get("stitch", paces.get("segment", 0.0))
        kept += self.owed * decide / max(1, workers)
        return min(max(kept, LEAST), MOST * self.hours.length)

    def is_over(self, workers: int = 1) -> bool:
        """Whether nothing more may begin, however short."""
        if self.hours is None or self.hours.left > self.reserve(workers):
            return False
        self.ended = True
        return True

    def outcomes(
        self, stage: str, pool: Pool, works: Iterable[Work], faults: FaultsSpec
    ) -> Iterator[Outcome]:
        """How works end, in the order they end: of those that may begin, and no others."""
        if self.hours is None:
            yield from outcomes(pool, works, faults)
            return
        gate = _Gate(self, self.hours, stage, pool, iter(works))
        if stage not in self.paces:
            # Nobody knows how long one takes: one for each worker tells.
            yield from gate.outcomes(faults, gate.workers)
        while not gate.closed:  # behind what was on its way one was late that may not be any more
            yield from gate.outcomes(faults)


class _Gate:
    """Between a stage's works and the pool: closed once the next would not end in time."""

    def __init__(
        self, budget: Budget, hours: Hours, stage: str, pool: Pool, works: Iterator[Work]
    ) -> None:
        self.budget, self.hours, self.stage = budget, hours, stage
        self.pool, self.works = pool, works
        self.closed = False
        """Nothing more begins."""
        self.late: Work | None = None
        """What would not have ended in time behind all that was on its way."""
        self.out: dict[str, tuple[float, int, float]] = {}
        """Works on their way: when they were handed out, behind how many, and their pixels."""
        self._workers, self._asked = 1, -math.inf

    @property
    def workers(self) -> int:
        """Those there are; to ask for them may be a call to a scheduler."""
        now = self.hours.ticks()
        if now - self._asked >= ASKED:
            self._workers, self._asked = max(1, self.pool.workers), now
        return self._workers

    def outcomes(self, faults: FaultsSpec, most: int | None = None) -> Iterator[Outcome]:
        """`most`: so many are handed out."""
        for outcome in outcomes(self.pool, islice(self._open(), most), faults):
            self._learn(outcome)
            yield outcome

    def _open(self) -> Iterator[Work]:
        while True:
            work = self.late or next(self.works, None)
            if work is None:
                self.closed = True
                return
            pixels = pixels_of(work.task)
            if self._would_be_late(pixels):
                self.late = work
                if not self.out:
                    self.closed = self.budget.ended = True
                return
            self.late = None
            self.out[work.key] = self.hours.ticks(), len(self.out), pixels
            if self.stage == "segment" and isinstance(work.task, ShardTask) and work.task.draft:
                self.budget.owed += pixels
            elif self.stage == "stitch":
                self.budget.owed = max(0.0, self.budget.owed - pixels)
            yield work

    def _would_be_late(self, pixels: float) -> bool:
        """By what is on its way, one after the other on each worker, and then this one."""
        workers = self.workers
        pace = self.budget.paces.get(self.stage, 0.0)
        longest = max([pixels, *(p for _, _, p in self.out.values())])
        turns = math.ceil((len(self.out) + 1) / workers)
        needed = turns * longest * pace + self.budget.reserve(workers)
        if self.hours.left >= needed:
            return False
        if not self.out:
            self.budget.needed = needed
        return True

    def _learn(self, outcome: Outcome) -> None:
        begun, behind, pixels = self.out.pop(outcome.work.key)
        turns = math.ceil((behind + 1) / self.workers)
        pace = (self.hours.ticks() - begun) / turns / max(1.0, pixels)
        recent = self.budget.recent.setdefault(self.stage, deque(maxlen=RECENT))
        recent.append(pace)


def pixels_of(task: Any) -> float:
    """Pixels of the shards that a task works on; 1 where it is of none."""
    shards: Sequence[Any] = getattr(task, "shards", None) or [getattr(task, "shard", task)]
    windows = [w for w in (getattr(s, "window", None) for s in shards) if isinstance(w, Window)]
    return float(max(1, sum(math.prod(window.shape) for window in windows)))
