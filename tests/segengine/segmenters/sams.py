"""An encoder and a decoder in the layout of samexporter: weights drawn, or such that discs are found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

Array = np.ndarray[Any, Any]
node = helper.make_node
LOW = 256


def _saved(path: Path, nodes: Any, given: dict[str, Array], inputs: Any, outputs: list[str]) -> str:
    graph = helper.make_graph(
        nodes,
        "sam",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n, shape in inputs.items()],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in given.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path.write_bytes(made.SerializeToString())
    return str(path)


def encoder(path: Path, seed: int | None = 0) -> str:
    """Every fourth pixel, of bands mixed as drawn; seed None: how much brighter than one half."""
    rng = np.random.default_rng(seed)
    if seed is None:
        weights = np.array([[58.395, 57.12, 57.375]], np.float32) / 3 / 255
        bias = (
            np.array([123.675, 116.28, 103.53]).mean(keepdims=True).astype(np.float32) / 255 - 0.5
        )
    else:
        weights = rng.normal(size=(2, 3)).astype(np.float32)
        bias = np.zeros(2, np.float32)
    nodes = [
        node("AveragePool", ["x"], ["small"], kernel_shape=[4, 4], strides=[4, 4]),
        node("Conv", ["small", "w", "b"], ["image_embeddings"]),
    ]
    given = {"w": weights[..., None, None], "b": bias}
    return _saved(path, nodes, given, {"x": [1, 3, 1024, 1024]}, ["image_embeddings"])


def decoder(path: Path, seed: int | None = 0) -> str:
    """Masks around all points by their labels, and how good they are; seed None: what is bright in
    their middle, or around the one that counts."""
    rng = np.random.default_rng(seed)
    line = np.arange(LOW, dtype=np.float32)
    given: dict[str, Array] = {
        "x": line[None, None, None],
        "y": line[None, None, :, None],
        "quarter": np.float32(0.25),
        "half": np.float32(0.5),
        "zero": np.array(0, np.int64),
        "one": np.array(1, np.int64),
        "last": np.array([2, 3], np.int64),
        "points": np.array([1], np.int64),
        "wide": np.float32(-1 / (2 * 30**2)),
    }
    nodes = [
        node("Mul", ["point_coords", "quarter"], ["low"]),
        node("Sub", ["low", "half"], ["each"]),
    ]
    if seed is None:  # of those whose label is not below 0
        nodes += [
            node("Relu", ["point_labels"], ["sign"]),
            node("Sign", ["sign"], ["counted"]),
            node("ReduceSum", ["counted", "points"], ["count"], keepdims=1),
            node("Div", ["counted", "count"], ["weight"]),
            node("Unsqueeze", ["weight", "tail"], ["weight3"]),
            node("Mul", ["each", "weight3"], ["weighed"]),
            node("ReduceSum", ["weighed", "points"], ["at"], keepdims=1),
        ]
        given["tail"] = np.array([2], np.int64)
    else:
        nodes.append(node("Identity", ["each"], ["at"]))
    for name, index in (("x", "zero"), ("y", "one")):
        nodes += [
            node("Gather", ["at", index], [f"p{name}"], axis=2),
            node("Unsqueeze", [f"p{name}", "last"], [f"p{name}4"]),
            node("Sub", [name, f"p{name}4"], [f"d{name}"]),
            node("Mul", [f"d{name}", f"d{name}"], [f"d{name}2"]),
        ]
    nodes.append(node("Add", ["dx2", "dy2"], ["d2"]))
    if seed is not None:
        given |= {
            "w": (rng.normal(size=(3, 3, 1, 1)) * [[[[1]], [[1]], [[6]]]]).astype(np.float32),
            "b": np.array([-2, -3, -2], np.float32),
            "gain": np.float32(0.5),
        }
        nodes += [
            node("Mul", ["d2", "wide"], ["e"]),
            node("Exp", ["e"], ["nears"]),
            node("Unsqueeze", ["point_labels", "last"], ["labels"]),
            node("Mul", ["nears", "labels"], ["told"]),
            node("ReduceSum", ["told", "points"], ["near"], keepdims=1),
            node("Concat", ["image_embeddings", "near"], ["both"], axis=1),
            node("Conv", ["both", "w", "b"], ["low_res_masks"]),
            node("ReduceMean", ["low_res_masks"], ["mean"], axes=[2, 3], keepdims=0),
            node("Mul", ["mean", "gain"], ["scaled"]),
            node("Sigmoid", ["scaled"], ["iou_predictions"]),
        ]
    else:
        given |= {"reach": np.float32(24**2), "point": np.float32(1.5), "large": np.float32(10)}
        nodes += [
            node("Less", ["d2", "reach"], ["nearb"]),
            node("Where", ["nearb", "image_embeddings", "minus"], ["low_res_masks"]),
            node("Less", ["d2", "point"], ["hereb"]),
            node("Where", ["hereb", "image_embeddings", "minus"], ["here"]),
            node("ReduceMax", ["here"], ["most"], axes=[2, 3], keepdims=0),
            node("Mul", ["most", "large"], ["sure"]),
            node("Sigmoid", ["sure"], ["iou_predictions"]),
        ]
        given["minus"] = np.float32(-1)
    nodes.append(node("Identity", ["low_res_masks"], ["masks"]))
    inputs = {
        "image_embeddings": [1, 1 if seed is None else 2, LOW, LOW],
        "point_coords": [1, "n", 2],
        "point_labels": [1, "n"],
        "mask_input": [1, 1, LOW, LOW],
        "has_mask_input": [1],
        "orig_im_size": [2],
    }
    return _saved(path, nodes, given, inputs, ["masks", "iou_predictions", "low_res_masks"])
