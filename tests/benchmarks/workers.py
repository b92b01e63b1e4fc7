"""Peak memory of workers over a satellite scene, a folder of photos and a video; one, and two."""

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from segengine.job import parse_job
from segengine.runs import Run
from tests.benchmarks import folder, satellite, video
from tests.benchmarks.resident import resident_peak
from tests.benchmarks.table import Row, show

LIMIT = 400.0
"""Megabytes that a worker may take."""


def rows() -> Iterator[Row]:
    """Megabytes of the largest of one and of two workers; the two together against the one."""
    with tempfile.TemporaryDirectory(prefix="segengine-bench-") as name:
        place = Path(name)
        jobs = {
            "satellite scene": satellite.job_of(satellite.write_scene(place / "scene.tif")),
            "folder of photos": folder.job_of(folder.write_photos(place / "in")),
            "video": video.job_of(video.write_video(place / "video.avi")),
        }
        for what, job in jobs.items():
            (one,) = peaks(place / "one.zarr", job, 1)
            two = peaks(place / "two.zarr", job, 2)
            yield Row(f"workers: peak of one, {what}", one, LIMIT, "MB", one / LIMIT, "<= 1")
            yield Row(f"workers: two of them together, {what}", sum(two), 2 * one, "MB",
                      sum(two) / (2 * one), "<= 1")  # fmt: skip


def peaks(store: Path, job: Mapping[str, Any], workers: int) -> list[float]:
    """Megabytes that each worker came to."""
    where = {"path": f"{store}-{Path(job['source']['paths'][0]).name}", **job.get("store", {})}
    with Run(parse_job({**job, "store": where, "cluster": {"workers": workers}})) as run:
        for stage in Run.STAGES[:4]:
            for _ in run.stage(stage):
                pass
        client = run.wait_for_workers().client  # type: ignore[attr-defined]
        return list(client.run(resident_peak).values())


if __name__ == "__main__":
    show(rows())
