"""A stranger's network on a stranger's cells: MiSiC's U-Net of bacteria, and colicoords' masks.

    pip download --no-deps misic==1.1.5 && unzip misic-1.1.5-py3-none-any.whl
    pip download --no-binary :all: --no-deps colicoords==0.1.5 && tar xf colicoords-0.1.5.tar.gz
    python -m tests.benchmarks.bacteria misic/MiSiCv2.h5 colicoords-0.1.5

The network reads shape indices at three scales, and was made for colonies; here cells lie apart, in
noise that it takes for some. The truth is a margin wider than what it marks (both MIT licence).
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tifffile
from numpy.typing import NDArray
from skimage.feature import shape_index

import segengine
from tests.benchmarks.table import Row, show

Array = NDArray[Any]
PICTURES = 9


def rows(model: Path, package: Path, pictures: Sequence[int] = range(PICTURES)) -> list[Row]:
    """Cells of which more than half is marked, of all; IoU of all pixels, beside MiSiC's own program."""
    light = tifffile.imread(package / "examples/data/06/brightfield_storm.tif")[list(pictures)]
    truth = tifffile.imread(package / "examples/data/06/binary_storm.tif")[list(pictures)] == 1
    with tempfile.TemporaryDirectory(prefix="segengine-bench-") as name:
        mask = segmented(model, light, Path(name))
    hit = known = 0
    for found, wanted in zip(mask, truth, strict=True):
        count, cells = cv2.connectedComponents(wanted.astype(np.uint8))
        hit += sum(bool(found[cells == n].mean() > 0.5) for n in range(1, count))
        known += count - 1
    shared = float((mask & truth).sum() / (mask | truth).sum())
    what = f"bacteria on {len(truth)} pictures"
    return [
        Row(f"{what}, of all", hit, known, "", hit / known, ""),
        Row(f"{what}, IoU beside MiSiC's own of all 9", shared, 0.332, "", shared / 0.332, ""),
    ]


def segmented(model: Path, light: Array, folder: Path) -> Array:
    """Where cells are (n, y, x), of a whole run."""
    (folder / "in").mkdir()
    for i, pixels in enumerate(light):
        pixels = (pixels - pixels.min()) / np.ptp(pixels)
        bands = [-shape_index(pixels, sigma, mode="reflect") for sigma in (1, 1.5, 2)]
        file = folder / "in" / f"{i:02}.tif"
        tifffile.imwrite(file, np.dstack(bands).astype(np.float32), photometric="rgb")
    job = {
        "source": {"paths": [str(folder / "in")]},
        "segmenter": {"kind": "model", "path": str(model), "classes": ["background", "cell"]},
        "store": {"path": str(folder / "m.zarr")},
    }
    assert segengine.run(job).exit_code == 0
    found = {
        frame.name: np.asarray(scene.mask_of(frame.name)) == 1
        for scene in segengine.open_store(folder / "m.zarr").scenes.values()
        for frame in scene.frames
    }
    return np.stack([found[name][: light.shape[1], : light.shape[2]] for name in sorted(found)])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="MiSiCv2.h5 of misic 1.1.5")
    parser.add_argument("package", type=Path, help="the unpacked sdist of colicoords 0.1.5")
    given = parser.parse_args()
    show(rows(given.model, given.package))
