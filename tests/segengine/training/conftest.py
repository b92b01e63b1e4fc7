"""Small scenes on disk and the job that trains on them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from segengine.training import synthetic
from segengine.training.job import TrainJob, parse_train_job

MakeJob = Callable[..., TrainJob]


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight scenes of 48 x 48 pixels."""
    return synthetic.write_scenes(tmp_path_factory.mktemp("scenes"), range(8), 48)


@pytest.fixture
def make_job(scenes: Path, tmp_path: Path) -> MakeJob:
    """A job over the scenes; `out` below the test's folder."""

    def make(out: str = "out", **changes: Any) -> TrainJob:
        job = {
            "name": "tiny",
            "source": {"paths": [str(scenes / "images/*.png")]},
            "truth": {
                "paths": [str(scenes / "labels/{stem}.png")],
                "classes": list(synthetic.CLASSES),
            },
            "split": {"train": 0.7, "validation": 0.3},
            "architecture": {"name": "unet", "start_neurons": 2, "depth": 1},
            "input": {"size": [16, 16], "resize": "patches", "patches": 12},
            "augment": {"flip": "both", "rotate": 30, "color": 0.1, "noise": 0.05},
            "batch": 4,
            "epochs": 2,
            "out": str(tmp_path / out),
        }
        return parse_train_job(job | changes)

    return make
