"""Short works share a message to their worker: what one of them does costs its mates nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from faulty import Numbered, counted, foreseen, numbered, prepared, stored_later

from segengine.dispatch import clusters
from segengine.dispatch.dask import DaskPool
from segengine.dispatch.pool import InProcess, Outcome, Work
from segengine.job import ClusterSpec

pytestmark = pytest.mark.system

COUNT = 300
BAD = 200
"""By then the pool has seen that they are short."""


@pytest.fixture(scope="module")
def pool() -> Iterator[DaskPool]:
    with clusters.open_pool(ClusterSpec(workers=2), 1 << 30) as found:
        assert isinstance(found, DaskPool)
        yield found


@pytest.fixture
def messages(pool: DaskPool, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many works each message held."""
    sizes: list[int] = []
    hand_out = pool.client.map

    def counted_map(function: Any, messages: Any, **options: Any) -> Any:
        sizes.extend(len(message.calls) for message in messages)
        return hand_out(function, messages, **options)

    monkeypatch.setattr(pool.client, "map", counted_map)
    return sizes


def foreseeing(task: Any, then: Any) -> Any:
    """The next one's number, as its own `bad`: so it is seen."""
    return replace(task, bad=then.number if then else -1)


def works(function: Callable[[Any], Any] = numbered, **options: Any) -> Iterator[Work]:
    for i in range(COUNT):
        yield Work(str(i), function, Numbered(i, **options))


def by_number(outcomes: Iterator[Outcome]) -> dict[int, Outcome]:
    found: dict[int, Outcome] = {}
    for outcome in outcomes:
        number = outcome.work.task.number
        assert number not in found
        found[number] = outcome
    assert sorted(found) == list(range(COUNT))
    return found


def test_short_works_share_messages(pool: DaskPool, messages: list[int], tmp_path: Path) -> None:
    log = str(tmp_path / "log")
    found = by_number(pool.dispatch(works(log=log), retries=1, deadline=60))
    assert {o.value for o in found.values()} == set(range(COUNT))
    assert {(o.status, o.attempts) for o in found.values()} == {("done", 1)}
    assert Counter(counted(log)) == {str(i): 1 for i in range(COUNT)}
    assert sum(messages) == COUNT
    assert max(messages) > 8
    assert messages[0] == 1  # before it is known what one takes


@pytest.mark.parametrize(
    ("trap", "status"), [("kill", "crash"), ("sleep", "hang"), ("hold", "hang")]
)
def test_only_the_one_that_misbehaves_is_given_up(
    trap: str, status: str, pool: DaskPool, messages: list[int], tmp_path: Path
) -> None:
    log = str(tmp_path / "log")
    # Long enough that no innocent takes it, however busy the machine is.
    outcomes = pool.dispatch(works(log=log, bad=BAD, trap=trap), retries=1, deadline=10)
    found = by_number(outcomes)
    assert max(messages) > 8
    bad = found.pop(BAD)
    assert bad.status == status
    assert {o.status for o in found.values()} == {"done"}
    blamed = {number for number, o in found.items() if o.attempts != 1}
    # A sudden end takes its mates' last words along: the last one heard of may be tried alone. What holds
    # the interpreter sends nothing of its own either, so it ends a worker twice beside others: in its
    # message, and once it is handed out by itself. What only waited behind it is free of blame.
    assert len(blamed) <= {"sleep": 0, "kill": 1, "hold": 2}[trap]
    assert {o.value for o in found.values()} == set(range(COUNT)) - {BAD}


def test_one_that_raises_fails_alone(pool: DaskPool, messages: list[int], tmp_path: Path) -> None:
    log = str(tmp_path / "log")
    outcomes = pool.dispatch(works(log=log, bad=BAD, trap="raise"), retries=1, deadline=60)
    found = by_number(outcomes)
    assert max(messages) > 8
    bad = found.pop(BAD)
    assert (bad.status, bad.attempts) == ("error", 2)
    assert "the connection was reset" in bad.reason
    assert {(o.status, o.attempts) for o in found.values()} == {("done", 1)}
    expected = Counter({str(i): 1 for i in range(COUNT)} | {str(BAD): 2})
    assert Counter(counted(log)) == expected


def test_without_retries_none_shares_a_message(
    pool: DaskPool, messages: list[int], tmp_path: Path
) -> None:
    """Where being suspected is the end, nobody is suspected for another."""
    log = str(tmp_path / "log")
    found = by_number(pool.dispatch(works(log=log), retries=0, deadline=60))
    assert {o.status for o in found.values()} == {"done"}
    assert set(messages) == {1}


def test_one_that_looks_ahead_shares_no_message(pool: DaskPool, messages: list[int]) -> None:
    alone = (Work(str(i), numbered, Numbered(i), follow=foreseeing) for i in range(COUNT))
    by_number(pool.dispatch(alone, retries=1, deadline=60))
    assert set(messages) == {1}


def test_among_many_workers_they_share_one_and_know_what_follows(
    pool: DaskPool, messages: list[int]
) -> None:
    """Where each message would keep the scheduler too busy. The last ones are short, to end together."""
    crowd = DaskPool(pool.client, expected=64)
    count = 10 * COUNT
    works = (Work(str(i), foreseen, Numbered(i), follow=foreseeing) for i in range(count))
    found = {int(o.work.key): o.value for o in crowd.dispatch(works, retries=1, deadline=60)}
    assert sorted(found) == list(range(count))
    assert sum(messages) == count
    assert max(messages) > 8
    assert set(messages[-64:]) == {1}
    ends = [number for number, then in found.items() if then == -1]
    assert len(ends) == len(messages)
    assert all(found[n] == n + 1 for n in set(found) - set(ends))


def test_those_that_belong_together_share_a_message_however_long_they_take(
    pool: DaskPool, messages: list[int]
) -> None:
    sizes = [3, 1, 5, 2] * 3
    works = [
        Work(f"{group}.{i}", numbered, Numbered(i), together=group)
        for group, size in enumerate(sizes)
        for i in range(size)
    ]
    found = list(pool.dispatch(iter(works), retries=1, deadline=60))
    assert sorted(o.work.key for o in found) == sorted(work.key for work in works)
    assert messages == sizes


@pytest.mark.parametrize("here", [True, False])
def test_mates_are_stored_together(here: bool, pool: DaskPool, messages: list[int]) -> None:
    where = InProcess() if here else pool
    found = by_number(where.dispatch(works(stored_later), retries=1, deadline=60))
    mates = Counter(o.value for o in found.values())
    assert all(count % size == 0 for size, count in mates.items())
    assert max(mates) > 8


def test_each_worker_is_prepared_once(pool: DaskPool, tmp_path: Path) -> None:
    log = tmp_path / "log"
    pool.prepare(prepared, str(log))
    outcomes = by_number(pool.dispatch(works(), retries=1, deadline=60))
    assert len(outcomes) == COUNT
    assert len(set(counted(log))) == len(counted(log)) == 2


def test_what_cannot_be_prepared_costs_nothing(pool: DaskPool) -> None:
    pool.prepare(prepared, "/nowhere/log")
    outcomes = by_number(pool.dispatch(works(), retries=1, deadline=60))
    assert {outcome.status for outcome in outcomes.values()} == {"done"}
