"""A byte that changes in a stored shard is found by `verify`, and healed by `run --repair`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from harness import Job, differing, job_of, write_photos

from segengine.commands.verify import verify

pytestmark = pytest.mark.system


# What pieces of a frame are linked through is decided for all of its four shards.
@pytest.mark.parametrize(("kind", "redone"), [("Trapped", 1), ("Surveyed", 4)])
def test_a_changed_byte_is_found_and_healed(
    kind: str, redone: int, make_job: Callable[..., Job], tmp_path: Path
) -> None:
    photos = write_photos(tmp_path / "photos", 2)
    job = make_job(job_of(photos, tmp_path / "m.zarr", {"kind": f"faulty:{kind}"}))
    job.run()
    clean = job.scenes()
    assert verify(job.store).exit_code == 0
    shard = next((tmp_path / "m.zarr" / "scenes").glob("*/mask/0/c/1/0/1"))
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 0x10
    shard.write_bytes(data)
    report = verify(job.store)
    assert report.exit_code == 4
    (problem,) = report.problems
    assert problem.object == str(shard.relative_to(job.store))
    job.run(0, "--repair")
    assert job.summary()["computed"] == redone
    assert differing(job.scenes(), clean) == []
    assert verify(job.store).exit_code == 0
    job.run(0, "--repair")
    assert job.summary()["computed"] == 0


def test_a_lost_shard_is_found_and_healed(make_job: Callable[..., Job], tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos", 1)
    job = make_job(job_of(photos, tmp_path / "m.zarr", {"kind": "faulty:Trapped"}))
    job.run()
    clean = job.scenes()
    next((tmp_path / "m.zarr" / "scenes").glob("*/mask/0/c/0/1/1")).unlink()
    assert verify(job.store).exit_code == 4
    job.run(0, "--repair")
    assert job.summary()["computed"] == 1
    assert differing(job.scenes(), clean) == []
