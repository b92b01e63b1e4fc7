"""K-means over a satellite scene in 16 bits, against scikit-learn on a sample, rasterio and zarr.

Inertia is that of all pixels about the means of their labels, for both.
"""

import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import rasterio
import skimage.data
import zarr
from numpy.typing import NDArray
from rasterio.windows import Window
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits

from tests.benchmarks.table import Row, show
from tests.benchmarks.turns import medians, run_seconds, two_processes

SIDE, BANDS, CLUSTERS = 8350, 3, 8
SHARD, CHUNK = 2048, 512
SAMPLE = 100_000
WINDOWS = [(y, x) for y in range(0, SIDE, SHARD) for x in range(0, SIDE, SHARD)]


def rows() -> Iterator[Row]:
    """Seconds; and inertia of the last turn."""
    with tempfile.TemporaryDirectory(prefix="segengine-bench-") as name:
        folder = Path(name)
        scene = write_scene(folder / "scene.tif")
        ours, theirs = medians(lambda: run_ours(scene, folder), lambda: run_plain(scene, folder))
        what = f"satellite: k-means, K={CLUSTERS}, {SIDE} x {SIDE} x {BANDS} of 16 bit"
        yield Row(f"{what}, against scikit-learn", ours, theirs, "s", theirs / ours, ">= 1")
        found = [inertia(scene, zarr.open_array(folder / path, mode="r")) for path in MASKS]
        yield Row("satellite: inertia", *found, "", found[0] / found[1], "<= 1")


MASKS = "ours.zarr/scenes/scene/mask/0", "plain.zarr"


def write_scene(path: Path) -> Path:
    """Photos as a sensor of 11 bits sees them, with its noise, in tiles of 512."""
    rng = np.random.default_rng(0)
    size = (SHARD, SHARD)
    photos = [
        cv2.resize(photo, size, interpolation=cv2.INTER_CUBIC).astype(np.float32) * (1800 / 255)
        for photo in (skimage.data.coffee(), skimage.data.astronaut(), skimage.data.retina())
    ]
    profile = {
        "driver": "GTiff", "width": SIDE, "height": SIDE, "count": BANDS, "dtype": "uint16",
        "tiled": True, "blockxsize": CHUNK, "blockysize": CHUNK, "interleave": "pixel",
        "crs": "EPSG:32613", "transform": rasterio.Affine(2, 0, 487_548, 0, -2, 4_443_554),
    }  # fmt: skip
    with rasterio.open(path, "w", **profile) as data:
        for i, (y, x) in enumerate(WINDOWS):
            h, w = min(SHARD, SIDE - y), min(SHARD, SIDE - x)
            light = photos[i % 3][:h, :w] * rng.uniform(0.8, 1.1) + rng.uniform(50, 150)
            noise = rng.normal(0, 6, light.shape).astype(np.float32)
            values = np.clip(light + noise, 0, 2047).astype(np.uint16)
            data.write(np.moveaxis(values, -1, 0), window=Window(x, y, w, h))
    return path


def run_ours(scene: Path, folder: Path) -> float:
    """Seconds of a run of two workers."""
    return run_seconds(folder / "ours.zarr", job_of(scene))


def job_of(scene: Path) -> dict[str, Any]:
    """What a user would ask for."""
    return {
        "source": {"paths": [str(scene)], "kind": "raster"},
        "segmenter": {
            "kind": "kmeans", "clusters": CLUSTERS, "space": "bands", "scope": "run",
        },
        "store": {"shard": SHARD, "chunk": CHUNK},
    }  # fmt: skip


# -------------------------------------------------------------------------------- the plain script


def run_plain(scene: Path, folder: Path) -> float:
    """Seconds of two processes."""
    store = folder / "plain.zarr"
    shutil.rmtree(store, ignore_errors=True)
    with two_processes() as pool:
        started = time.perf_counter()
        centres = fit(scene)
        zarr.create_array(
            store, shape=(1, SIDE, SIDE), dtype="u1", fill_value=255,
            chunks=(1, CHUNK, CHUNK), shards=(1, SHARD, SHARD),
            compressors=zarr.codecs.ZstdCodec(level=1),
        )  # fmt: skip
        list(pool.map(label, [(scene, store, centres, window) for window in WINDOWS]))
        return time.perf_counter() - started


def fit(scene: Path) -> NDArray[np.float32]:
    """(8, 3) centres of 100,000 pixels of a decimated read."""
    with rasterio.open(scene) as data:
        small = data.read(out_shape=(BANDS, SIDE // 8, SIDE // 8))
    pixels = small.reshape(BANDS, -1).T
    chosen = np.random.default_rng(0).choice(len(pixels), SAMPLE, replace=False)
    with threadpool_limits(1):
        model = KMeans(CLUSTERS, n_init=10, max_iter=10, random_state=0)
        model.fit(pixels[chosen].astype(np.float32))
    found = model.cluster_centers_
    return np.asarray(found[np.argsort(found.sum(1))], np.float32)


def label(task: tuple[Path, Path, NDArray[np.float32], tuple[int, int]]) -> None:
    """The nearest centre of each pixel of a window."""
    scene, store, centres, (y, x) = task
    h, w = min(SHARD, SIDE - y), min(SHARD, SIDE - x)
    with rasterio.open(scene) as data:
        pixels = data.read(window=Window(x, y, w, h)).reshape(BANDS, -1).astype(np.float32)
    nearness = centres @ pixels - (centres**2).sum(1)[:, None] / 2
    labels = nearness.argmax(0).astype(np.uint8).reshape(h, w)
    zarr.open_array(store)[0, y : y + h, x : x + w] = labels


def inertia(scene: Path, mask: "zarr.Array[Any]") -> float:
    """Sum of squared distances of all pixels to the mean of their label."""
    count, total, square = np.zeros(CLUSTERS), np.zeros((BANDS, CLUSTERS)), 0.0
    with rasterio.open(scene) as data:
        for y, x in WINDOWS:
            h, w = min(SHARD, SIDE - y), min(SHARD, SIDE - x)
            pixels = data.read(window=Window(x, y, w, h)).reshape(BANDS, -1).astype(np.float64)
            labels = np.asarray(mask[0, y : y + h, x : x + w]).reshape(-1)
            count += np.bincount(labels, minlength=CLUSTERS)
            total += [np.bincount(labels, band, CLUSTERS) for band in pixels]
            square += float((pixels**2).sum())
    return square - float((total**2 / np.maximum(count, 1)).sum())


if __name__ == "__main__":
    show(rows())
