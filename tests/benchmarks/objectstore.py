"""A store on S3 that takes 50 ms to answer, against one on disk: shards of 1 s and of 0.1 s, two workers.

The server is moto's, on loopback; what stands before it waits, and counts requests.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import zarr

from segengine.job import parse_job
from segengine.runs import Run
from tests.benchmarks.table import Row, show
from tests.faults.proxy import Rule, proxied

DELAY = 0.05
"""Seconds."""
SHARDS = {1.0: 40, 0.1: 200}
"""How many, by the seconds that each takes."""
AIMS = {1.0: 0.8, 0.1: 0.5}
SIDE = 256


@contextmanager
def _bucket() -> Iterator[tuple[str, Counter[str]]]:
    """URL of a fresh bucket of a slow S3, which the environment names; requests so far by kind."""
    import s3fs
    from moto.server import ThreadedMotoServer

    seen: Counter[str] = Counter()

    def count(method: str, path: str) -> bool:
        seen["LIST" if method == "GET" and path.strip("/") == "bench" else method] += 1
        return False

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    with proxied("http://{}:{}".format(*server.get_host_and_port())) as proxy:
        proxy.delay, proxy.rules = DELAY, [Rule("never", count)]
        os.environ |= {
            "AWS_ENDPOINT_URL": proxy.url,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        s3fs.S3FileSystem(skip_instance_cache=True).mkdir("s3://bench")
        yield "s3://bench", seen
    server.stop()


def rows() -> Iterator[Row]:
    """Throughput on S3 against that on disk; requests a shard."""
    with tempfile.TemporaryDirectory(prefix="segengine-bench-") as name, _bucket() as (url, seen):
        place = Path(name)
        for seconds, shards in SHARDS.items():
            source = place / f"{shards}.zarr"
            zarr.save_array(source, np.full((1, SIDE, SIDE * shards, 1), 7, np.uint8))
            disk, _ = _timed(source, f"{place}/{shards}.out", seconds)
            before = Counter(seen)
            far, whole = _timed(source, f"{url}/{shards}", seconds)
            asked = seen - before
            kinds = ", ".join(f"{n / shards:.2g} {kind}" for kind, n in sorted(asked.items()))
            aim = AIMS[seconds]
            yield Row(f"object store: shards of {seconds:g} s a minute on S3, against on disk",
                      60 * shards / far, 60 * shards / disk, "/min", disk / far, f">= {aim}")  # fmt: skip
            yield Row(f"object store: requests a shard ({kinds})", asked.total() / shards, 0, "",
                      asked.total() / shards, "")  # fmt: skip
            yield Row("object store: the whole run", whole, shards * seconds / 2, "s",
                      shards * seconds / 2 / whole, "")  # fmt: skip


def _timed(source: Path, store: str, seconds: float) -> tuple[float, float]:
    """Seconds of the segment stage, and of the whole run."""
    job = {
        "name": "far",
        "source": {"kind": "zarr", "paths": [str(source)]},
        "segmenter": {"kind": "tests.benchmarks.scale:Sleeping", "seconds": seconds},
        "store": {"path": store, "chunk": SIDE, "shard": SIDE, "frames": 1},
        "cluster": {"workers": 2},
    }
    took, begun = 0.0, time.monotonic()
    with Run(parse_job(job)) as run:
        for stage in Run.STAGES:
            if stage == "segment":
                run.wait_for_workers()
            before = time.monotonic()
            for _ in run.stage(stage):
                pass
            if stage == "segment":
                took = time.monotonic() - before
    return took, time.monotonic() - begun


if __name__ == "__main__":
    show(rows())
