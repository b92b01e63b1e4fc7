"""A worker's memory on a scene and on one of sixteen times its area."""

import resource
import tempfile
from pathlib import Path

from segengine.job import parse_job
from segengine.stages import Run
from tests.benchmarks.scenes import big_raster
from tests.benchmarks.table import Row, show

SIDE = 4096


def rows() -> list[Row]:
    """Peak resident megabytes of the one worker, for k-means fitted on the frame."""
    with tempfile.TemporaryDirectory(prefix="segengine-bench-") as name:
        small, large = (peak(Path(name), side) for side in (SIDE, 4 * SIDE))
    return [
        Row("worker memory, 16x the area against 1x", large, small, "MB", large / small, "<= 1.1")
    ]


def peak(folder: Path, side: int) -> float:
    """Megabytes the worker came to."""
    scene = big_raster(folder / f"{side}.tif", side)
    job = parse_job(
        {
            "source": {"paths": [str(scene)]},
            "segmenter": {"kind": "kmeans", "clusters": 4},
            "store": {"path": str(folder / f"{side}.zarr")},
            "cluster": {"workers": 1},
        }
    )
    with Run(job) as run:
        for stage in Run.STAGES[:4]:
            list(run.stage(stage))
        client = run.wait_for_workers().client  # type: ignore[attr-defined]
        (kilobytes,) = client.run(_peak).values()
    return float(kilobytes) / 1e3


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    show(rows())
