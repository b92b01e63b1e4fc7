"""What finds objects or regions, killed amid its shards and run again: the same bytes, none made twice."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from harness import Job, differing
from scipy import ndimage

import segengine
from segengine.job import parse_job
from segengine.runs import Run
from tests.segengine.segmenters import finders, sams
from tests.segengine.sources.volumes import write_nifti

pytestmark = [pytest.mark.system, pytest.mark.usefixtures("plain_report")]
FRAMES, SIDE, SHARD = 3, 140, 128
SHARDS = 4 * FRAMES
DONE = 5
"""Shards that are counted when the run is killed."""
BRIGHT = {"kind": "threshold", "method": "fixed", "levels": [60], "instances": "components"}
KINDS: dict[str, dict[str, Any]] = {
    "regions": {"kind": "regions", "spacing": 8},
    "superpixels": {"kind": "superpixels", "size": 8, "iterations": 2},
    "meanshift": {"kind": "meanshift", "spatial": 3, "range": 20, "iterations": 3, "min_size": 20},
    "sam": {"kind": "sam", "window": 128, "overlap": 0.5},
    "solids": BRIGHT,
}


def discs(seed: int) -> tuple[np.ndarray, np.ndarray]:
    return finders.discs(seed, (SIDE, SIDE), 8, apart=24)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Discs on noise, whose regions and objects cross the borders of shards."""
    folder = tmp_path_factory.mktemp("photos")
    for seed in range(FRAMES):
        picture, _ = discs(seed)
        assert cv2.imwrite(str(folder / f"{seed}.png"), picture[..., ::-1])
    return folder


@pytest.fixture(scope="module")
def volume(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Lumps that go on from slice to slice."""
    folder = tmp_path_factory.mktemp("volume")
    noise = np.random.default_rng(0).normal(size=(FRAMES, SIDE, SIDE))
    lumps = ndimage.gaussian_filter(noise, (0.8, 4, 4))
    values = (lumps / lumps.std() * 100).astype(np.int16)
    write_nifti(folder / "brain.nii.gz", values.T, np.eye(4), qform_code=1)
    return folder


@pytest.fixture(scope="module")
def sam(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What is bright around the middles of the first photo's discs."""
    folder = tmp_path_factory.mktemp("sam")
    _, ids = discs(0)
    middles = ndimage.center_of_mass(ids > 0, ids, range(1, ids.max() + 1))
    places = [[x, y] for y, x in middles]
    (folder / "p.geojson").write_text(json.dumps({"type": "MultiPoint", "coordinates": places}))
    return {
        "prompts": str(folder / "p.geojson"),
        "encoder": sams.encoder(folder / "e.onnx", None),
        "decoder": sams.decoder(folder / "d.onnx", None),
    }


def segmented(job: Job) -> int:
    """Run a job to its end in this process: shards that it looked at, not those that it joined alone."""
    with Run(parse_job(job.job), in_process=True) as run:
        found = {stage: sum(1 for _ in run.stage(stage)) for stage in Run.STAGES}
    assert run.summary().exit_code == 0
    return found["segment"]


@pytest.mark.parametrize("name", KINDS)
def test_a_run_killed_amid_its_shards_goes_on_with_those_that_are_left(
    name: str, photos: Path, volume: Path, sam: dict[str, str],
    make_job: Callable[..., Job], tmp_path: Path,
) -> None:  # fmt: skip
    def job_on(store: str) -> dict[str, Any]:
        found: dict[str, Any] = {
            "source": {"paths": [str(photos)]},
            "segmenter": KINDS[name] | (sam if name == "sam" else {}),
            "store": {"path": str(tmp_path / store), "chunk": 32, "shard": SHARD, "frames": 1},
        }
        if name == "solids":
            found |= {"source": {"kind": "volume", "paths": [str(volume)]}, "solids": {}}
        return found

    clean = make_job(job_on("clean.zarr"))
    assert segmented(clean) == SHARDS
    job = make_job(job_on("masks.zarr"))
    run = job.start(f"segment:progress:{DONE}:0", "--in-process", "--singly")
    assert run.wait() == -9, run.stderr
    run.assert_nobody_left()
    before = len(job.records())
    assert DONE <= before < SHARDS
    assert segmented(job) == SHARDS - before
    assert differing(job.scenes(), clean.scenes()) == []
    objects = "solids" if name == "solids" else "instances"
    tables = [Path(j.store) / f"tables/{objects}.parquet" for j in (clean, job)]
    assert tables[0].read_bytes() == tables[1].read_bytes()
    assert segengine.open_store(clean.store).table(objects).num_rows > FRAMES
