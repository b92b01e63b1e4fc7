"""What ships: jobs that are valid, deployments whose flow and parameters are, a scheduled run."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import yaml

import segengine
from segengine import registry
from segengine.job import Job, load_job
from segengine.training.job import is_train_job, load_train_job

SHIPPED = Path(__file__).parents[2] / "deployments"
BUNDLE = files("segengine") / "data/fields-unet"
ALL_JOBS = sorted(SHIPPED.glob("jobs/*.yaml"))
TRAINING = [file for file in ALL_JOBS if is_train_job(file)]
JOBS = [file for file in ALL_JOBS if file not in TRAINING]
DEPLOYMENTS: list[dict[str, Any]] = yaml.safe_load((SHIPPED / "prefect.yaml").read_text())[
    "deployments"
]


def test_there_is_no_python_in_deployments() -> None:
    assert not list(SHIPPED.rglob("*.py"))


@pytest.mark.parametrize("file", JOBS, ids=lambda file: file.stem)
def test_every_job_is_valid_and_says_what_it_is(file: Path) -> None:
    # a bundle that is still to be trained: any that is there will do
    trained = "kind: model" in file.read_text()
    job = load_job(file, [f"segmenter.path={BUNDLE}"] if trained else [])
    assert job.plugin is not None
    assert file.read_text().startswith("# ")
    assert Path(job.store.path).is_absolute()


@pytest.mark.parametrize("file", TRAINING, ids=lambda file: file.stem)
def test_every_training_job_is_valid_and_says_what_it_is(file: Path) -> None:
    assert load_train_job(file).architecture.name in registry.names("models")
    assert file.read_text().startswith("# ")


def test_the_readme_names_every_deployment_and_the_worked_examples() -> None:
    text = (SHIPPED / "README.md").read_text()
    for deployment in DEPLOYMENTS:
        assert f"`{deployment['name']}`" in text
        assert deployment["work_pool"]["work_queue_name"] in text
    assert "jobs/photos.yaml" in text
    assert len(JOBS) >= 4


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda d: d["name"])
def test_every_deployment_has_a_schedule_a_flow_and_valid_parameters(
    deployment: dict[str, Any],
) -> None:
    from prefect.flows import load_flow_from_entrypoint

    assert deployment["schedules"]
    assert all(len(s["cron"].split()) == 5 for s in deployment["schedules"])
    flow = load_flow_from_entrypoint(deployment["entrypoint"], use_placeholder_flow=False)
    filled = yaml.safe_load(
        yaml.safe_dump(deployment["parameters"]).replace("{{ $SEGENGINE_DATA }}", "/data")
    )
    checked = flow.validate_parameters({"repair": False, "refit": False} | filled)
    job = checked["job"]
    assert isinstance(job, Job)
    assert job.absolute(None) == job
    twin = load_job(SHIPPED / f"jobs/{job.name}.yaml")
    assert job.source.model_dump(exclude={"paths"}) == twin.source.model_dump(exclude={"paths"})
    assert job.segmenter == twin.segmenter


# ------------------------------------------------------------------------------------- a real one


def until(what: Callable[[], Any], seconds: float) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = what()
        if found:
            return found
        time.sleep(0.25)
    raise AssertionError("waited in vain")


class Site:
    """A machine with a Prefect home of its own; ends what it has started."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.started: list[subprocess.Popen[bytes]] = []
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        kept = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
        self.environ = kept | {
            "PREFECT_HOME": str(folder / "prefect"),
            "PREFECT_API_URL": f"http://127.0.0.1:{self.port}/api",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "1",
            "SEGENGINE_DATA": str(folder / "data"),
        }

    def start(self, *arguments: str) -> "subprocess.Popen[bytes]":
        log = (self.folder / f"{arguments[0]}.log").open("wb")
        with log:
            process = subprocess.Popen(
                [sys.executable, "-m", "prefect", *arguments],
                cwd=self.folder,
                env=self.environ,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self.started.append(process)
        return process

    def prefect(self, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "prefect", "--no-prompt", *arguments],
            cwd=self.folder / "deployments",
            env=self.environ,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def end(self) -> None:
        for process in reversed(self.started):
            family = psutil.Process(process.pid).children(recursive=True)
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            for child in psutil.wait_procs(family, timeout=3)[1]:
                child.kill()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    yield site
    site.end()


def write_scenes(folder: Path) -> None:
    import rasterio
    from rasterio import Affine

    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    for index in range(2):
        pixels = random.integers(0, 2000, (8, 90, 70)).astype(np.uint16)
        with rasterio.open(
            folder / f"scene{index}.tif",
            "w",
            driver="GTiff",
            height=90,
            width=70,
            count=8,
            dtype="uint16",
            crs="EPSG:32613",
            transform=Affine(2, 0, 480000, 0, -2, 4450000),
        ) as file:
            file.write(pixels)


@pytest.mark.system
def test_from_nothing_to_a_scheduled_run(site: Site, tmp_path: Path) -> None:
    """The README's steps, on what ships: the masks are there, and a second run computes nothing."""
    shutil.copytree(SHIPPED, tmp_path / "deployments")
    write_scenes(tmp_path / "data/scenes")

    def answers() -> bool:
        try:
            with urllib.request.urlopen(f"{site.environ['PREFECT_API_URL']}/health", timeout=1):
                return True
        except OSError:
            return False

    site.start("server", "start", "--host", "127.0.0.1", "--port", str(site.port), "--no-ui")
    until(answers, 120)
    site.prefect("work-pool", "create", "segengine", "--type", "process")
    site.prefect("work-queue", "create", "scenes", "--pool", "segengine", "--limit", "1")
    site.prefect("work-queue", "create", "video", "--pool", "segengine", "--limit", "1")
    out = site.prefect("deploy", "--all")
    for deployment in DEPLOYMENTS:
        assert f"segment/{deployment['name']}" in " ".join(out.split())
    worker = site.start("worker", "start", "--pool", "segengine")

    out = site.prefect("deployment", "run", "segment/nightly-scenes", "--watch")
    assert worker.poll() is None
    store = segengine.open_store(str(tmp_path / "data/masks/scenes.zarr"))
    assert sorted(store.scenes) == ["scene0", "scene1"]
    for name in store.scenes:
        mask = np.asarray(store[name].mask[:])
        assert mask.shape == (1, 90, 70)
        assert set(np.unique(mask)) == set(range(8))
    first = sorted((p, p.stat().st_mtime_ns) for p in Path(store.path).glob("scenes/**/*"))

    site.prefect("deployment", "run", "segment/nightly-scenes", "--watch")
    again = sorted((p, p.stat().st_mtime_ns) for p in Path(store.path).glob("scenes/**/*"))
    assert again == first
    runs = api(site, "flow_runs/filter", {"sort": "START_TIME_ASC"})
    states = [r["state"] for r in runs if r["state"]["type"] != "SCHEDULED"]
    assert [(s["type"], s["message"]) for s in states] == [
        ("COMPLETED", "2 shards computed, 0 done before"),
        ("COMPLETED", "0 shards computed, 2 done before"),
    ]
    scheduled = {r["deployment_id"] for r in runs if r["state"]["type"] == "SCHEDULED"}
    assert len(scheduled) <= 2  # the scheduler's own time to look has perhaps not come yet
    keys = {a["key"] for a in api(site, "artifacts/filter", {})}
    assert keys >= {"scenes-metrics", "scenes-summary"}
    tasks = api(site, "task_runs/filter", {})
    assert {t["name"].rpartition("-")[0] for t in tasks} == {
        "plan",
        "survey",
        "segment",
        "stitch",
        "aggregate",
        "publish",
    }


def api(site: Site, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    import json

    request = urllib.request.Request(
        f"{site.environ['PREFECT_API_URL']}/{path}",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=20) as answer:
        found: list[dict[str, Any]] = json.load(answer)
    return found
