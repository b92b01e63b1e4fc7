"""The flow as Prefect runs it: a form from its schema, driven in a thread, guarded."""

import inspect
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

import segengine
from segengine import registry
from segengine.errors import JobError
from segengine.job import Job, is_train_job, parse_job

from .conftest import Start

JOBS = [
    file
    for file in sorted((Path(__file__).parents[2] / "deployments/jobs").glob("*.yaml"))
    if not is_train_job(file)
]

SCRIPT = """
import json, sys
from segengine_flows.segment import segment
from segengine.job import Job

if __name__ == "__main__":
    job = Job.model_validate(json.loads(sys.argv[1]))
    state = segment(job, return_state=True)
    result = state.result(raise_on_failure=False)
    print(json.dumps([state.type.value, state.name, state.message, repr(result)]))
"""


@pytest.fixture(scope="module")
def form() -> dict[str, Any]:
    """The schema that a deployment gives to Prefect."""
    from prefect.utilities.callables import parameter_schema

    from segengine_flows.segment import segment

    return parameter_schema(segment).model_dump_for_openapi()


def of_job(form: dict[str, Any]) -> dict[str, Any]:
    job: dict[str, Any] = form["definitions"]["Job"]
    assert form["properties"]["job"]["$ref"] == "#/definitions/Job"
    return job


def test_prefect_can_show_the_job_as_a_form(form: dict[str, Any]) -> None:
    from prefect.utilities.schema_tools.validation import is_valid_schema

    is_valid_schema(form)
    assert form["required"] == ["job"]
    assert set(form["properties"]) == {"job", "repair", "refit"}
    assert all(p["description"] for p in form["properties"].values())
    job = of_job(form)
    assert set(job["properties"]) == set(Job.model_fields)
    assert set(job["required"]) == {"source", "segmenter", "store"}
    assert job["additionalProperties"] is False
    definitions = form["definitions"]
    store = definitions[job["properties"]["store"]["$ref"].rpartition("/")[2]]
    assert store["properties"]["chunk"]["description"]


def test_the_form_has_a_choice_for_each_segmenter_with_its_own_options(
    form: dict[str, Any],
) -> None:
    """By the signatures themselves: what a run calls with these options."""
    choices = {c["title"]: c for c in of_job(form)["properties"]["segmenter"]["anyOf"]}
    assert tuple(choices) == (*registry.names("segmenters"), "class")
    for name in registry.names("segmenters"):
        choice, signature = choices[name], inspect.signature(registry.load("segmenters", name))
        keys = choice["properties"]
        assert keys["kind"]["const"] == keys["kind"]["default"] == name
        assert choice["description"] == registry.summary("segmenters", name)
        assert keys.keys() == {"kind", "instances", *signature.parameters}
        for option, parameter in signature.parameters.items():
            assert keys[option]["title"]
            assert keys[option]["description"], (name, option)
            if parameter.default is parameter.empty:
                assert option in choice["required"]
            else:
                default = parameter.default
                assert keys[option]["default"] == default
    kmeans = choices["kmeans"]["properties"]
    assert kmeans["space"]["enum"] == ["rgb", "hsv", "lab", "bands"]
    assert kmeans["clusters"]["type"] == "integer"
    assert kmeans["attempts"]["description"] == "starts the best is taken of"
    assert "const" not in choices["class"]["properties"]["kind"]


def test_the_form_has_the_kinds_of_sources(form: dict[str, Any]) -> None:
    choices = {c["title"]: c for c in of_job(form)["properties"]["source"]["anyOf"]}
    files = choices["files"]["properties"]
    assert files["kind"]["enum"] == ["auto", "images", "raster", "video", "zarr"]
    grid = {"area", "resolution", "crs", "resampling", "mosaic", "skip"}
    assert files.keys() == {"kind", "paths", "bands", "color", "every"} | grid
    assert choices["coco"]["properties"].keys() == {
        *("kind", "paths", "split", "classes", "color", "task", "annotations", "skip")
    }
    assert {*files["kind"]["enum"], *choices} == {
        *("auto", "files", "class", *registry.names("sources"))
    }


