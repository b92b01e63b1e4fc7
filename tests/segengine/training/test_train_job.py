"""TRAIN.yaml: what it may say, and the one line where it says something else."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from segengine.errors import JobError
from segengine.job import is_train_job
from segengine.training.job import TrainJob, load_train_job, parse_train_job

TRAINED = (
    "fields-unet",
    "pets-unet",
    "vehicles-deepmask",
    "vehicles-mask-rcnn",
    "vehicles-sharpmask",
)
SHIPPED = Path(__file__).parents[3] / "deployments" / "jobs"
GOOD: dict[str, Any] = {
    "source": {"paths": ["images/*.png"]},
    "truth": {"paths": ["labels/{stem}.png"], "classes": ["a", "b"]},
    "architecture": {"name": "unet", "depth": 2},
    "out": "out",
}


def _file(folder: Path, **changes: Any) -> Path:
    path = folder / "train.yaml"
    path.write_text(yaml.safe_dump(GOOD | changes, sort_keys=False))
    return path


def test_a_job_has_defaults_and_absolute_paths(tmp_path: Path) -> None:
    job = load_train_job(_file(tmp_path, **{"from": "old"}), ["batch=4"])
    assert job.source.paths == [str(tmp_path / "images/*.png")]
    assert job.truth is not None
    assert job.truth.paths == [str(tmp_path / "labels/{stem}.png")]
    assert job.out == str(tmp_path / "out")
    assert job.from_ == str(tmp_path / "old")
    assert (job.batch, job.epochs, job.loss) == (4, 20, "sparse_categorical_ce")
    assert job.architecture.options == {"depth": 2}
    assert TrainJob.model_validate(job.as_json()) == job


def test_an_architecture_may_be_its_name_alone(tmp_path: Path) -> None:
    job = load_train_job(_file(tmp_path, architecture="unet"))
    assert (job.architecture.name, job.architecture.options) == ("unet", {})


def test_weights_are_relative_to_the_job_where_they_are_files(tmp_path: Path) -> None:
    (tmp_path / "resnet50.pth").touch()
    given = {"name": "deepmask", "trunk": "resnet50.pth", "weights": "imagenet"}
    job = load_train_job(_file(tmp_path, architecture=given))
    options = {"trunk": str(tmp_path / "resnet50.pth"), "weights": "imagenet"}
    assert job.architecture.options == options


def test_file_lists_are_relative_to_the_job(tmp_path: Path) -> None:
    parts = {"train": {"files": "a.txt"}, "validation": {"files": "b.txt", "fraction": 0.5}}
    job = load_train_job(_file(tmp_path, split=parts))
    assert job.as_json()["split"]["train"] == {"files": str(tmp_path / "a.txt")}


@pytest.mark.parametrize(
    ("changes", "line", "message"),
    [
        ({"epoch": 3}, 14, "epoch: unknown key; did you mean epochs?"),
        ({"input": {"sized": [8, 8]}}, 15, "input.sized: unknown key; did you mean size?"),
        ({"architecture": {"name": "unett"}}, 11, "architecture.name: 'unett' is not one of"),
        ({"input": {"size": 64}}, 15, "input.size: write a height and a width in pixels"),
        ({"architecture": {}}, 10, "architecture.name: this key is needed"),
        ({"loss": "dicee"}, 14, "loss: 'dicee' is not one of the losses installed; did you mean"),
        ({"loss": [{"weight": 1}]}, 14, "loss: write NAME"),
        ({"optimizer": {"learning_rate": 0}}, 15, "optimizer.learning_rate: Input should be"),
        ({"split": {"train": 0.9, "validation": 0.3}}, 15, "split.train: its share and that of"),
        ({"split": {"train": "trainval", "validation": 0.2}}, 16, "split.validation: give both"),
        ({"input": {"scale": {"mean": [1.0]}}}, 16, "input.scale.mean: goes with std"),
        ({"input": {"scale": {"range": [5, 5]}}}, 16, "input.scale.range: the first value"),
        ({"augment": {"flip": "up"}}, 15, "augment.flip: Input should be"),
        ({"metrics": ["iou"]}, 15, "metrics.0: Input should be"),
        ({"source": {"paths": ["a"], "kind": "png"}}, 4, "source.kind: 'png' is not installed"),
    ],
)
def test_a_mistake_names_file_line_and_key(
    tmp_path: Path, changes: dict[str, Any], line: int, message: str
) -> None:
    file = _file(tmp_path, **changes)
    with pytest.raises(JobError) as error:
        load_train_job(file)
    text = str(error.value)
    assert text.startswith(f"{file}:{line}: {message}"), text
    assert "\n" not in text


def test_a_flow_parameter_needs_absolute_paths() -> None:
    with pytest.raises(JobError, match=r"source\.paths: images/\*\.png: a job given as a flow"):
        parse_train_job(GOOD)


def test_training_jobs_are_told_from_others(tmp_path: Path) -> None:
    assert is_train_job(_file(tmp_path))
    assert not is_train_job(tmp_path / "none.yaml")
    assert {f.stem for f in SHIPPED.glob("*.yaml") if is_train_job(f)} == {*TRAINED}


@pytest.mark.parametrize("name", TRAINED)
def test_what_ships_is_valid_and_absolute(name: str) -> None:
    job = load_train_job(SHIPPED / f"{name}.yaml")
    assert Path(yaml.safe_load((SHIPPED / f"{name}.yaml").read_text())["out"]).is_absolute()
    assert job.name == name


def test_the_pets_job_is_the_tutorials() -> None:
    job = load_train_job(SHIPPED / "pets-unet.yaml")
    assert job.input.size == (128, 128)
    assert job.input.resize is True
    assert (job.batch, job.window, job.epochs) == (64, 1000, 20)
    assert job.augment.flip == "horizontal"
    assert job.architecture.options == {"weights": "imagenet", "freeze_encoder": True}
    assert job.optimizer.name == "adam"
