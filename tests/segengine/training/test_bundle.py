"""A bundle is built anew from its names, equal in all its outputs; a damaged one is one line."""

import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from segengine import models
from segengine.errors import JobError
from segengine.networks.bundles import META, WEIGHTS
from segengine.training.bundle import Bundle, load_bundle, save_bundle, transfer

# Keras copies its variables in a way that NumPy 2 frowns upon.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def _bundle(**changes: object) -> Bundle:
    known: dict[str, object] = {
        "architecture": "unet",
        "options": {"start_neurons": 2, "depth": 1, "activation": None},
        "bands": 2,
        "classes": ("a", "b", "c"),
        "colors": ((1, 2, 3), (4, 5, 6), (7, 8, 9)),
        "scale": {"divide": 255.0},
        "activation": "softmax",
        "size": (None, None),
        "resize": False,
        "job": {"name": "test"},
        "metrics": {"val_loss": 0.5},
    }
    return Bundle(**known | changes)  # type: ignore[arg-type]


def test_a_round_trip_and_a_second_one_over_it(tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    x = np.random.default_rng(0).normal(size=(1, 8, 12, 2)).astype(np.float32)
    for _ in range(2):
        model = _bundle().build()
        model.compile(optimizer="adam", loss="mse")
        model.optimizer.build(model.trainable_variables)
        save_bundle(folder, _bundle(), model, "# card\n")
        found, again = load_bundle(folder)
        assert found == _bundle()
        np.testing.assert_array_equal(np.asarray(again(x)), np.asarray(model(x)))
    assert sorted(p.name for p in folder.iterdir()) == ["README.md", META, WEIGHTS[0]]
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]
    with h5py.File(folder / WEIGHTS[0]) as file:  # of the optimizer nothing
        assert "optimizer" not in file
    packed = shutil.make_archive(str(tmp_path / "packed"), "zip", tmp_path, "bundle")
    about, network = load_bundle(packed)
    assert about == found
    np.testing.assert_array_equal(np.asarray(network(x)), np.asarray(again(x)))


def test_damaged_bundles_are_one_line(tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    with pytest.raises(JobError, match=r"bundle: is no bundle: it has no bundle\.json"):
        load_bundle(folder)
    save_bundle(folder, _bundle(), _bundle().build(), "")
    good = (folder / META).read_text()
    weights = (folder / WEIGHTS[0]).read_bytes()
    for text, message in (
        (good[:50], r"bundle\.json is damaged"),
        (good.replace('"format": 1', '"format": 9'), "format 9 is not known; this reads 1"),
        (json.dumps({"format": 1}), "is damaged: it has no 'classes'"),
        (good.replace('"unet"', '"vnet"'), "bundle: .*vnet"),
        (json.dumps(json.loads(good) | {"bands": 3}), r"model\.weights\.h5 cannot be loaded"),
    ):
        (folder / META).write_text(text)
        with pytest.raises(JobError, match=message) as error:
            load_bundle(folder)
        assert "\n" not in str(error.value)
    (folder / META).write_text(good)
    (folder / WEIGHTS[0]).unlink()  # HDF5 may hold the one above open
    (folder / WEIGHTS[0]).write_bytes(weights[: len(weights) // 2])
    with pytest.raises(JobError, match=r"model\.weights\.h5 cannot be loaded"):
        load_bundle(folder)


def test_weights_go_over_where_shapes_fit() -> None:
    old = models.build("unet", bands=3, classes=4, start_neurons=2, depth=1)
    same = models.build("unet", bands=3, classes=2, start_neurons=2, depth=1)
    assert transfer(old, same) == (7, 8)
    np.testing.assert_array_equal(same.layers[1].get_weights()[0], old.layers[1].get_weights()[0])
    deeper = models.build("unet", bands=3, classes=4, start_neurons=2, depth=2)
    copied, _ = transfer(old, deeper)
    assert copied >= 2
    wider = models.build("unet", bands=1, classes=3, start_neurons=3, depth=1)
    assert transfer(old, wider)[0] == 0
