"""What a driver takes where shards are very many, and how many workers it keeps at work.

    benchmark -- starts --> scheduler, workers      workers that sleep where others label; 128
              -- starts --> driver                  of them are a process, so that there can be many

All else is real: scheduler, driver, masks, records. `SCALE=1000000 python -m tests.benchmarks scale`
takes so many shards instead of 20,000, and crowds of 1,024 workers besides.
`python -m tests.benchmarks.scale chart` draws what follows for clusters of any size:
deployments/sizing.svg.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import zarr

from segengine.ahead import FAR
from segengine.dispatch.child import Calls
from segengine.dispatch.dask import MESSAGE
from segengine.dispatch.pool import MOST, SHORT, is_later
from segengine.job import parse_job
from segengine.runs import Run
from segengine.store.values import encode
from segengine.types import Pixels, Prediction
from segengine.worker.attempts import tried
from segengine.worker.tasks import ShardTask
from tests.benchmarks.resident import resident_peak
from tests.benchmarks.table import Row, show

SIDE = 16
"""Pixels of a shard's side."""
SHARDS = int(os.environ.get("SCALE", "20000"))
TOGETHER = 128
"""Simulated workers a process."""
CROWDS = [(16, 1.0, 32), (64, 1.0, 32), (256, 1.0, 32)]
"""Workers, seconds of a shard, shards a worker."""
if SHARDS > 100_000:  # whoever asks for so many has the minutes
    CROWDS += [(1024, 4.0, 32), (1024, 1.0, 48)]


_IN_LOOP = False
"""Whether this process is one of simulated workers, which are asleep elsewhere."""


@dataclass(frozen=True)
class Sleeping:
    """Takes its time, and finds nothing."""

    seconds: float = 0.0
    classes = ("nothing", "something")
    halo = 0
    stride = 1
    outputs = ("labels",)

    def segment(self, pixels: Pixels) -> Prediction:
        """All is of the first class."""
        if not _IN_LOOP:
            time.sleep(self.seconds)
        return Prediction(np.zeros(pixels.shape[:3], np.uint8))


def rows() -> Iterator[Row]:
    """Seconds of a plan; milliseconds and megabytes of a driver; a rerun; efficiency by workers."""
    with tempfile.TemporaryDirectory(prefix="segengine-bench-") as name:
        place = Path(name)
        million = _drive(place, "million", 1_000_000, "", stages=1)
        yield Row("scale: plan of 1,000,000 shards", million["seconds"], 60, "s",
                  million["seconds"] / 60, "<= 1")  # fmt: skip
        with _standing(2, place, together=1) as (address, _):
            run = _drive(place, "many", SHARDS, address)
            cost = 1000 * run["cpu"] / run["shards"]
            what = f"{run['shards']:,} shards"
            yield Row(f"scale: driver's processor time a shard, {what}", cost, 3, "ms",
                      cost / 3, "<= 1")  # fmt: skip
            yield Row(f"scale: driver's memory, {what}", run["peak"], 1500, "MB",
                      run["peak"] / 1500, "<= 1")  # fmt: skip
            again = _drive(place, "many", SHARDS, address)["seconds"]
            yield Row(f"scale: rerun of a finished run, {what}", again, 60, "s",
                      again / 60, "<= 1")  # fmt: skip
        for workers, seconds, rounds in CROWDS:
            with _standing(workers, place) as (address, scheduler):
                before = _spent(scheduler)
                run = _drive(place, f"crowd{workers}-{seconds:g}", rounds * workers, address,
                             seconds=seconds, rows=workers, stages=3)  # fmt: skip
                ideal, took = seconds * run["shards"] / workers, run["segment"]
                what = f"scale: {workers} simulated workers at {seconds:g} s a shard"
                yield Row(f"{what}, against none waiting", took, ideal, "s", ideal / took, ">= 0.9")
                for who, cpu in (("scheduler", _spent(scheduler) - before), ("driver", run["cpu"])):
                    yield Row(f"{what}: share of a core, {who}", cpu, took, "s", cpu / took, "-")


