"""Small networks as ONNX files: weights drawn by a seed, as lopsided as drawn weights are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper


def convolution(
    path: Path,
    channels: int = 3,
    *,
    bands: int = 3,
    seed: int = 0,
    kernel: int = 5,
    side: int | str = "n",
    pad: bool = True,
    down: int = 1,
    sharp: float = 1.0,
) -> str:
    """One convolution, and a softmax (sigmoid of one channel); channels first.

    side: of the windows that it takes alone. pad: zeros around, so that it sees where a window ends.
    down: it steps by so many pixels, and repeats each value as often.
    """
    rng = np.random.default_rng(seed)
    weights = rng.normal(size=(channels, bands, kernel, kernel)).astype(np.float32) * sharp / kernel
    border = [kernel // 2] * 4 if pad else [0] * 4
    nodes = [
        helper.make_node("Conv", ["image", "weights"], ["conv"], pads=border, strides=[down] * 2),
        helper.make_node("Resize", ["conv", "", "scales"], ["logits"], mode="nearest"),
        helper.make_node("Sigmoid", ["logits"], ["out"])
        if channels == 1
        else helper.make_node("Softmax", ["logits"], ["out"], axis=1),
    ]
    scales = np.array([1, 1, down, down], np.float32)
    sides: list[Any] = [f"{side}{axis}" for axis in "hw"] if isinstance(side, str) else [side] * 2
    graph = helper.make_graph(
        nodes,
        "convolution",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["b", bands, *sides])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)],
        [
            numpy_helper.from_array(weights, "weights"),
            numpy_helper.from_array(scales, "scales"),
        ],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path.write_bytes(made.SerializeToString())
    return str(path)


def run(path: str, batch: np.ndarray[Any, Any], divide: float = 255) -> np.ndarray[Any, Any]:
    """(n, y, x, channel) from pixels (n, y, x, band), by ONNX Runtime itself."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    fed = batch.astype(np.float32) / np.float32(divide)
    (found,) = session.run(None, {"image": np.ascontiguousarray(fed.transpose(0, 3, 1, 2))})
    moved: np.ndarray[Any, Any] = np.asarray(found).transpose(0, 2, 3, 1)
    return moved
