"""The whole job with inputs and store on S3 equals the local one, byte for byte."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from harness import Job, differing, job_of, write_photos

from segengine.commands.verify import verify
from segengine.store.blobs import open_objects

pytestmark = pytest.mark.system


def test_a_job_on_s3_equals_the_local_one(
    bucket: str, make_job: Callable[..., Job], tmp_path: Path
) -> None:
    import zarr

    photos = write_photos(tmp_path / "photos", 3)
    remote = open_objects(bucket)
    for photo in photos.iterdir():
        remote.put(f"photos/{photo.name}", photo.read_bytes())
    segmenter = {"kind": "faulty:Surveyed"}
    local = make_job(job_of(photos, tmp_path / "m.zarr", segmenter))
    local.run()
    job = make_job(job_of(f"{bucket}/photos/*.png", f"{bucket}/m.zarr", segmenter))
    job.run()
    assert job.summary()["computed"] == 12
    assert differing(job.scenes(), local.scenes()) == []
    assert verify(job.store).exit_code == 0

    name = next(key.split("/")[1] for key in job.scenes() if key.count("/") > 1)
    here = zarr.open_array(tmp_path / "m.zarr" / "scenes" / name / "mask" / "0", mode="r")
    there = zarr.open_array(f"{bucket}/m.zarr/scenes/{name}/mask/0", mode="r")
    np.testing.assert_array_equal(np.asarray(there[:]), np.asarray(here[:]))
    assert set(np.unique(np.asarray(there[:, :250, :240]))) == {0, 1}

    job.run()
    assert job.summary()["computed"] == 0
    remote.put("photos/03.png", (photos / "00.png").read_bytes())
    job.run()
    assert job.summary()["computed"] == 4


def test_a_job_on_s3_survives_its_driver(
    bucket: str, make_job: Callable[..., Job], tmp_path: Path
) -> None:
    photos = write_photos(tmp_path / "photos", 3)
    segmenter = {"kind": "faulty:Trapped", "pause": 0.05}
    local = make_job(job_of(photos, tmp_path / "m.zarr", {"kind": "faulty:Trapped"}))
    local.run()
    job = make_job(job_of(photos, f"{bucket}/m.zarr", segmenter))
    run = job.start("segment:progress:3:0.05")
    assert run.wait() == -9
    run.assert_nobody_left()
    done = len(job.records())
    assert done >= 3
    job.run()
    assert job.summary()["computed"] == 12 - done
    assert differing(job.scenes(), local.scenes()) == []