THRESHOLD: dict[str, Any] = {"kind": "threshold"}
BLOCKS: tuple[tuple[dict[str, Any], str], ...] = (
    ({"segmenter": THRESHOLD}, ""),
    ({"segmenter": {"kind": "threshold", "levels": None, "instances": None}}, ""),
    ({"segmenter": {"kind": "threshold", "method": "fixed", "levels": [10, 20.5]}}, ""),
    ({"segmenter": {"kind": "kmeans", "clusters": 3, "space": "lab"}}, ""),
    ({"segmenter": {"kind": "kmeans", "clusters": "3"}}, "job.segmenter.clusters"),
    ({"segmenter": {"kind": "kmeans", "clusters": 3, "space": "cmyk"}}, "job.segmenter.space"),
    ({"segmenter": {"kind": "kmeans", "clusters": 3, "spce": "lab"}}, "'spce' was unexpected"),
    ({"segmenter": {"kind": "kmeans"}}, "'clusters' is a required property"),
    ({"segmenter": {"kind": "kmeanz", "clusters": 3}}, "'kmeanz' is not one of ['background', "),
    ({"segmenter": {"clusters": 3}}, "'kind' is a required property"),
    ({"segmenter": {"kind": "threshold", "clusters": 3}}, "'clusters' was unexpected"),
    ({"source": {"kind": "raster", "bands": [5, 3, 2], "every": 1, "color": None}}, ""),
    ({"source": {"kind": "video", "every": 2}}, ""),
    ({"source": {"every": 2}}, ""),
    ({"source": {"kind": "coco", "split": "val"}}, ""),
    ({"source": {"split": "val"}}, "'split' was unexpected"),
    ({"source": {"kind": "raster", "every": 2}}, "job.source.every"),
    ({"source": {"kind": "raster", "bands": [0]}}, "job.source"),
    ({"source": {"kind": "rester"}}, "'rester' is not one of ['auto', "),
    ({"nmae": "x"}, "'nmae' was unexpected"),
)


@pytest.mark.parametrize(("blocks", "said"), BLOCKS, ids=lambda value: str(value)[:50])
def test_prefect_refuses_what_the_job_file_would_be_refused_for(
    form: dict[str, Any], blocks: dict[str, Any], said: str
) -> None:
    """By the check that Prefect's API makes, and by the one that a job file gets."""
    from prefect.utilities.schema_tools.validation import ValidationError, validate

    job = {"segmenter": THRESHOLD, "store": {"path": "/s"}} | blocks
    job["source"] = {"paths": ["/x"]} | blocks.get("source", {})
    if not said:
        validate({"job": job}, form, raise_on_error=True)
        assert parse_job(job)
        return
    with pytest.raises(ValidationError, match=re.escape(said)):
        validate({"job": job}, form, raise_on_error=True)
    with pytest.raises(JobError):
        parse_job(job)


def test_a_class_of_ones_own_may_take_anything(form: dict[str, Any]) -> None:
    from prefect.utilities.schema_tools.validation import validate

    job = {
        "source": {"kind": "mine.sources:Tiles", "paths": ["/x"], "zoom": 7},
        "segmenter": {"kind": "mine.more:Segmenter", "depth": {"a": 1}},
        "store": {"path": "/s"},
    }
    validate({"job": job}, form, raise_on_error=True)


@pytest.mark.parametrize("file", JOBS, ids=lambda file: file.stem)
def test_the_form_takes_every_job_that_ships_as_it_is_stored(
    form: dict[str, Any], file: Path
) -> None:
    from prefect.utilities.schema_tools.validation import validate

    job = yaml.safe_load(file.read_text())
    validate({"job": job}, form, raise_on_error=True)
    stored = Job.model_validate(job).as_json()
    validate({"job": stored}, form, raise_on_error=True)


def test_a_plugin_that_is_installed_in_part_leaves_the_form_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = registry.load

    def load(group: str, name: str) -> Any:
        if name == "kmeans":
            raise JobError("kmeans: needs a package that is not installed: No module named 'x'")
        return real(group, name)

    monkeypatch.setattr(registry, "load", load)
    segmenter = Job.model_json_schema()["properties"]["segmenter"]
    (kmeans,) = [c for c in segmenter["anyOf"] if c["title"] == "kmeans"]
    assert "No module named 'x'" in kmeans["description"]
    assert kmeans.get("additionalProperties") is not False


def test_a_run_loads_no_plugin_for_the_form() -> None:
    modules = {registry.module(g, n) for g in ("segmenters", "sources") for n in registry.names(g)}
    ask = f"import sys, segengine_flows.segment; print([m for m in sys.modules if m in {modules}])"
    found = subprocess.run(
        [sys.executable, "-P", "-c", ask], capture_output=True, text=True, check=True, timeout=60
    )
    assert found.stdout.strip() == "[]"


def test_parameters_are_checked_as_the_job_file_is() -> None:
    from prefect.exceptions import ParameterTypeError

    from segengine_flows.segment import segment

    job = {
        "source": {"paths": ["/x/*.png"]},
        "segmenter": {"kind": "threshold"},
        "store": {"path": "/s"},
    }
    checked = segment.validate_parameters({"job": job, "repair": True, "refit": False})
    assert checked["job"] == Job.model_validate(job)
    with pytest.raises(ParameterTypeError, match="nmae"):
        segment.validate_parameters({"job": job | {"nmae": 1}, "repair": False, "refit": False})


@pytest.fixture
def deployed(launch: Start, api: Any, tmp_path: Path) -> Start:
    """The flow in a process of its own, as a worker starts it, as we deploy it."""
    script = tmp_path / "worker.py"
    script.write_text(SCRIPT)

    def run(job: dict[str, Any]) -> "subprocess.Popen[str]":
        return launch(
            str(script),
            json.dumps(job),
            PREFECT_API_URL=api.url,
        )

    return run


