"""A finished store: running it again, and listing a million packed records."""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import zarr

from segengine.job import parse_job
from segengine.runs import Run
from segengine.store.blobs import open_objects
from segengine.store.keys import pack_key
from segengine.store.kinds import MaskRecord, StoredObject
from segengine.store.packs import pack_records
from segengine.store.records import RecordLog
from tests.benchmarks.table import Row, show

RECORDS = 1_000_000
SCENES = 100
_ABOUT = json.dumps({"host": "a", "processor": "b"})

_LIST = """
import resource, sys, time
from segengine.store.blobs import open_objects
from segengine.store.records import RecordLog
started = time.perf_counter()
log = RecordLog(open_objects(sys.argv[1]))
count = sum(1 for scene in sorted(log.scenes()[1]) for _ in log.read(scene))
print(count, time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6)
"""


_PACK = """
import resource, sys
from segengine.store.packs import Pack, pack_records
from segengine.stages.segment import PACKED_TOGETHER
from tests.benchmarks.records import record
data, done, count = None, 0, int(sys.argv[1])
while done < count:
    many = min(count - done, max(PACKED_TOGETHER, done // 4), 2 * PACKED_TOGETHER)
    new = [record("scene", done + i) for i in range(many)]
    data = pack_records(new, Pack.of(data) if data else None)
    done += many
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6)
"""


def rows() -> Iterator[Row]:
    """Seconds, shards computed, gigabytes."""
    with tempfile.TemporaryDirectory(prefix="segengine-bench-") as name:
        yield from _rerun(Path(name))
        yield from _listing(Path(name) / "listed")
    command = [sys.executable, "-c", _PACK, str(RECORDS)]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    peak = float(found.stdout)
    what = f"packing {RECORDS:,} records of one scene, as a run does: memory"
    yield Row(what, peak, 1.5, "GB", peak / 1.5, "<= 1")


def _rerun(folder: Path) -> list[Row]:
    side = 16 * 32
    pixels = zarr.create_array(
        str(folder / "in.zarr"), shape=(side, side), chunks=(side, side), dtype="u1"
    )
    pixels[:] = np.random.default_rng(0).integers(0, 255, (side, side), np.uint8)
    job = parse_job(
        {
            "source": {"paths": [str(folder / "in.zarr")]},
            "segmenter": {"kind": "threshold", "method": "fixed", "levels": 99},
            "store": {"path": str(folder / "masks.zarr"), "chunk": 16, "shard": 16},
            "cluster": {"workers": 2},
        }
    )
    computed, seconds = [], []
    for _ in range(2):
        started = time.perf_counter()
        with Run(job) as run:
            for stage in Run.STAGES:
                list(run.stage(stage))
        seconds.append(time.perf_counter() - started)
        computed.append(run.summary().computed)
    shards = run.summary().shards
    return [
        Row(
            f"rerun of a finished job of {shards} shards: computed",
            computed[1],
            0,
            "",
            computed[1],
            "0",
        ),
        Row("rerun: time after start-up", seconds[1], 2, "s", seconds[1] / 2, "<= 1"),
    ]


def record(scene: str, i: int) -> MaskRecord:
    """One like those of a run."""
    return MaskRecord(
        scene=scene,
        shard=(0, i // 100, i % 100),
        box=(0, i, 0, 1, i + 2048, 2048),
        inputs=f"{i:016x}",
        job="0123456789abcdef",
        objects=(StoredObject("mask/0", f"{i:032x}", 54321),),
        areas=((1000 + i, 2000, 0),),
        seconds=0.25,
        finished=1.7e9 + i,
        pixels=3000,
        provenance=_ABOUT,
    )


def _listing(store: Path) -> list[Row]:
    log = RecordLog(open_objects(str(store)))
    each = RECORDS // SCENES
    for scene in range(SCENES):
        log.objects.put(
            pack_key(f"scene{scene}"),
            pack_records(record(f"scene{scene}", i) for i in range(each)),
        )
    found = subprocess.run(
        [sys.executable, "-c", _LIST, str(store)], capture_output=True, text=True, check=True
    )
    count, seconds, gigabytes = (float(v) for v in found.stdout.split())
    what = f"listing {int(count):,} packed records"
    return [
        Row(f"{what}: time", seconds, 10, "s", seconds / 10, "<= 1"),
        Row(f"{what}: memory", gigabytes, 1, "GB", gigabytes, "<= 1"),
    ]


if __name__ == "__main__":
    show(rows())
