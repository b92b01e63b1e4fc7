"""OpenVINO: ONNX, TFLite and SavedModel files and, by way of a SavedModel, Keras models.

It computes in bfloat16 without being asked where the processor can, so the precision is always set.
A batch shape is compiled once; its kernels are faster where no dimension is left open.
"""

from __future__ import annotations

import tempfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segengine.engines import (
    Outputs,
    Precision,
    Shape,
    as_float,
    instruction_set,
    reason,
    run_once,
    threads,
)
from segengine.engines import onnxruntime as onnx_engine
from segengine.engines import tensorflow as tensorflow_engine
from segengine.guards import onnx, tensorflow, tflite

_KEPT = 4
"""Compiled shapes that are kept."""


class OpenVinoEngine:
    """A network read from a file of a format. Raises ValueError where OpenVINO cannot read it."""

    def __init__(self, path: Path, precision: Precision = "float32") -> None:
        own = _format(path)
        _CHECKS[own](path)
        self._set_up(path, own, precision, _ENDINGS[own](path))

    @classmethod
    def of_ours(cls, path: Path, precision: Precision) -> OpenVinoEngine:
        """A SavedModel that this process wrote."""
        found = cls.__new__(cls)
        found._set_up(path, "tf", precision)
        return found

    def _set_up(
        self, path: Path, own: str, precision: Precision, ending: str | None = None
    ) -> None:
        import openvino
        from openvino.frontend import FrontEndManager

        self._core = openvino.Core()
        try:
            # By name: OpenVINO would choose by the content, where one file can look like two.
            reader = FrontEndManager().load_by_framework(own)
            model = reader.convert(reader.load(str(path)))
        except Exception as error:
            raise ValueError(f"OpenVINO cannot read it: {reason(error)}") from error
        if len(model.inputs) != 1:
            raise ValueError(f"the model takes {len(model.inputs)} inputs, not one")
        self._model = model
        self._hint = {"float32": "f32", "bfloat16": "bf16"}[precision]
        self._compiled: OrderedDict[tuple[int, ...], Any] = OrderedDict()
        only = model.inputs[0]
        self.input_shape: Shape = _shape(only.get_partial_shape()) or (None,) * 4
        self.dtype = np.dtype(only.get_element_type().to_dtype())
        self.outputs = tuple(_name(o, i) for i, o in enumerate(model.outputs))
        self.integers = frozenset(
            name
            for name, o in zip(self.outputs, model.outputs, strict=True)
            if np.dtype(o.get_element_type().to_dtype()).kind in "iub"
        )
        self.ending = ending

    @property
    def provenance(self) -> str:
        import openvino

        return f"openvino {openvino.__version__.partition('-')[0]} ({instruction_set()})"

    def run(self, batch: NDArray[Any]) -> Outputs:
        found = self._request(batch.shape).infer([batch])
        return {n: as_float(found[i]).copy() for i, n in enumerate(self.outputs)}

    def try_out(self, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        return run_once(self, shape)

    def _request(self, shape: tuple[int, ...]) -> Any:
        if shape not in self._compiled:
            self._model.reshape(list(shape))
            config = {
                "INFERENCE_PRECISION_HINT": self._hint,
                "PERFORMANCE_HINT": "LATENCY",
                "INFERENCE_NUM_THREADS": threads(),
                # It would pin the threads of every worker to the same first cores.
                "ENABLE_CPU_PINNING": False,
            }
            compiled = self._core.compile_model(self._model, "CPU", config)
            self._compiled[shape] = compiled.create_infer_request()
            while len(self._compiled) > _KEPT:
                self._compiled.popitem(last=False)
        self._compiled.move_to_end(shape)
        return self._compiled[shape]


def from_keras(model: Any, precision: Precision = "float32") -> OpenVinoEngine:
    """A Keras model, exported once for this process."""
    import keras

    with tempfile.TemporaryDirectory(prefix="segengine-") as folder:
        archive = keras.export.ExportArchive()
        archive.track(model)
        # `model.export` leaves open whether it is in training; from Keras' Resizing on it then is.
        archive.add_endpoint(
            "serve",
            lambda batch: model(batch, training=False),
            [keras.InputSpec(shape=model.inputs[0].shape, dtype="float32")],
        )
        archive.write_out(folder, verbose=False)
        return OpenVinoEngine.of_ours(Path(folder), precision)


def _format(path: Path) -> str:
    """What OpenVINO calls the format of a file: by its suffix, which is what was checked."""
    if path.is_dir():
        return "tf"
    return {".onnx": "onnx", ".tflite": "tflite"}[path.suffix.lower()]


_CHECKS: dict[str, Callable[[Path], object]] = {
    "tf": tensorflow.check,
    "onnx": lambda path: onnx.check(path, path.parent),
    "tflite": lambda path: tflite.check(path.read_bytes()),
}

_ENDINGS: dict[str, Callable[[Path], str | None]] = {
    "tf": lambda _: None,  # whoever loads it with TensorFlow knows
    "onnx": onnx_engine.ending,
    "tflite": lambda path: tensorflow_engine.lite_ending(path.read_bytes()),
}


def _shape(partial: Any) -> Shape | None:
    if partial.rank.is_dynamic:
        return None
    return tuple(None if d.is_dynamic else d.get_length() for d in partial)


def _name(output: Any, index: int) -> str:
    names = sorted(output.get_names())
    return names[0] if names else f"output {index}"
