"""What people have passes the lists: our architectures, Keras' applications, functions in ONNX, ..."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import segengine
from segengine import models
from segengine.engines import tensorflow
from segengine.guards import keras as guard
from segengine.guards import tensorflow as saved_models
from segengine.networks import bundles
from segengine.segmenters import _files
from segengine.segmenters.model import create

TF = tensorflow.library()
APPLICATIONS = (
    "MobileNetV2",
    "ResNet50",
    "EfficientNetB0",
    "VGG16",
    "DenseNet121",
    "ConvNeXtTiny",
    "Xception",
    "MobileNetV3Small",
)


def check(model: Any) -> None:
    text = json.dumps(keras.saving.serialize_keras_object(model)).encode()
    guard.check_text(text, "config.json")


@pytest.mark.parametrize("name", models.names())
def test_our_architectures(name: str) -> None:
    classes = 1 if name in ("deepmask", "sharpmask") else 3
    check(models.build(name, bands=3, classes=classes))


@pytest.mark.parametrize("name", APPLICATIONS)
def test_applications_of_keras(name: str) -> None:
    made = getattr(keras.applications, name)
    check(made(weights=None, include_top=False, input_shape=(96, 96, 3)))


def test_operations_on_tensors_and_a_compiled_model(tmp_path: Path) -> None:
    inputs = keras.Input((32, 32, 3))
    layers = keras.layers
    x = layers.Conv2D(
        8, 3, padding="same", activation=keras.activations.gelu, kernel_regularizer="l2",
        kernel_constraint=keras.constraints.MaxNorm(2),
    )(inputs)  # fmt: skip
    x = keras.ops.concatenate([x, keras.ops.relu(x)], -1)[..., :4]
    x = keras.ops.where(x > 0, x, 0.1 * x)
    x = layers.TimeDistributed(layers.Dense(3, activation=keras.ops.tanh))(x)
    model = keras.Model(inputs, keras.ops.softmax(x))

    def loss(truth: Any, found: Any) -> Any:
        return keras.ops.mean(truth - found)

    model.compile(loss=loss, optimizer="adam")
    model.save(tmp_path / "m.keras")
    pixels = np.random.default_rng(1).random((1, 32, 32, 3), np.float32)
    found = segengine.predict(pixels, create(str(tmp_path / "m.keras")))
    expected = model.predict(pixels, verbose=0)
    np.testing.assert_allclose(found.probabilities, expected, atol=1e-5)
    model.export(tmp_path / "saved", format="tf_saved_model", verbose=False)
    saved_models.check(tmp_path / "saved")


def test_a_saved_model_of_tensorflow_1(tmp_path: Path) -> None:
    v1 = TF.compat.v1
    with TF.Graph().as_default(), v1.Session() as session:
        pixels = v1.placeholder(TF.float32, (None, None, None, 1), name="x")
        factor = v1.get_variable("factor", initializer=2.0)
        session.run(v1.global_variables_initializer())
        v1.saved_model.simple_save(
            session, str(tmp_path / "m"), {"x": pixels}, {"y": pixels * factor}
        )
    segmenter = create(str(tmp_path / "m"), window=8, activation="none")
    pixels = np.full((1, 8, 8, 1), 0.25, np.float32)
    np.testing.assert_allclose(segmenter.segment(pixels).probabilities[..., 1], 0.5)


def test_functions_and_domains_of_an_onnx_model(tmp_path: Path) -> None:
    half = helper.make_node("Mul", ["a", "half"], ["b"])
    constant = helper.make_node("Constant", [], ["half"], value_float=0.5)
    sets = [helper.make_opsetid("", 17)]
    function = helper.make_function("own", "Half", ["a"], ["b"], [constant, half], sets)
    taken, given = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 1, "h", "w"]) for name in "xy"
    )
    nodes = [
        helper.make_node("Half", ["x"], ["z"], domain="own"),
        helper.make_node("QuickGelu", ["z"], ["y"], domain="com.microsoft"),
    ]
    graph = helper.make_graph(nodes, "g", [taken], [given])
    sets += [helper.make_opsetid("own", 1), helper.make_opsetid("com.microsoft", 1)]
    made = helper.make_model(graph, opset_imports=sets, functions=[function], ir_version=9)
    (tmp_path / "m.onnx").write_bytes(made.SerializeToString())
    segmenter = create(str(tmp_path / "m.onnx"), window=8, activation="none")
    found = segmenter.segment(np.ones((1, 8, 8, 1), np.float32)).probabilities[..., 1]
    np.testing.assert_allclose(found, 0.5 / (1 + np.exp(-1.702 * 0.5)), atol=1e-6)


def test_onnx_weights_in_a_folder_below(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    weights = onnx.numpy_helper.from_array(np.full((1, 1, 1, 1), 3, np.float32), "w")
    taken, given = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 1, "h", "w"]) for name in "xy"
    )
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"])], "g", [taken], [given], [weights]
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    (tmp_path / "below").mkdir()
    onnx.save_model(
        made, path, save_as_external_data=True, location="below/weights", size_threshold=0
    )
    (tmp_path / "below" / "weights").rename(tmp_path / "below" / "kept")
    (tmp_path / "below" / "weights").symlink_to("kept")  # a link inside the folder
    for engine in ("onnxruntime", "openvino"):
        segmenter = create(str(path), window=8, activation="none", engine=engine)  # type: ignore[arg-type]
        found = segmenter.segment(np.full((1, 8, 8, 1), 0.125, np.float32)).probabilities[..., 1]
        np.testing.assert_allclose(found, 0.375, atol=1e-6)


def test_what_changes_while_it_is_read_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is another one from the moment on that it was checked."""
    path = tmp_path / "m.keras"
    inputs = keras.Input((None, None, 3))
    model = keras.Model(inputs, keras.layers.Conv2D(2, 1)(inputs))
    model.save(path)
    pixels = np.ones((1, 8, 8, 3), np.float32)
    before = _files.digest_of([("", path)])
    expected = segengine.predict(pixels, create(str(path))).probabilities
    real = guard.check_model

    def swapped(copy: Path, folder: Path) -> None:
        real(copy, folder)
        path.write_bytes(b"something else")

    monkeypatch.setattr(guard, "check_model", swapped)
    segmenter = create(str(path))
    assert path.read_bytes() == b"something else"
    assert segmenter.weights == before
    np.testing.assert_array_equal(segengine.predict(pixels, segmenter).probabilities, expected)


