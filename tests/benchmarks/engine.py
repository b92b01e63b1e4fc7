"""Whole runs over a large raster, against a bare loop and against dask.array.

The bare loop is two processes that do the same passes with the same reader, segmenter and shard
encoder, and nothing else: no plan, no records, no retries, no resume. It is timed twice: as Python
starts it, and with the C library told to keep freed arrays, as our workers are.
"""

import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from segengine.job import Job, parse_job
from segengine.reference import create_segmenter
from segengine.runs import Run
from segengine.sources.raster import RasterSource
from segengine.store.arrays import scene_arrays
from segengine.tiling import shard_indices
from tests.benchmarks.scenes import big_raster
from tests.benchmarks.table import Row, show

SIDE = 16_384
"""Pixels: 16,384 squared times three bands is 0.8 GB."""
SHARD = 2048
JOBS: dict[str, dict[str, Any]] = {
    "mean threshold": {"kind": "threshold", "method": "mean"},
    "k-means, K=8": {"kind": "kmeans", "clusters": 8},
}


def rows(side: int = SIDE) -> Iterator[Row]:
    """Megapixels a second, best of two runs each, after start-up."""
    with tempfile.TemporaryDirectory(prefix="segengine-bench-") as name:
        folder = Path(name)
        scene = big_raster(folder / "scene.tif", side)
        gigabytes = 3 * side * side / 1e9
        pixels = side * side / 1e6
        for what, segmenter in JOBS.items():
            ours, bare, kept = [], [], []
            for _ in range(2):
                bare.append(run_bare(scene, segmenter, folder))
                ours.append(run_ours(scene, segmenter, folder))
                kept.append(run_bare(scene, segmenter, folder, KEPT))
            yield Row(
                f"whole run of {what}, {gigabytes:.1f} GB, against a bare two-process loop",
                pixels / min(ours),
                pixels / min(bare),
                "Mpx/s",
                min(bare) / min(ours),
                ">= 0.90",
            )
            yield Row(
                f"the same, the bare loop's memory kept between shards too ({what})",
                pixels / min(ours),
                pixels / min(kept),
                "Mpx/s",
                min(kept) / min(ours),
                "-",
            )
            if segmenter["kind"] == "threshold":
                theirs = run_dask_array(scene, folder)
                yield Row(
                    f"whole run of {what}, against dask.array.map_overlap + to_zarr",
                    pixels / min(ours),
                    pixels / theirs,
                    "Mpx/s",
                    theirs / min(ours),
                    "> 1",
                )


def job_of(scene: Path, segmenter: dict[str, Any], folder: Path) -> Job:
    """The job, with a store that is not there yet."""
    store = folder / "masks.zarr"
    shutil.rmtree(store, ignore_errors=True)
    return parse_job(
        {
            "source": {"paths": [str(scene)], "kind": "raster"},
            "segmenter": segmenter,
            "store": {"path": str(store), "shard": SHARD},
            "cluster": {"workers": 2},
        }
    )


def run_ours(scene: Path, segmenter: dict[str, Any], folder: Path) -> float:
    """Seconds of survey and segment, once the workers are there."""
    with Run(job_of(scene, segmenter, folder)) as run:
        list(run.stage("plan"))
        run.wait_for_workers()
        started = time.perf_counter()
        for name in ("survey", "segment", "stitch"):
            for _ in run.stage(name):
                pass
        return time.perf_counter() - started


def _survey(task: tuple[str, dict[str, Any], Any]) -> Any:
    frame, segmenter, (rows, cols) = task
    (tile,) = RasterSource().read((frame,), rows, cols)
    pixels = tile.pixels[None]
    valid = np.ones(pixels.shape[:3], np.bool_)
    return create_segmenter(segmenter).survey(pixels, valid)


def _segment(task: tuple[Any, Any, Any, Any, str]) -> None:
    from segengine.store.shardcodec import encode_shard

    frame, fitted, (rows, cols), spec, target = task
    (tile,) = RasterSource().read((frame,), rows, cols)
    labels = fitted.segment(tile.pixels[None]).labels
    Path(target).write_bytes(encode_shard(labels, spec.shard, spec.chunk, spec.fill))


