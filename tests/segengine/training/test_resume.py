"""Killed with SIGKILL in the middle and run again: the same weights as without."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml

from segengine.errors import JobError
from segengine.training.trainers import train

from .conftest import MakeJob


# Keras copies its variables in a way that NumPy 2 frowns upon.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.system
def test_a_killed_training_ends_as_an_uninterrupted_one(make_job: MakeJob, tmp_path: Path) -> None:
    options = {
        "epochs": 5,
        "architecture": {"name": "unet", "start_neurons": 2, "depth": 1, "dropout": 0.3},
        "optimizer": {"name": "adamw", "learning_rate": 0.01, "schedule": "cosine"},
    }
    killed, whole = make_job("killed", **options), make_job("whole", **options)
    file = tmp_path / "train.yaml"
    file.write_text(yaml.safe_dump(killed.as_json()))
    log = (tmp_path / "log.txt").open("wb")
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "segengine_flows.cli", "train", str(file)],
        stdout=log,
        stderr=log,
        cwd=Path(__file__).parents[3],
    )
    with log:
        end = time.monotonic() + 120
        while not (Path(killed.out) / "pictures/epoch-002.png").exists():
            assert process.poll() is None, (tmp_path / "log.txt").read_text()
            assert time.monotonic() < end
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL

    notes: list[str] = []
    resumed = train(killed, note=notes.append)
    assert notes
    assert notes[0].startswith("goes on after epoch ")
    assert notes[0] < "goes on after epoch 5"
    expected = train(whole)
    assert resumed.metrics == expected.metrics
    arrays = [np.load(Path(job.out) / "checkpoint.npz") for job in (killed, whole)]
    with arrays[0] as a, arrays[1] as b:
        assert a.files == b.files
        assert len(a.files) > 20
        for name in a.files:
            assert a[name].tobytes() == b[name].tobytes(), name
    weights = [(Path(job.out) / "bundle/model.weights.h5").read_bytes() for job in (killed, whole)]
    assert weights[0] == weights[1]

    with pytest.raises(JobError, match=r"^out: .* is of another job or other data"):
        train(make_job("whole", **options | {"batch": 3}))
    renamed = train(make_job("whole", **options | {"name": "renamed"}))
    assert renamed.metrics == expected.metrics
