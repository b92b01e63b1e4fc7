"""K-means against `cv2.kmeans` as in the tutorial: time and inertia, one thread each."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import cv2
import numpy as np
import skimage.data
from numpy.typing import NDArray

from segengine.segmenters.kmeans import create
from tests.benchmarks.table import Row, show

CLUSTERS = {3: 60, 8: 60, 16: 50}
TIMED, COMPARED = 2048, 1024
PHOTOS: dict[str, tuple[Callable[[], NDArray[np.uint8]], int]] = {
    # noise of a sensor, in standard deviations; 0: smooth and flat areas stay as they are
    "coffee": (skimage.data.coffee, 3),
    "astronaut": (skimage.data.astronaut, 0),
    "immunohistochemistry": (skimage.data.immunohistochemistry, 0),
    "rocket": (skimage.data.rocket, 3),
    "retina": (skimage.data.retina, 0),
    "hubble": (skimage.data.hubble_deep_field, 0),
    "logo (flat)": (skimage.data.logo, 0),
    "colorwheel (flat)": (skimage.data.colorwheel, 0),
}


def rows() -> list[Row]:
    """Time and inertia on one large photo, inertia on each of the others."""
    table = []
    with one_thread():
        for name, (load, noise) in PHOTOS.items():
            timed = name == "coffee"
            image = photo(load(), TIMED if timed else COMPARED, noise)
            for clusters, target in CLUSTERS.items():
                theirs, their_inertia = run_cv2(image, clusters)
                ours, inertia = min(run_ours(image, clusters) for _ in range(3 if timed else 1))
                what = f"k-means, {name} {len(image)} x {len(image)}, K={clusters}"
                if timed:
                    table.append(
                        Row(what, ours, theirs, "s", theirs / ours, f">= {target}x faster")
                    )
                table.append(
                    Row(
                        f"{what}: inertia",
                        inertia,
                        their_inertia,
                        "",
                        inertia / their_inertia,
                        "<= 1.002",
                    )
                )
    return table


def photo(image: NDArray[np.uint8], size: int, noise: int) -> NDArray[np.uint8]:
    """The picture's colours enlarged to (size, size, 3)."""
    image = cv2.resize(image[..., :3], (size, size), interpolation=cv2.INTER_CUBIC)
    grain = np.random.default_rng(0).normal(0, noise, image.shape) if noise else 0
    return np.clip(image + np.rint(grain), 0, 255).astype(np.uint8)


def run_cv2(image: NDArray[np.uint8], clusters: int) -> tuple[float, float]:
    """Seconds and inertia of the tutorial's call."""
    points = image.reshape(-1, 3).astype(np.float32)
    cv2.setRNGSeed(0)
    criteria = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 10, 1.0)
    start = time.perf_counter()
    _, labels, centres = cv2.kmeans(points, clusters, None, criteria, 10, cv2.KMEANS_PP_CENTERS)
    seconds = time.perf_counter() - start
    return seconds, inertia_of(image, labels.reshape(image.shape[:2]), centres)


def run_ours(image: NDArray[np.uint8], clusters: int) -> tuple[float, float]:
    """Seconds and inertia of survey, fit and labels, with nothing kept from a run before."""
    surveyor = create(clusters)
    valid = np.ones((1, *image.shape[:2]), np.bool_)
    start = time.perf_counter()
    segmenter = surveyor.fit(surveyor.survey(image[None], valid))
    labels = segmenter.segment(image[None]).labels
    seconds = time.perf_counter() - start
    return seconds, inertia_of(image, labels[0], np.array(segmenter.centres))


def inertia_of(
    image: NDArray[np.uint8], labels: NDArray[np.integer], centres: NDArray[np.floating]
) -> float:
    """Sum of squared distances of the pixels to the centres they are labelled with."""
    total = 0.0
    for row, label in zip(image, labels, strict=True):
        total += float(((row - centres[label].astype(np.float64)) ** 2).sum())
    return total


@contextmanager
def one_thread() -> Iterator[None]:
    """OpenCV on one thread; NumPy's elementwise loops and ours are on one anyway."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


if __name__ == "__main__":
    show(rows())
