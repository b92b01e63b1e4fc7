"""Engines against Keras' own `predict`, against each other, and against themselves in other batches."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import keras
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from segengine import engines, stderr
from segengine.engines import onnxruntime, openvino, tensorflow
from segengine.engines._parts import Parts
from segengine.models.layers import ResizeBy, ResizeLike

LIBRARY = tensorflow.library()
# TensorFlow's tensors and pycocotools do not know NumPy 2's copy keyword yet
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture(scope="module")
def model() -> Any:
    keras.utils.set_random_seed(1)
    inputs = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(8, 3, padding="same", activation="relu")(inputs)
    x = keras.layers.Conv2D(16, 3, strides=2, padding="same", activation="relu")(x)
    x = keras.layers.Conv2DTranspose(8, 3, strides=2, padding="same")(x)
    return keras.Model(inputs, keras.layers.Conv2D(4, 1, activation="softmax")(x))


@pytest.fixture(scope="module")
def batch() -> np.ndarray:
    return np.random.default_rng(0).random((5, 32, 48, 3), np.float32)


@pytest.fixture(scope="module")
def expected(model: Any, batch: np.ndarray) -> np.ndarray:
    return model.predict(batch, verbose=0)


@pytest.fixture(scope="module")
def saved(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "model"
    model.export(folder, format="tf_saved_model", verbose=False)
    return folder


def test_keras(model: Any, batch: np.ndarray, expected: np.ndarray) -> None:
    engine = tensorflow.KerasEngine(model)
    np.testing.assert_allclose(engine.run(batch)["output"], expected, atol=1e-6)
    assert engine.input_shape == (None, None, None, 3)
    assert engine.try_out((1, 16, 16, 3)) == {"output": (1, 16, 16, 4)}
    assert engine.provenance.startswith(f"tensorflow {LIBRARY.__version__} (")


NO_ROOM = RuntimeError(
    "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Non-zero status code returned while running Conv "
    "node. bfc_arena.cc:376 Failed to allocate memory for requested buffer of size 4294967296"
)


@pytest.mark.parametrize("kind", ["keras", "saved", "onnx"])
def test_a_batch_that_memory_has_no_room_for_is_run_in_parts(
    kind: str,
    model: Any,
    saved: Path,
    batch: np.ndarray,
    expected: np.ndarray,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The engines are real; that there is room for two windows only is not, and that it is a GPU's."""
    monkeypatch.setattr(tensorflow, "_parts", lambda shape: Parts(tensorflow._is_full))
    engine: Any
    no_room: Exception = LIBRARY.errors.ResourceExhaustedError(None, None, "OOM when allocating")
    if kind == "onnx":
        weights = np.random.default_rng(2).normal(size=(2, 3)).astype(np.float32)
        engine = onnxruntime.OnnxEngine(onnx_file(tmp_path / "m.onnx", weights))
        batch, no_room = np.ascontiguousarray(batch.transpose(0, 3, 1, 2)), NO_ROOM
        expected = np.einsum("cb,nbyx->ncyx", weights, batch)
    elif kind == "saved":
        engine = tensorflow.SavedModelEngine(saved)
    else:
        engine = tensorflow.KerasEngine(model)
    tried: list[int] = []
    run = engine._run
    room = 2

    def cramped(part: np.ndarray) -> Any:
        tried.append(len(part))
        if len(part) > room:
            raise no_room
        return run(part)

    monkeypatch.setattr(engine, "_run", cramped)
    (found,) = engine.run(batch).values()
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert tried == [5, 2, 2, 1]
    engine.run(batch)
    assert tried[4:] == [2, 2, 1]  # it is not tried again
    room = 0
    with pytest.raises(type(no_room)):
        engine.run(batch)
    assert tried[7:] == [2, 1]