KEPT = {"MALLOC_TRIM_THRESHOLD_": str(1 << 28), "MALLOC_MMAP_THRESHOLD_": str(1 << 25)}


@contextmanager
def allocator(settings: Mapping[str, str]) -> Iterator[None]:
    """Processes started inside have these of glibc's settings, and no others (Dask leaves its own)."""
    before = dict(os.environ)
    for name in KEPT:
        os.environ.pop(name, None)
    os.environ.update(settings)
    yield
    os.environ.clear()
    os.environ.update(before)


def run_bare(
    scene: Path, segmenter: dict[str, Any], folder: Path, settings: Mapping[str, str] | None = None
) -> float:
    """Seconds of the same passes by two processes."""
    with Run(job_of(scene, segmenter, folder)) as run:
        list(run.stage("plan"))
        (layout,) = run.plan.layouts.values()
    frame = layout.frame(0)
    spec = scene_arrays(layout, 2, ("labels",), None)["mask/0"]
    out = folder / "bare"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    boxes = [layout.window(place).slices[1:] for place in shard_indices(layout.grid)]
    surveyor = create_segmenter(segmenter)
    with (
        allocator(settings or {}),
        ProcessPoolExecutor(2, get_context("spawn"), initializer=_warm) as pool,
    ):
        list(pool.map(_idle, range(2)))
        started = time.perf_counter()
        state: Any = None
        for part in pool.map(_survey, [(frame, segmenter, box) for box in boxes]):
            state = part if state is None else surveyor.merge(state, part)
        fitted = surveyor.fit(state)
        tasks = [(frame, fitted, box, spec, str(out / f"{i}")) for i, box in enumerate(boxes)]
        list(pool.map(_segment, tasks))
        return time.perf_counter() - started


def _warm() -> None:
    import cv2
    import rasterio

    import segengine.store.shardcodec

    del rasterio, segengine
    cv2.setNumThreads(1)


def _idle(_: int) -> None:
    time.sleep(0.5)


def run_dask_array(scene: Path, folder: Path) -> float:
    """Seconds of a mean threshold as a Dask user writes it, chunks aligned to shards."""
    import dask.array as da
    import zarr
    from distributed import Client, LocalCluster

    store = folder / "dask.zarr"
    shutil.rmtree(store, ignore_errors=True)
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None, host="127.0.0.1"
        ) as cluster,
        Client(cluster),
    ):
        started = time.perf_counter()
        with _Lazy(scene) as lazy:
            pixels = da.from_array(lazy, chunks=(SHARD, SHARD, 3), meta=np.empty((0, 0, 0), "u1"))
            gray = pixels.astype(np.float32) @ np.float32([0.2125, 0.7154, 0.0721])
            mean = float(gray.mean(dtype=np.float64).compute())
            labels = gray.map_overlap(
                lambda block: (block > mean).astype(np.uint8),
                depth=1,
                boundary="reflect",
                dtype="u1",
            )
            target = zarr.create_array(
                str(store), shape=labels.shape, chunks=(512, 512), shards=(SHARD, SHARD), dtype="u1"
            )
            da.to_zarr(labels, target)
        return time.perf_counter() - started


class _Lazy:
    """A raster that Dask slices: each worker opens the file itself."""

    ndim = 3

    def __init__(self, path: Path) -> None:
        import rasterio

        self.path = str(path)
        with rasterio.open(path) as data:
            self.shape = (data.height, data.width, data.count)
        self.dtype = np.dtype("u1")

    def __enter__(self) -> "_Lazy":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __getitem__(self, key: tuple[slice, slice, slice]) -> np.ndarray:
        import rasterio
        from rasterio.windows import Window

        with rasterio.open(self.path) as data:
            found = data.read(window=Window.from_slices(*key[:2]))
        return np.moveaxis(found, 0, -1)


if __name__ == "__main__":
    show(rows())
