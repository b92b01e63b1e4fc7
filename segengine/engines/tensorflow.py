"""TensorFlow: Keras models, SavedModels and TFLite files, each called through one traced function.

`keras.Model.predict` costs five times a `tf.function` on one small window and XLA loses on CPUs, so
neither is used. Batches of one shape share one trace, and one compiled kernel set.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Mapping
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segengine import stderr
from segengine.engines import (
    Outputs,
    Precision,
    Shape,
    _endings,
    _lite,
    _mediapipe,
    as_float,
    instruction_set,
    reason,
    run_once,
    threads,
)
from segengine.engines._parts import Parts, paired
from segengine.guards import tensorflow as saved_models
from segengine.guards import tflite

_DEEPEST = 16
"""Functions within functions."""
_KEPT = 4
"""Traces that are kept of a network that needs one for each size of window."""


@cache
def library() -> Any:
    """TensorFlow, silent, with the threads of this worker; imported on first use.

    Its libraries greet before they read any log level, so the process's stderr is turned away while
    they load; `TF_CPP_MIN_LOG_LEVEL=0` lets them speak.
    """
    speaks = os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3") == "0"
    with contextlib.nullcontext() if speaks else stderr.silent():
        import tensorflow as tf

        with contextlib.suppress(RuntimeError):  # it runs already: the process has chosen
            tf.config.threading.set_intra_op_parallelism_threads(threads())
            tf.config.threading.set_inter_op_parallelism_threads(1)
            for gpu in tf.config.list_physical_devices("GPU"):  # else one worker takes all of it
                tf.config.experimental.set_memory_growth(gpu, True)
        tf.config.list_logical_devices()
    tf.get_logger().setLevel("ERROR")
    return tf


def provenance() -> str:
    """TensorFlow's version and what it runs on."""
    tf = library()
    device = "gpu" if tf.config.list_physical_devices("GPU") else instruction_set()
    return f"tensorflow {tf.__version__} ({device})"