def test_what_is_no_matter_of_memory_is_raised(
    model: Any, batch: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = tensorflow.KerasEngine(model)

    def failing(part: np.ndarray) -> Any:
        raise ValueError("another fault")

    monkeypatch.setattr(engine, "_run", failing)
    with pytest.raises(ValueError, match="another fault"):
        engine.run(batch)


def test_keras_is_traced_once(model: Any) -> None:
    engine = tensorflow.KerasEngine(model)
    for shape in ((1, 16, 16, 3), (3, 16, 16, 3), (2, 32, 16, 3)):
        engine.run(np.zeros(shape, np.float32))
    assert engine._call.experimental_get_tracing_count() == 1


def test_a_layer_that_must_know_its_size_gets_a_trace_a_size() -> None:
    def halved(size: tuple[Any, Any]) -> Any:
        keras.utils.set_random_seed(4)
        inputs = keras.Input((*size, 3))
        x = keras.layers.Conv2D(4, 3, strides=2, padding="same")(inputs)
        return keras.Model(inputs, keras.layers.UpSampling2D(2, interpolation="bilinear")(x))

    engine = tensorflow.KerasEngine(halved((None, None)))
    for size in ((16, 24), (32, 16), (16, 24)):
        batch = np.random.default_rng(1).random((3, *size, 3), np.float32)
        expected = halved(size).predict(batch, verbose=0)
        np.testing.assert_allclose(engine.run(batch)["output"], expected, atol=1e-6)
        np.testing.assert_allclose(engine.run(batch[:2])["output"], expected[:2], atol=1e-6)


@pytest.mark.parametrize("layer", [ResizeLike(), ResizeBy(2)], ids=["like", "by"])
def test_our_resizing_takes_any_size(layer: Any) -> None:
    inputs = keras.Input((None, None, 3))
    x = keras.layers.AveragePooling2D(2)(inputs)
    model = keras.Model(inputs, layer([x, inputs]) if isinstance(layer, ResizeLike) else layer(x))
    batch = np.random.default_rng(1).random((2, 16, 24, 3), np.float32)
    small = batch.reshape(2, 8, 2, 12, 2, 3).mean((2, 4))
    expected = np.stack([cv2.resize(image, (24, 16)) for image in small])
    for engine in (tensorflow.KerasEngine(model), openvino.from_keras(model)):
        (found,) = engine.run(batch).values()
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_openvino_gets_the_network_as_it_predicts() -> None:
    """Keras' Resizing takes itself to be in training, and what follows it too, unless told."""
    inputs = keras.Input((16, 16, 3))
    normalised = keras.layers.BatchNormalization()
    model = keras.Model(inputs, normalised(keras.layers.Resizing(8, 8)(inputs)))
    rng = np.random.default_rng(0)
    normalised.moving_mean.assign(rng.normal(size=3))
    batch = rng.random((3, 16, 16, 3), np.float32)
    (found,) = openvino.from_keras(model).run(batch).values()
    np.testing.assert_allclose(found, model.predict(batch, verbose=0), atol=1e-5)


def test_saved_model(saved: Path, batch: np.ndarray, expected: np.ndarray) -> None:
    engine = tensorflow.SavedModelEngine(saved)
    (found,) = engine.run(batch).values()
    np.testing.assert_allclose(found, expected, atol=1e-6)
    ((_, shape),) = engine.try_out((1, 16, 16, 3)).items()
    assert shape == (1, 16, 16, 4)


@pytest.mark.parametrize("quantised", [False, True])
def test_tflite(
    saved: Path, tmp_path: Path, batch: np.ndarray, expected: np.ndarray, quantised: bool
) -> None:
    converter = LIBRARY.lite.TFLiteConverter.from_saved_model(str(saved))
    if quantised:
        converter.optimizations = [LIBRARY.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([b[None]] for b in batch)
        converter.target_spec.supported_ops = [LIBRARY.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = LIBRARY.uint8
        converter.inference_output_type = LIBRARY.uint8
    path = tmp_path / "model.tflite"
    path.write_bytes(converter.convert())
    engine = tensorflow.LiteEngine(path)
    (found,) = engine.run(batch).values()
    np.testing.assert_allclose(found, expected, atol=0.05 if quantised else 1e-6)
    (one,) = engine.run(batch[:1, :16]).values()
    assert one.shape == (1, 16, 48, 4)


def test_openvino_in_both_precisions(model: Any, batch: np.ndarray, expected: np.ndarray) -> None:
    engine = openvino.from_keras(model)
    (found,) = engine.run(batch).values()
    np.testing.assert_allclose(found, expected, atol=1e-5)
    (one,) = engine.run(batch[2:3]).values()
    np.testing.assert_array_equal(one[0], found[2])
    assert engine.provenance.startswith("openvino ")
    low = openvino.from_keras(model, "bfloat16")
    (rough,) = low.run(batch).values()
    np.testing.assert_allclose(rough, expected, atol=0.02)


def test_bfloat16_rounds_and_agrees(model: Any, batch: np.ndarray, expected: np.ndarray) -> None:
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    found = tensorflow.KerasEngine(copy, "bfloat16").run(batch)["output"]
    assert found.dtype == np.float32
    assert 0 < np.abs(found - expected).max() < 0.02


@pytest.mark.parametrize("kind", ["keras", "saved"])
def test_a_window_does_not_depend_on_its_batch(
    kind: str, model: Any, saved: Path, batch: np.ndarray
) -> None:
    engine = (
        tensorflow.SavedModelEngine(saved) if kind == "saved" else tensorflow.KerasEngine(model)
    )
    (whole,) = engine.run(batch).values()
    assert len(whole) == len(batch) == 5
    for some in (slice(0, 1), slice(1, 3), slice(2, 5), slice(4, 5)):
        (found,) = engine.run(batch[some]).values()
        np.testing.assert_array_equal(found, whole[some])


def test_a_number_beside_the_windows_is_no_window(tmp_path: Path, batch: np.ndarray) -> None:
    class Two(LIBRARY.Module):
        @LIBRARY.function(input_signature=[LIBRARY.TensorSpec((None, 32, 48, 3))])
        def __call__(self, x: Any) -> Any:
            return {"mean": x * 2, "version": LIBRARY.constant(3.0)}

    two = Two()
    with stderr.silent():
        LIBRARY.saved_model.save(
            two, str(tmp_path / "two"), signatures={"serving_default": two.__call__}
        )
    engine = tensorflow.SavedModelEngine(tmp_path / "two")
    for windows in (batch, batch[:1], np.concatenate([batch] * 3)):
        found = engine.run(windows)
        np.testing.assert_array_equal(found["mean"], windows * 2)
        assert found["version"] == 3


BITS = """
import hashlib, numpy as np, keras
from segengine.engines import tensorflow
tensorflow.library()
keras.utils.set_random_seed(0)
from segengine import models
engine = tensorflow.KerasEngine(models.build("unet", bands=3, classes=3, size=(64, 64)))
pixels = np.random.default_rng(0).random((3, 64, 64, 3)).astype(np.float32)
print(hashlib.sha256(engine.run(pixels)["output"].tobytes()).hexdigest())
"""


def test_a_window_does_not_depend_on_the_threads() -> None:
    made = {
        subprocess.run(
            [sys.executable, "-c", BITS],
            env={**os.environ, "OMP_NUM_THREADS": threads, "TF_NUM_INTRAOP_THREADS": threads},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for threads in ("1", "2")
    }
    assert len(made) == 1
    assert len(made.pop()) == 65


def onnx_file(path: Path, weights: np.ndarray) -> Path:
    """Two classes of three bands by one product a pixel, channels first."""
    shape = ["n", 3, "h", "w"]
    graph = helper.make_graph(
        [helper.make_node("Conv", ["image", "weights"], ["values"])],
        "pixelwise",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("values", TensorProto.FLOAT, ["n", 2, "h", "w"])],
        [numpy_helper.from_array(weights[:, :, None, None], "weights")],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(made)
    path.write_bytes(made.SerializeToString())
    return path


def test_onnx_on_both_engines(tmp_path: Path, batch: np.ndarray) -> None:
    weights = np.random.default_rng(2).normal(size=(2, 3)).astype(np.float32)
    path = onnx_file(tmp_path / "model.onnx", weights)
    first = np.ascontiguousarray(batch.transpose(0, 3, 1, 2))
    expected = np.einsum("cb,nbyx->ncyx", weights.astype(np.float64), first)
    for engine in (onnxruntime.OnnxEngine(path), openvino.OpenVinoEngine(path)):
        assert engine.input_shape == (None, 3, None, None)
        assert engine.outputs == ("values",)
        assert engine.dtype == np.float32
        np.testing.assert_allclose(engine.run(first)["values"], expected, atol=1e-5)
        assert engine.try_out((1, 3, 8, 8)) == {"values": (1, 2, 8, 8)}
        with pytest.raises(ValueError, match="does not take windows"):
            engine.try_out((1, 4, 8, 8))


def test_weights_that_are_not_numbers_are_found(tmp_path: Path) -> None:
    weights = np.array([[1, np.nan, 0], [0, 1, 2]], np.float32)
    engine = onnxruntime.OnnxEngine(onnx_file(tmp_path / "model.onnx", weights))
    with pytest.raises(ValueError, match="NaN or infinite"):
        engine.try_out((1, 3, 8, 8))


def test_threads_are_those_of_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert engines.threads() == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "many")
    assert engines.threads() >= 1


def test_a_reason_is_one_line() -> None:
    assert engines.reason(ValueError("\n  first\nsecond")) == "first"
    assert engines.reason(KeyError()) == "KeyError"


def test_a_batch_that_memory_has_no_room_for_is_halved(monkeypatch: pytest.MonkeyPatch) -> None:
    tf = tensorflow.library()
    layer = keras.layers.Conv2D(1, 1)
    inputs = keras.Input((None, None, 2))
    engine = tensorflow.KerasEngine(keras.Model(inputs, layer(inputs)))
    engine._parts = Parts(tensorflow._is_full)  # as on a GPU
    batch = np.random.default_rng(0).random((11, 8, 8, 2)).astype(np.float32)
    expected = engine.run(batch)["output"]
    real, sizes = engine._run, []

    def small(part: Any) -> Any:
        sizes.append(len(part))
        if len(part) > 3:
            raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")
        return real(part)

    monkeypatch.setattr(engine, "_run", small)
    for _ in range(2):
        np.testing.assert_allclose(engine.run(batch)["output"], expected, atol=1e-6)
    assert sizes == [11, 5, 2, 2, 2, 2, 2, 1, 2, 2, 2, 2, 2, 1]
    monkeypatch.setattr(engine, "_run", lambda part: small(np.repeat(part, 9, 0)))
    with pytest.raises(tf.errors.ResourceExhaustedError):
        engine.run(batch)


def test_the_gpus_of_a_machine(tmp_path: Path) -> None:
    assert engines.gpus({}, tmp_path / "none") == ()
    for name in ("0000:01:00.0", "0000:02:00.0"):
        (tmp_path / name).mkdir()
    assert engines.gpus({}, tmp_path) == ("0", "1")
    assert engines.gpus({"CUDA_VISIBLE_DEVICES": ""}, tmp_path) == ()
    assert engines.gpus({"CUDA_VISIBLE_DEVICES": "GPU-a,-1,3"}, tmp_path) == ("GPU-a",)
