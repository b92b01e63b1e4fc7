"""What a stage reports while it runs, and what a run reports at its end."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from segengine.urls import public

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Piece:
    """A shard, or a batch of them, of which the work has just ended."""

    scene: str
    shard: tuple[int, int, int] | None = None
    """Place in the shard grid; None where it is no single shard."""
    status: str = "done"
    """done, error, crash or hang"""
    attempts: int = 1
    seconds: float = 0.0
    bytes: int = 0
    """Stored bytes."""
    failed: int = 0
    """Frames of it that are void."""
    reason: str = ""
    """Why the first of them is."""
    final: bool = True
    """False for a shard that a later stage decides."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a stage is."""

    stage: str
    done: int
    """Pieces of work ended: shards, batches, tables; inputs looked at, where `unit` says so."""
    total: int
    failed: int = 0
    """Frames quarantined so far in this run."""
    pixels: int = 0
    """Pixels worked on so far."""
    message: str = ""
    piece: Piece | None = None
    """What has just ended, where that is of a scene."""
    unit: str = ""
    """What is counted, where a stage counts several things: inputs, before the plan's shards."""


def result_of(steps: Generator[Progress, None, T]) -> T:
    """What a generator of progress returns at its end, for those whom its progress is nothing to."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            found: T = end.value
            return found


class NowAndThen:
    """Tells when it is time to say again how far one is: not for what takes no time at all."""

    def __init__(self, every: float, clock: Callable[[], float] = time.monotonic) -> None:
        """`every`: seconds from one time to the next, and before the first."""
        self._every, self._clock = every, clock
        self._next = clock() + every
        self.said = False
        """Whether it has been time at all."""

    def __call__(self) -> bool:
        """True where it is time."""
        now = self._clock()
        if now < self._next:
            return False
        self._next, self.said = now + self._every, True
        return True


@dataclass(frozen=True, slots=True)
class FailedFrame:
    """A quarantined frame."""

    name: str
    scene: str | None
    """None where its header could not be read."""
    frame: int | None
    kind: str
    """corrupt, error, crash, hang or lost"""
    reason: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "reason", public(self.reason))


class Alert(NamedTuple):
    """A figure that has passed a limit of the job's, or shifted."""

    figure: str
    value: float
    before: float | None
    """Its median over the runs before, of a shift; its level before, of a change; else what it was in the
    last run that had it."""
    rule: str
    """As the job has it: `shift: 0.2`"""

    @property
    def words(self) -> str:
        """On one line.

        >>> Alert("area.water", 130.0, 100.0, "shift: 0.2").words
        'alert: area.water is 130, before 100 (shift: 0.2)'
        """
        before = "" if self.before is None else f", before {self.before:.10g}"
        return f"alert: {self.figure} is {self.value:.10g}{before} ({self.rule})"


@dataclass(frozen=True, slots=True)
class Summary:
    """What a run did, and what the store holds after it."""

    name: str
    store: str
    report: str
    scenes: int
    frames: int
    shards: int
    computed: int
    """Shards worked on by this run."""
    skipped: int
    """Shards that were done before."""
    pixels: int
    """Pixels labelled by this run."""
    seconds: float
    failed: tuple[FailedFrame, ...]
    metrics: Mapping[str, Any]
    messages: tuple[str, ...]
    left: int = 0
    """Shards that are left to a later run."""
    budget: str = ""
    """When the time budget ended the run (`at 06:00 CET`, `after 4h`); empty where it did not."""
    alerts: tuple[Alert, ...] = ()
    remarks: tuple[str, ...] = ()
    """What there is to say at the end besides."""

    @property
    def ended(self) -> str:
        """How the budget ended the run, in one line; empty where it did not."""
        if not self.budget:
            return ""
        shards = "1 shard" if self.left == 1 else f"{self.left:,} shards"
        return f"stopped by the budget {self.budget}: {shards} left; the same command goes on"

    @property
    def exit_code(self) -> int:
        """0; 5 where the budget ended the run; else 3 while frames are quarantined."""
        return 5 if self.budget else 3 if self.failed else 0
