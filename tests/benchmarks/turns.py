"""Ours and a plain script by turns, so that what else the machine does falls on both."""

import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

from segengine.job import parse_job
from segengine.runs import Run

TURNS = 3


def medians(
    ours: Callable[[], float], theirs: Callable[[], float], turns: int = TURNS
) -> tuple[float, float]:
    """The middle of the seconds of each."""
    pairs = [(theirs(), ours()) for _ in range(turns)]
    return median(pair[1] for pair in pairs), median(pair[0] for pair in pairs)


def run_seconds(store: Path, job: Mapping[str, Any], workers: int = 2) -> float:
    """Seconds of all stages of a job with a new store, once the workers are there."""
    shutil.rmtree(store, ignore_errors=True)
    raw = {**job, "store": {"path": str(store), **job.get("store", {})}}
    with Run(parse_job({**raw, "cluster": {"workers": workers}})) as run:
        run.wait_for_workers()
        started = time.perf_counter()
        for stage in Run.STAGES:
            for _ in run.stage(stage):
                pass
        return time.perf_counter() - started


@contextmanager
def two_processes() -> Iterator[ProcessPoolExecutor]:
    """Of one thread each, that have imported what a script needs."""
    with ProcessPoolExecutor(2, get_context("spawn"), initializer=_prepare) as pool:
        list(pool.map(time.sleep, (0.5, 0.5)))
        yield pool


def _prepare() -> None:
    import av
    import cv2
    import rasterio
    import zarr
    from threadpoolctl import threadpool_limits

    del av, rasterio, zarr
    cv2.setNumThreads(1)
    threadpool_limits(1)
