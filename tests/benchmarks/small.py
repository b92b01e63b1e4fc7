"""Many small rasters: scenes a second from an empty folder to a report, and the bytes of the store.

The bare loop writes the same masks with rasterio and zarr-python alone, a group a scene: no plan, no
records, no georeference, no tables, no report, no resume.
"""

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import zarr

from segengine.job import parse_job
from segengine.reference import create_segmenter
from segengine.runs import Run
from tests.benchmarks.table import Row, show

SCENES = 1000
SIDE = 64
SEGMENTER: dict[str, Any] = {"kind": "threshold", "method": "mean"}
COMPRESSOR = zarr.codecs.ZstdCodec(level=1)


def rows(scenes: int = SCENES) -> list[Row]:
    """Rasters a second in this process and on one worker, after start-up; megabytes in files."""
    with tempfile.TemporaryDirectory(prefix="segengine-bench-") as name:
        folder = Path(name)
        paths = write_rasters(folder / "in", scenes)
        # What is imported once a process is no part of either loop.
        run_ours(write_rasters(folder / "warm", 2), folder / "warm.zarr", in_process=True)
        bare = run_bare(paths, folder / "bare.zarr")
        here = run_ours(paths, folder / "here.zarr", in_process=True)
        worker = run_ours(paths, folder / "worker.zarr", in_process=False)
        ours, theirs = (size(folder / f"{store}.zarr") / 1e6 for store in ("here", "bare"))
        what = f"{scenes} rasters of {SIDE} x {SIDE}"
        return [
            Row(f"{what}, in process", scenes / here, scenes / bare, "/s", bare / here, ">= 100/s"),
            Row(f"{what}, one worker", scenes / worker, scenes / bare, "/s", bare / worker, ">= 100/s"),
            Row(f"{what}, store", ours, theirs, "MB", theirs / ours, "< 8 MB"),
        ]  # fmt: skip


def write_rasters(folder: Path, count: int) -> list[Path]:
    """Georeferenced GeoTIFFs (64, 64, 3) of uint8."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    profile = {
        "driver": "GTiff",
        "height": SIDE,
        "width": SIDE,
        "count": 3,
        "dtype": "uint8",
        "crs": "EPSG:32613",
    }
    paths = []
    for i in range(count):
        pixels = rng.integers(0, 256, (3, SIDE // 8, SIDE // 8), np.uint8).repeat(8, 1).repeat(8, 2)
        place = rasterio.Affine(10, 0, 500_000 + 640 * i, 0, -10, 4_400_000)
        paths.append(folder / f"{i:05}.tif")
        with rasterio.open(paths[-1], "w", transform=place, **profile) as data:
            data.write(pixels)
    return paths


def run_ours(paths: list[Path], store: Path, *, in_process: bool) -> float:
    """Seconds of a whole run; workers are up before the clock starts."""
    job = parse_job(
        {
            "source": {"paths": [str(paths[0].parent)]},
            "segmenter": SEGMENTER,
            "store": {"path": str(store)},
            "cluster": {"workers": 1},
        }
    )
    with Run(job, in_process=in_process) as run:
        run.wait_for_workers()
        started = time.perf_counter()
        for stage in Run.STAGES:
            list(run.stage(stage))
        seconds = time.perf_counter() - started
    assert run.summary().computed == len(paths)
    return seconds


def run_bare(paths: list[Path], store: Path) -> float:
    """Seconds of the bare loop."""
    surveyor = create_segmenter(SEGMENTER)
    started = time.perf_counter()
    root = zarr.open_group(store, mode="w")
    for path in paths:
        with rasterio.open(path) as data:
            pixels = np.moveaxis(data.read(), 0, -1)[None]
        valid = np.ones(pixels.shape[:3], np.bool_)
        labels = surveyor.fit(surveyor.survey(pixels, valid)).segment(pixels).labels
        array = root.create_array(
            f"{path.stem}/mask/0",
            shape=labels.shape,
            chunks=labels.shape,
            dtype="u1",
            compressors=COMPRESSOR,
            fill_value=255,
        )
        array[:] = labels
    return time.perf_counter() - started


def size(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


if __name__ == "__main__":
    show(rows())
