"""What a network's numbers are: labels, logits or probabilities; told from the file, or asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import segengine
from segengine.engines import tensorflow
from segengine.errors import JobError
from segengine.segmenters.model import create

TF = tensorflow.library()
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
Pixels = np.ndarray[Any, np.dtype[Any]]
RNG = np.random.default_rng(0)
PIXELS = RNG.normal(size=(1, 16, 16, 3)).astype(np.float32) * 3
WEIGHTS = RNG.normal(size=(4, 3)).astype(np.float32)


def write(path: Path, channels: int, *nodes: Any, dtype: int = TensorProto.FLOAT) -> str:
    """ONNX: a product a pixel, then nodes from `logits` to `out`; channels first."""
    first = helper.make_node("Conv", ["image", "weights"], ["logits"])
    graph = helper.make_graph(
        [first, *nodes],
        "pixelwise",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, "h", "w"])],
        [helper.make_tensor_value_info("out", dtype, None)],
        [numpy_helper.from_array(WEIGHTS[:channels, :, None, None], "weights")],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path.write_bytes(made.SerializeToString())
    return str(path)


def node(op: str, source: str = "logits", made: str = "out", **options: Any) -> Any:
    return helper.make_node(op, [source], [made], **options)


def logits(channels: int) -> Pixels:
    found: Pixels = np.einsum("cb,nyxb->nyxc", WEIGHTS[:channels], PIXELS)
    return found


def sigmoid(values: Pixels) -> Pixels:
    found: Pixels = 1 / (1 + np.exp(-values.astype(np.float64)))
    return found


def softmax(values: Pixels) -> Pixels:
    powers = np.exp(values.astype(np.float64) - values.max(-1, keepdims=True))
    found: Pixels = powers / powers.sum(-1, keepdims=True)
    return found


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize("window", [8, 16])
def test_whole_numbers_are_labels(tmp_path: Path, engine: Any, keepdims: int, window: int) -> None:
    argmax = node("ArgMax", axis=1, keepdims=keepdims)
    path = write(tmp_path / "m.onnx", 4, argmax, dtype=TensorProto.INT64)
    segmenter = create(path, classes=list("abcd"), window=window, engine=engine)
    found = segengine.predict(PIXELS, segmenter)
    np.testing.assert_array_equal(found.labels, logits(4).argmax(-1))
    assert found.probabilities is None
    assert segmenter.outputs == ("labels",)
    with pytest.raises(ValueError, match="classes: the model gives labels and does not say"):
        create(path, window=8)
    few = create(path, classes=["a", "b"], window=8)
    with pytest.raises(ValueError, match=r"classes: the model gives label 3, and 2 classes"):
        few.segment(PIXELS)


def test_labels_have_no_probabilities(tmp_path: Path, bench: Any, noise: Any) -> None:
    argmax = node("ArgMax", axis=1, keepdims=0)
    path = write(tmp_path / "m.onnx", 4, argmax, dtype=TensorProto.INT64)
    bench.put("0.png", noise(0, (16, 16, 3)))
    options = {"kind": "model", "path": path, "classes": list("abcd"), "window": 16}
    with pytest.raises(JobError, match=r"store\.probabilities: model predicts no probabilities"):
        bench.run(options, store={"probabilities": True})
    with pytest.raises(ValueError, match=r"activation: the model gives labels"):
        create(path, classes=list("abcd"), activation="softmax", window=8)
    with pytest.raises(ValueError, match=r"crf: needs probabilities"):
        create(path, classes=list("abcd"), crf=True, window=8)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
@pytest.mark.parametrize(
    ("channels", "nodes", "activation"),
    [
        (1, [node("Identity")], "sigmoid"),
        (4, [node("Identity")], "softmax"),
        (4, [node("LogSoftmax", axis=1)], "softmax"),
        (1, [node("Sigmoid")], "none"),
        (1, [node("Sigmoid", made="a"), node("Identity", "a")], "none"),
        (4, [node("Softmax", axis=1)], "none"),
        (4, [node("Exp", made="a"), node("Softmax", "a", "b", axis=1), node("Abs", "b")], "none"),
        (1, [node("Neg")], "sigmoid"),  # below 0 on noise: no probabilities
    ],
)
def test_what_the_file_says_is_done(
    tmp_path: Path, engine: Any, channels: int, nodes: list[Any], activation: str
) -> None:
    segmenter = create(
        write(tmp_path / "m.onnx", channels, *nodes), window=16, engine=engine, bands=3
    )
    assert segmenter.activation == activation


def test_one_channel_of_logits_is_cut_at_0(tmp_path: Path) -> None:
    segmenter = create(write(tmp_path / "m.onnx", 1, node("Identity")), window=16)
    found = segengine.predict(PIXELS, segmenter)
    np.testing.assert_array_equal(found.labels, logits(1)[..., 0] > 0)
    np.testing.assert_allclose(found.probabilities[..., 1:], sigmoid(logits(1)), atol=1e-6)


@pytest.mark.parametrize("op", ["Relu", "Abs", "Sqrt", "Tanh"])
def test_what_cannot_be_told_is_asked_for(tmp_path: Path, op: str) -> None:
    nodes = [node(op)] if op != "Sqrt" else [node("Sigmoid", made="a"), node("Sqrt", "a")]
    path = write(tmp_path / "m.onnx", 1, *nodes)
    with pytest.raises(
        ValueError, match=r"^activation: nothing tells whether .*; set `activation`"
    ):
        create(path, window=16)
    assert create(path, window=16, activation="none").activation == "none"


def test_a_head_tells_where_the_file_does_not(tmp_path: Path) -> None:
    one = write(tmp_path / "one.onnx", 1, node("Abs"))  # from 0 on: logits, or probabilities
    four = write(tmp_path / "four.onnx", 4, node("Relu"))
    assert create(one, window=16, head="logits").activation == "sigmoid"
    assert create(four, window=16, head="logits").activation == "softmax"
    assert create(one, window=16, head="probabilities").activation == "none"
    cut = segengine.predict(PIXELS, create(one, window=16, head="logits"))
    np.testing.assert_allclose(cut.probabilities[..., 1:], sigmoid(np.abs(logits(1))), atol=1e-6)
    done = write(tmp_path / "done.onnx", 4, node("Softmax", axis=1))
    assert create(done, window=16, head="logits").activation == "none"  # never twice


def test_a_head_that_the_output_is_not_is_refused(tmp_path: Path) -> None:
    values = write(tmp_path / "v.onnx", 4, node("Identity"))
    argmax = node("ArgMax", axis=1, keepdims=0)
    labels = write(tmp_path / "l.onnx", 4, argmax, dtype=TensorProto.INT64)
    four = list("abcd")
    found = segengine.predict(PIXELS, create(labels, window=16, head="labels", classes=four))
    np.testing.assert_array_equal(found.labels, logits(4).argmax(-1))
    with pytest.raises(ValueError, match=r"^head: the model's output holds no whole numbers"):
        create(values, window=16, head="labels", classes=four)
    for head in ("logits", "probabilities"):
        with pytest.raises(ValueError, match=f"^head: the model gives labels, and no {head}"):
            create(labels, window=16, head=head, classes=four)
    for head, activation in (("probabilities", "softmax"), ("logits", "none")):
        with pytest.raises(ValueError, match=f"^activation: {activation} does not go with head"):
            create(values, window=16, head=head, activation=activation)


def test_what_is_no_probability_is_never_stored(tmp_path: Path, bench: Any, noise: Any) -> None:
    path = write(tmp_path / "m.onnx", 4, node("Identity"))
    bench.put("0.png", noise(0, (16, 16, 3)))
    options = {"kind": "model", "path": path, "window": 16, "activation": "none"}
    summary = bench.run(options, store={"probabilities": True}, faults={"retries": 0})
    (failed,) = summary.failed
    assert "which are no probabilities; set `activation`" in failed.reason
    one = create(write(tmp_path / "1.onnx", 1, node("Identity")), window=16, activation="none")
    with pytest.raises(ValueError, match="which are no probabilities; set `activation`"):
        one.label(PIXELS)


def keras_model(channels: int, *ends: Any) -> Any:
    inputs = keras.Input((16, 16, 3))
    x = keras.layers.Conv2D(channels, 1)(inputs)
    for end in ends:
        x = end(x)
    return keras.Model(inputs, x)


@pytest.mark.parametrize("written", ["keras", "saved", "tflite", "openvino"])
@pytest.mark.parametrize(
    ("channels", "ends", "activation"),
    [
        (1, ["linear"], "sigmoid"),
        (4, ["linear"], "softmax"),
        (1, ["sigmoid"], "none"),
        (1, ["sigmoid", "resize"], "none"),
        (4, ["softmax"], "none"),
        (1, ["inner"], "none"),
    ],
)
def test_every_format_says_what_it_ends_in(
    tmp_path: Path, written: str, channels: int, ends: list[str], activation: str
) -> None:
    layers = {
        "linear": keras.layers.Activation("linear"),
        "sigmoid": keras.layers.Activation("sigmoid"),
        "softmax": keras.layers.Softmax(),
        "resize": keras.layers.Reshape((16, 16, channels)),
        "inner": keras.Sequential([keras.layers.Conv2D(1, 1, activation="sigmoid")]),
    }
    model = keras_model(channels, *(layers[end] for end in ends))
    path = tmp_path / {"keras": "m.keras", "tflite": "m.tflite"}.get(written, "m")
    if written == "keras":
        model.save(path)
    else:
        model.export(tmp_path / "m", format="tf_saved_model", verbose=False)
        if written == "tflite":
            converter = TF.lite.TFLiteConverter.from_saved_model(str(tmp_path / "m"))
            path.write_bytes(converter.convert())
    engine: Any = "openvino" if written == "openvino" else None
    segmenter = create(str(path), engine=engine)
    assert segmenter.activation == activation
    if activation == "sigmoid":
        found = segmenter.segment(PIXELS)
        raw = np.asarray(model(PIXELS))
        np.testing.assert_array_equal(found.labels, raw[..., 0] > 0)
        np.testing.assert_allclose(found.probabilities[..., 1:], sigmoid(raw), atol=1e-5)


def test_an_argmax_of_keras_is_labels(tmp_path: Path) -> None:
    model = keras_model(4)
    whole = keras.Model(model.inputs[0], keras.ops.argmax(model.outputs[0], axis=-1))
    whole.export(tmp_path / "m", format="tf_saved_model", verbose=False)
    kernel, bias = (TF.constant(weight) for weight in model.get_weights())
    spec = [TF.TensorSpec((None, 16, 16, 3), TF.float32)]
    plain = TF.function(
        lambda image: TF.math.argmax(TF.nn.conv2d(image, kernel, 1, "SAME") + bias, axis=-1), spec
    )
    module = TF.Module()
    converter = TF.lite.TFLiteConverter.from_concrete_functions(
        [plain.get_concrete_function()], module
    )
    (tmp_path / "m.tflite").write_bytes(converter.convert())
    whole.save(tmp_path / "m.keras")
    wanted = np.asarray(whole(PIXELS))
    for name in ("m", "m.tflite", "m.keras"):
        segmenter = create(str(tmp_path / name), classes=list("abcd"))
        np.testing.assert_array_equal(segmenter.segment(PIXELS).labels, wanted)
