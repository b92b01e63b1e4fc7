"""MIScnn's own U-Net against what Keras 2 predicts with it (`fixtures/make_miscnn.py`)."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import segengine
from segengine.segmenters.model import create

ARCHIVE = Path(__file__).parent / "fixtures" / "miscnn.zip"
NAMES = ("fullimage", "patch")
WINDOW = 16


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("miscnn")
    with zipfile.ZipFile(ARCHIVE) as archive:
        archive.extractall(path)
    return path


@pytest.mark.parametrize("name", NAMES)
def test_a_network_of_miscnn_predicts_what_keras_2_does(folder: Path, name: str) -> None:
    path = folder / f"{name}.h5"
    with h5py.File(path) as file:
        assert file.attrs["keras_version"].startswith("2.")
        # a function of MIScnn, which nobody who only predicts has
        assert json.loads(file.attrs["training_config"])["loss"] == "tversky_crossentropy"
    segmenter = create(str(path), window=WINDOW)
    wanted = np.load(folder / f"{name}.npy")
    found = segmenter.segment(np.load(folder / "pixels.npy")).probabilities
    assert np.ptp(wanted) > 0.5
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6)
    assert segmenter.activation == "none"


def test_its_normalizations_have_statistics_of_their_own(folder: Path) -> None:
    values: dict[str, list[Any]] = {"moving_mean:0": [], "moving_variance:0": []}

    def keep(path: str, node: Any) -> None:
        values.get(path.rpartition("/")[2], []).append(node)

    with h5py.File(folder / "fullimage.h5") as file:
        file["model_weights"].visititems(keep)
        means, variances = ([node[()] for node in found] for found in values.values())
    assert len(means) == len(variances) == 10
    assert all(np.abs(mean).max() > 0.01 for mean in means)
    assert all(np.abs(variance - 1).max() > 0.05 for variance in variances)


@pytest.mark.parametrize("name", NAMES)
def test_its_masks_do_not_depend_on_the_cut(
    folder: Path, name: str, new_bench: Any, noise: Any
) -> None:
    scale = {"mean": [127.5], "std": [60]}
    spec = {"kind": "model", "path": str(folder / f"{name}.h5"), "window": WINDOW, "scale": scale}
    image = noise(4, (75, 91, 1))
    expected = segengine.predict(image, segengine.create_segmenter(spec))
    assert np.unique(expected.labels).size > 1
    for shard in (32, 48, 256):
        bench = new_bench()
        bench.put("a.zarr", image)
        bench.run(spec, store={"shard": shard, "probabilities": True})
        scene = bench.open()["a"]
        np.testing.assert_array_equal(scene.mask[0], expected.labels)
        stored = np.moveaxis(np.asarray(scene.group["probabilities/0"])[0], 0, -1)
        np.testing.assert_array_equal(stored, expected.probabilities)
