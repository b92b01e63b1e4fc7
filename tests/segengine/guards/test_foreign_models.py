"""Models of a stranger: each attack is made for real, and refused by `plan`, by `run` and in a notebook.

Whatever runs of one leaves a canary: a file, or a call that was counted.
"""

from __future__ import annotations

import json
import os
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import h5py
import keras
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tensorflow.core.protobuf import saved_model_pb2

import segengine
from segengine.engines import tensorflow
from segengine.errors import JobError
from segengine_flows import cli

TF = tensorflow.library()
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
Options = dict[str, Any]
Attack = Callable[[Path, Path], Options]
IMAGES = TF.TensorSpec((None, None, None, 3), TF.float32)
ATTACKS: list[Any] = []


def attack(says: str) -> Callable[[Attack], Attack]:
    """Register an attack and what the one line says of it."""

    def register(made: Attack) -> Attack:
        ATTACKS.append(pytest.param(made, says, id=made.__name__))
        return made

    return register


# SavedModels


def signed(at: Path, call: Callable[[Any], Any], **parts: Any) -> Options:
    """A SavedModel whose signature computes something of its input."""
    module = TF.Module()
    for name, part in parts.items():
        setattr(module, name, part)
    module.serve = TF.function(call, input_signature=[IMAGES], autograph=False)
    TF.saved_model.save(module, str(at / "model"), signatures=module.serve)
    return {"path": str(at / "model")}


@attack("op WriteFile in function __inference_")
def saved_model_that_writes_when_called(at: Path, canary: Path) -> Options:
    def call(x: Any) -> Any:
        with TF.control_dependencies([TF.io.write_file(str(canary), "ran")]):
            return x * 2

    return signed(at, call)


class Spring(TF.saved_model.experimental.TrackableResource):  # type: ignore[misc]
    """What TensorFlow makes anew whenever it loads the model."""

    def __init__(self, canary: Path) -> None:
        super().__init__()
        self.canary = str(canary)

    def _create_resource(self) -> Any:
        return TF.raw_ops.VarHandleOp(dtype=TF.float32, shape=[], shared_name="spring")

    def _initialize(self) -> None:
        TF.io.write_file(self.canary, "ran")


@attack("op WriteFile in function __inference_")
def saved_model_whose_initialiser_writes(at: Path, canary: Path) -> Options:
    spring = Spring(canary)
    _ = spring.resource_handle
    options = signed(at, lambda x: x * 2, spring=spring)
    canary.unlink(missing_ok=True)  # made once already, to be saved
    return options


@attack("op EagerPyFunc in function __inference_")
def saved_model_that_calls_python(at: Path, canary: Path) -> Options:
    def written(x: Any) -> Any:
        if x.shape[0]:
            canary.write_text("ran")
        return x

    call = lambda x: TF.ensure_shape(TF.py_function(written, [x], TF.float32), x.shape)  # noqa: E731
    return signed(at, call)


@attack("op SaveV2 in function __inference_")
def saved_model_that_writes_a_checkpoint(at: Path, canary: Path) -> Options:
    def call(x: Any) -> Any:
        saved = TF.raw_ops.SaveV2(
            prefix=str(canary), tensor_names=["a"], shape_and_slices=[""], tensors=[x]
        )
        with TF.control_dependencies([saved]):
            return x * 2

    return signed(at, call)


@attack("op RestoreV2 in function __inference_")
def saved_model_that_reads_a_checkpoint(at: Path, canary: Path) -> Options:
    def call(x: Any) -> Any:
        read = TF.raw_ops.RestoreV2(
            prefix="/somewhere/else", tensor_names=["a"], shape_and_slices=[""], dtypes=[TF.float32]
        )
        return x + read[0]

    return signed(at, call)


