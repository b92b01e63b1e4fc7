"""The budget of a run: what still begins, by how long its like took before.

    handed out --> on its way --> ended       each that ends tells how long a pixel takes
                      |  its time is over     its worker is started anew; left to do
    left to do <-- no more of it, once the next would not end in time, with what comes after the stage

How long one takes is the slowest of the last few, pixel by pixel; what a worker does first has its
start in it, and tells only where nothing else does. What comes after the stages that label (measures,
tables, report) takes what it took in the runs before, for as many shards as there are now.

An estimate may be wrong: of a store's first night there is none, and a busy night's would forbid what
ends in a moment on another. So where nothing could begin and much of the hours is left, one for each
worker is tried. None is late: what has not ended when the last stages must begin is ended then.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from segengine.dispatch.pool import Outcome, Pool, Work
from segengine.job import FaultsSpec
from segengine.stages.hours import Hours
from segengine.stages.outcomes import outcomes
from segengine.types import Window
from segengine.worker.tasks import ShardTask

RECENT = 32
"""Works that tell how long the next takes."""
MANY = 8
"""Of so many the slowest is taken for an accident."""
MARGIN = 1.25
"""What is foreseen of the last stages, to what they took: the store has grown, the machine is busy."""
FIRST = 0.05
"""Share of the hours that is kept for the last stages by a run that knows of none before it."""
LEAST = 2.0
"""Seconds that are kept at least: of a run that publishes nothing they are lost."""
ASKED = 1.0
"""Seconds for which a pool's number of workers is taken to hold."""
MOST = 0.5
"""Share of the hours that is kept at most, so that each night gets on."""
TRIED = 0.25
"""Share of the hours that must be left to try what an estimate forbids."""
FADING = 0.5
"""What is left of an estimate that forbade all there was, in the run after."""
GRACE = 0.005
"""Share of the hours by which a work may be late before it is ended."""
TOLD = 0.1
"""Share of the hours that is not left unused without a word."""


class Budget:
    """Keeps a run's hours; `hours` None: there is no end, and all is handed out."""

    def __init__(self, hours: Hours | None = None) -> None:
        self.hours = hours
        self.known: dict[str, float] = {}
        self.closing: Callable[[], float | None] = lambda: None
        self.recent: dict[str, deque[float]] = {}
        self.first: dict[str, deque[float]] = {}
        """The same of what a worker did first in a stage: it has its start in it."""
        self.least: dict[str, float] = {}
        """Seconds a pixel that works had when they were ended."""
        self.owed = 0.0
        """Pixels that are labelled in drafts, and that a later stage decides."""
        self.forbidden: set[str] = set()
        """Stages of which something did not begin."""
        self.unused = ""
        """Why not, where that left hours unused."""
        self.ended = False
        """It has kept something from beginning, or from ending."""

    @property
    def remarks(self) -> tuple[str, ...]:
        """Why a run ended that could not begin anything, or with hours left."""
        return (f"budget: {self.unused}",) if self.unused else ()

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
        """Seconds a pixel by stage, as far as they are known: what the next run is told."""
        found = {
            stage: FADING * pace if stage in self.forbidden else pace
            for stage, pace in self.known.items()
        }
        found |= {stage: max(self.known.get(stage, 0.0), p) for stage, p in self.least.items()}
        found |= {stage: max(paces) for stage, paces in self.first.items()}
        return found | {stage: _slowest(paces) for stage, paces in self.recent.items()}

    def pace(self, stage: str) -> float | None:
        """Seconds a pixel in this run; None: nobody knows."""
        if stage in self.recent:
            return _slowest(self.recent[stage])
        told = [max(self.first[stage])] if stage in self.first else []
        told += [self.known[stage]] if stage in self.known else []
        return min(told, default=None)

    def reserve(self, workers: int) -> float:
        """Seconds that are kept for what comes after the stages that label."""
        decide = self.pace("stitch")
        decide = (self.pace("segment") or 0.0) if decide is None else decide
        return self._kept(self.owed * decide / max(1, workers))

    def _kept(self, deciding: float = 0.0) -> float:
        assert self.hours is not None
        foreseen = self.closing()
        kept = FIRST * self.hours.length if foreseen is None else MARGIN * foreseen
        return min(max(kept + deciding, LEAST), MOST * self.hours.length)

    def left(self) -> float:
        """Seconds after which all that is still on its way is ended."""
        assert self.hours is not None
        return self.hours.left - self._kept() + GRACE * self.hours.length

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
        while not gate.closed:  # behind what was on its way one was late that may not be any more
            yield from gate.outcomes(faults)


