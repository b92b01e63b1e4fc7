"""Kills amid a video whose frames are labelled by those before them: the same bytes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from harness import Job, differing, kill

import segengine
from tests.segengine.moving import write_video, yard

pytestmark = pytest.mark.system

FRAMES, SHARD = 240, 8
SPEC = {"kind": "background", "warmup": 10, "segment": 30}


def test_kills_of_workers_and_driver_change_no_byte(
    make_job: Callable[..., Job], tmp_path: Path
) -> None:
    pictures = yard(FRAMES)[0]
    write_video(tmp_path / "in/yard.mkv", pictures, codec="ffv1", pixels="bgr0")

    def job_at(name: str) -> Job:
        return make_job(
            {
                "name": "background",
                "source": {"paths": [str(tmp_path / "in")]},
                "segmenter": SPEC,
                "store": {
                    "path": str(tmp_path / name),
                    "chunk": 32,
                    "shard": 160,
                    "frames": SHARD,
                },
                "cluster": {"kind": "local", "workers": 2},
                "faults": {"retries": 8},
            }
        )

    clean = job_at("clean.zarr")
    clean.run(0, "--in-process")
    job = job_at("killed.zarr")
    for moment in ("segment:progress:3:0", "segment:progress:4:0.01"):
        run = job.start(moment)
        assert run.wait() == -9, f"{moment}: {run.stderr}"
        run.assert_nobody_left()
    done = len([key for key in job.records() if key[0] == "mask"])
    assert 0 < done < FRAMES // SHARD
    run = job.start()
    run.until(lambda: job.steps("segment"), "no shard is done")
    kill(run.workers()[0])
    assert run.wait() == 0, run.stderr
    assert job.summary()["computed"] <= FRAMES // SHARD - done
    assert differing(job.scenes(), clean.scenes()) == []
    mask = segengine.open_store(job.store)["yard"].mask[:, :96, :160]
    assert np.array_equal(mask, segengine.segment(np.stack(pictures), SPEC))