def test_a_bundle_of_a_users_own_architecture_needs_the_users_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_nets.py").write_text(
        "from segengine.models.unet import build as unet\n"
        "def build(bands=3, classes=1, size=(None, None)):\n"
        "    return unet(bands, classes, size, depth=1, start_neurons=2, activation=None)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    about = bundles.Bundle(
        "own_nets:build", {}, 3, ("a", "b"), (), {"divide": 255}, "softmax", (16, 16), False, {}, {}
    )
    (tmp_path / "b").mkdir()
    about.build().save_weights(tmp_path / "b" / "model.weights.h5")
    (tmp_path / "b" / "bundle.json").write_text(about.to_json())
    with pytest.raises(
        ValueError, match=r"names the code own_nets:build .* set `architecture: own"
    ):
        create(str(tmp_path / "b"))
    assert create(str(tmp_path / "b"), architecture="own_nets:build").classes == ("a", "b")


def test_options_of_a_bundle_that_name_files_are_left_out(tmp_path: Path) -> None:
    about = bundles.Bundle(
        "unet", {"depth": 1, "weights": "/etc/passwd", "trunk": "/etc/passwd"}, 3, ("a", "b"), (),
        {}, "softmax", (None, None), False, {}, {},
    )  # fmt: skip
    assert about.shaping == {"depth": 1}
    assert about.build().name == "unet"
