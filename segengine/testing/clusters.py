"""What the engine relies on in a kind of cluster: each work ends once, and how it ended is known."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from segengine.dispatch.clusters import Cluster
from segengine.dispatch.pool import Outcome, Pool, Work
from segengine.errors import JobError, StoreError
from segengine.job import ClusterSpec
from segengine.testing._laws import RefusalTests, expected, name_of, require, require_by_name, said
from segengine.testing._works import Conduct, Task, work

_MANY = 2000
"""Works of which no pool may hold all."""


class ClusterTests(RefusalTests):
    """The suite of a kind of cluster: `make` returns its factory, (spec, tasks) -> pool."""

    workers: ClassVar[int] = 2
    address: ClassVar[str | None] = None
    """Of the scheduler, for kinds that need one."""
    starts: ClassVar[bool] = True
    """False for a kind whose workers run before, and after."""
    patience: ClassVar[float] = 600.0
    """Seconds that works may take in all; those of a batch system may wait for long."""
    deadline: ClassVar[float] = 5.0
    """Seconds after which a work counts as hanging, once begun."""

    def make(self) -> Cluster:
        """The factory to try."""
        raise NotImplementedError("make: this suite needs it; return the kind's factory")

    def spec(self, **options: Any) -> ClusterSpec:
        """The job's `cluster` block, with these options beside its own."""
        return ClusterSpec.model_construct(
            kind=name_of(self.make()),
            workers=self.workers,
            address=self.address,
            options={**self.options, **options},
        )

    def test_workers_are_found_by_name(self) -> None:
        """Its factory lies in a module under its name."""
        require_by_name(self.make())

    def test_every_work_ends_once(self) -> None:
        """Each of many works is done, with its own value."""
        name, numbers = name_of(self.make()), range(30)
        with self._pool() as pool:
            count: object = pool.workers
            require(
                isinstance(count, int) and count >= 1,
                f"{name}'s pool says that it has {count!r} workers; count those that work",
            )
            outcomes = self._ended(pool, [_work(i) for i in numbers])
        keys = sorted(int(o.work.key) for o in outcomes)
        require(
            keys == list(numbers),
            f"{name} gives {len(keys)} outcomes of {len(numbers)} works; yield one for each, once",
        )
        for outcome in outcomes:
            require(
                outcome.status == "done" and outcome.value[0] == int(outcome.work.key) ** 2,
                f"{name} ends work {outcome.work.key} as {outcome.status} with {outcome.value!r}; "
                "give each work the value of its own call",
            )

    def test_a_transient_failure_is_tried_again(self) -> None:
        """A Retry is no value: it is tried again, and then an error with its reason."""
        name = name_of(self.make())
        works = [_work(0), _work(1, "again"), _work(2, "fail")]
        with self._pool() as pool:
            found = {o.work.key: o for o in self._ended(pool, works, retries=1)}
        again, failed = found.get("1"), found.get("2")
        require(
            again is not None and (again.status, again.attempts) == ("done", 2),
            f"{name} does not try again what fails once; run it as attempt 2 when a call gives Retry",
        )
        require(
            failed is not None and (failed.status, failed.attempts) == ("error", 2),
            f"{name} ends what never works as {failed and failed.status} after "
            f"{failed and failed.attempts} attempts; it is `error` after retries + 1",
        )
        require(
            failed is not None and "never works" in failed.reason,
            f"{name} does not say why a work failed; hand on the reason of its Retry",
        )

    def test_a_lost_store_ends_the_run(self) -> None:
        """A fatal Retry raises StoreError."""
        name = name_of(self.make())
        with self._pool() as pool:
            try:
                list(pool.dispatch([_work(0, "fatal")], retries=2, deadline=self.patience))
            except StoreError:
                return
            except Exception as error:
                raise AssertionError(
                    f"{name} raises {said(error)} when the store is lost; raise StoreError"
                ) from error
        raise AssertionError(f"{name} goes on when the store is lost; raise StoreError")

    def test_few_works_are_held_at_a_time(self) -> None:
        """Works are taken as workers get free, not all at once."""
        name, taken = name_of(self.make()), 0

        def works() -> Iterator[Work]:
            nonlocal taken
            for i in range(_MANY):
                taken = i + 1
                yield _work(i)

        with self._pool() as pool:
            next(iter(pool.dispatch(works(), retries=0, deadline=self.patience)))
        require(
            taken < _MANY,
            f"{name} takes all of {_MANY} works before the first one ends; keep a bounded window",
        )

    def test_a_work_that_kills_its_worker_is_a_crash(self) -> None:
        """It is named, and all others are done."""
        self._require_blamed("die", "crash", self.patience)

    def test_a_work_that_hangs_is_ended(self) -> None:
        """After the deadline it is named, and all others are done."""
        self._require_blamed("hang", "hang", self.deadline)

    def test_what_was_started_is_ended(self) -> None:
        """Workers on this host are gone when the pool is closed, and are other processes than this."""
        name = name_of(self.make())
        with self._pool() as pool:
            outcomes = self._ended(pool, [_work(i) for i in range(6)])
        here = {o.value[2] for o in outcomes if o.value and o.value[3] == socket.gethostname()}
        require(
            os.getpid() not in here,
            f"{name} works in the driver's own process; start workers that can crash without it",
        )
        if self.starts:
            import psutil

            end = time.monotonic() + 60
            while any(map(psutil.pid_exists, here)) and time.monotonic() < end:
                time.sleep(0.1)
            left = [pid for pid in here if psutil.pid_exists(pid)]
            require(not left, f"{name} leaves workers behind; end all that it started on exit")

    def _require_refused(self, option: str, value: Any) -> None:
        __tracebackhide__ = True
        name = name_of(self.make())
        try:
            with self.make()(self.spec(**{option: value}), 1):
                pass
        except JobError as error:
            require(
                option in str(error),
                f"{name} refuses options.{option}={value!r} with {str(error)!r}; name the option",
            )
            return
        except Exception as error:
            raise AssertionError(
                f"{name} refuses options.{option}={value!r} with {said(error)}; raise JobError"
            ) from error
        raise AssertionError(
            f"{name} takes options.{option}={value!r} without a word; raise JobError before anything "
            "is started"
        )

    def _require_blamed(self, conduct: Conduct, status: str, deadline: float) -> None:
        __tracebackhide__ = True
        name = name_of(self.make())
        works = [_work(i, conduct if i == 3 else "done") for i in range(8)]
        with self._pool() as pool:
            outcomes = self._ended(pool, works, deadline=deadline)
        found = {o.work.key: o.status for o in outcomes}
        wanted = {str(i): status if i == 3 else "done" for i in range(8)}
        require(
            found.get("3") == status,
            f"{name} ends a work that does {conduct!r} as {found.get('3')}; it is `{status}`",
        )
        require(
            found == wanted,
            f"{name} lets innocent works end as {sorted(set(found.values()) - {'done'})} beside one "
            f"that does {conduct!r}; run them again, and the suspect alone",
        )

    @contextmanager
    def _pool(self) -> Iterator[Pool]:
        __tracebackhide__ = True
        name = name_of(self.make())
        try:
            opened = self.make()(self.spec(), _MANY)
            pool = opened.__enter__()
        except Exception as error:
            raise AssertionError(
                f"{name} does not start: {said(error)}; return a context manager that gives a pool"
            ) from error
        try:
            yield pool
        finally:
            opened.__exit__(None, None, None)

    def _ended(
        self, pool: Pool, works: list[Work], *, retries: int = 0, deadline: float | None = None
    ) -> list[Outcome]:
        __tracebackhide__ = True
        with expected(
            f"{name_of(self.make())}.dispatch", "what goes wrong in a work is an outcome"
        ):
            return list(pool.dispatch(works, retries=retries, deadline=deadline or self.patience))


def _work(number: int, conduct: Conduct = "done") -> Work:
    return Work(str(number), work, Task(number, conduct))