@dataclass(slots=True)
class _Begun:
    """A work on its way."""

    since: float
    """When it was handed out; once a worker is free for it, since when it is."""
    behind: int
    """How many were on their way then."""
    pixels: float
    first: bool
    """Its worker's first of the stage."""


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
        self.out: dict[str, _Begun] = {}
        self.at_work: set[str] = set()
        """Those of them that workers are at, and the others in their order."""
        self.waiting: deque[str] = deque()
        self.count = 0
        self.spent = 0
        """Works that were ended."""
        self._workers, self._asked = 1, -math.inf

    @property
    def workers(self) -> int:
        """Those there are; to ask for them may be a call to a scheduler."""
        now = self.hours.ticks()
        if now - self._asked >= ASKED:
            self._workers, self._asked = max(1, self.pool.workers), now
        return self._workers

    def outcomes(self, faults: FaultsSpec) -> Iterator[Outcome]:
        """Of as many as are handed out at a time: all, or some that are tried."""
        for outcome in outcomes(self.pool, self._open(), faults):
            if outcome.status == "late":
                self._give_up(outcome)
                continue
            self._learn(outcome)
            yield outcome

    def _open(self) -> Iterator[Work]:
        tried = 0
        while True:
            work = self.late or next(self.works, None)
            if work is None:
                self.closed = True
                return
            pixels = pixels_of(work.task)
            if self._would_be_late(pixels):
                if not self._may_try(tried):
                    self.late = work
                    if not self.out:
                        self._close(pixels)
                    return
                tried += 1
            self.late = None
            self._note(work, pixels)
            yield replace(work, left=self.budget.left)

    def _note(self, work: Work, pixels: float) -> None:
        """That it is handed out."""
        first = self.count < self.workers
        self.count += 1
        self.out[work.key] = _Begun(self.hours.ticks(), len(self.out), pixels, first)
        if len(self.at_work) < self.workers:
            self.at_work.add(work.key)
        else:
            self.waiting.append(work.key)
        if self.stage == "segment" and isinstance(work.task, ShardTask) and work.task.draft:
            self.budget.owed += pixels
        elif self.stage == "stitch":
            self.budget.owed = max(0.0, self.budget.owed - pixels)

    def _would_be_late(self, pixels: float) -> bool:
        """By what is on its way, one after the other on each worker, and then this one."""
        return self.hours.left < self._needed(pixels) + self.budget.reserve(self.workers)

    def _needed(self, pixels: float) -> float:
        """Seconds; infinite where nobody knows."""
        pace = self.budget.pace(self.stage)
        if pace is None:
            return math.inf
        longest = max([pixels, *(begun.pixels for begun in self.out.values())])
        return math.ceil((len(self.out) + 1) / self.workers) * longest * pace

    def _may_try(self, tried: int) -> bool:
        """Whether one is handed out that would be late, or that nobody knows of, to see whether it is."""
        if len(self.out) > tried or tried >= self.workers or self.spent:
            return False
        left = self.hours.left - self.budget.reserve(self.workers)
        if self.budget.pace(self.stage) is None:
            return left > 0
        return self.stage not in self.budget.recent and left >= TRIED * self.hours.length

    def _close(self, pixels: float) -> None:
        """Nothing more begins, for the next one would not end."""
        budget = self.budget
        self.closed = budget.ended = True
        budget.forbidden.add(self.stage)
        left, kept = max(0.0, self.hours.left), budget.reserve(self.workers)
        idle = not (budget.recent or budget.first)
        if not idle and left - kept < TOLD * self.hours.length:
            return
        if self.spent:
            why = "what was tried had not ended when what comes after it had to begin, and is left to do"
        elif (needed := self._needed(pixels)) < math.inf:
            why = f"the next shard takes about {_told(needed)} s"
        else:
            why = "no time was left to try how long a shard takes"
        budget.unused = (
            f"{why}; {_told(left)} of {_told(self.hours.length)} s were left, with {_told(kept)} kept "
            "for figures, tables and report; more hours help, or a new store of smaller shards "
            "(store.shard, store.frames)"
        )

    def _end(self, outcome: Outcome) -> tuple[_Begun, float]:
        """A work is on its way no more; and how long a pixel of it took."""
        now, key = self.hours.ticks(), outcome.work.key
        begun = self.out.pop(key)
        turns = 1 if key in self.at_work else math.ceil((begun.behind + 1) / self.workers)
        self.at_work.discard(key)
        while self.waiting and len(self.at_work) < self.workers:
            then = self.waiting.popleft()
            if then in self.out:
                self.at_work.add(then)
                self.out[then].since = now
        return begun, (now - begun.since) / turns / max(1.0, begun.pixels)

    def _learn(self, outcome: Outcome) -> None:
        begun, pace = self._end(outcome)
        told = self.budget.first if begun.first else self.budget.recent
        told.setdefault(self.stage, deque(maxlen=RECENT)).append(pace)

    def _give_up(self, outcome: Outcome) -> None:
        """It is left to do, as if it had not begun."""
        was_at_work = outcome.work.key in self.at_work
        begun, pace = self._end(outcome)
        self.spent += 1
        self.budget.ended = True
        task = outcome.work.task
        if isinstance(task, ShardTask) and task.draft:
            self.budget.owed = max(0.0, self.budget.owed - begun.pixels)
        if was_at_work:
            least = self.budget.least
            least[self.stage] = max(pace, least.get(self.stage, 0.0))


def _told(seconds: float) -> str:
    """Seconds for a person: whole ones, but of few.

    >>> _told(3600.0), _told(0.5), _told(0.0)
    ('3,600', '0.5', '0')
    """
    return f"{seconds:,.0f}" if seconds >= 10 else f"{round(seconds, 2):.2g}"


def _slowest(paces: Sequence[float] | deque[float]) -> float:
    """The slowest; where there are many, but for one."""
    return sorted(paces)[-2] if len(paces) >= MANY else max(paces)


def pixels_of(task: Any) -> float:
    """Pixels of the shards that a task works on; 1 where it is of none."""
    shards: Sequence[Any] = getattr(task, "shards", None) or [getattr(task, "shard", task)]
    windows = [w for w in (getattr(s, "window", None) for s in shards) if isinstance(w, Window)]
    return float(max(1, sum(math.prod(window.shape) for window in windows)))
