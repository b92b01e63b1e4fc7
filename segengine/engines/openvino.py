"""OpenVINO: ONNX, TFLite and SavedModel files and, by way of a SavedModel, Keras models.

It computes in bfloat16 without being asked where the processor can, so the precision is always set.
A batch shape is compiled once; its kernels are faster where no dimension is left open.
"""

from __future__ import annotations

import tempfile
from collections import OrderedDict
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

_KEPT = 4
"""Compiled shapes that are kept."""


class OpenVinoEngine:
    """A network read from a file. Raises ValueError where OpenVINO cannot read it."""

    def __init__(self, path: Path, precision: Precision = "float32") -> None:
        import openvino

        self._core = openvino.Core()
        try:
            model = self._core.read_model(path)
        except RuntimeError as error:
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
        return OpenVinoEngine(Path(folder), precision)


def _shape(partial: Any) -> Shape | None:
    if partial.rank.is_dynamic:
        return None
    return tuple(None if d.is_dynamic else d.get_length() for d in partial)


def _name(output: Any, index: int) -> str:
    names = sorted(output.get_names())
    return names[0] if names else f"output {index}"
