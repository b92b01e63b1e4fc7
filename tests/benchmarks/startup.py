"""Start-up: importing segengine, and a cold run of one photo against a trivial Prefect flow."""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import skimage.data

from tests.benchmarks.table import Row, show

FLOW = """
from prefect import flow

@flow
def nothing():
    return 1

nothing()
"""
HEAVY = ("tensorflow", "keras", "rasterio", "pycocotools")
_LOADED = """
import sys
import segengine
segengine.run({job!r})
print(sum(name in sys.modules for name in {heavy!r}))
"""


def rows() -> list[Row]:
    """Whole processes, medians of pairs."""
    with tempfile.TemporaryDirectory(prefix="segengine-bench-") as name:
        folder = Path(name)
        photo = cv2.cvtColor(skimage.data.astronaut(), cv2.COLOR_RGB2BGR)
        cv2.imwrite(str(folder / "photo.png"), photo)
        return [_imports(), _cold(folder), _modules(folder)]


def _seconds(command: list[str], environment: dict[str, str] | None = None) -> float:
    started = time.perf_counter()
    subprocess.run(
        command, check=True, capture_output=True, env={**os.environ, **(environment or {})}
    )
    return time.perf_counter() - started


def _imports() -> Row:
    ours, theirs = [], []
    for _ in range(7):
        theirs.append(_seconds([sys.executable, "-c", "import numpy"]))
        ours.append(_seconds([sys.executable, "-c", "import segengine"]))
    a, b = statistics.median(ours), statistics.median(theirs)
    return Row("import segengine / import numpy", a, b, "s", a / b, "<= 3")


def _cold(folder: Path) -> Row:
    (folder / "flow.py").write_text(FLOW)
    ours, theirs = [], []
    for i in range(4):
        job = folder / f"job{i}.yaml"
        job.write_text(
            f"source: {{paths: [photo.png]}}\nsegmenter: {{kind: kmeans, clusters: 3}}\n"
            f"store: {{path: cold{i}.zarr}}\n"
        )
        home = {"PREFECT_HOME": str(folder / "home")}
        theirs.append(_seconds([sys.executable, str(folder / "flow.py")], home))
        ours.append(
            _seconds([sys.executable, "-P", "-m", "segengine_flows.cli", "run", str(job)], home)
        )
    # The first of each makes Prefect's database.
    a, b = statistics.median(ours[1:]), statistics.median(theirs[1:])
    return Row(
        "cold `segengine run` of a photo / a trivial Prefect flow", a, b, "s", a / b, "<= 1.5"
    )


def _modules(folder: Path) -> Row:
    job = {
        "source": {"paths": [str(folder / "photo.png")]},
        "segmenter": {"kind": "kmeans", "clusters": 3},
        "store": {"path": str(folder / "modules.zarr")},
    }
    code = _LOADED.format(job=job, heavy=HEAVY)
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    count = int(found.stdout)
    return Row(f"of {', '.join(HEAVY)}: loaded by k-means on photos", count, 0, "", count, "0")


if __name__ == "__main__":
    show(rows())
