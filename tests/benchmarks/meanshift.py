"""Mean shift beside Orfeo ToolBox' LargeScaleMeanShift, one core each, in processor time, and how alike.

python -m tests.benchmarks.meanshift [SCENE.tif ...]    those scenes instead of a noisy photo

Orfeo ToolBox is measured where it is installed (Debian's otb-bin). Its three programs read and write
files; the processor time that one takes to say its help is taken off each.
"""

import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from math import nan
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from scipy.sparse import coo_array

import segengine
from tests.benchmarks.kernels import scene
from tests.benchmarks.table import Row, show

SPATIAL, ITERATIONS, LEAST = 5, 10, 50
TURNS = 2
ONE_CORE = {"OTB_MAX_THREADS": "1", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": "1"}


def rows(scenes: Sequence[str] = ()) -> Iterator[Row]:
    """Seconds of a core; and of both the regions, before and after small ones are merged."""
    with tempfile.TemporaryDirectory(prefix="segengine-bench-") as name:
        folder = Path(name)
        for path in [Path(s) for s in scenes] or [_photo(folder / "photo.tif")]:
            with rasterio.open(path) as file:
                pixels = np.moveaxis(file.read(), 0, -1)
            for part in (0.3, 0.1):
                wide = round(
                    float(np.sqrt(pixels.astype(np.float64).var(axis=(0, 1)).sum())) * part
                )
                yield from _compared(path, pixels, wide, folder)


def _photo(path: Path) -> Path:
    pixels = scene("uint16", 4, 700)
    about: dict[str, Any] = {"driver": "GTiff", "height": 700, "width": 700, "dtype": "uint16"}
    about["transform"] = rasterio.Affine(1, 0, 0, 0, -1, 0)
    with rasterio.open(path, "w", count=4, **about) as file:
        file.write(np.moveaxis(pixels, -1, 0))
    return path


def _compared(path: Path, pixels: NDArray[Any], wide: int, folder: Path) -> Iterator[Row]:
    spec = {"kind": "meanshift", "spatial": SPATIAL, "range": wide, "iterations": ITERATIONS}
    segengine.predict(pixels[:32, :32], spec)  # compiled
    there = shutil.which("otbcli_MeanShiftSmoothing") is not None
    ours, theirs = [], []
    maps: list[NDArray[Any]] = []
    for _ in range(TURNS):
        seconds, maps = _orfeo(path, wide, folder) if there else (nan, [])
        theirs.append(seconds)
        started = time.process_time()
        found = segengine.predict(pixels, {**spec, "min_size": LEAST}).instances
        ours.append(time.process_time() - started)
    what = f"mean shift, {path.stem}, {pixels.shape}, range {wide}"
    yield Row(
        f"{what}, against OTB", min(ours), min(theirs), "CPU s", min(theirs) / min(ours), "> 1"
    )
    if not there:
        return
    raw = segengine.predict(pixels, {**spec, "min_size": 1}).instances
    assert raw is not None
    assert found is not None
    for name, mine, other in (("before", raw, maps[0]), ("after", found, maps[1])):
        counts = len(np.unique(mine)), len(np.unique(other))
        yield Row(
            f"{what}: regions {name} merging; adjusted Rand index",
            *counts,
            "",
            rand(mine, other),
            "",
        )


def _orfeo(path: Path, wide: int, folder: Path) -> tuple[float, list[NDArray[Any]]]:
    """Seconds of a core, and its regions before and after small ones are merged."""
    filtered, places, parted, merged = (str(folder / f"{name}.tif") for name in "fpsm")
    size = "100000"
    steps = (
        f"MeanShiftSmoothing -in {path} -fout {filtered} float -foutpos {places} float -spatialr {SPATIAL} "
        f"-ranger {wide} -thres 0.1 -maxiter {ITERATIONS} -modesearch 0",
        f"LSMSSegmentation -in {filtered} -inpos {places} -out {parted} uint32 -spatialr {SPATIAL / 2} "
        f"-ranger {wide / 2} -minsize 0 -tilesizex {size} -tilesizey {size} -tmpdir {folder}",
        f"LSMSSmallRegionsMerging -in {filtered} -inseg {parted} -out {merged} uint32 -minsize {LEAST}",
    )
    start = _seconds("MeanShiftSmoothing -help", asks=True)
    seconds = sum(_seconds(step) - start for step in steps)
    maps = []
    for name in (parted, merged):
        with rasterio.open(name) as file:
            maps.append(file.read(1))
    return seconds, maps


def _seconds(step: str, asks: bool = False) -> float:
    def spent() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    before = spent()
    program, *given = step.split()
    environment = {**os.environ, **ONE_CORE}
    command = [f"otbcli_{program}", *given]
    subprocess.run(command, env=environment, capture_output=True, check=not asks)
    return spent() - before


def rand(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Adjusted Rand index of two partitions: 1, the same; 0, as by chance."""
    first, second = (np.unique(ids, return_inverse=True)[1].reshape(-1) for ids in (a, b))
    both = coo_array((np.ones(first.size), (first, second))).tocsr()
    both.sum_duplicates()

    def pairs(counts: NDArray[Any]) -> float:
        return float((counts * (counts - 1.0) / 2).sum())

    together = pairs(both.data)
    one, other = pairs(np.bincount(first)), pairs(np.bincount(second))
    chance = one * other / pairs(np.array([first.size]))
    return (together - chance) / ((one + other) / 2 - chance)


if __name__ == "__main__":
    show(rows(sys.argv[1:]))
