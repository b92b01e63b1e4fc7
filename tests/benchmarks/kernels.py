"""Classical segmenters on one core: Mpx/s beside OpenCV's kernel or scikit-image's, one thread each.

OpenCV's makes its gray of several bands as ours do, by `cv2.transform`; of one band it is given that.
"""

import time
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import skimage.color
import skimage.data
from numpy.typing import NDArray
from scipy import ndimage
from skimage.segmentation import watershed

from segengine.segmenters import _worth, edges, threshold
from segengine.segmenters.kmeans import create
from tests.benchmarks.kmeans import one_thread
from tests.benchmarks.table import Row, show

SIDE = 2048
REPEATS = 3
STEPS = {"uint8": 1, "uint16": 40, "float32": 1 / 255}
"""What one gray value of the photo becomes."""
CONTRAST = {"uint8": 1.0, "uint16": 40 * 255 / 65535, "float32": 1.0}
"""Part of the dtype's range that the photo fills; thresholds are fractions of the range."""


def rows(side: int = SIDE) -> list[Row]:
    """Best of some runs each, ours and theirs by turns, in a process that has met many pixels."""
    _worth.compiled_pays(1 << 40)
    table = []
    with one_thread():
        for dtype in STEPS:
            for bands in (1, 2, 3, 4, 8):
                table += [survey(dtype, bands, side)]
            for bands in (1, 3, 8):
                table += kernels(dtype, bands, side)
            if dtype != "float32":
                table += spaces(dtype, side)
    return table


def scene(dtype: str, bands: int, side: int) -> NDArray[np.generic]:
    """A noisy photo (side, side, band); its colours are repeated for more bands."""
    colors = cv2.resize(skimage.data.coffee(), (side, side), interpolation=cv2.INTER_CUBIC)
    noise = np.random.default_rng(0).normal(0, 3, (side, side, bands))
    values = (np.take(colors, np.arange(bands) % 3, axis=2) + noise) * STEPS[dtype]
    if dtype == "float32":
        return values.astype(np.float32)
    return np.clip(np.rint(values), 0, np.iinfo(dtype).max).astype(dtype)


def survey(dtype: str, bands: int, side: int) -> Row:
    """The survey of k-means beside its own labelling."""
    image = scene(dtype, bands, side)[None]
    valid = np.ones(image.shape[:3], np.bool_)
    surveyor = create(8, space="bands")
    fit = surveyor.fit(surveyor.survey(image, valid))
    what = f"survey of k-means, against its labelling, K=8, {dtype}, {bands} bands"
    return row(
        what, side, lambda: surveyor.survey(image, valid), lambda: fit.segment(image), ">= 1"
    )


def kernels(dtype: str, bands: int, side: int) -> list[Row]:
    """Everything that OpenCV or scikit-image has too."""
    image = scene(dtype, bands, side)
    gray = image.mean(axis=2).astype(dtype)
    weights = np.full((1, bands), 1 / bands, np.float32)

    def their_gray() -> NDArray[Any]:
        return gray if bands == 1 else cv2.transform(image, weights)

    depth = cv2.CV_16S if dtype == "uint8" else cv2.CV_32F
    part = CONTRAST[dtype]
    sobel = edges.create(threshold=0.1 * part)
    canny = edges.create("canny", low=0.03 * part, high=0.08 * part)
    log = edges.create("log", threshold=0.1 * part)
    regions = edges.create(output="regions", threshold=0.05 * part)
    mean = threshold.create("local", window=51, weighting="mean")
    gaussian = threshold.create("local", window=51)
    bytes_ = cv2.convertScaleAbs(gray, alpha=1 / STEPS[dtype])
    high = 0.05 * part * (np.iinfo(dtype).max if dtype != "float32" else 1)

    def their_log() -> None:
        cv2.Laplacian(cv2.GaussianBlur(their_gray(), (17, 17), 2), depth, ksize=3)

    def their_regions() -> None:
        power = np.hypot(cv2.Sobel(gray, cv2.CV_64F, 1, 0), cv2.Sobel(gray, cv2.CV_64F, 0, 1)) / 4
        pieces, _ = ndimage.label(power <= high)
        watershed(power, pieces, watershed_line=True)  # type: ignore[no-untyped-call]

    def their_sobel() -> None:
        made = their_gray()
        cv2.Sobel(made, depth, 1, 0)
        cv2.Sobel(made, depth, 0, 1)

    def their_bytes() -> NDArray[Any]:
        return bytes_ if bands == 1 else cv2.convertScaleAbs(their_gray(), alpha=1 / STEPS[dtype])

    ours = {
        "local mean (51), against cv2.boxFilter": (
            mean,
            lambda: cv2.boxFilter(their_gray(), -1, (51, 51)),
            0.5,
        ),
        "local Gaussian (51), against cv2.GaussianBlur": (
            gaussian,
            lambda: cv2.GaussianBlur(their_gray(), (67, 67), 50 / 6),
            0.5,
        ),
        "Sobel, against cv2.Sobel twice": (
            sobel,
            their_sobel,
            0.5,
        ),
        "Canny, against cv2.GaussianBlur and cv2.Canny of bytes": (
            canny,
            lambda: cv2.Canny(cv2.GaussianBlur(their_bytes(), (13, 13), 1.4), 30, 80),
            0.5,
        ),
        "LoG, against cv2.GaussianBlur and cv2.Laplacian": (log, their_log, 0.5),
        "Sobel regions, against scikit-image's watershed": (regions, their_regions, 5),
    }
    if bands == 8:  # the flooding is that of one band, and the rival's is slow
        del ours["Sobel regions, against scikit-image's watershed"]
    return [
        row(
            f"{what}, {dtype}, {bands} bands",
            side,
            lambda segmenter=segmenter: segmenter.segment(image[None]),
            theirs,
            f">= {target}",
        )
        for what, (segmenter, theirs, target) in ours.items()
    ]


def spaces(dtype: str, side: int) -> list[Row]:
    """Labels in lab and hsv beside scikit-image's conversion, which labels nothing yet."""
    image = scene(dtype, 3, side)
    table = []
    for space, convert in (("lab", skimage.color.rgb2lab), ("hsv", skimage.color.rgb2hsv)):
        surveyor = create(8, space=space)
        valid = np.ones((1, side, side), np.bool_)
        fit = surveyor.fit(surveyor.survey(image[None], valid))
        table.append(
            row(
                f"labels in {space}, K=8, against scikit-image's conversion alone, {dtype}",
                side,
                lambda fit=fit: fit.segment(image[None]),
                lambda convert=convert: convert(image),
                ">= 5",
            )
        )
    return table


def row(
    what: str, side: int, ours: Callable[[], object], theirs: Callable[[], object], target: str
) -> Row:
    """Mpx/s of both, each run by turns, the best of each."""
    pixels = side * side / 1e6
    a, b = zip(*((seconds(ours), seconds(theirs)) for _ in range(REPEATS)), strict=True)
    return Row(what, pixels / min(a), pixels / min(b), "Mpx/s", min(b) / min(a), target)


def seconds(work: Callable[[], object]) -> float:
    """How long it takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    show(rows())
