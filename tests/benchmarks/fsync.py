"""What it costs that a record never outlives what it vouches for: whole runs with and without fsync.

The figure is the disk's as much as ours: TMPDIR chooses which.
"""

import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import zarr

from segengine.job import parse_job
from segengine.runs import Run
from tests.benchmarks.table import Row, show

CASES = {"large": (8192, 2048), "small": (512, 64)}
"""Pixels along a side of the scene, and of a shard."""


def rows() -> list[Row]:
    """Seconds of a whole run after start-up, best of three each, in turns."""
    found = []
    with tempfile.TemporaryDirectory(prefix="segengine-bench-") as name:
        for what, (side, shard) in CASES.items():
            seconds: dict[bool, list[float]] = {True: [], False: []}
            for _ in range(3):
                for fsync, taken in seconds.items():
                    taken.append(_run(Path(name), side, shard, fsync))
            flushed, loose = min(seconds[True]), min(seconds[False])
            shards = (side // shard) ** 2
            found.append(
                Row(
                    f"fsync: whole run of {shards} {what} shards ({shard} x {shard}), with and without",
                    flushed,
                    loose,
                    "s",
                    flushed / loose,
                    "-",
                )
            )
    return found


def _run(folder: Path, side: int, shard: int, fsync: bool) -> float:
    scene, store = folder / f"{side}.zarr", folder / "masks.zarr"
    if not scene.exists():
        chunk = min(side, 1024)
        pixels = zarr.create_array(
            str(scene), shape=(side, side), chunks=(chunk, chunk), dtype="u1"
        )
        pixels[:] = np.random.default_rng(0).integers(0, 255, (side, side), np.uint8)
    job = parse_job(
        {
            "source": {"paths": [str(scene)]},
            "segmenter": {"kind": "threshold", "method": "fixed", "levels": 99},
            "store": {"path": str(store), "chunk": min(shard, 512), "shard": shard},
            "cluster": {"workers": 2},
            "faults": {"fsync": fsync},
        }
    )
    with Run(job) as run:
        list(run.stage("plan"))
        run.wait_for_workers()
        started = time.perf_counter()
        for stage in Run.STAGES[1:]:
            list(run.stage(stage))
        taken = time.perf_counter() - started
    shutil.rmtree(store)
    return taken


if __name__ == "__main__":
    show(rows())
