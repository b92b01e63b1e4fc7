"""A stranger's network on a stranger's labels: pycda's U-Net of craters, and the tile kept back from it.

    pip download --no-binary :all: --no-deps pycda==0.1.16 && tar xf pycda-0.1.16.tar.gz
    python -m tests.benchmarks.craters pycda-0.1.16

The network is a Keras 2.1.5 file of valid convolutions: 172 x 172 pixels of each window of 256 x 256.
The truth is a disk for each line of `holdout_tile_labels.csv` (MIT licence, pycda's authors).
"""

import argparse
import csv
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import segengine
from tests.benchmarks.table import Row, show

SHARDS = (256, 512, 2048)


def rows(package: Path, side: int | None = None, shards: Sequence[int] = SHARDS) -> list[Row]:
    """IoU of craters, and of how many cuts the masks are alike; `side`: of a corner of the tile alone."""
    samples = package / "pycda" / "sample_imgs"
    with Image.open(samples / "holdout_tile.pgm") as image:
        pixels = np.asarray(image)
    truth = disks(samples / "holdout_tile_labels.csv", pixels.shape)[:side, :side]
    pixels = pixels[:side, :side]
    with tempfile.TemporaryDirectory(prefix="segengine-bench-") as name:
        folder = Path(name)
        masks = [segmented(package, pixels, truth, folder / str(shard), shard) for shard in shards]
    found = [iou(mask, truth) for mask in masks]
    alike = sum(np.array_equal(mask, masks[0]) for mask in masks)
    what = f"craters of {pixels.shape[0]} x {pixels.shape[1]} pixels"
    chance = iou(np.ones_like(truth), truth)
    return [
        Row(f"{what}, IoU beside all crater", found[0], chance, "", found[0] / chance, "> 1"),
        Row(f"{what}, cuts alike", alike, len(shards), "", alike / len(shards), "1"),
    ]


def disks(labels: Path, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """1 within half a diameter of a crater's centre; lines of x, y, diameter in pixels."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    found = np.zeros(shape, np.uint8)
    with labels.open(newline="") as file:
        for row in csv.DictReader(file):
            far = (x - float(row["long"])) ** 2 + (y - float(row["lat"])) ** 2
            found[far <= (float(row["diameter"]) / 2) ** 2] = 1
    return found


def segmented(
    package: Path, pixels: NDArray[np.uint8], truth: NDArray[np.uint8], folder: Path, shard: int
) -> NDArray[np.uint8]:
    """The mask of a whole run."""
    folder.mkdir()
    Image.fromarray(pixels).save(folder / "tile.png")
    Image.fromarray(truth).save(folder / "truth.png")
    job = {
        "source": {"kind": "raster", "paths": [str(folder / "tile.png")]},
        "segmenter": {
            "kind": "model",
            "path": str(package / "pycda" / "models" / "unet.h5"),
            "scale": {"divide": 255},
            "classes": ["ground", "crater"],
        },
        "truth": {"paths": [str(folder / "truth.png")], "classes": ["ground", "crater"]},
        "store": {"path": str(folder / "m.zarr"), "shard": shard, "chunk": min(SHARDS)},
    }
    summary = segengine.run(job)
    mask = np.asarray(segengine.open_store(folder / "m.zarr")["tile"].mask[0])
    told = summary.metrics["overall"]["classes"]["crater"]["iou"]
    assert abs(told - iou(mask, truth)) < 1e-12
    return mask


def iou(mask: NDArray[np.uint8], truth: NDArray[np.uint8]) -> float:
    """Of class 1."""
    return float((mask & truth).sum() / (mask | truth).sum())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("package", type=Path, help="the unpacked sdist of pycda 0.1.16")
    show(rows(parser.parse_args().package))
