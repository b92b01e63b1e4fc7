"""`cluster: {kind: address}` with TLS: a scheduler and workers that show certificates, and ask for ours."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import Job, Process, differing, job_of, write_photos

from tests.authority import Authority

pytestmark = pytest.mark.system
SOON = 60.0
"""Seconds in which a refusal is there on a busy machine, with the start of Python in it."""


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ours")


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Process]]:
    started: list[Process] = []

    def begin(program: str, *options: str) -> Process:
        command = ["-m", f"distributed.cli.dask_{program}", "--host", "127.0.0.1", "--no-dashboard"]
        command += ["--scheduler-file", str(tmp_path / "scheduler.json"), *options]
        started.append(Process(tmp_path / program, command))
        return started[-1]

    yield begin
    for process in started:
        process.end()


def shown(authority: Authority, name: str) -> list[str]:
    """What Dask's programs are told of certificates."""
    cert, key = authority.issue(name)
    return [
        *("--tls-ca-file", str(authority.ca)),
        *("--tls-cert", str(cert)),
        *("--tls-key", str(key)),
    ]


def address_of(tmp_path: Path, scheduler: Process) -> str:
    file = tmp_path / "scheduler.json"
    scheduler.until(lambda: file.exists() and file.read_text(), "no scheduler")
    return str(json.loads(file.read_text())["address"])


@pytest.fixture
def place(authority: Authority, start: Callable[..., Process], tmp_path: Path) -> str:
    """Address of a scheduler that shows a certificate, and asks for one."""
    scheduler = start("scheduler", "--port", "0", *shown(authority, "scheduler"))
    return address_of(tmp_path, scheduler)


def test_a_run_over_tls(
    place: str,
    authority: Authority,
    start: Callable[..., Process],
    make_job: Callable[..., Job],
    tmp_path: Path,
) -> None:
    assert place.startswith("tls://")
    for name in ("one", "two"):
        worker = start("worker", "--nthreads", "1", *shown(authority, name))
        worker.until(lambda worker=worker: "Registered to" in worker.stderr, "no worker")
    photos, segmenter = write_photos(tmp_path / "photos", 3), {"kind": "faulty:Surveyed"}
    local = make_job(job_of(photos, tmp_path / "local.zarr", segmenter))
    local.run()

    options = authority.options("driver")
    block = {"kind": "address", "address": place, "options": options}
    by_file = make_job(job_of(photos, tmp_path / "file.zarr", segmenter, cluster=block))
    by_file.run()
    assert differing(by_file.scenes(), local.scenes()) == []

    names = {"CA_FILE": "ca", "CLIENT__CERT": "cert", "CLIENT__KEY": "key"}
    settings = {f"DASK_DISTRIBUTED__COMM__TLS__{dask}": options[n] for dask, n in names.items()}
    bare = {"kind": "address", "address": place}
    job = job_of(photos, tmp_path / "environment.zarr", segmenter, cluster=bare)
    by_environment = make_job(job, **settings)
    by_environment.run()
    assert differing(by_environment.scenes(), local.scenes()) == []


def test_who_does_not_fit_is_told_in_seconds(
    place: str,
    authority: Authority,
    start: Callable[..., Process],
    make_job: Callable[..., Job],
    tmp_path: Path,
) -> None:
    photos = write_photos(tmp_path / "photos", 1)
    ours, theirs = authority.options("driver"), Authority(tmp_path / "theirs").options("stranger")

    def said(address: str, options: dict[str, str], code: int = 1) -> str:
        cluster = {"kind": "address", "address": address, "options": options}
        job = job_of(photos, tmp_path / "m.zarr", {"kind": "faulty:Trapped"}, cluster=cluster)
        begun = time.monotonic()
        (line,) = make_job(job).run(code).stderr.splitlines()
        assert time.monotonic() - begun < SOON
        return line

    plain = place.replace("tls://", "tcp://")
    assert said(plain, {}) == (
        f"cluster.address: {plain} speaks TLS; write tls://, and name ca, cert and key in "
        "cluster.options"
    )
    assert "cluster.options: ca: a tls:// address needs ca, cert and key" in said(place, {}, 2)
    line = said(place, {**ours, "cert": theirs["cert"], "key": theirs["key"]})
    assert f"{place}: it refuses our certificate, cluster.options: cert, {theirs['cert']}" in line
    line = said(place, {**ours, "ca": theirs["ca"]})
    assert f"{place}: its certificate is not one of cluster.options: ca, {theirs['ca']}" in line
    assert "has no workers" in said(place, ours)

    (tmp_path / "scheduler.json").unlink()
    unlocked = address_of(tmp_path, start("scheduler", "--port", "0"))
    place = unlocked.replace("tcp://", "tls://")
    assert f"{place} does not speak TLS; write tcp://" in said(place, ours)
