"""Start-up: importing segengine, and what a run of photos loads."""

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import skimage.data

from tests.benchmarks.table import Row, show

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
        return [_imports(), _modules(folder)]


def _seconds(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - started


def _imports() -> Row:
    ours, theirs = [], []
    for _ in range(7):
        theirs.append(_seconds([sys.executable, "-c", "import numpy"]))
        ours.append(_seconds([sys.executable, "-c", "import segengine"]))
    a, b = statistics.median(ours), statistics.median(theirs)
    return Row("import segengine / import numpy", a, b, "s", a / b, "<= 3")


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
