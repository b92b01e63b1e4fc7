"""What the layer of confidence costs: the demo's U-Net over photos, with it and without, two workers."""

import tempfile
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import skimage.data

from segengine.commands.demo import BUNDLE
from tests.benchmarks.table import Row, show
from tests.benchmarks.turns import medians, run_seconds

PHOTOS, SIDE = 16, 1024


def rows() -> Iterator[Row]:
    """Seconds of a run, once its workers have started."""
    with tempfile.TemporaryDirectory(prefix="segengine-bench-") as name:
        folder = Path(name)
        write_photos(folder / "in")

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


def write_photos(folder: Path) -> None:
    """Windows of a photo, each with the grain of a sensor."""
    folder.mkdir()
    large = cv2.resize(skimage.data.coffee(), (2 * SIDE, 2 * SIDE), interpolation=cv2.INTER_CUBIC)
    for i in range(PHOTOS):
        rng = np.random.default_rng(i)
        y, x = rng.integers(0, SIDE, 2)
        photo = large[y : y + SIDE, x : x + SIDE] + rng.normal(0, 3, (SIDE, SIDE, 3))
        cv2.imwrite(str(folder / f"{i:02}.jpg"), photo.clip(0, 255).astype(np.uint8))


if __name__ == "__main__":
    show(rows())
