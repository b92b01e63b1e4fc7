"""A store that cannot be written: one line that says so, nothing torn, and the same command goes on."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import Job, differing, job_of, write_photos

from segengine.planning.damage import differences
from segengine.store.blobs import open_objects
from segengine.store.singles import from_json

pytestmark = pytest.mark.system

SIZE = 3 << 19


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one MiB and a half; needs root."""
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def leave(disk: Path, free: int) -> None:
    """Fill a disk but for some bytes."""
    ballast = disk / "ballast"
    ballast.unlink(missing_ok=True)
    ballast.write_bytes(bytes(shutil.disk_usage(disk).free - free))


def test_a_full_disk_tears_nothing_and_costs_nothing_that_is_done(
    small_disk: Path, make_job: Callable[..., Job], tmp_path: Path
) -> None:
    photos = write_photos(tmp_path / "photos", 6)
    segmenter = {"kind": "faulty:Surveyed"}
    clean = make_job(job_of(photos, tmp_path / "clean.zarr", segmenter))
    clean.run()
    store = small_disk / "m.zarr"
    job = make_job(job_of(photos, store, segmenter))
    # The first shards; then drafts and masks; then the tables or the report.
    for free in (60_000, 90_000, 60_000):
        leave(small_disk, free)
        run = job.run(1)
        (line,) = run.stderr.splitlines()
        assert "No space left on device" in line
        assert "make room" in line
        assert "run the same command again" in line
        objects = open_objects(str(store))
        for key in objects.keys("records"):
            if key.endswith(".json"):
                from_json(objects.get(key) or b"")
        assert list(differences(objects)) == []
        assert not (store / "run.lock").exists()
    (small_disk / "ballast").unlink()
    done = len([key for key in job.records() if key[0] == "mask"])
    job.run()
    assert job.summary()["computed"] == 24 - done
    assert differing(job.scenes(), clean.scenes()) == []
    assert list(differences(open_objects(str(store)))) == []


def test_a_store_that_is_a_file_is_refused_before_anything_starts(
    make_job: Callable[..., Job], tmp_path: Path
) -> None:
    photos = write_photos(tmp_path / "photos", 1)
    store = tmp_path / "m.zarr"
    store.write_text("a letter")
    job = make_job(job_of(photos, store, {"kind": "faulty:Trapped"}))
    run = job.run(2)
    (line,) = run.stderr.splitlines()
    assert line.startswith(f"store.path: {store} is a file")
    assert store.read_text() == "a letter"
    below = make_job(job_of(photos, store / "below", {"kind": "faulty:Trapped"}))
    (line,) = below.run(2).stderr.splitlines()
    assert line.startswith(f"store.path: {store} is a file")
