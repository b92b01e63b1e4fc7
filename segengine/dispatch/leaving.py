"""A worker whose batch job has an end: it takes no work that it would not finish, and goes in time.

    begun ---- works ---------------------> takes no more -> what it has ends -> gone ... walltime

How early it stops depends on what its works have taken so far, and a little on chance: workers that
began together do not go together. What is killed at the walltime all the same is done again elsewhere.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from typing import Any

from distributed import Status
from distributed.diagnostics.plugin import WorkerPlugin

from segengine.dispatch.child import is_storing

BEGAN = "SEGENGINE_BATCH_BEGAN"
"""Of the environment: when the job's script began, in seconds since 1970."""
TOPIC = "segengine-leaving"
SPARE = 1.5
"""A work may take so many times what the longest took."""
SHARE = 0.1
"""Of the walltime that is kept back where nothing is known of works yet; and what chance may add."""
LEAST = 10.0
"""Seconds kept back at least: batch systems do not end a job to the second."""
LAST = 10.0
"""Seconds before the walltime at which what still runs is not expected to end."""
FRESH = 0.6
"""Who had this share of the walltime for one work, and did not end it, would not in another job."""


class Leaving(WorkerPlugin):  # type: ignore[misc] # Dask tells no types
    """Watches a worker's clock."""

    name = "segengine-leaving"

    def __init__(self, walltime: float) -> None:
        self.walltime = walltime
        self.longest = 0.0
        """Seconds that the longest work took here."""
        self.since: dict[Any, float] = {}
        """When what is worked on began, in seconds since 1970."""

    def setup(self, worker: Any) -> None:
        """Begin to watch."""
        self.worker = worker
        self.end = float(os.environ.get(BEGAN) or time.time()) + self.walltime
        self.chance = random.random() * SHARE * self.walltime
        worker.loop.add_callback(self._leave)

    def transition(self, key: Any, start: str, finish: str, **_: Any) -> None:
        """Note how long works take."""
        if finish == "executing":
            self.since[key] = time.time()
        elif start == "executing" and key in self.since:
            self.longest = max(self.longest, time.time() - self.since.pop(key))

    def kept_back(self) -> float:
        """Seconds before the end at which no more work is taken."""
        wanted = max(LEAST, SHARE * self.walltime, SPARE * self.longest) + self.chance
        return min(wanted, FRESH * self.walltime)

    async def _leave(self) -> None:
        while self.end - time.time() > self.kept_back():
            await asyncio.sleep(1.0)
        # One that runs goes on, what waits behind it goes to others, and nothing new comes.
        self.worker.status = Status.paused
        told = False
        while self._works():  # killed where it is, it is done again elsewhere
            if not told and self.end - time.time() < LAST:
                self._tell()
                told = True
            await asyncio.sleep(0.2)
        await asyncio.sleep(1.0)  # its last results are on their way
        await self.worker.close_gracefully(reason="its job ends soon")

    def _works(self) -> bool:
        return bool(self.since) or is_storing()

    def _tell(self) -> None:
        """Say where a work had nearly all of a job's time, and would never end in one."""
        took = time.time() - min(self.since.values(), default=time.time())
        if took > FRESH * self.walltime:
            self.worker.log_event(TOPIC, {"seconds": took})
