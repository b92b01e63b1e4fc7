"""What is asked of every kind whose workers somebody else starts: that they come and go, and refusals."""

from __future__ import annotations

import threading
import time

import pytest
from faulty import Numbered, numbered

from segengine.dispatch import clusters
from segengine.dispatch.dask import DaskPool
from segengine.dispatch.pool import Work
from segengine.errors import SegengineError
from segengine.job import ClusterSpec


def sizes_while_working(pool: DaskPool) -> list[int]:
    """How many workers there are, over time: 24 short works at first, then one that takes long."""
    sizes: list[int] = []
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.2):
            sizes.append(len(pool.client.scheduler_info(n_workers=-1)["workers"]))

    watching = threading.Thread(target=watch)
    watching.start()
    slow = [Work(str(i), numbered, Numbered(i, i, "nap")) for i in range(24)]
    slow += [Work("24", numbered, Numbered(24, 24, "doze"))]
    try:
        found = [o.value for o in pool.dispatch(slow, retries=0, deadline=60)]
    finally:
        stop.set()
        watching.join()
    assert sorted(found) == list(range(25))
    return sizes


def refusal(spec: ClusterSpec) -> str:
    """What is said where a cluster cannot be had: one line, within a minute."""
    began = time.monotonic()
    with pytest.raises(SegengineError) as caught, clusters.open_pool(spec, 10):
        pass
    assert time.monotonic() - began < 60
    assert "\n" not in str(caught.value)
    return str(caught.value)
