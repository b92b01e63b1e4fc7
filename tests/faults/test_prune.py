"""Prune under fire: SIGKILL at many moments, and a store that is a bucket."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import HERE, Job, differing, job_of, tree, write_photos

from segengine.commands.verify import verify
from segengine.store.blobs import open_objects
from segengine_flows.cli import main
from tests.searching import holding

pytestmark = [pytest.mark.system, pytest.mark.usefixtures("plain_report")]
SEGMENTER = {"kind": "kmeans", "clusters": 3, "scope": "run", "instances": "components"}
NEEDLES = (b"person",)


def photos(folder: Path) -> Path:
    write_photos(folder, 4)
    (folder / "01.png").rename(folder / "person.png")
    return folder


def names(folder: Path) -> str:
    (folder / "names").write_text("person.png\n")
    return str(folder / "names")


def test_prune_killed_at_many_moments_goes_on(make_job: Callable[..., Job], tmp_path: Path) -> None:
    job = make_job(job_of(photos(tmp_path / "photos"), tmp_path / "m.zarr", SEGMENTER))
    job.run(0, "--in-process")
    shutil.copytree(job.store, tmp_path / "clean.zarr")
    arguments = ["--frames", names(tmp_path), "--yes"]
    assert main(["prune", str(tmp_path / "clean.zarr"), *arguments]) == 0
    clean = tree(str(tmp_path / "clean.zarr"))
    kills = 0
    for moment in (1, 2, 4, 7, 11, 16, 3, 9, 14, 22, 30):
        run = job.launch([str(HERE / "pruner.py"), str(moment), "prune", job.store, *arguments])
        kills += run.wait() == -9
        run.assert_nobody_left()
    assert kills > 5
    assert main(["prune", job.store, *arguments]) == 0
    assert differing(tree(job.store), clean) == []
    assert holding(open_objects(job.store), NEEDLES) == []
    assert verify(job.store).problems == ()
    job.run(0, "--in-process")
    assert job.summary()["computed"] == 0
    assert differing(tree(job.store), clean) == []


def test_a_bucket_is_pruned_too(bucket: str, make_job: Callable[..., Job], tmp_path: Path) -> None:
    store = f"{bucket}/m.zarr"
    job = make_job(job_of(photos(tmp_path / "photos"), store, SEGMENTER))
    job.run(0, "--in-process")
    assert holding(open_objects(store), NEEDLES)
    assert main(["prune", store, "--frames", names(tmp_path), "--yes"]) == 0
    assert holding(open_objects(store), NEEDLES) == []
    assert verify(store).problems == ()
    before = tree(store)
    job.run(0, "--in-process")
    assert job.summary()["computed"] == 0
    assert tree(store) == before
