"""`models.build(..., crf=...)`: the network's probabilities refined, as a segmenter's `crf` does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import segengine
from segengine.errors import JobError
from segengine.models import build
from segengine.networks.crf import Crf, refine

UNET = {"start_neurons": 4, "depth": 1, "dropout": False}
SCALE = {"mean": [0.4, 0.5, 0.45], "std": [0.2, 0.25, 0.3], "divide": 255}
FEW = {"steps": 2, "bilateral_position": 20}


def photos(seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (2, 6, 4, 3)).repeat(4, 1).repeat(6, 2)
    return np.clip(blocks + rng.integers(-9, 10, blocks.shape), 0, 255).astype(np.uint8)


def scaled(pixels: np.ndarray) -> np.ndarray:
    mean, std = np.array(SCALE["mean"]), np.array(SCALE["std"])
    return ((pixels / 255 - mean) / std).astype(np.float32)


@pytest.mark.parametrize("classes", [1, 3])
def test_it_is_what_the_segmenter_computes(classes: int, tmp_path: Path) -> None:
    plain = build("unet", classes=classes, **UNET)
    plain.save_weights(tmp_path / "net.weights.h5")
    weights = str(tmp_path / "net.weights.h5")
    model = build("unet", classes=classes, weights=weights, crf={**FEW, "scale": SCALE}, **UNET)
    found = model.predict(scaled(photos()), verbose=0)
    names = {"classes": list("abc")[: max(classes, 2)]}
    names |= {"activation": "sigmoid"} if classes == 1 else {}
    block = {"kind": "unet", "weights": weights, "bands": 3, "scale": SCALE, "options": UNET}
    segmenter = segengine.create_segmenter(block | names | {"crf": FEW})
    expected = segmenter.segment(photos()).probabilities
    np.testing.assert_allclose(found, expected[..., -classes:], atol=1e-5)
    assert np.abs(found - plain.predict(scaled(photos()), verbose=0)).max() > 0.01
    assert [w.shape for w in model.get_weights()] == [w.shape for w in plain.get_weights()]


def test_true_is_the_published_crf_on_pixels_as_read() -> None:
    model = build("deeplab", classes=3, version=1, crf=True)
    pixels = photos().astype(np.float32)
    network = keras.Model(model.inputs, model.get_layer("output").output)
    expected = refine(network.predict(pixels, verbose=0), photos(), Crf())
    np.testing.assert_allclose(model.predict(pixels, verbose=0), expected, atol=1e-5)


def test_only_the_segmentation_of_several_outputs_is_refined() -> None:
    options = {"classes": 2, "backbone": "resnet50", "white": 255}
    model = build("gscnn", **options, crf=FEW)
    network = keras.Model(model.inputs, [model.get_layer("output").output, model.outputs[1]])
    pixels = photos().astype(np.float32)
    (labels, edges), before = (m.predict(pixels, verbose=0) for m in (model, network))
    np.testing.assert_array_equal(edges, before[1])
    expected = refine(before[0], photos(), Crf.of(FEW))
    np.testing.assert_allclose(labels, expected, atol=1e-5)


@pytest.mark.filterwarnings("ignore:__array__ implementation")  # Keras on NumPy 2
def test_a_saved_one_is_read_by_keras_and_refused_by_segmenters(tmp_path: Path) -> None:
    model = build("unet", classes=2, crf={**FEW, "scale": SCALE}, **UNET)
    model.save(tmp_path / "net.keras")
    again = keras.models.load_model(tmp_path / "net.keras")
    pixels = scaled(photos())
    np.testing.assert_array_equal(
        again.predict(pixels, verbose=0), model.predict(pixels, verbose=0)
    )
    with pytest.raises(JobError, match=r"path: .*it ends in a fully connected CRF, .* set crf of"):
        segengine.create_segmenter({"kind": "model", "path": str(tmp_path / "net.keras")})
    model.save_weights(tmp_path / "net.weights.h5")
    block: dict[str, Any] = {"kind": "unet", "weights": str(tmp_path / "net.weights.h5")}
    with pytest.raises(JobError, match="options: crf: needs whole frames; set crf of the seg"):
        segengine.create_segmenter(
            block | {"bands": 3, "classes": ["a", "b"], "options": {**UNET, "crf": True}}
        )


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("unet", {"bands": 1}, "crf: follows the colours of 3 bands, not of 1"),
        ("unet", {"activation": None}, "crf: refines probabilities and activation leaves logits"),
        ("unet", {"crf": "yes"}, "crf: must be true, false or parameters by name, not 'yes'"),
        ("unet", {"crf": None}, "crf: must be true, false or parameters by name, not None"),
        ("unet", {"crf": {"steps": 0}}, "crf.steps: must be an integer of at least 1, not 0"),
        ("unet", {"crf": {"scale": {"by": 2}}}, "crf.scale.by: no such key"),
        ("unet", {"crf": {"scale": {"std": [1, 2]}}}, "crf.scale.std: has 2 values and the model"),
        ("deepmask", {}, "crf: deepmask gives no probabilities of classes at the size of its"),
        ("mask-rcnn", {}, "crf: mask-rcnn gives no probabilities of classes at the size of its"),
    ],
)
def test_what_it_cannot_refine_is_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(JobError, match=f"^{message}") as error:
        build(name, **{"crf": True, **options})
    assert "\n" not in str(error.value)