@attack("calls __inference__traced_save_")
def saved_model_whose_signature_calls_its_saver(at: Path, canary: Path) -> Options:
    options = signed(at, lambda x: x * 2, weights=TF.Variable(1.0))

    def change(graph: Any) -> None:
        functions = {f.signature.name: f for f in graph.graph_def.library.function}
        saver = next(n for n in functions if "traced_save" in n)
        signature = next(f for n, f in functions.items() if "signature_wrapper" in n)
        added = signature.node_def.add(name="also", op="StatefulPartitionedCall")
        added.attr["f"].func.name = saver

    changed(at / "model", change)
    return options


@attack("op SecretOp in the graph, node a is not allowed")
def saved_model_with_an_op_beside_its_signature(at: Path, canary: Path) -> Options:
    options = signed(at, lambda x: x * 2)
    changed(at / "model", lambda graph: graph.graph_def.node.add(name="a", op="SecretOp"))
    return options


@attack("it has assets")
def saved_model_with_an_asset(at: Path, canary: Path) -> Options:
    (at / "words.txt").write_text("a\nb\n")
    return signed(at, lambda x: x * 2, asset=TF.saved_model.Asset(str(at / "words.txt")))


@attack("it has an object of the class stranger.Class")
def saved_model_with_a_class_of_its_own(at: Path, canary: Path) -> Options:
    options = signed(at, lambda x: x * 2)

    def change(graph: Any) -> None:
        graph.object_graph_def.nodes[0].registered_name = "stranger.Class"

    changed(at / "model", change)
    return options


@attack("has a saved_model.pbtxt, which is refused")
def saved_model_twice(at: Path, canary: Path) -> Options:
    options = signed(at, lambda x: x * 2)
    (at / "model" / "saved_model.pbtxt").write_text("")
    return options


@attack("variables/variables.index leads out of the model's folder")
def saved_model_with_a_link(at: Path, canary: Path) -> Options:
    options = signed(at, lambda x: x * 2)
    index = at / "model" / "variables" / "variables.index"
    index.rename(at / "index")
    index.symlink_to(at / "index")
    return options


def changed(folder: Path, change: Callable[[Any], object]) -> None:
    """Change the first graph of a SavedModel."""
    saved = saved_model_pb2.SavedModel()
    saved.ParseFromString((folder / "saved_model.pb").read_bytes())
    change(saved.meta_graphs[0])
    (folder / "saved_model.pb").write_bytes(saved.SerializeToString())


# Keras


def network() -> Any:
    inputs = keras.Input((None, None, 3))
    return keras.Model(inputs, keras.layers.Conv2D(2, 1, name="c")(inputs))


