"""Keras 2's files against Keras 2's own predictions (`fixtures/make_keras2.py`)."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from segengine.segmenters import _keras2
from segengine.segmenters.model import create

ARCHIVE = Path(__file__).parent / "fixtures" / "keras2.zip"
with zipfile.ZipFile(ARCHIVE) as _archive:
    NAMES = sorted(name[:-3] for name in _archive.namelist() if name.endswith(".h5"))
TOLERANCE = {"mixed_float16": 2e-3, "mixed_bfloat16": 2e-2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keras2")
    with zipfile.ZipFile(ARCHIVE) as archive:
        archive.extractall(path)
    return path


def test_there_are_as_many_files_as_cases() -> None:
    assert len(NAMES) == 12


@pytest.mark.parametrize("name", NAMES)
def test_a_file_of_keras_2_predicts_what_keras_2_does(folder: Path, name: str) -> None:
    path = folder / f"{name}.h5"
    before = path.read_bytes()
    with h5py.File(path) as file:
        assert file.attrs["keras_version"].startswith("2.")
    segmenter = create(str(path), window=16)
    found = segmenter.engine.run(np.load(folder / "pixels.npy"))[segmenter.output]
    wanted = np.load(folder / f"{name}.npy")
    assert np.ptp(wanted) > 0.05
    np.testing.assert_allclose(found, wanted, atol=TOLERANCE.get(name, 1e-6))
    assert path.read_bytes() == before
    assert segmenter.activation == "none"


def changed(folder: Path, to: Path, name: str, layer: str, **keys: Any) -> Path:
    """A file with other values in the configuration of the layers of a class."""
    to.write_bytes((folder / f"{name}.h5").read_bytes())
    with h5py.File(to, "r+") as file:
        config = json.loads(file.attrs["model_config"])
        for each in config["config"]["layers"]:
            if each["class_name"] == layer:
                each["config"].update(keys)
        file.attrs["model_config"] = json.dumps(config)
    return to


@pytest.mark.parametrize(
    ("name", "layer", "keys"),
    [
        ("transposed", "Conv2DTranspose", {"groups": 2}),
        ("separable", "SeparableConv2D", {"groups": 3}),
        ("spatial", "SpatialDropout2D", {"noise_shape": [1, 1, 1, 4]}),
    ],
)
def test_what_would_mean_something_is_refused(
    folder: Path, tmp_path: Path, name: str, layer: str, keys: dict[str, Any]
) -> None:
    path = changed(folder, tmp_path / "a.h5", name, layer, **keys)
    ((key, _),) = keys.items()
    with pytest.raises(ValueError, match=rf"\({layer}\) has {key} .*refused"):
        create(str(path), window=16)


def test_a_file_that_keras_3_takes_is_no_copy(folder: Path, tmp_path: Path) -> None:
    assert _keras2.translated(folder / "grouped.h5", tmp_path) == folder / "grouped.h5"
    assert list(tmp_path.iterdir()) == []
