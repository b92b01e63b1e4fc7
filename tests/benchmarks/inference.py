"""Networks: segmenters against a bare engine loop and `predict`; the cloud mask against its origin.

All in this process, on equal threads: those of `OMP_NUM_THREADS`, else every core.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from segengine import engines
from segengine.engines import tensorflow
from segengine.segmenters import cloudmask
from segengine.segmenters._network import Exact, Network
from segengine.segmenters.model import create
from tests.benchmarks.table import Row, show

SIDE = 4096
"""Of the scene under clouds, in pixels."""
SHARD = 1280
"""Of the scene for the U-Net, in pixels; three bands."""
WINDOW = 512
PHOTOS, SINGLE = 64, 16
"""Photos of 128 x 128 in a batch, and those that are predicted one by one."""


def rows(side: int = SIDE) -> list[Row]:
    """Throughput of the tutorial's U-Net, then of the cloud mask."""
    tensorflow.library()
    from segengine import models

    with tempfile.TemporaryDirectory(prefix="segengine-bench-") as name:
        path = str(Path(name) / "unet.keras")
        model = models.build("unet", bands=3, classes=1)
        model.save(path)
        return [*unet(path, model), *cloud(side)]


def unet(path: str, model: Any) -> list[Row]:
    """Windows and photos a second."""
    rng = np.random.default_rng(0)
    scene = rng.integers(0, 256, (1, SHARD, SHARD, 3), np.uint8)
    photos = rng.integers(0, 256, (PHOTOS, 128, 128, 3), np.uint8)
    scaled = photos.astype(np.float32) / 255

    def opened(**options: Any) -> Network:
        found = create(path, scale={"divide": 255}, **options)
        assert isinstance(found, Network)
        return found

    cut = opened(window=WINDOW)
    windows, bare = bare_loop(cut, scene)
    ours = seconds(lambda: cut.label(scene))
    table = [
        Row("U-Net: segmenter, against a bare engine loop", windows / ours, windows / bare,
            "windows/s", bare / ours, ">= 0.95")
    ]  # fmt: skip
    each = seconds(lambda: [model.predict(p[None], verbose=0) for p in scaled[:SINGLE]]) / SINGLE
    many = seconds(lambda: model.predict(scaled, batch_size=PHOTOS, verbose=0)) / PHOTOS
    kinds: list[tuple[str, dict[str, Any], float]] = [
        ("float32", {}, 1.3),
        ("bfloat16", {"precision": "bfloat16"}, 5),
        ("float32 on OpenVINO", {"engine": "openvino"}, 1.3),
        ("bfloat16 on OpenVINO", {"engine": "openvino", "precision": "bfloat16"}, 5),
    ]
    for what, options, target in kinds:
        segmenter = opened(**options)
        ours = seconds(lambda s=segmenter: s.label(photos)) / PHOTOS  # type: ignore[misc]
        if not options:
            table.append(
                Row("U-Net, photos of 128: against predict() one by one", 1 / ours, 1 / each,
                    "photos/s", each / ours, ">= 5x faster")
            )  # fmt: skip
        table.append(
            Row(f"U-Net, photos of 128, {what}: against predict() in batches of {PHOTOS}",
                1 / ours, 1 / many, "photos/s", many / ours, f">= {target}x faster")
        )  # fmt: skip
    return table


def bare_loop(segmenter: Network, scene: NDArray[np.uint8]) -> tuple[int, float]:
    """Windows of a segmenter, scaled beforehand, and the seconds that its engine alone takes."""
    assert isinstance(segmenter.cut, Exact)
    side, places = segmenter.cut.places(scene.shape[1])
    windows = np.stack(
        [
            scene[0, y.start : y.start + side, x.start : x.start + side]
            for y in places
            for x in places
        ]
    )
    scaled = segmenter.scale.apply(windows)
    size = 4  # what a segmenter takes of this window

    def loop() -> None:
        for i in range(0, len(scaled), size):
            segmenter.engine.run(scaled[i : i + size])

    return len(windows), seconds(loop)


def cloud(side: int) -> list[Row]:
    """The cloud mask of one scene: on ONNX Runtime as theirs, then in bfloat16."""
    from ukis_csmask.mask import CSmask

    scene = sky(side)
    names = ("blue", "green", "red", "nir")
    reflectance = scene.astype(np.float32) / 10000
    start = time.perf_counter()
    theirs = CSmask(reflectance, list(names), intra_op_num_threads=engines.threads()).csm[..., 0]
    their_time = time.perf_counter() - start
    kinds: list[tuple[str, dict[str, Any]]] = [
        ("float32", {}),
        ("bfloat16 on OpenVINO", {"engine": "openvino", "precision": "bfloat16"}),
    ]
    table = []
    for what, options in kinds:
        bands = {name: i + 1 for i, name in enumerate(names)}
        segmenter = cloudmask.create(bands, "l1c", **options)
        pad = (0, -side % segmenter.stride)
        padded = np.pad(scene[None], ((0, 0), pad, pad, (0, 0)), "reflect")
        start = time.perf_counter()
        ours = segmenter.label(padded).labels
        time_taken = time.perf_counter() - start
        inner = slice(256, side - 256)
        agree = (ours[0, inner, inner] == theirs[inner, inner]).mean()
        table.append(
            Row(f"cloud mask, {side} x {side}, {what}: against ukis-csmask (equal labels: {agree:.3%})",
                time_taken, their_time, "s", their_time / time_taken, ">= 1.5x faster")
        )  # fmt: skip
    return table


def sky(side: int) -> NDArray[np.uint16]:
    """Fields under clouds and their shadows, four bands, as reflectance x 10000."""
    rng = np.random.default_rng(1)

    def smooth(cell: int) -> NDArray[np.float32]:
        coarse = rng.normal(size=(side // cell + 2, side // cell + 2)).astype(np.float32)
        return cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC)

    land = np.stack([v * (1 + 0.25 * smooth(40)) for v in (0.07, 0.09, 0.08, 0.28)], axis=-1)
    cloud = np.clip(2 * (smooth(90) + 0.3 * smooth(30) + 0.15 * smooth(11)) - 0.4, 0, 1)[..., None]
    shadow = np.roll(cloud, (30, -25), (0, 1))
    seen = land * (1 - 0.7 * shadow) * (1 - cloud) + 0.9 * cloud
    return np.clip(seen * 10000 + rng.normal(0, 20, seen.shape), 1, 65535).astype(np.uint16)


def seconds(work: Callable[[], object]) -> float:
    """Best of three, after one that compiles."""
    work()
    found = []
    for _ in range(3):
        start = time.perf_counter()
        work()
        found.append(time.perf_counter() - start)
    return min(found)


if __name__ == "__main__":
    show(rows())
