"""The flow as Prefect runs it: a form from its schema, driven in a thread, guarded."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

import segengine
from segengine.job import Job

from .conftest import Start

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


def test_prefect_can_show_the_job_as_a_form() -> None:
    from prefect.utilities.callables import parameter_schema

    from segengine_flows.segment import segment

    schema = parameter_schema(segment).model_dump_for_openapi()
    assert schema["required"] == ["job"]
    assert set(schema["properties"]) == {"job", "repair", "refit"}
    assert all(p["description"] for p in schema["properties"].values())
    definitions = schema["definitions"]
    job = definitions[schema["properties"]["job"]["$ref"].rpartition("/")[2]]
    assert set(job["properties"]) == set(Job.model_fields)
    assert set(job["required"]) == {"source", "segmenter", "store"}
    assert job["additionalProperties"] is False
    store = definitions[job["properties"]["store"]["$ref"].rpartition("/")[2]]
    assert store["properties"]["chunk"]["description"]


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