class KerasEngine:
    """A Keras model of one input; its first output counts."""

    def __init__(self, model: Any, precision: Precision = "float32") -> None:
        tf = library()
        if len(model.inputs) != 1:
            raise ValueError(f"the model takes {len(model.inputs)} inputs, not one")
        self.input_shape: Shape = tuple(model.inputs[0].shape)
        self.dtype = np.dtype(np.float32)
        self.outputs = ("output",)
        if precision == "bfloat16":
            lower_precision(model)
        self.model = model
        whole = not tf.as_dtype(model.outputs[0].dtype).is_floating
        self.integers = frozenset(self.outputs if whole else ())
        self.ending = None
        """What wraps the model knows it from its layers."""

        def call(batch: Any) -> Any:
            found = tf.nest.flatten(model(batch, training=False))[0]
            return found if whole else tf.cast(found, tf.float32)

        self._call = tf.function(
            call, input_signature=[tf.TensorSpec(self.input_shape, tf.float32)], autograph=False
        )
        self._of_size = lru_cache(_KEPT)(
            lambda size: tf.function(
                call, input_signature=[tf.TensorSpec((None, *size), tf.float32)], autograph=False
            )
        )
        self._any_size = True
        self._parts = _parts(self.input_shape)

    @property
    def provenance(self) -> str:
        return provenance()

    def run(self, batch: NDArray[Any]) -> Outputs:
        return self._parts.run(lambda part: {"output": self._run(part)}, batch)

    def _run(self, batch: NDArray[Any]) -> NDArray[Any]:
        if self._any_size:
            try:
                return np.asarray(self._call(batch).numpy())
            except library().errors.OperatorNotAllowedInGraphError:
                # A layer asks for its input's size as a number, as resizing does in Keras 3.15.
                self._any_size = False
        return np.asarray(self._of_size(batch.shape[1:])(batch).numpy())

    def try_out(self, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        """Worked out from the layers: nothing is traced or run."""
        try:
            found = library().nest.flatten(self.model.compute_output_spec(_symbol(shape)))[0]
        except Exception as error:
            raise ValueError(f"it does not take windows of {shape}: {reason(error)}") from error
        return {"output": tuple(found.shape)}


class SavedModelEngine:
    """A SavedModel's serving signature. Raises ValueError where it has none.

    Loading runs a part of it, so that all of it is checked before.
    """

    def __init__(self, path: Path) -> None:
        tf = library()
        saved_models.check(path)
        try:
            self._loaded = tf.saved_model.load(str(path))
        except Exception as error:
            raise ValueError(f"not a SavedModel that loads: {reason(error)}") from error
        signatures = self._loaded.signatures
        name = next((n for n in ("serving_default", "serve") if n in signatures), None)
        if name is None:
            raise ValueError(
                "the SavedModel has no serving signature; save it with `model.export(DIR)`, or pass "
                "signatures= to `tf.saved_model.save`"
            )
        self._call = signatures[name]
        inputs = self._call.structured_input_signature[1]
        if len(inputs) != 1:
            raise ValueError(f"the signature takes {len(inputs)} inputs, not one")
        ((self._name, spec),) = inputs.items()
        self.input_shape: Shape = _shape(spec.shape) or (None,) * 4
        self.dtype = np.dtype(spec.dtype.as_numpy_dtype)
        self.outputs = tuple(self._call.structured_outputs)
        made = self._call.structured_outputs
        self.integers = frozenset(n for n in self.outputs if not made[n].dtype.is_floating)
        self.ending = _ending(self._call)
        self._parts = _parts(self.input_shape)
        for variable in getattr(self._loaded, "variables", ()):
            check_finite(variable.name, variable.numpy())

    @property
    def provenance(self) -> str:
        return provenance()

    def run(self, batch: NDArray[Any]) -> Outputs:
        return self._parts.run(self._run, batch)

    def _run(self, batch: NDArray[Any]) -> Outputs:
        found = self._call(**{self._name: library().constant(batch)})
        return {name: as_float(value.numpy()) for name, value in found.items()}

    def try_out(self, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        return run_once(self, shape)


class LiteEngine:
    """A TFLite file; quantised inputs and outputs are converted by the file's own scale.

    Damage that the interpreter does not notice when it loads a file can end the process that runs it:
    at first another one.
    """

    def __init__(self, path: Path) -> None:
        self._data = _mediapipe.in_own_operations(path.read_bytes())
        tflite.check(self._data)
        tf = library()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # it announces its move to another package
                self._interpreter = tf.lite.Interpreter(
                    model_content=self._data, num_threads=threads()
                )
        except (ValueError, RuntimeError) as error:
            raise ValueError(f"not a TFLite model that loads: {reason(error)}") from error
        inputs = self._interpreter.get_input_details()
        if len(inputs) != 1:
            raise ValueError(f"the model takes {len(inputs)} inputs, not one")
        self._input = inputs[0]
        self._outputs = self._interpreter.get_output_details()
        self.input_shape: Shape = _signature(self._input)
        self.dtype = np.dtype(np.float32)
        self.outputs = tuple(d["name"] for d in self._outputs)
        self.integers = frozenset(
            d["name"]
            for d in self._outputs
            if np.dtype(d["dtype"]).kind in "iub" and not d["quantization"][0]
        )
        self.ending = lite_ending(self._data)
        self._size: tuple[int, ...] = ()

    @property
    def provenance(self) -> str:
        return f"tflite of {provenance()}"

    def run(self, batch: NDArray[Any]) -> Outputs:
        if batch.shape != self._size:
            if not self._size:
                _lite.survive(self._data, batch.shape)
            self._interpreter.resize_tensor_input(self._input["index"], batch.shape)
            self._interpreter.allocate_tensors()
            self._size = batch.shape
        self._interpreter.set_tensor(self._input["index"], _quantised(batch, self._input))
        self._interpreter.invoke()
        return {
            d["name"]: _real(self._interpreter.get_tensor(d["index"]), d) for d in self._outputs
        }

    def try_out(self, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        return run_once(self, shape)


def _parts(shape: Shape) -> Parts:
    """How batches are run: a GPU takes all it has room for, and so does a network of a fixed number."""
    alike = shape[0] is None and not library().config.list_physical_devices("GPU")
    return Parts(_is_full, paired if alike else None)


def _is_full(error: Exception) -> bool:
    return isinstance(error, library().errors.ResourceExhaustedError)


def _ending(call: Any) -> str | None:
    """What a signature's first output ends in; functions that it calls are gone into."""
    graph = call.graph.as_graph_def()
    functions = {f.signature.name: f for f in graph.library.function}
    tensors: dict[str, _endings.Made] = {}

    def add(nodes: Any, prefix: str, given: Mapping[str, str], depth: int) -> dict[str, str]:
        """Nodes by name; `given`: what stands for a function's arguments."""
        names = {node.name: prefix + node.name for node in nodes} | dict(given)
        for node in nodes:
            inputs = tuple(
                names[source]
                for name in node.input
                if (source := name.removeprefix("^").partition(":")[0]) in names
            )
            called = functions.get(node.attr["f"].func.name) if "f" in node.attr else None
            made = _endings.Made(node.op, inputs)
            if called is not None and depth < _DEEPEST and len(called.signature.output_arg) == 1:
                arguments = [a.name for a in called.signature.input_arg]
                own = dict(zip(arguments, inputs, strict=False))
                inside = add(called.node_def, f"{prefix}{node.name}/", own, depth + 1)
                (result,) = called.ret.values()
                made = _endings.Made("identity", (inside[result.partition(":")[0]],))
            tensors[prefix + node.name] = made
        return names

    add(graph.node, "", {}, 0)
    first = sorted(call.structured_outputs).index(next(iter(call.structured_outputs)))
    return _endings.ending(tensors, call.outputs[first].op.name)


def lite_ending(data: bytes) -> str | None:
    """What the first output of a TFLite file ends in."""
    operators, outputs = tflite.operators(data)
    tensors = {
        str(out): _endings.Made(name, tuple(map(str, inputs)), plain=not fused)
        for name, inputs, made, fused in operators
        for out in made
    }
    return _endings.ending(tensors, str(outputs[0])) if outputs else None


def lower_precision(model: Any) -> None:
    """Let every layer of a Keras model compute in bfloat16; weights and outputs stay float32."""
    for layer in model._flatten_layers():
        layer.dtype_policy = "mixed_bfloat16"


def check_finite(name: str, values: NDArray[Any]) -> None:
    """Raise ValueError where weights hold NaN or infinity."""
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise ValueError(f"its weights hold NaN or infinity ({name}); was the training stable?")


def _symbol(shape: tuple[int, ...]) -> Any:
    import keras

    return keras.KerasTensor(shape, "float32")


def _shape(shape: Any) -> Shape | None:
    return None if shape.rank is None else tuple(shape.as_list())


def _signature(details: Mapping[str, Any]) -> Shape:
    return tuple(None if n < 0 else int(n) for n in details["shape_signature"])


def _quantised(values: NDArray[Any], details: Mapping[str, Any]) -> NDArray[Any]:
    dtype = np.dtype(details["dtype"])
    if dtype.kind == "f":
        return values.astype(dtype, copy=False)
    scale, zero = details["quantization"]
    if scale:
        values = values / scale + zero
    info = np.iinfo(dtype)
    return np.clip(np.rint(values), info.min, info.max).astype(dtype)


def _real(values: NDArray[Any], details: Mapping[str, Any]) -> NDArray[Any]:
    scale, zero = details["quantization"]
    if values.dtype.kind in "iu" and scale:
        return ((values.astype(np.float32) - zero) * scale).astype(np.float32)
    return as_float(values)
