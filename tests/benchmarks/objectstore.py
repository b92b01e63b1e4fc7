"""A store on S3 that takes 50 ms to answer, against one on disk: shards of 1 s and of 0.1 s, two workers.

The server is moto's, on loopback; what stands before it waits, and counts requests.
"""

from __future__ import annotations

import logging
import os
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import zarr

from segengine.job import parse_job
from segengine.runs import Run
from segengine.store.blobs import open_objects
from segengine.store.keys import pack_key
from segengine.store.packs import pack_records
from segengine.store.records import RecordLog
from tests.benchmarks.records import record
from tests.benchmarks.table import Row, show
from tests.faults.proxy import Rule, proxied

DELAY = 0.05
"""Seconds."""
SHARDS = {1.0: 40, 0.1: 200}
"""How many, by the seconds that each takes."""
AIMS = {1.0: 0.8, 0.1: 0.5}
SIDE = 256
SCENES = 22
"""Small ones, of which each has records, a pyramid and metadata of its own."""
SINGLE, MANY = 4096, 100_000
"""Records that are listed, one by one and packed."""


@contextmanager
def _bucket() -> Iterator[tuple[str, Counter[str]]]:
    """URL of a fresh bucket of a slow S3, which the environment names; requests so far by kind."""
    import s3fs
    from moto.server import ThreadedMotoServer

    seen: Counter[str] = Counter()

    def count(method: str, path: str) -> bool:
        seen["LIST" if method == "GET" and path.strip("/") == "bench" else method] += 1
        return False

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # which tells of each request
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
            disk = _timed([source], f"{place}/{shards}.out", seconds)["segment"]
            before = Counter(seen)
            took = _timed([source], f"{url}/{shards}", seconds)
            far, whole = took["segment"], sum(took.values())
            asked = seen - before
            kinds = ", ".join(f"{n / shards:.2g} {kind}" for kind, n in sorted(asked.items()))
            aim = AIMS[seconds]
            yield Row(f"object store: shards of {seconds:g} s a minute on S3, against on disk",
                      60 * shards / far, 60 * shards / disk, "/min", disk / far, f">= {aim}")  # fmt: skip
            yield Row(f"object store: requests a shard ({kinds})", asked.total() / shards, 0, "",
                      asked.total() / shards, "")  # fmt: skip
            yield Row("object store: the whole run", whole, shards * seconds / 2, "s",
                      shards * seconds / 2 / whole, "")  # fmt: skip
        sources = [place / f"scenes/{i:02}.zarr" for i in range(SCENES)]
        for source in sources:
            zarr.save_array(source, np.full((1, SIDE, 2 * SIDE, 1), 7, np.uint8))
        disk = _timed(sources, f"{place}/scenes.out", 0.0)["publish"]
        before = Counter(seen)
        far = _timed(sources, f"{url}/scenes", 0.0)["publish"]
        asked = (seen - before).total() / SCENES
        yield Row(f"object store: publishing {SCENES} scenes of two shards on S3, against on disk",
                  far, disk, "s", disk / far, "")  # fmt: skip
        again = sum(_timed(sources, f"{url}/scenes", 0.0).values())
        yield Row(f"object store: a run that finds nothing to do; requests a scene before ({asked:.3g})",
                  again, 0, "s", again, "")  # fmt: skip
        far, disk = (_listed(root) for root in (f"{url}/listed", f"{place}/listed"))
        for what, ours, theirs in zip(("single", "packed"), far, disk, strict=True):
            yield Row(f"object store: microseconds to read a {what} record, on S3, on disk",
                      1e6 * ours, 1e6 * theirs, "us", ours / theirs, "")  # fmt: skip


def _listed(root: str) -> tuple[float, float]:
    """Seconds a record to read a scene's that lie by themselves, and those of one that are packed."""
    log = RecordLog(open_objects(root))
    with ThreadPoolExecutor(32) as pool:
        list(pool.map(log.write, (record("single", i) for i in range(SINGLE))))
    log.objects.put(pack_key("packed"), pack_records(record("packed", i) for i in range(MANY)))
    took = []
    for scene, count in (("single", SINGLE), ("packed", MANY)):
        before = time.perf_counter()
        found = sum(1 for _ in log.read(scene))
        took.append((time.perf_counter() - before) / found)
        assert found == count
    return took[0], took[1]


def _timed(sources: list[Path], store: str, seconds: float) -> dict[str, float]:
    """Seconds of each stage."""
    job = {
        "name": "far",
        "source": {"kind": "zarr", "paths": [str(source) for source in sources]},
        "segmenter": {"kind": "tests.benchmarks.scale:Sleeping", "seconds": seconds},
        "store": {"path": store, "chunk": SIDE, "shard": SIDE, "frames": 1},
        "cluster": {"workers": 2},
    }
    took: dict[str, float] = {}
    with Run(parse_job(job)) as run:
        for stage in Run.STAGES:
            before = time.monotonic()
            if stage == "segment" and seconds:
                run.wait_for_workers()
                took["start"], before = time.monotonic() - before, time.monotonic()
            for _ in run.stage(stage):
                pass
            took[stage] = time.monotonic() - before
    return took


if __name__ == "__main__":
    show(rows())
