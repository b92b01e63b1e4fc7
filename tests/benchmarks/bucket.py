"""What a plan takes of a bucket of very many photos: each page listed once, each photo opened once.

    benchmark -- starts --> bucket    answers as S3 does, from a formula: pages of a listing, photos
              -- starts --> driver    plans, and commits what lies where; labels nothing

The first plan opens every photo for its size; the second finds as many as are new. Requests are counted
by the bucket. `BUCKET=1000000 python -m tests.benchmarks bucket` takes so many photos instead of 10,000.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from segengine.job import parse_job
from segengine.runs import Run
from tests.benchmarks.resident import resident_peak
from tests.benchmarks.table import Row, show
from tests.bucket import ENVIRONMENT, NAME, PAGE, PREFIX, asked

PHOTOS = int(os.environ.get("BUCKET", "10000"))
NEW = 100
"""Photos that come between two plans."""
URL = f"s3://{NAME}/{PREFIX}"


def rows() -> Iterator[Row]:
    """Seconds, memory and requests of a first plan, of one that finds some new, of one that finds none."""
    with tempfile.TemporaryDirectory(prefix="segengine-bench-") as name, _serving() as url:
        pages = -(-PHOTOS // PAGE)
        listed = _timed(url, PHOTOS, lambda: _drive(Path(name), url, "list"))
        what = f"{PHOTOS:,} photos in a bucket"
        yield Row(f"bucket: listing {what}, {_told(listed)}", listed["seconds"], 0, "s",
                  listed["asked"]["LIST"] / pages, "<= 1.1 listings a page")  # fmt: skip
        first = _timed(url, PHOTOS, lambda: _drive(Path(name), url, "plan"))
        yield Row(f"bucket: first plan of {what}, {_told(first)}", first["seconds"], 0, "s",
                  first["asked"]["GET"] / PHOTOS, "<= 1.1 GETs a photo")  # fmt: skip
        yield Row("bucket: its memory", first["peak"], 1500, "MB", first["peak"] / 1500, "<= 1")
        for new, photos in ((NEW, PHOTOS + NEW), (0, PHOTOS + NEW)):
            again = _timed(url, photos, lambda: _drive(Path(name), url, "plan"))
            assert again["probed"] == new
            limit = listed["seconds"] + 60
            yield Row(f"bucket: another plan, {new} new, {_told(again)}", again["seconds"], limit,
                      "s", again["seconds"] / limit, "<= 1: listing and a minute")  # fmt: skip
            yield Row("bucket: its memory", again["peak"], 1500, "MB", again["peak"] / 1500, "<= 1")


def _told(found: dict[str, Any]) -> str:
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted(found["asked"].items()))
    return f"{kinds}, {found['cpu']:.0f} s of processor"


def _timed(url: str, photos: int, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `work` says, with the requests that it made of a bucket of so many photos."""
    asked(url, photos)
    return {**work(), "asked": asked(url, photos)}


def _drive(folder: Path, url: str, what: str) -> dict[str, Any]:
    environment = os.environ | ENVIRONMENT | {"AWS_ENDPOINT_URL": url}
    command = [sys.executable, "-m", __spec__.name, what, str(folder)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _list(folder: str) -> dict[str, Any]:
    """The listing alone."""
    from segengine.sources.listing import list_entries

    return {"found": len(list_entries([URL], "images").entries)}


def _plan(folder: str) -> dict[str, Any]:
    job = {
        "name": "bucket",
        "source": {"kind": "images", "paths": [URL]},
        "segmenter": {"kind": "threshold", "method": "fixed", "levels": 100},
        "store": {"path": f"{folder}/masks.zarr"},
        "cluster": {"workers": 1},
        "faults": {"fsync": False},
    }
    with Run(parse_job(job), in_process=True) as run:
        for _ in run.stage("plan"):
            pass
        return {"probed": run.plan.scan.probed, "frames": run.plan.scan.frames}


@contextmanager
def _serving() -> Iterator[str]:
    command = [sys.executable, "-m", "tests.bucket"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield server.stdout.readline().strip()
        finally:
            server.kill()


def main(what: str, folder: str) -> None:
    """What the benchmark starts."""
    begun, spent = time.monotonic(), time.process_time()
    found = {"list": _list, "plan": _plan}[what](folder)
    found |= {
        "seconds": time.monotonic() - begun,
        "cpu": time.process_time() - spent,
        "peak": resident_peak(),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    if sys.argv[1:]:
        main(*sys.argv[1:])
    else:
        show(rows())
