"""Work, where it is done, and how it ends. `InProcess` is the reference that every cluster agrees with."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, TypeGuard

from segengine.dispatch.memory import keep_freed_memory
from segengine.errors import StoreError
from segengine.worker.tasks import Later, Retry

PAUSE = 0.25
"""Seconds before a transient failure is tried again; doubled each time."""
SHORT = 0.1
"""Seconds of work that share a message."""
MOST = 64
"""Works in a message, at most."""
HELD = 1 << 26
"""Bytes that a message's works hold until they are stored together."""


@dataclass(frozen=True, slots=True)
class Work:
    """A function of `segengine.worker.segment` and its task, which has fields `attempt` and `last`."""

    key: str
    function: Callable[[Any], Any]
    task: Any
    follow: Callable[[Any, Any], Any] | None = None
    """Given: its task foresees which one its worker gets next, so it shares no message; except where
    that is known, by this: its task, and the next one's or None, make the task that foresees it."""
    together: Any = None
    """Given: those of the same, one after another, share a message, for each is quickest where the one
    before it was done."""
    left: Callable[[], float] | None = None
    """Given: seconds that it may still take; where none are left its worker is started anew, and it ends
    as `late`, with no one to blame."""

    @property
    def is_spent(self) -> bool:
        """Whether it has no time left."""
        return self.left is not None and self.left() <= 0

    def run(self, attempt: int, last: bool) -> Any:
        """Call it here."""
        value = self.function(self.at(attempt, last))
        return value.finish() if is_later(value) else value

    def at(self, attempt: int, last: bool) -> Any:
        """The task of one attempt."""
        return replace(self.task, attempt=attempt, last=last)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a piece of work ended."""

    work: Work
    status: Literal["done", "error", "crash", "hang", "late"]
    value: Any
    reason: str
    attempts: int


class Pool(Protocol):
    """Where work is done."""

    @property
    def workers(self) -> int: ...
    def dispatch(
        self, works: Iterable[Work], *, retries: int, deadline: float
    ) -> Iterator[Outcome]:
        """Yield one outcome for each work, in the order they end. Raises StoreError when the store
        cannot be used at all."""
        ...


def settle(work: Work, value: Any, attempt: int, last: bool) -> Outcome | None:
    """The outcome of a finished call; None: try again."""
    if not isinstance(value, Retry):
        return Outcome(work, "done", value, "", attempt)
    if value.fatal:
        raise StoreError(value.reason)
    return Outcome(work, "error", None, value.reason, attempt) if last else None


def hung(work: Work, attempt: int, deadline: float) -> Outcome:
    """The outcome of a work that never came to an end."""
    reason = f"no result within {deadline:g} s (faults.deadline)"
    return Outcome(work, "hang", None, reason, attempt)


def late(work: Work, attempt: int) -> Outcome:
    """The outcome of a work that had no time left."""
    return Outcome(work, "late", None, "its time was over before it ended", attempt)


def pause(attempt: int) -> float:
    """Seconds before what failed so many times is tried again."""
    return float(PAUSE * 2 ** (attempt - 1))


@dataclass(frozen=True, slots=True)
class InProcess:
    """One after the other, in this process: the reference that every cluster must agree with."""

    workers: int = 1

    def dispatch(
        self, works: Iterable[Work], *, retries: int, deadline: float
    ) -> Iterator[Outcome]:
        """As `Pool.dispatch`; a call that hangs, is late or kills the process cannot be helped here."""
        keep_freed_memory()
        waiting: list[tuple[Work, Later]] = []
        begun = time.monotonic()
        for work in works:
            value = work.function(work.at(1, retries == 0))
            if not is_later(value):
                yield self._settled(work, value, retries)
                continue
            waiting.append((work, value))
            held = sum(later.nbytes for _, later in waiting)
            if time.monotonic() - begun > SHORT or len(waiting) == MOST or held > HELD:
                yield from self._stored(waiting, retries)
                waiting, begun = [], time.monotonic()
        if waiting:
            yield from self._stored(waiting, retries)

    def _stored(self, waiting: list[tuple[Work, Later]], retries: int) -> Iterator[Outcome]:
        laters = [later for _, later in waiting]
        values = type(laters[0]).finish_all(laters)
        for (work, _), value in zip(waiting, values, strict=True):
            yield self._settled(work, value, retries)

    def _settled(self, work: Work, value: Any, retries: int) -> Outcome:
        """The outcome after a first attempt, and as many as it takes."""
        attempt = 1
        while (outcome := settle(work, value, attempt, attempt > retries)) is None:
            time.sleep(pause(attempt))
            attempt += 1
            value = work.run(attempt, attempt > retries)
        return outcome


def is_later(value: Any) -> TypeGuard[Later]:
    """True for what is computed, and yet to be stored."""
    return hasattr(value, "finish_all")
