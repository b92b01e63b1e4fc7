"""A run that gives up amid its shards says why in one line, whatever its workers still have in hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from harness import Job, job_of, write_photos

pytestmark = pytest.mark.system


def test_too_many_bad_frames_are_one_line(make_job: Callable[..., Job], tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos", 24)
    for path in sorted(photos.iterdir())[::4]:
        path.write_bytes(path.read_bytes()[:-100])
    about = job_of(photos, tmp_path / "m.zarr", {"kind": "threshold"})
    about["store"]["frames"] = 1
    job = make_job(about | {"faults": {"max_quarantined": 0.1}})
    process = job.start_command()
    assert process.wait() == 1, process.stderr
    (line,) = process.stderr.splitlines()
    assert "faults.max_quarantined 0.1" in line