def job_data(file: Path, **changes: Any) -> dict[str, Any]:
    return segengine.load_job(file).as_json() | changes


@pytest.fixture
def importable(slow_job: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(slow_job.parent))
    return slow_job


@pytest.mark.system
def test_a_flow_runs_its_job_and_a_mistake_fails_it_with_one_line(
    job_file: Path, photos: Path, deployed: Start
) -> None:
    (photos / "bad.png").write_bytes(b"")
    good = deployed(job_data(job_file))
    relative = job_data(job_file)
    relative["store"]["path"] = "masks.zarr"
    bad = deployed(relative)
    out, err = good.communicate(timeout=120)
    kind, name, message, result = json.loads(out.splitlines()[-1])
    assert (kind, name) == ("COMPLETED", "Quarantined"), err
    assert message == "2 shards computed, 0 done before; 1 frame quarantined"
    assert "'exit_code': 3" in result
    out, err = bad.communicate(timeout=120)
    kind, name, message, result = json.loads(out.splitlines()[-1])
    assert (kind, name) == ("FAILED", "Failed"), err
    assert message == "store.path: masks.zarr: a job given as a flow parameter needs absolute paths"
    assert "Traceback" not in err


@pytest.mark.system
def test_a_night_that_is_over_is_partial_and_its_alerts_are_events(
    job_file: Path, deployed: Start, api: Any, launch: Start
) -> None:
    import httpx

    changes = {
        "budget": {"duration": "0.001s"},  # over before anything begins
        "alerts": [{"figure": "frames.left", "above": 3}],
    }
    out, err = deployed(job_data(job_file, **changes)).communicate(timeout=120)
    kind, name, message, result = json.loads(out.splitlines()[-1])
    assert (kind, name) == ("COMPLETED", "Partial"), err
    words = "stopped by the budget after 0.001s: 2 shards left; the same command goes on"
    assert message == f"0 shards computed, 0 done before; {words}"
    assert "'exit_code': 5" in result
    end, found = time.monotonic() + 60, []
    while not found and time.monotonic() < end:
        time.sleep(0.2)
        asked = {"filter": {"event": {"name": ["segengine.alert"]}}}
        found = httpx.post(f"{api.url}/events/filter", json=asked).json()["events"]
    (event,) = found
    assert event["resource"]["prefect.resource.id"] == "segengine.job.photos"
    assert event["payload"]["words"] == "alert: frames.left is 4 (above: 3)"
    # Without Prefect, and with no budget, the same command goes on.
    again = launch("-P", "-m", "segengine_flows.start", "run", str(job_file))
    out, err = again.communicate(timeout=120)
    assert again.returncode == 0, err
    assert "2 shards computed, 0 done before" in out


def in_the_middle(store: Path) -> None:
    end = time.monotonic() + 60
    while len(list((store / "records").rglob("mask/*.json"))) < 3:
        assert time.monotonic() < end
        time.sleep(0.1)


@pytest.mark.system
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "hung"])
def test_a_deployed_flow_whose_api_goes_away_finishes_its_job_soon(
    importable: Path, api: Any, worker_run: Start, how: signal.Signals
) -> None:
    store = importable.parent / "slow.zarr"
    process = worker_run("segment", job_data(importable))
    in_the_middle(store)
    os.kill(api.pid, how)
    end = time.monotonic() + 60
    while not (store / "metrics.json").exists():
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.1)
    began = time.monotonic()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1, err  # so its worker knows that Prefect was not told
    # 9 s for Prefect, and the engine's own end: figures, report, the cluster's processes.
    assert time.monotonic() - began < 18
    assert "Prefect does not answer: how this run ended is in its store" in err
    masks = [r for r in segengine.open_store(str(store)).records() if r.kind == "mask"]
    assert [r.status for r in masks] == ["done"] * 40


@pytest.mark.system
@pytest.mark.parametrize("seconds", [0.2, 60.0], ids=["many shards", "one long shard"])
def test_a_flow_that_is_terminated_stops_its_engine(
    importable: Path, api: Any, deployed: Start, seconds: float
) -> None:
    """In a process of the user's own, which nobody ends by force: the engine does not wait."""
    store = importable.parent / "slow.zarr"
    process = deployed(job_data(importable, segmenter=slow(seconds)))
    if seconds < 1:
        in_the_middle(store)
    else:
        working(process.pid, store)
    others = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode != 0
    assert psutil.wait_procs(others, timeout=5)[1] == []
    assert not (store / "run.lock").exists()
    assert not (store / "metrics.json").exists()


def slow(seconds: float) -> dict[str, Any]:
    return {"kind": "slow_segmenter:Slow", "seconds": seconds}


def working(pid: int, store: Path) -> None:
    """Wait for a worker that has loaded the job's segmenter, and for it to begin."""
    end = time.monotonic() + 60
    while not (store / "zarr.json").exists() or not psutil.Process(pid).children(recursive=True):
        assert time.monotonic() < end
        time.sleep(0.1)
    time.sleep(5)
