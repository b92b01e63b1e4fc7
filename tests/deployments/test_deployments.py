"""What ships: jobs that are valid, deployments whose flow and parameters are, a scheduled run."""

import json
import re
import urllib.error
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import segengine
from segengine import registry
from segengine.job import Job, is_train_job, load_job
from segengine.training.job import load_train_job
from tests.segengine.segmenters import finders, sams
from tests.segengine.segmenters.onnxes import convolution

from .conftest import SHIPPED, Site, until

BUNDLE = files("segengine") / "data/fields-unet"
ALL_JOBS = sorted(SHIPPED.glob("jobs/*.yaml"))
TRAINING = [file for file in ALL_JOBS if is_train_job(file)]
JOBS = [file for file in ALL_JOBS if file not in TRAINING]
DEPLOYMENTS: list[dict[str, Any]] = yaml.safe_load((SHIPPED / "prefect.yaml").read_text())[
    "deployments"
]

NETWORKS: dict[str, Callable[[Path], str]] = {
    "first.onnx": lambda file: convolution(file, seed=1, side=16),
    "second.onnx": lambda file: convolution(file, seed=2, side=24),
    "ships-seg.onnx": lambda file: finders.disc_yolo(file, 640),
    "people.onnx": finders.disc_detector,
    "sam_vit_b.encoder.onnx": sams.encoder,
    "sam_vit_b.decoder.onnx": sams.decoder,
}
"""What an ensemble joins and what finds objects must be of its kind to be loaded; each is drawn."""


def test_there_is_no_python_in_deployments() -> None:
    assert not list(SHIPPED.rglob("*.py"))


@pytest.mark.parametrize("file", JOBS, ids=lambda file: file.stem)
def test_every_job_is_valid_and_says_what_it_is(file: Path, tmp_path: Path) -> None:
    def drawn(place: re.Match[str]) -> str:
        draw = NETWORKS.get(place[1])
        # a bundle that is still to be trained: any that is there will do
        return draw(tmp_path / place[1]) if draw else str(BUNDLE)

    here = tmp_path / file.name
    here.write_text(re.sub(r"/srv/segengine/models/([\w./-]*\w)", drawn, file.read_text()))
    job = load_job(here)
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
    for automation in yaml.safe_load((SHIPPED / "automations.yaml").read_text())["automations"]:
        assert f"`{automation['name']}`" in text
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


def next_times(first: datetime, step: timedelta, number: int = 3) -> list[datetime]:
    return [first + step * i for i in range(number)]


def expected_starts(site: Site, deployment: str) -> list[datetime]:
    """When those runs are to start that the server's own scheduler has made."""
    runs = site.runs(deployment, state={"type": {"any_": ["SCHEDULED"]}})
    assert all(run["auto_scheduled"] for run in runs)
    return [datetime.fromisoformat(run["expected_start_time"]) for run in runs]


@pytest.mark.system
def test_from_nothing_to_a_night_that_happens_by_itself(site: Site, tmp_path: Path) -> None:
    """The README's steps, on what ships; then a schedule that is due, and nobody asks for the run."""
    write_scenes(tmp_path / "data/scenes")
    site.serve()
    site.pool()
    before = datetime.now(UTC)
    out = site.prefect("deploy", "--all")
    for deployment in DEPLOYMENTS:
        assert f"segment/{deployment['name']}" in " ".join(out.split())

    for deployment in DEPLOYMENTS:
        until(
            lambda name=deployment["name"]: len(expected_starts(site, name)) >= 3,
            120,
            f"the server has not scheduled any run of {deployment['name']}",
        )
    two = before.replace(hour=2, minute=0, second=0, microsecond=0)
    quarter = before.replace(minute=15, second=0, microsecond=0)
    for name, first, step in (
        ("nightly-scenes", two, timedelta(days=1)),
        ("hourly-video", quarter, timedelta(hours=1)),
    ):
        first += step if first < before else timedelta(0)
        assert expected_starts(site, name)[:3] == next_times(first, step)

    worker = site.start("worker", "start", "--pool", "segengine")
    site.deploy("nightly-scenes", schedules=[{"interval": 20}])
    done = until(
        lambda: site.runs("nightly-scenes", state={"type": {"any_": ["COMPLETED", "FAILED"]}}),
        240,
        "no scheduled run has ended",
    )
    assert worker.poll() is None
    assert done[0]["auto_scheduled"]
    assert done[0]["state"]["message"] == "2 shards computed, 0 done before"
    store = segengine.open_store(str(tmp_path / "data/masks/scenes.zarr"))
    assert sorted(store.scenes) == ["scene0", "scene1"]
    for name in store.scenes:
        mask = np.asarray(store[name].mask[:])
        assert mask.shape == (1, 90, 70)
        assert set(np.unique(mask)) == set(range(8))
    first_files = written(store.path)

    site.deploy("nightly-scenes", schedules=[])
    site.prefect("deployment", "run", "segment/nightly-scenes")  # a busy server cuts off a --watch
    (asked,) = (r for r in site.runs("nightly-scenes") if not r["auto_scheduled"])
    state = site.end_of(asked["id"])
    assert (state["type"], state["message"]) == (
        "COMPLETED",
        "0 shards computed, 2 done before",
    )
    assert written(store.path) == first_files
    assert_mistakes_are_refused(site)
    keys = {a["key"] for a in site.ask("artifacts/filter", {})}
    assert keys >= {"scenes-metrics", "scenes-summary"}
    tasks = site.ask("task_runs/filter", {})
    assert {t["name"].rpartition("-")[0] for t in tasks} == {
        "plan",
        "survey",
        "segment",
        "stitch",
        "aggregate",
        "publish",
    }


def assert_mistakes_are_refused(site: Site) -> None:
    """Before anything is queued, and by the key that is wrong."""
    (deployed,) = site.ask(
        "deployments/filter", {"deployments": {"name": {"any_": ["nightly-scenes"]}}}
    )
    assert deployed["enforce_parameter_schema"]
    job = deployed["parameter_openapi_schema"]["definitions"]["Job"]["properties"]
    choices = {choice["title"]: choice for choice in job["segmenter"]["anyOf"]}
    assert choices["kmeans"]["properties"]["clusters"]["description"] == "how many"
    # the server's scheduler goes on making runs of its own meanwhile
    before = [run["id"] for run in site.runs("nightly-scenes") if not run["auto_scheduled"]]
    given = deployed["parameters"]["job"]
    for segmenter, said in (
        ({"kind": "kmeans", "clusters": "eight"}, "'job.segmenter.clusters'"),
        ({"kind": "kmeans", "clusters": 8, "spaec": "bands"}, "'spaec' was unexpected"),
        ({"kind": "kmeanz", "clusters": 8}, "'kmeanz' is not one of"),
        ({"kind": "kmeans"}, "'clusters' is a required property"),
    ):
        body = {"parameters": {"job": {**given, "segmenter": segmenter}}}
        with pytest.raises(urllib.error.HTTPError) as refused:
            site.ask(f"deployments/{deployed['id']}/create_flow_run", body)
        assert refused.value.code == 409
        assert said in json.load(refused.value)["detail"]
    assert before == [run["id"] for run in site.runs("nightly-scenes") if not run["auto_scheduled"]]


def written(store: str) -> list[tuple[Path, int]]:
    """Every file below `scenes/`, and when it was written."""
    return sorted((p, p.stat().st_mtime_ns) for p in Path(store).glob("scenes/**/*"))