def members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def packed(path: Path, parts: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in parts.items():
            archive.writestr(name, data)
    return path


def keras_file(at: Path, change: Callable[[Any], object] = lambda config: None) -> Path:
    """A good model, whose configuration is changed."""
    path = at / "m.keras"
    network().save(path)
    parts = members(path)
    config = json.loads(parts["config.json"])
    change(config)
    return packed(path, parts | {"config.json": json.dumps(config).encode()})


def first_layer(config: Any, layer: Options) -> None:
    """Put a layer between the input and the convolution."""
    own = config["config"]["layers"][1]
    own |= layer | {"inbound_nodes": own["inbound_nodes"], "name": "c"}
    own.pop("registered_name", None)
    own |= {k: v for k, v in layer.items() if k == "registered_name"}


@attack("Lambda layer, which is code")
def keras_lambda(at: Path, canary: Path) -> Options:
    inputs = keras.Input((None, None, 3))
    where = str(canary)
    layer = keras.layers.Lambda(lambda x: (open(where, "w").close(), x)[1], lambda s: s)
    keras.Model(inputs, layer(inputs)).save(at / "m.keras")
    canary.unlink(missing_ok=True)  # the layer ran here
    return {"path": str(at / "m.keras")}


@attack("TFSMLayer layer, which is code")
def keras_layer_that_loads_a_saved_model(at: Path, canary: Path) -> Options:
    inside = saved_model_whose_initialiser_writes(at, canary)["path"]
    layer = {
        "module": "keras.layers", "class_name": "TFSMLayer",
        "config": {"name": "c", "filepath": inside, "call_endpoint": "serving_default"},
    }  # fmt: skip
    return {"path": str(keras_file(at, lambda c: first_layer(c, layer)))}


@attack("names subprocess.Popen, which is none of the classes that are allowed")
def keras_class_by_its_module(at: Path, canary: Path) -> Options:
    layer = {
        "module": "subprocess", "class_name": "Popen", "config": {"args": ["touch", str(canary)]},
    }  # fmt: skip
    return {"path": str(keras_file(at, lambda c: first_layer(c, layer)))}


@attack("names keras.utils.get_file, which is none")
def keras_utility_as_a_function(at: Path, canary: Path) -> Options:
    def change(config: Any) -> None:
        own = config["config"]["layers"][1]["config"]
        own["activation"] = {
            "module": "keras.utils", "class_name": "function", "config": "get_file",
            "registered_name": "get_file",
        }  # fmt: skip

    return {"path": str(keras_file(at, change))}


@attack("names keras.layers.StringLookup, which is none")
def keras_layer_that_reads_a_file(at: Path, canary: Path) -> Options:
    layer = {
        "module": "keras.layers", "class_name": "StringLookup",
        "config": {"name": "c", "vocabulary": "/etc/passwd"},
    }  # fmt: skip
    return {"path": str(keras_file(at, lambda c: first_layer(c, layer)))}


@attack("names other>Conv2D, which is none")
def keras_class_registered_by_another_name(at: Path, canary: Path) -> Options:
    def change(config: Any) -> None:
        config["config"]["layers"][1]["registered_name"] = "other>Conv2D"

    return {"path": str(keras_file(at, change))}


@attack("a model in the model that was compiled")
def keras_model_in_a_model_with_a_compile_config(at: Path, canary: Path) -> Options:
    def change(config: Any) -> None:
        config["config"]["layers"][1]["compile_config"] = {"loss": {"class_name": "x"}}

    return {"path": str(keras_file(at, change))}


@attack("config.json is nested deeper than 200")
def keras_configuration_nested_without_end(at: Path, canary: Path) -> Options:
    parts = members(keras_file(at))
    parts["config.json"] = b'{"a":' * 100_000 + b"1" + b"}" * 100_000
    return {"path": str(packed(at / "m.keras", parts))}


@attack("its suffix is .h5 and it is a zip, which is refused")
def keras_zip_called_h5(at: Path, canary: Path) -> Options:
    return {"path": str(keras_file(at).rename(at / "m.h5"))}


@attack("its suffix is .keras and it is an HDF5 file, which is refused")
def keras_h5_called_keras(at: Path, canary: Path) -> Options:
    network().save(at / "m.h5")
    return {"path": str((at / "m.h5").rename(at / "m.keras"))}


@attack("its suffix is .h5 and it is a zip as well, which is refused")
def keras_h5_with_a_zip_behind(at: Path, canary: Path) -> Options:
    keras_lambda(at, canary)
    network().save(at / "m.h5")
    with open(at / "m.h5", "ab") as file:
        file.write((at / "m.keras").read_bytes())
    return {"path": str(at / "m.h5")}


@attack("the zip has bytes that belong to no file in it")
def keras_zip_behind_a_zip(at: Path, canary: Path) -> Options:
    path = keras_file(at)
    first = path.read_bytes()
    path.write_bytes(first + path.read_bytes())
    return {"path": str(path)}


@attack("the zip holds config.json twice")
def keras_zip_with_two_configurations(at: Path, canary: Path) -> Options:
    path = keras_file(at)
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("config.json", "{}")
    return {"path": str(path)}


@attack("the zip holds ../canary, which leads out of it")
def keras_zip_that_leads_out(at: Path, canary: Path) -> Options:
    return {"path": str(packed(at / "m.keras", members(keras_file(at)) | {"../canary": b"ran"}))}


@attack("the zip holds assets/a, which is refused")
def keras_zip_with_assets(at: Path, canary: Path) -> Options:
    return {"path": str(packed(at / "m.keras", members(keras_file(at)) | {"assets/a": b"ran"}))}


@attack("the zip unpacks to more than 64 times its size")
def keras_zip_bomb(at: Path, canary: Path) -> Options:
    parts = members(keras_file(at))
    with zipfile.ZipFile(at / "m.keras", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in parts.items():
            archive.writestr(name, data if name != "metadata.json" else bytes(40 << 20))
    return {"path": str(at / "m.keras")}


def weights(at: Path, change: Callable[[h5py.File], object]) -> Options:
    """A good model, whose HDF5 file of weights is changed."""
    path = keras_file(at)
    parts = members(path)
    (at / "w.h5").write_bytes(parts["model.weights.h5"])
    with h5py.File(at / "w.h5", "r+") as file:
        change(file)
    return {"path": str(packed(path, parts | {"model.weights.h5": (at / "w.h5").read_bytes()}))}


def place(file: h5py.File) -> tuple[h5py.Group, str]:
    """Where the bias lies, which is taken away."""
    group = file["layers/conv2d/vars"] if "layers/conv2d" in file else file["layers/c/vars"]
    del group["1"]
    return group, "1"


@attack("is an external link, which is refused")
def weights_in_another_file(at: Path, canary: Path) -> Options:
    def change(file: h5py.File) -> None:
        group, name = place(file)
        group[name] = h5py.ExternalLink("/etc/passwd", "/secret")

    return weights(at, change)


@attack("is a soft link, which is refused")
def weights_behind_a_soft_link(at: Path, canary: Path) -> Options:
    def change(file: h5py.File) -> None:
        group, name = place(file)
        group[name] = h5py.SoftLink("/layers")

    return weights(at, change)


@attack("lies in another file, which is refused")
def weights_stored_elsewhere(at: Path, canary: Path) -> Options:
    def change(file: h5py.File) -> None:
        group, name = place(file)
        group.create_dataset(name, (2,), "f4", external=[("/etc/passwd", 0, 8)])

    return weights(at, change)


@attack("is a virtual dataset, which is refused")
def weights_of_another_file(at: Path, canary: Path) -> Options:
    def change(file: h5py.File) -> None:
        group, name = place(file)
        layout = h5py.VirtualLayout((2,), "f4")
        layout[:] = h5py.VirtualSource("/etc/passwd", "secret", (2,))
        group.create_virtual_dataset(name, layout)

    return weights(at, change)


@attack("its datasets claim more than 64 times the file's size")
def weights_that_claim_a_terabyte(at: Path, canary: Path) -> Options:
    def change(file: h5py.File) -> None:
        group, name = place(file)
        group.create_dataset(name, (1 << 38,), "f4", chunks=(1 << 20,), compression="gzip")

    return weights(at, change)


@attack("is an external link, which is refused")
def weights_of_an_architecture(at: Path, canary: Path) -> Options:
    with h5py.File(at / "m.weights.h5", "w") as file:
        file["layers"] = h5py.ExternalLink("/etc/passwd", "/secret")
    return {
        "path": str(at / "m.weights.h5"), "architecture": "unet", "bands": 3, "classes": ["a", "b"],
        "options": {"start_neurons": 4, "depth": 1},
    }  # fmt: skip


# ONNX


def onnx_file(at: Path, **changes: Any) -> Path:
    """A product a pixel, whose weights may lie anywhere and whose node may be any."""
    weights = numpy_helper.from_array(np.ones((2, 3, 1, 1), np.float32), "weights")
    if location := changes.get("location"):
        weights.ClearField("raw_data")
        weights.data_location = TensorProto.EXTERNAL
        places = {"location": location, **changes.get("places", {"offset": "0", "length": "24"})}
        for key, value in places.items():
            weights.external_data.add(key=key, value=value)
    shapes = (["n", 3, "h", "w"], ["n", 2, "h", "w"])
    taken, given = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in zip(("image", "values"), shapes, strict=True)
    )
    node = helper.make_node("Conv", ["image", "weights"], ["values"])
    nodes = changes.get("nodes", lambda node: [node])(node)
    graph = helper.make_graph(nodes, "g", [taken], [given], [weights])
    sets = [helper.make_opsetid(d, v) for d, v in {"": 17, **changes.get("sets", {})}.items()]
    made = helper.make_model(graph, opset_imports=sets, ir_version=9)
    for key, value in changes.get("metadata", {}).items():
        made.metadata_props.add(key=key, value=value)
    (at / "m.onnx").write_bytes(made.SerializeToString())
    return at / "m.onnx"


def outside(at: Path) -> Path:
    """Weights in the folder above."""
    (at / "folder").mkdir()
    (at / "secret").write_bytes(np.ones(6, np.float32).tobytes())
    return at / "folder"


@attack("lies in ../secret, which is no file below the model's folder")
def onnx_with_weights_above(at: Path, canary: Path) -> Options:
    return {"path": str(onnx_file(outside(at), location="../secret"))}


@attack("secret, which is no file below the model's folder")
def onnx_with_weights_anywhere(at: Path, canary: Path) -> Options:
    return {"path": str(onnx_file(outside(at), location=str(at / "secret")))}


@attack("lies in link, which leads out of the model's folder")
def onnx_with_weights_behind_a_link(at: Path, canary: Path) -> Options:
    (outside(at) / "link").symlink_to(at / "secret")
    return {"path": str(onnx_file(at / "folder", location="link"))}


@attack("lies in */_ORT_MEM_ADDR_/*, which is no file")
def onnx_with_weights_at_an_address(at: Path, canary: Path) -> Options:
    return {"path": str(onnx_file(at, location="*/_ORT_MEM_ADDR_/*"))}


@attack("lies in w, beyond its end")
def onnx_with_weights_beyond_their_file(at: Path, canary: Path) -> Options:
    (at / "w").write_bytes(bytes(8))
    return {"path": str(onnx_file(at, location="w"))}


@attack("op stranger.Run in the graph, node n is not allowed")
def onnx_with_an_op_of_a_stranger(at: Path, canary: Path) -> Options:
    def nodes(node: Any) -> list[Any]:
        return [node, helper.make_node("Run", ["values"], ["x"], "n", domain="stranger")]

    return {"path": str(onnx_file(at, nodes=nodes, sets={"stranger": 1}))}


@attack("op com.microsoft.EPContext in a graph in the graph, node if, node n is not allowed")
def onnx_with_a_subgraph_that_opens_a_file(at: Path, canary: Path) -> Options:
    inner = helper.make_node("EPContext", [], ["y"], "n", domain="com.microsoft")
    given = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    graph = helper.make_graph([inner], "inner", [], given)

    def nodes(node: Any) -> list[Any]:
        true = helper.make_node("Constant", [], ["t"], value=numpy_helper.from_array(np.True_))
        both = {"then_branch": graph, "else_branch": graph}
        return [node, true, helper.make_node("If", ["t"], ["x"], "if", **both)]

    return {"path": str(onnx_file(at, nodes=nodes, sets={"com.microsoft": 1}))}


@attack("its metadata has ort_config")
def onnx_with_settings(at: Path, canary: Path) -> Options:
    return {"path": str(onnx_file(at, metadata={"ort_config": '{"session_options": {}}'}))}


@attack("the model has a field 20 that is not known")
def onnx_with_a_training_graph(at: Path, canary: Path) -> Options:
    path = onnx_file(at)
    made = onnx.load(path)
    made.training_info.add()
    path.write_bytes(made.SerializeToString())
    return {"path": str(path)}


@attack("the model is damaged or cut off")
def onnx_that_is_a_file_of_openvino(at: Path, canary: Path) -> Options:
    (at / "m.onnx").write_text('<?xml version="1.0"?><net name="m" version="11"></net>')
    return {"path": str(at / "m.onnx"), "engine": "openvino"}


@attack("op stranger.Run in the graph, node n is not allowed")
def onnx_for_openvino(at: Path, canary: Path) -> Options:
    return onnx_with_an_op_of_a_stranger(at, canary) | {"engine": "openvino"}


# TFLite


@attack("custom op FlexWriteFile is not allowed")
def tflite_with_an_op_of_tensorflow(at: Path, canary: Path) -> Options:
    saved_model_that_writes_when_called(at, canary)
    converter = TF.lite.TFLiteConverter.from_saved_model(str(at / "model"))
    own = TF.lite.OpsSet
    converter.target_spec.supported_ops = [own.TFLITE_BUILTINS, own.SELECT_TF_OPS]
    (at / "m.tflite").write_bytes(converter.convert())
    return {"path": str(at / "m.tflite")}


@attack("it is damaged or cut off")
def tflite_cut_off(at: Path, canary: Path) -> Options:
    signed(at, lambda x: x * 2)
    data = TF.lite.TFLiteConverter.from_saved_model(str(at / "model")).convert()
    (at / "m.tflite").write_bytes(data[:200])
    return {"path": str(at / "m.tflite")}


# bundles


def bundle(at: Path, **changes: Any) -> Options:
    about = {
        "format": 1, "architecture": "unet", "options": {"start_neurons": 4, "depth": 1},
        "bands": 3, "classes": ["a", "b"], "scale": {"divide": 255}, "activation": "softmax",
        "colors": [], "size": [32, 32], "resize": False, "job": {}, "metrics": {},
    }  # fmt: skip
    (at / "b").mkdir()
    (at / "b" / "bundle.json").write_text(json.dumps(about | changes))
    (at / "b" / "model.weights.h5").write_bytes(b"")
    return {"path": str(at / "b")}


@attack("names the code evil_code:run as its architecture, which is refused")
def bundle_whose_architecture_is_code(at: Path, canary: Path) -> Options:
    (at / "evil_code.py").write_text(f"open({str(canary)!r}, 'w').close()\ndef run(**k): ...\n")
    sys.path.insert(0, str(at))
    return bundle(at, architecture="evil_code:run")


@attack("bundle.json leads out of the model's folder")
def bundle_behind_a_link(at: Path, canary: Path) -> Options:
    options = bundle(at)
    meta = Path(options["path"], "bundle.json")
    meta.rename(at / "elsewhere.json")
    meta.symlink_to(at / "elsewhere.json")
    return options


@attack("is no plain file and is refused")
def pipe_that_never_ends(at: Path, canary: Path) -> Options:
    os.mkfifo(at / "m.tflite")
    return {"path": str(at / "m.tflite")}


# all of them


@pytest.fixture(autouse=True)
def _path_as_before() -> Iterator[None]:
    before = list(sys.path)
    yield
    sys.path[:] = before
    sys.modules.pop("evil_code", None)


@pytest.mark.parametrize(("made", "says"), ATTACKS)
def test_refused_by_plan_run_and_in_a_notebook(
    made: Attack, says: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "model").mkdir()
    canary = tmp_path / "canary"
    segmenter = {"kind": "model"} | made(tmp_path / "model", canary)
    canaries = lambda: list(tmp_path.glob("canary*"))  # noqa: E731
    assert not canaries(), "the attack ran while it was made"
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((64, 64, 3), np.uint8))
    job = {
        "source": {"paths": [str(tmp_path / "*.png")]}, "segmenter": segmenter,
        "store": {"path": str(tmp_path / "masks.zarr")},
    }  # fmt: skip
    (tmp_path / "job.yaml").write_text(json.dumps(job))
    capfd.readouterr()
    for command in ("plan", "run"):
        assert cli.main([command, str(tmp_path / "job.yaml")]) == 2
        told = [line for line in capfd.readouterr().err.splitlines() if line.strip()]
        assert len(told) == 1, told
        assert says in told[0]
        assert "/segengine-" not in told[0]  # no private folder's name
    with pytest.raises(JobError) as caught:
        segengine.create_segmenter(segmenter)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not canaries()
    assert not (tmp_path / "masks.zarr").exists()
