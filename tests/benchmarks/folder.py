"""Otsu's threshold of each photo of a folder, against cv2 and zarr."""

import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import skimage.data
import zarr

from tests.benchmarks.table import Row, show
from tests.benchmarks.turns import medians, run_seconds, two_processes

PHOTOS, HEIGHT, WIDTH = 600, 480, 640
TOGETHER = 60
"""Photos of a shard of the script."""


def rows() -> Iterator[Row]:
    """Photos a second."""
    with tempfile.TemporaryDirectory(prefix="segengine-bench-") as name:
        folder = Path(name)
        photos = write_photos(folder / "in")
        ours, theirs = medians(lambda: run_ours(photos, folder), lambda: run_plain(photos, folder))
        what = f"folder: Otsu a frame, {PHOTOS} JPEG photos of {WIDTH} x {HEIGHT}, against cv2"
        yield Row(what, PHOTOS / ours, PHOTOS / theirs, "/s", theirs / ours, ">= 0.9")


def write_photos(folder: Path) -> Path:
    """Parts of photos, with the grain of a sensor."""
    folder.mkdir()
    large = [
        cv2.resize(photo, (1600, 1200), interpolation=cv2.INTER_CUBIC)
        for photo in (skimage.data.coffee(), skimage.data.astronaut(), skimage.data.rocket())
    ]
    for i in range(PHOTOS):
        rng = np.random.default_rng(i)
        y, x = rng.integers(0, 1200 - HEIGHT), rng.integers(0, 1600 - WIDTH)
        photo = large[i % 3][y : y + HEIGHT, x : x + WIDTH, ::-1]
        noisy = np.clip(photo + rng.normal(0, 3, photo.shape), 0, 255).astype(np.uint8)
        cv2.imwrite(str(folder / f"{i:04}.jpg"), noisy)
    return folder


def run_ours(photos: Path, folder: Path) -> float:
    """Seconds of a run of two workers."""
    return run_seconds(folder / "ours.zarr", job_of(photos))


def job_of(photos: Path) -> dict[str, Any]:
    """What a user would ask for."""
    return {
        "source": {"paths": [str(photos)]},
        "segmenter": {"kind": "threshold", "method": "otsu", "scope": "frame"},
    }


# -------------------------------------------------------------------------------- the plain script


def run_plain(photos: Path, folder: Path) -> float:
    """Seconds of two processes."""
    store = folder / "plain.zarr"
    shutil.rmtree(store, ignore_errors=True)
    with two_processes() as pool:
        started = time.perf_counter()
        paths = sorted(photos.iterdir())
        zarr.create_array(
            store, shape=(len(paths), HEIGHT, WIDTH), dtype="u1", fill_value=255,
            chunks=(1, HEIGHT, WIDTH), shards=(TOGETHER, HEIGHT, WIDTH),
            compressors=zarr.codecs.ZstdCodec(level=1),
        )  # fmt: skip
        parts = [(store, first, paths[first : first + TOGETHER])
                 for first in range(0, len(paths), TOGETHER)]  # fmt: skip
        list(pool.map(threshold, parts))
        return time.perf_counter() - started


def threshold(task: tuple[Path, int, list[Path]]) -> None:
    """The masks of photos that follow each other."""
    store, first, paths = task
    masks = np.empty((len(paths), HEIGHT, WIDTH), np.uint8)
    for mask, path in zip(masks, paths, strict=True):
        gray = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2GRAY)
        cv2.threshold(gray, 0, 1, cv2.THRESH_OTSU, dst=mask)
    zarr.open_array(store)[first : first + len(paths)] = masks


if __name__ == "__main__":
    show(rows())
