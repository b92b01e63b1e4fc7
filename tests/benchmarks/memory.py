"""A worker's memory on a scene and on one of sixteen times its area."""

import tempfile
from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from segengine.commands.demo import BUNDLE
from segengine.job import parse_job
from segengine.runs import Run
from tests.benchmarks.resident import resident_peak
from tests.benchmarks.scenes import big_raster
from tests.benchmarks.table import Row, show

KINDS: tuple[tuple[str, dict[str, Any], int, int], ...] = (
    ("k-means fitted on the frame", {"kind": "kmeans", "clusters": 4}, 4096, 2048),
    ("a U-Net", {"kind": "model", "path": str(files("segengine") / BUNDLE)}, 2048, 1024),
)
"""Segmenters; for each the side in pixels of the smaller scene, and of the shards."""


def rows() -> Iterator[Row]:
    """Peak resident megabytes of the one worker."""
    for what, segmenter, side, shard in KINDS:
        with tempfile.TemporaryDirectory(prefix="segengine-bench-") as name:
            small, large = (peak(Path(name), s, segmenter, shard) for s in (side, 4 * side))
        said = f"worker memory, {what}, 16x the area against 1x"
        yield Row(said, large, small, "MB", large / small, "<= 1.1")


def peak(folder: Path, side: int, segmenter: Mapping[str, Any], shard: int) -> float:
    """Megabytes the worker came to."""
    scene = big_raster(folder / f"{side}.tif", side)
    job = parse_job(
        {
            "source": {"paths": [str(scene)]},
            "segmenter": segmenter,
            "store": {"path": str(folder / f"{side}.zarr"), "shard": shard},
            "cluster": {"workers": 1},
        }
    )
    with Run(job) as run:
        for stage in Run.STAGES[:4]:
            list(run.stage(stage))
        client = run.wait_for_workers().client  # type: ignore[attr-defined]
        (found,) = client.run(resident_peak).values()
    return float(found)


if __name__ == "__main__":
    show(rows())