@contextmanager
def _standing(
    workers: int, folder: Path, together: int = TOGETHER
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Address and process of a scheduler with so many workers, `together` in one process."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    with ExitStack() as stack:

        def start(*command: str) -> subprocess.Popen[bytes]:
            with open(folder / "log", "ab") as log:
                process = subprocess.Popen([sys.executable, "-m", *command], stdout=log, stderr=log)
            stack.callback(process.wait)
            stack.callback(process.kill)
            return process

        host, port = ("--host", "127.0.0.1"), ("--port", address.rpartition(":")[2])
        scheduler = start("distributed.cli.dask_scheduler", *host, *port, "--no-dashboard")
        for first in range(0, workers, together):
            start(__spec__.name, "work", address, str(min(together, workers - first)))
        from distributed import Client

        with Client(address, timeout="120s", set_as_default=False) as client:
            client.wait_for_workers(workers, timeout=300)
            client.run(_load)
        yield address, scheduler


def _spent(process: subprocess.Popen[bytes]) -> float:
    """Seconds of processor time that it has taken."""
    import psutil

    times = psutil.Process(process.pid).cpu_times()
    return float(times.user + times.system)


def _load() -> None:
    """What a worker loads with its first shard, in seconds that are no matter of scale."""
    import segengine.worker.segment  # noqa: F401


async def _work(address: str, count: int) -> None:
    import dask
    from distributed import Worker

    from segengine.dispatch import child
    from tests.benchmarks import scale  # not this module, which is `__main__`

    scale._IN_LOOP = True
    child.call_stamped = _call_asleep  # type: ignore[assignment]
    # What each worker watches of its process, once a process would do: 64 that do are busy with it.
    dask.config.set(
        {
            "distributed.worker.profile.enabled": False,
            "distributed.admin.system-monitor.interval": "10s",
            "distributed.admin.tick.interval": "1s",
        }
    )
    workers = [Worker(address, nthreads=1, host="127.0.0.1", memory_limit=0) for _ in range(count)]
    await asyncio.gather(*workers)
    await asyncio.gather(*(worker.finished() for worker in workers))


async def _call_asleep(message: Calls) -> None:
    """As a worker does it (`child.call_stamped`), but asleep in its process's loop instead of a thread.

    What a message and its shards are told of, and all that is stored, is real. A shard's reading and
    writing are part of its seconds: else the workers of one process, which have one core where others
    have one each, would wait for one another.
    """
    from distributed import get_worker

    worker, waiting = get_worker(), {}
    due = time.monotonic()
    worker.log_event(message.topic, {"message": message.key, "worker": worker.address})
    for stamp, function, task in message.calls:
        worker.log_event(message.topic, {"begun": stamp})
        value = tried(partial(function, task))
        waiting[stamp] = value.finish() if is_later(value) else value
        if isinstance(task, ShardTask):
            due += json.loads(task.segmenter.options)["seconds"]
            await asyncio.sleep(due - time.monotonic())
    values = {stamp: encode(value) for stamp, value in waiting.items()}
    worker.log_event(message.topic, {"values": values})


def _drive(
    folder: Path,
    name: str,
    shards: int,
    address: str,
    *,
    seconds: float = 0.0,
    stages: int = 0,
    rows: int = 0,
) -> dict[str, float]:
    """What a process says that has run this; `stages`: only so many of them.

    `rows` of shards in one frame; 0: each shard is a frame, of which no pyramid is built.
    """
    shape = (1, rows, shards // rows) if rows else (shards, 1, 1)
    spec = [str(folder), name, *map(str, shape), address, str(seconds), str(stages)]
    command = [sys.executable, "-m", __spec__.name, "drive", *spec]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found: dict[str, float] = json.loads(said.splitlines()[-1])
    return found


def _driven(
    folder: Path,
    name: str,
    shape: tuple[int, int, int],
    address: str,
    seconds: float,
    stages: int,
) -> Any:
    frames, rows, cols = shape
    source = _source(folder, frames, rows, cols)
    job = {
        "name": name,
        "source": {"paths": [str(source)]},
        "segmenter": {"kind": f"{__spec__.name}:Sleeping", "seconds": seconds},
        "store": {"path": str(folder / f"{name}.out"), "chunk": SIDE, "shard": SIDE, "frames": 1},
        "faults": {"fsync": False},  # one disk's time is no matter of scale
        "cluster": {"kind": "address", "address": address} if address else {"workers": 1},
    }
    begun, spent, took, done = time.monotonic(), time.process_time(), 0.0, frames * rows * cols
    with Run(parse_job(job), in_process=not address) as run:
        for stage in Run.STAGES[: stages or None]:
            before = time.monotonic()
            for progress in run.stage(stage):
                if stage == "segment":
                    done = progress.total
            if stage == "segment":
                took = time.monotonic() - before
    return {
        "shards": done,
        "seconds": time.monotonic() - begun,
        "segment": took,
        "cpu": time.process_time() - spent,
        "peak": resident_peak(),
    }


def _source(folder: Path, frames: int, rows: int, cols: int) -> Path:
    """Frames of one value; a single one is a picture, whose pixels a process decodes once."""
    high, wide = rows * SIDE, cols * SIDE
    if frames == 1:
        path = folder / f"{rows}x{cols}.png"
        if not path.exists():
            cv2.imwrite(str(path), np.full((high, wide), 7, np.uint8))
        return path
    path = folder / f"{frames}x{rows}x{cols}.zarr"
    if not path.exists():  # of nothing but its fill value
        zarr.create_array(path, shape=(frames, high, wide, 1), chunks=(1024, 1024, 1024, 1),
                          dtype="uint8", fill_value=7)  # fmt: skip
    return path


def busy(workers: float, seconds: float) -> tuple[float, float]:
    """Share of a core that scheduler and driver are busy with shards of so many seconds."""
    fills = max(SHORT, MESSAGE * workers) / seconds
    together = max(1, min(MOST, math.ceil(fills) if MESSAGE * workers > SHORT else int(fills)))
    rate = workers / seconds / 1000
    return rate * (0.15 + 1.3 / together), rate * (0.3 + 0.5 / together)


LISTED = {
    "one by one, S3 of 50 ms": (0.05 / FAR, "#c2410c"),
    "one by one, disk": (26e-6, "#2a8f3c"),
    "packed": (7e-6, "#1f77b4"),
}
"""Seconds a record to learn what is done, as `objectstore` measures them; on S3 by its answers alone."""


def chart() -> str:
    """An SVG: the busier one's share by workers, for shards of 0.1, 1 and 10 s; seconds to list records."""
    steps = [i / 100 for i in range(801)]
    crowds = [
        (f"{seconds:g} s", color, [(x, max(busy(10**x, seconds))) for x in steps if x <= 4])
        for seconds, color in ((0.1, "#1f77b4"), (1.0, "#2a8f3c"), (10.0, "#8a4fbf"))
    ]
    shares = [(share, f"{share:.2g}") for share in (0.0, 0.25, 0.5, 0.75, 1.0)]
    listings = [
        (name, color, [(x - 2, (math.log10(10**x * cost) + 2) / 6) for x in steps if 2 <= x <= 7])
        for name, (cost, color) in LISTED.items()
    ]
    seconds = [((e + 2) / 6, f"{10.0**e:,.10g}") for e in range(-2, 5)]
    panels = (
        _panel(20, shares, "share of a core, scheduler or driver", 0.5)
        + _axis(20, [f"{10**e:,}" for e in range(5)], "workers")
        + _lines(20, 4, crowds)
        + _panel(340, seconds, "seconds to learn what is done", (math.log10(60) + 2) / 6)
        + _axis(340, [f"{10**e:,}" for e in range(2, 8)], "shards whose records are listed")
        + _lines(340, 5, listings)
    )
    return "\n".join(
        [
            '<svg xmlns="http://www.w3.org/2000/svg" width="760" height="640" '
            'font-family="sans-serif" font-size="12"><rect width="760" height="640" fill="white"/>',
            *panels,
            "</svg>\n",
        ]
    )


LEFT, WIDE, HIGH = 70, 520, 240
"""Pixels of a panel, and left of it."""
Curve = tuple[str, str, list[tuple[float, float]]]
"""A name, a colour, and places: decades from the left, parts of the height."""


def _panel(top: float, levels: list[tuple[float, str]], title: str, limit: float) -> list[str]:
    """Lines across at levels, and one, dashed, that is not to be passed."""
    parts = []
    for level, said in levels:
        y = top + HIGH * (1 - level)
        parts.append(f'<path d="M{LEFT} {y:.1f}h{WIDE}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{said}</text>')
    y = top + HIGH * (1 - limit)
    parts.append(f'<path d="M{LEFT} {y:.1f}h{WIDE}" stroke="#c33" stroke-dasharray="6 4"/>')
    middle = top + HIGH / 2
    parts.append(
        f'<text transform="translate(16 {middle}) rotate(-90)" text-anchor="middle">{title}</text>'
    )
    return parts


def _axis(top: float, decades: list[str], title: str) -> list[str]:
    """Powers of ten along the foot."""
    parts = []
    for i, said in enumerate(decades):
        x = LEFT + WIDE * i / (len(decades) - 1)
        parts.append(f'<path d="M{x:.1f} {top}v{HIGH}" stroke="#ddd"/>')
        parts.append(f'<text x="{x:.1f}" y="{top + HIGH + 16}" text-anchor="middle">{said}</text>')
    parts.append(
        f'<text x="{LEFT + WIDE / 2}" y="{top + HIGH + 38}" text-anchor="middle">{title}</text>'
    )
    return parts


def _lines(top: float, decades: int, curves: list[Curve]) -> list[str]:
    """Each with its name where it ends."""
    parts = []
    for name, color, places in curves:
        shown = [
            (LEFT + WIDE * x / decades, top + HIGH * (1 - y)) for x, y in places if 0 <= y <= 1
        ]
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in shown)
        parts.append(f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="2"/>')
        x, y = shown[-1]
        place = f'x="{x + 6:.1f}" y="{max(y, top + 12):.1f}"'
        parts.append(f'<text {place} fill="{color}">{name}</text>')
    return parts


def main(what: str, *rest: str) -> None:
    """What the benchmark starts."""
    if what == "chart":
        sys.stdout.write(chart())
    elif what == "work":
        asyncio.run(_work(rest[0], int(rest[1])))
    else:
        folder, name, frames, high, wide, address, seconds, stages = rest
        shape = int(frames), int(high), int(wide)
        found = _driven(Path(folder), name, shape, address, float(seconds), int(stages))
        print(json.dumps(found))


if __name__ == "__main__":
    if sys.argv[1:]:
        main(*sys.argv[1:])
    else:
        show(rows())
