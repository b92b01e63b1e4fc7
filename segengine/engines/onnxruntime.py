"""ONNX Runtime, for ONNX files."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segengine.engines import (
    Outputs,
    Shape,
    _endings,
    as_float,
    instruction_set,
    reason,
    run_once,
    threads,
)
from segengine.engines._parts import Parts
from segengine.guards import onnx

_DTYPES = {"tensor(float)": "f4", "tensor(double)": "f8", "tensor(float16)": "f2"} | {
    f"tensor({name})": name for name in ("uint8", "int8", "uint16", "int16", "int32", "int64")
}

_FLOATS = ("tensor(float)", "tensor(double)", "tensor(float16)", "tensor(bfloat16)")


_FULL = re.compile(
    r"Failed to allocate memory|out of memory|bad_alloc|CUDA failure 2\b", re.IGNORECASE
)
"""It has no error of its own for that."""


def ending(path: Path) -> str | None:
    """What a model's first output ends in."""
    nodes, outputs = onnx.nodes(path)
    tensors = {
        name: _endings.Made(op, tuple(inputs)) for op, inputs, made in nodes for name in made
    }
    return _endings.ending(tensors, outputs[0]) if outputs else None


class OnnxEngine:
    """A session on one ONNX file. Raises ValueError where the file does not load."""

    def __init__(self, path: Path) -> None:
        self._session = _session(path)
        inputs = self._session.get_inputs()
        if len(inputs) != 1:
            raise ValueError(f"the model takes {len(inputs)} inputs, not one")
        self._name = inputs[0].name
        if inputs[0].type not in _DTYPES:
            raise ValueError(f"the model takes {inputs[0].type}; only numbers can be fed")
        self.dtype = np.dtype(_DTYPES[inputs[0].type])
        self.input_shape: Shape = _shape(inputs[0].shape)
        self.outputs = tuple(o.name for o in self._session.get_outputs())
        self.integers = frozenset(
            o.name for o in self._session.get_outputs() if o.type not in _FLOATS
        )
        self.ending = ending(path)
        self._parts = Parts(lambda error: _FULL.search(str(error)) is not None)

    @property
    def provenance(self) -> str:
        import onnxruntime

        device = "gpu" if "CUDA" in self._session.get_providers()[0] else instruction_set()
        return f"onnxruntime {onnxruntime.__version__} ({device})"

    def run(self, batch: NDArray[Any]) -> Outputs:
        return self._parts.run(self._run, batch)

    def _run(self, batch: NDArray[Any]) -> Outputs:
        found = self._session.run(list(self.outputs), {self._name: batch})
        return {n: as_float(v) for n, v in zip(self.outputs, found, strict=True)}

    def try_out(self, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        return run_once(self, shape)


class Joint:
    """A session on an ONNX file that takes several arrays at once, as a decoder of prompts does."""

    def __init__(self, path: Path) -> None:
        self._session = _session(path)
        self.inputs = tuple(i.name for i in self._session.get_inputs())
        self.outputs = tuple(o.name for o in self._session.get_outputs())

    def run(self, fed: Mapping[str, NDArray[Any]]) -> Outputs:
        """Every output by name, floats as float32."""
        found = self._session.run(list(self.outputs), dict(fed))
        return {n: as_float(v) for n, v in zip(self.outputs, found, strict=True)}


def _session(path: Path) -> Any:
    """A session on a file that passed its guard. Raises ValueError."""
    onnx.check(path, path.parent)
    import onnxruntime

    options = onnxruntime.SessionOptions()
    # Otherwise the first bytes say what the file is; ONNX is what was checked.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    options.intra_op_num_threads = threads()
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    # Threads that spin for work starve the other workers of the machine.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    wanted = ("CUDAExecutionProvider", "CPUExecutionProvider")
    available = onnxruntime.get_available_providers()
    try:
        found = onnxruntime.InferenceSession(
            str(path), options, providers=[p for p in wanted if p in available]
        )
    except Exception as error:
        raise ValueError(f"not an ONNX model that loads: {reason(error)}") from error
    return found


def _shape(shape: list[Any]) -> Shape:
    """Dynamic dimensions come as names."""
    return tuple(n if isinstance(n, int) and n > 0 else None for n in shape)
