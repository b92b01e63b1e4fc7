"""Handing a stage's work out, and what to do of how it ends."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from segengine.dispatch.pool import Outcome, Pool, Work
from segengine.errors import SegengineError
from segengine.job import FaultsSpec
from segengine.store.seals import SealedObjects
from segengine.worker.tasks import Damaged


def outcomes(pool: Pool, works: Iterable[Work], faults: FaultsSpec) -> Iterator[Outcome]:
    """How each ends, in the order they end, tried as often as the job says."""
    return pool.dispatch(works, retries=faults.retries, deadline=faults.deadline)


def needed(
    pool: Pool,
    works: Iterable[Work],
    faults: FaultsSpec,
    objects: SealedObjects,
    called: Callable[[Work], str],
) -> Iterator[tuple[Any, Any]]:
    """(task, record) of works without which the run cannot go on, or what they found damaged.

    That is named in `objects.damaged`. `called`: what an error calls a work. Raises SegengineError.
    """
    for outcome in outcomes(pool, works, faults):
        if outcome.status != "done":
            raise SegengineError(
                f"{called(outcome.work)}: {outcome.status}: {outcome.reason}; run again"
            )
        if isinstance(outcome.value, Damaged):
            objects.damaged[outcome.value.key] = outcome.value.what
        yield outcome.work.task, outcome.value
