"""Every metric and loss of one flow over strangers' workers and S3 equals one uncut process."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from _painted import paint
from faulty import counted
from harness import LONG, Job, Process, kill

import segengine
from segengine import registry
from segengine.store.blobs import open_objects

pytestmark = pytest.mark.system

SIZES = [(48, 64)] * 192 + [(48, 270)] * 8 + [(262, 266)] * 2
"""202 frames: 24 of the first in a shard, each of the others in two or four."""
EVALUATE = {
    "metrics": ["all", {"metric": "boundary_f1", "tolerances": [2, 5]}],
    "losses": ["all", {"compound": [{"loss": "dice", "weight": 0.5}, {"loss": "boundary"}]}],
}
FIGURES = (
    "overall",
    "losses",
    "scenes",
    "frames",
    "worst",
    "confusion",
    "missing_truth",
    "not_measured",
    "areas",
)


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[list[Process]]:
    """A scheduler and three workers, each in a folder of its own; none comes back when killed."""
    file = tmp_path / "scheduler.json"
    options = ["--no-dashboard", "--scheduler-file", str(file)]
    serve = ["-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0"]
    work = ["-m", "distributed.cli.dask_worker", "--host", "127.0.0.1", "--nthreads", "1"]
    started = [Process(tmp_path / "scheduler", [*serve, *options])]
    started[0].until(file.exists, "no scheduler")
    started += [Process(tmp_path / f"worker{i}", [*work, "--no-nanny", *options]) for i in range(3)]
    for worker in started[1:]:
        worker.until(lambda one=worker: "Registered to" in one.stderr, "no worker")
    yield started[1:]
    for process in started:
        process.end()


def job_of(root: Path, log: Path, shard: int, frames: int, store: str) -> dict[str, Any]:
    place = {"path": store, "chunk": 256, "shard": shard, "frames": frames}
    return {
        "source": {"kind": "coco", "paths": [str(root)]},
        "segmenter": {"kind": "_painted:Painted", "log": str(log)},
        "store": {**place, "probabilities": True},
        "evaluate": EVALUATE,
    }


def test_a_flow_on_many_machines_measures_as_one_process(
    bucket: str,
    workers: list[Process],
    make_job: Callable[..., Job],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("ERROR", "werkzeug")  # its line a request costs as much as the request
    for name in ("PREFECT_API_URL", "PREFECT_PROFILE", "PREFECT_PROFILES_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    root, log = paint(tmp_path / "set", SIZES), tmp_path / "log"
    address = json.loads((tmp_path / "scheduler.json").read_text())["address"]
    cluster = {"kind": "address", "address": address}
    spec = job_of(root, log, shard=256, frames=24, store=f"{bucket}/m.zarr")
    run = make_job({**spec, "cluster": cluster}).start_command()
    run.until(lambda: len(counted(log)) >= 20, "nothing is segmented")
    assert kill(workers[0].everyone()[0])
    run.until(lambda: "stitch: " in run.stderr, "nothing is measured")
    assert kill(workers[1].everyone()[0])
    assert run.wait(3 * LONG) == 0, run.stderr
    cut = json.loads(open_objects(f"{bucket}/m.zarr").get("metrics.json") or b"{}")

    whole = str(tmp_path / "whole.zarr")
    segengine.run(job_of(root, tmp_path / "other", shard=512, frames=64, store=whole))
    uncut = segengine.open_store(whole).metrics
    for key in FIGURES:
        assert cut[key] == uncut[key], key
    assert cut["missing_truth"] == []
    assert sum(sum(row) for row in cut["confusion"]["counts"]) > 0
    assert {*registry.names("metrics")} <= {*cut["overall"], "confusion"}
    assert {*registry.names("losses")} == {*cut["losses"]}
    assert cut["not_measured"] == {}
