"""What is wrong with a value of `--set` is blamed on it, and on no line of the file."""

from __future__ import annotations

from pathlib import Path

import pytest

from segengine.errors import JobError
from segengine.job import load_job, located
from segengine_flows.cli import main

JOB = """\
source: {paths: ["*.png"]}
segmenter:
  kind: kmeans
  clusters: 3
store:
  path: out.zarr
  chunk: 64
  shard: 128
"""


@pytest.fixture
def job(tmp_path: Path) -> str:
    path = tmp_path / "job.yaml"
    path.write_text(JOB)
    return str(path)


@pytest.mark.parametrize(
    ("overrides", "where"),
    [
        (["segmenter.clusters=none"], "--set segmenter.clusters=none: segmenter.clusters: "),
        (
            ["segmenter.clusters=4", "segmenter.clusters=-4"],
            "--set segmenter.clusters=-4: segmenter.",
        ),
        (["store.shard=many"], "--set store.shard=many: store.shard: "),
        (
            ["store={path: a.zarr, shard: many}"],
            "--set store={path: a.zarr, shard: many}: store.shard",
        ),
        (["faults.retries=few"], "--set faults.retries=few: faults.retries: "),
        (["nothing=1"], "--set nothing=1: nothing: unknown key"),
        (["segmenter.kind=kmean"], "--set segmenter.kind=kmean: segmenter.kind: "),
    ],
)
def test_a_value_of_the_command_line_is_blamed_on_it(
    job: str, overrides: list[str], where: str
) -> None:
    with pytest.raises(JobError) as raised:
        load_job(job, overrides)
    assert str(raised.value).startswith(where)
    assert "job.yaml" not in str(raised.value)
    assert "\n" not in str(raised.value)


def test_what_the_file_says_is_blamed_on_its_line(job: str) -> None:
    Path(job).write_text(JOB + "tracks: 3\n")
    with pytest.raises(JobError, match=r"job\.yaml:9: tracks"):
        load_job(job, ["segmenter.clusters=4"])


def test_what_only_the_data_tell_is_blamed_on_it_too(
    job: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", job, "--set", "source.paths=[/nowhere/*.tif]"]) == 2
    said = capsys.readouterr().err
    assert "--set source.paths=[/nowhere/*.tif]: source.paths: /nowhere" in said
    assert "job.yaml" not in said
    error = JobError("source.paths: nothing")
    assert str(located(job, error)).startswith(f"{job}:1: source.paths")


def test_a_password_in_it_is_not_shown(job: str) -> None:
    with pytest.raises(JobError) as raised:
        load_job(job, ["store.path=s3://me:secret@host/out.zarr", "store.path.x=1"])
    assert "secret" not in str(raised.value)
