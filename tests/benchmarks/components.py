"""200,000 objects on 16,384 x 16,384 pixels: `instances: components` beside a run without."""

import resource
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import rasterio

from segengine.job import parse_job
from segengine.runs import Run
from tests.benchmarks.resident import resident_peak
from tests.benchmarks.table import Row, show

SIDE, PITCH = 16_384, 36
"""Pixels of the scene, and from one disc to the next."""
WAYS: dict[str, dict[str, Any]] = {
    "": {},
    "components": {"instances": {"kind": "components"}},
    "components without the small, holes filled": {
        "instances": {"kind": "components", "min_area": 20, "holes": 50}
    },
    "components split by a watershed": {
        "instances": {"kind": "components", "min_area": 20, "holes": 50, "split": "watershed"}
    },
}


def rows() -> Iterator[Row]:
    """Seconds of driver and worker together, and megabytes of each, against no objects."""
    with tempfile.TemporaryDirectory(prefix="segengine-bench-") as name:
        place = Path(name)
        scene = write_discs(place / "scene.tif")
        measured(scene, place / "first.zarr", {})  # the process loads what all of them need
        plain: tuple[float, float, float] | None = None
        for i, (what, instances) in enumerate(WAYS.items()):
            found = measured(scene, place / f"{i}.zarr", instances)
            if plain is None:
                plain = found
                continue
            for unit, said, ours, theirs, most in zip(
                ("s", "MB", "MB"), ("processor time", "driver's peak", "worker's peak"), found, plain,
                (2, 1, 1), strict=True,
            ):  # fmt: skip
                label = f"{what}: {said}, against none"
                yield Row(label, ours, theirs, unit, ours / theirs, f"<= {most}")


def write_discs(path: Path) -> Path:
    """Bright discs on dark ground, each with a hole, under noise; on a map."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:512, :SIDE]
    shape: dict[str, Any] = {"height": SIDE, "width": SIDE, "count": 1, "dtype": "uint8"}
    tiles = {"tiled": True, "blockxsize": 512, "blockysize": 512}
    where = rasterio.Affine(1, 0, 500_000, 0, -1, 4_400_000)
    with rasterio.open(
        path, "w", "GTiff", crs="EPSG:32613", transform=where, **shape, **tiles
    ) as file:
        for top in range(0, SIDE, 512):
            row, middle = (y + top) // PITCH, PITCH / 2 - 0.5
            across = (x + row * 17) % PITCH - middle
            away = ((y + top) % PITCH - middle) ** 2 + across**2
            values = np.where((away <= (middle - 1) ** 2) & (away > 3), 180, 60).astype(np.uint8)
            values += rng.integers(0, 40, values.shape, np.uint8)
            window = rasterio.windows.Window(0, top, SIDE, 512)
            file.write(values, 1, window=window)
    return path


def measured(scene: Path, store: Path, instances: Mapping[str, Any]) -> tuple[float, float, float]:
    """Seconds of processor time of a run, its worker's among them; peaks of both."""
    job = {
        "source": {"paths": [str(scene)]},
        "segmenter": {"kind": "threshold", "method": "fixed", "levels": [120], **instances},
        "store": {"path": str(store)},
        "cluster": {"workers": 1},
    }
    Path("/proc/self/clear_refs").write_text("5")  # the peak, which the scene's making has raised
    before = spent()
    with Run(parse_job(job)) as run:
        for stage in Run.STAGES:
            for _ in run.stage(stage):
                pass
        client = run.wait_for_workers().client  # type: ignore[attr-defined]
        (worker,) = client.run(spent).values()
        (peak,) = client.run(resident_peak).values()
    return spent() - before + worker, resident_peak(), peak


def spent() -> float:
    """Seconds of processor time of this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    show(rows())
