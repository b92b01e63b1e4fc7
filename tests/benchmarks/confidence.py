"""What the layer of confidence costs: the demo's U-Net over photos, with it and without, two workers."""

import tempfile
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import cv2

from segengine.commands.demo import BUNDLE
from tests.benchmarks.scenes import grainy_photos
from tests.benchmarks.table import Row, show
from tests.benchmarks.turns import medians, run_seconds

PHOTOS, SIDE = 16, 1024


def rows() -> Iterator[Row]:
    """Seconds of a run, once its workers have started."""
    with tempfile.TemporaryDirectory(prefix="segengine-bench-") as name:
        folder = Path(name)
        (folder / "in").mkdir()
        for i, photo in enumerate(grainy_photos(PHOTOS, SIDE)):
            cv2.imwrite(str(folder / f"in/{i:02}.jpg"), photo)

        def timed(confidence: bool) -> float:
            store: dict[str, Any] = {"confidence": True} if confidence else {}
            job = {
                "source": {"paths": [str(folder / "in")]},
                "segmenter": {"kind": "model", "path": str(files("segengine") / BUNDLE)},
                "store": store,
            }
            return run_seconds(folder / "masks.zarr", job)

        ours, theirs = medians(lambda: timed(True), lambda: timed(False))
        what = f"confidence: a U-Net over {PHOTOS} photos, with the layer against without"
        yield Row(what, ours, theirs, "s", ours / theirs, "<= 1.15")


if __name__ == "__main__":
    show(rows())
