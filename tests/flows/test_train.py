"""`segengine train` as a command, and the flow of the same name."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml

from segengine.training import checkpoints, synthetic
from segengine.training.job import parse_train_job

from .conftest import Start

SLACK = 5.0
"""Seconds that a busy machine may add."""
JOB: dict[str, Any] = {
    "name": "pets",
    "source": {"kind": "pets", "paths": ["pets"]},
    "split": {"train": "trainval", "validation": {"split": "test", "fraction": 0.5}},
    "architecture": {"name": "unet", "start_neurons": 2, "depth": 1},
    "input": {"size": [32, 32]},
    "epochs": 1,
    "batch": 4,
    "out": "out",
}


def _write(folder: Path, **changes: Any) -> Path:
    file = folder / "train.yaml"
    file.write_text(yaml.safe_dump(JOB | changes, sort_keys=False))
    return file


def _command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-m", "segengine_flows.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=200,
        cwd=Path(__file__).parents[2],
    )


@pytest.mark.system
def test_a_training_by_command_then_a_run_with_its_bundle(tmp_path: Path) -> None:
    synthetic.write_pets(tmp_path / "pets", 12)
    done = _command("train", str(_write(tmp_path)))
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("trained pets: 1 epochs, ")
    assert lines[-1] == f"bundle {tmp_path / 'out/bundle'}"
    # nothing but progress: no log line of TensorFlow's
    assert all(line.startswith("train: ") for line in done.stderr.splitlines()), done.stderr

    import segengine

    summary = segengine.run(
        {
            "source": {"kind": "pets", "paths": [str(tmp_path / "pets")], "split": "test"},
            "segmenter": {"kind": "model", "path": str(tmp_path / "out/bundle")},
            "store": {"path": str(tmp_path / "masks.zarr"), "chunk": 128, "shard": 256},
            "evaluate": {"metrics": ["confusion"]},
        }
    )
    assert summary.exit_code == 0
    store = segengine.open_store(str(tmp_path / "masks.zarr"))
    assert set(store.metrics["overall"]["classes"]) == {"pet", "background", "border"}
    frames = store.table("frames").column("status").to_pylist()
    assert frames == ["done"] * 4, frames


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({"epoch": 1}, (), "{file}:22: epoch: unknown key; did you mean epochs?"),
        ({}, ("--set", "batch=x"), "--set batch=x: batch: Input should be a valid integer"),
        ({"loss": "cross"}, (), "{file}:22: loss: 'cross' is not one of the losses installed"),
        (
            {"source": {"paths": ["pets/images/*.jpg"], "kind": "images"}, "split": {}},
            (),
            "truth: images inputs have no truth of their own",
        ),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, Any],
    options: tuple[str, ...],
    message: str,
) -> None:
    from segengine_flows.cli import main

    synthetic.write_pets(tmp_path / "pets", 4)
    file = _write(tmp_path, **changes)
    assert main(["train", str(file), *options]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith(f"segengine: {message.format(file=file)}"), said


SCRIPT = """
import json, sys
from segengine_flows.train import train
from segengine.training.job import TrainJob

if __name__ == "__main__":
    for text in sys.argv[1:]:
        state = train(TrainJob.model_validate(json.loads(text)), return_state=True)
        print(json.dumps([state.type.value, state.message]))
"""


@pytest.mark.system
def test_the_flow_trains_or_says_why_not(tmp_path: Path, launch: Start) -> None:
    synthetic.write_pets(tmp_path / "pets", 12)
    good = parse_train_job(JOB, tmp_path).as_json()
    bad = good | {"architecture": {"name": "unet", "depht": 1}}
    file = tmp_path / "flow.py"
    file.write_text(SCRIPT)
    process = launch("-P", str(file), json.dumps(good), json.dumps(bad))
    out, err = process.communicate(timeout=200)
    states = [json.loads(line) for line in out.splitlines() if line.startswith("[")]
    assert states == [
        ["COMPLETED", f"1 epochs; {tmp_path / 'out/bundle'}"],
        ["FAILED", "architecture.depht: unet has no such option; did you mean depth?"],
    ], err


def _ask(api: Any, path: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(
        f"{api.url}/{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.loads(answer.read())


def _latest_run(api: Any) -> dict[str, Any]:
    found: list[dict[str, Any]] = _ask(
        api, "flow_runs/filter", {"sort": "EXPECTED_START_TIME_DESC", "limit": 1}
    )
    return found[0]


def _wait_for(file: Path, process: "subprocess.Popen[str]") -> None:
    """Wait until a process, which must not end before, has written a file."""
    end = time.monotonic() + 120
    while not file.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.1)


@pytest.mark.system
def test_a_deployed_training_that_is_cancelled_ends_soon_and_keeps_its_epochs(
    tmp_path: Path, worker_run: Start, api: Any
) -> None:
    synthetic.write_pets(tmp_path / "pets", 12)
    process = worker_run("train", parse_train_job(JOB | {"epochs": 1000}, tmp_path).as_json())
    kept = tmp_path / "out" / checkpoints.FILE
    _wait_for(kept, process)
    run = _latest_run(api)["id"]
    _ask(api, f"flow_runs/{run}/set_state", {"state": {"type": "CANCELLING"}})
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)  # as its worker does then
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143, err
    assert time.monotonic() - began < 5 + SLACK
    assert _latest_run(api)["state_type"] == "CANCELLED"
    assert "Traceback" not in err
    state, _ = checkpoints.load(kept.parent, kept.name) or pytest.fail("no checkpoint")
    assert state.epochs >= 1


@pytest.mark.system
def test_a_deployed_training_whose_api_goes_away_ends_with_its_bundle(
    tmp_path: Path, worker_run: Start, api: Any
) -> None:
    synthetic.write_pets(tmp_path / "pets", 12)
    process = worker_run("train", parse_train_job(JOB | {"epochs": 12}, tmp_path).as_json())
    _wait_for(tmp_path / "out" / checkpoints.FILE, process)
    os.kill(api.pid, signal.SIGKILL)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1, err  # so its worker knows that Prefect was not told
    assert "Prefect does not answer" in err
    assert (tmp_path / "out/bundle/bundle.json").exists()


def test_the_flow_shows_its_parameters_as_a_form() -> None:
    from segengine_flows.train import train

    properties = train.parameters.properties
    assert set(properties) == {"job"}
    fields = train.parameters.definitions["TrainJob"]["properties"]
    assert {"source", "architecture", "optimizer", "from"} <= set(fields)
    assert fields["epochs"]["default"] == 20


def test_training_needs_no_prefect_and_other_commands_no_keras() -> None:
    code = (
        "import sys; import segengine_flows.cli, segengine_flows._train, segengine.training.job; "
        "assert not {'prefect', 'keras', 'tensorflow'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=Path(__file__).parents[2],
        env={"PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert done.returncode == 0, done.stderr
