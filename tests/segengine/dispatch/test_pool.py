"""Work in this process: the reference of what attempts, outcomes and shared storing are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segengine.dispatch import pool
from segengine.dispatch.pool import InProcess, Outcome, Work, pause, settle
from segengine.errors import StoreError
from segengine.worker.tasks import Retry

LOG: list[tuple[int, int, bool]] = []
"""(number, attempt, last) of each call."""


@dataclass(frozen=True)
class Task:
    number: int
    fails: int = 0
    """So many attempts fail before one goes well."""
    attempt: int = 1
    last: bool = False


@dataclass(frozen=True)
class Stored:
    """What is left of a work once it is computed."""

    task: Task
    nbytes: int = 8

    def finish(self) -> Any:
        return self.finish_all([self])[0]

    @staticmethod
    def finish_all(works: Sequence[Stored]) -> list[Any]:
        return [answer(work.task, len(works)) for work in works]


def answer(task: Task, value: Any) -> Any:
    return Retry(f"attempt {task.attempt}") if task.attempt <= task.fails else value


def now(task: Task) -> Any:
    LOG.append((task.number, task.attempt, task.last))
    return answer(task, task.number)


def later(task: Task) -> Stored:
    LOG.append((task.number, task.attempt, task.last))
    return Stored(task)


def heavy(task: Task) -> Stored:
    return Stored(task, pool.HELD // 4)


@pytest.fixture(autouse=True)
def _empty() -> None:
    LOG.clear()


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses there would have been."""
    pauses: list[float] = []
    monkeypatch.setattr(pool.time, "sleep", pauses.append)
    return pauses


def done(
    works: Sequence[tuple[Callable[[Task], Any], Task]], retries: int
) -> list[tuple[int, str, Any, int]]:
    handed = [Work(str(task.number), function, task) for function, task in works]
    found: list[Outcome] = list(InProcess().dispatch(handed, retries=retries, deadline=60))
    return [(int(o.work.key), o.status, o.value, o.attempts) for o in found]


@given(
    fails=st.lists(st.integers(0, 4), max_size=12),
    retries=st.integers(0, 3),
    function=st.sampled_from([now, later]),
)
def test_each_work_ends_once_after_as_many_attempts_as_it_takes(
    fails: list[int], retries: int, function: Callable[[Task], Any]
) -> None:
    LOG.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pool.time, "sleep", lambda seconds: None)
        found = done([(function, Task(i, n)) for i, n in enumerate(fails)], retries)
    assert [number for number, *_ in found] == list(range(len(fails)))
    for (number, status, _, attempts), n in zip(found, fails, strict=True):
        assert status == ("done" if n <= retries else "error")
        assert attempts == min(n, retries) + 1
        calls = [call[1:] for call in LOG if call[0] == number]
        assert calls == [(i, i == retries + 1) for i in range(1, attempts + 1)]


def test_pauses_double(at_once: list[float]) -> None:
    assert done([(now, Task(1, fails=3))], retries=3) == [(1, "done", 1, 4)]
    assert at_once == [pause(1), pause(2), pause(3)] == [0.25, 0.5, 1.0]


def test_the_reason_of_the_last_attempt_is_told(at_once: list[float]) -> None:
    work = Work("k", now, Task(1, fails=9))
    (outcome,) = InProcess().dispatch([work], retries=2, deadline=60)
    assert (outcome.status, outcome.reason, outcome.value) == ("error", "attempt 3", None)


def test_a_store_out_of_use_ends_all_and_nothing_is_tried_again(at_once: list[float]) -> None:
    work = Work("k", now, Task(1))
    with pytest.raises(StoreError, match=r"^disk is full$"):
        settle(work, Retry("disk is full", fatal=True), 1, False)
    full = [Work("k", lambda task: Retry("disk is full", fatal=True), Task(1)), work]
    with pytest.raises(StoreError, match=r"^disk is full$"):
        list(InProcess().dispatch(full, retries=5, deadline=60))
    assert at_once == LOG == []


def test_the_shared_are_stored_together_by_number_by_time_and_by_bytes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = iter([float(i) for i in range(1000)])
    many = [(later, Task(i)) for i in range(pool.MOST + 2)]
    monkeypatch.setattr(pool, "SHORT", 1e9)
    assert [value for _, _, value, _ in done(many, 1)] == [pool.MOST] * pool.MOST + [2, 2]
    assert [value for _, _, value, _ in done([(heavy, Task(i)) for i in range(7)], 1)] == [
        *[5] * 5,  # the fifth is the first beyond what may be held
        *[2] * 2,
    ]
    monkeypatch.setattr(pool, "SHORT", 2.5)
    monkeypatch.setattr(pool.time, "monotonic", lambda: next(clock))
    assert [value for _, _, value, _ in done(many[:7], 1)] == [3, 3, 3, 3, 3, 3, 1]


def test_what_needs_no_storing_goes_past_what_waits() -> None:
    mixed = [(later, Task(0)), (now, Task(1)), (later, Task(2))]
    assert done(mixed, 1) == [(1, "done", 1, 1), (0, "done", 2, 1), (2, "done", 2, 1)]


def test_works_are_taken_only_as_they_are_done() -> None:
    taken: list[int] = []

    def works() -> Any:
        for i in range(10):
            taken.append(i)
            yield Work(str(i), now, Task(i))

    outcomes = InProcess().dispatch(works(), retries=0, deadline=60)
    next(outcomes)
    assert taken == [0]
