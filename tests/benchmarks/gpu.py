"""A network on a GPU: a run of the tutorial's U-Net, end to end, against its engine alone.

ours     reading a Zarr array, windows, engine, joining, writing masks; all in this process, which
         has compiled the network before
theirs   the engine on the same windows, decoded and scaled beforehand
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import zarr

from segengine import engines
from segengine.engines import tensorflow
from segengine.job import parse_job
from segengine.runs import Run
from segengine.segmenters._network import Network
from segengine.segmenters.model import create
from tests.benchmarks.inference import WINDOW, bare_loop
from tests.benchmarks.table import Row, show

SIDE = 4096
"""Of the scene, in pixels."""
SHARD = 2048
NONE = (
    "gpu: no GPU is here (/proc/driver/nvidia/gpus and CUDA_VISIBLE_DEVICES name none); "
    "nothing is measured"
)


def rows(side: int = SIDE) -> Iterator[Row]:
    """Windows a second in float32 and in bfloat16; none where no GPU is."""
    if not engines.gpus():
        print(NONE)
        return
    yield from measured(side, ("float32", "bfloat16"))


def measured(side: int, precisions: tuple[str, ...]) -> Iterator[Row]:
    """The same on whatever this process has."""
    tensorflow.library()
    from segengine import models

    with tempfile.TemporaryDirectory(prefix="segengine-bench-") as name:
        place = Path(name)
        models.build("unet", bands=3, classes=1).save(place / "unet.keras")
        scene = np.random.default_rng(0).integers(0, 256, (1, side, side, 3), np.uint8)
        zarr.save_array(place / "scene.zarr", scene)
        for precision in precisions:
            options = {"scale": {"divide": 255}, "window": WINDOW, "precision": precision}
            segmenter = create(str(place / "unet.keras"), **options)
            assert isinstance(segmenter, Network)
            windows, bare = bare_loop(segmenter, scene)
            job = {
                "name": "gpu",
                "source": {"kind": "zarr", "paths": [str(place / "scene.zarr")]},
                "segmenter": {"kind": "model", "path": str(place / "unet.keras"), **options},
                "store": {"shard": SHARD},
            }
            ours = min(_run(job, place / f"{precision}{i}.zarr") for i in range(2))
            yield Row(f"U-Net, {precision}: a run, against its engine alone on the same windows",
                      windows / ours, windows / bare, "windows/s", bare / ours, ">= 0.95")  # fmt: skip


def _run(job: dict[str, object], store: Path) -> float:
    """Seconds of the segment stage."""
    placed = job | {"store": {**dict(job["store"]), "path": str(store)}}  # type: ignore[call-overload]
    took = 0.0
    with Run(parse_job(placed), in_process=True) as run:
        for stage in Run.STAGES:
            before = time.perf_counter()
            for _ in run.stage(stage):
                pass
            if stage == "segment":
                took = time.perf_counter() - before
    return took


if __name__ == "__main__":
    show(rows())
