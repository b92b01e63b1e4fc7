"""Networks that find objects, as ONNX files in the layouts that their makers export.

Weights are drawn by a seed, or such that the network finds bright discs, which can be counted.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

Array = np.ndarray[Any, Any]
node = helper.make_node
RADIUS = 5
"""Of the discs that are found, in pixels."""


def saved(
    path: Path,
    nodes: list[Any],
    given: dict[str, Array],
    shape: list[Any],
    outputs: list[str],
    metadata: dict[str, str] | None = None,
    integers: tuple[str, ...] = (),
) -> str:
    graph = helper.make_graph(
        nodes,
        "finder",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, shape)],
        [
            helper.make_tensor_value_info(
                name, TensorProto.INT64 if name in integers else TensorProto.FLOAT, None
            )
            for name in outputs
        ],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in given.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    helper.set_model_props(made, metadata or {})
    path.write_bytes(made.SerializeToString())
    return str(path)


def _grid(source: str) -> list[Any]:
    """Names x and y: 0, 1, 2 ... along the axes of a map, of any size."""
    found = [node("Mul", [source, "zero"], ["zeros"]), node("Add", ["zeros", "one"], ["ones"])]
    for axis, name in ((3, "x"), (2, "y")):
        found.append(node("CumSum", ["ones", f"axis{axis}"], [f"{name}1"]))
        found.append(node("Sub", [f"{name}1", "one"], [name]))
    return found


_CONSTANTS = {
    "zero": np.float32(0),
    "one": np.float32(1),
    "half": np.float32(0.5),
    "axis2": np.int64(2),
    "axis3": np.int64(3),
    "flat": np.array([1, -1, 0], np.int64),
}


def yolo(
    path: Path,
    classes: int = 3,
    coefficients: int = 4,
    *,
    seed: int = 0,
    side: int | str = 64,
    suppressed: bool = False,
    metadata: dict[str, str] | None = None,
) -> str:
    """A drawn YOLO-seg: cells of 8 pixels, prototypes of 4; `suppressed`: with NMS inside."""
    rng = np.random.default_rng(seed)
    channels = 4 + classes + coefficients
    weights = rng.normal(size=(channels, 3, 8, 8)).astype(np.float32) / 3
    weights[4 : 4 + classes] -= weights[4 : 4 + classes].mean((1, 2, 3), keepdims=True)
    given = _CONSTANTS | {
        "w": weights,
        "p": rng.normal(size=(coefficients, 3, 4, 4)).astype(np.float32) / 2,
        "eight": np.float32(8),
        "large": np.float32(40),
        "slope_x": np.float32(0.0131),
        "slope_y": np.float32(0.0217),
        "parts": np.array([1, 1, 2, classes, coefficients], np.int64),
        "shape": np.array([0, 0, -1], np.int64),
    }
    nodes = [
        node("Conv", ["images", "w"], ["c"], strides=[8, 8]),
        node("Conv", ["images", "p"], ["output1"], strides=[4, 4]),
        node("Split", ["c", "parts"], ["cx", "cy", "cs", "ck", "coefficients"], axis=1),
        *_grid("cx"),
        # padding is the same everywhere: no two cells may have one score
        node("Mul", ["x", "slope_x"], ["slope1"]),
        node("Mul", ["y", "slope_y"], ["slope2"]),
        node("Add", ["slope1", "slope2"], ["slope"]),
        node("Add", ["ck", "slope"], ["cu"]),
        *(node("Sigmoid", [f"c{k}"], [f"s{k}"]) for k in "xysu"),
        *(node("Add", [k, f"s{k}"], [f"a{k}"]) for k in "xy"),
        *(node("Mul", [f"a{k}", "eight"], [f"m{k}"]) for k in "xy"),
        node("Mul", ["ss", "large"], ["ms"]),
        node("Concat", ["mx", "my", "ms", "su", "coefficients"], ["all"], axis=1),
    ]
    if not suppressed:
        nodes.append(node("Reshape", ["all", "shape"], ["output0"]))
    else:
        given |= {
            "most": np.array([20], np.int64),
            "iou": np.array([0.7], np.float32),
            "least": np.array([0.25], np.float32),
            "split": np.array([4, classes, coefficients], np.int64),
            "halves": np.array([2, 2], np.int64),
            "columns": np.array([1, 1, 1], np.int64),
            "last": np.array([1], np.int64),
            "first": np.array([0], np.int64),
        }
        nodes += [
            node("Reshape", ["all", "shape"], ["table"]),
            node("Split", ["table", "split"], ["xywh", "scores", "k"], axis=1),
            node("Transpose", ["xywh"], ["boxes"], perm=[0, 2, 1]),
            node(
                "NonMaxSuppression",
                ["boxes", "scores", "most", "iou", "least"],
                ["chosen"],
                center_point_box=1,
            ),
            node("Split", ["chosen", "columns"], ["_b", "cls", "box"], axis=1),
            node("Squeeze", ["cls", "last"], ["cls1"]),
            node("Squeeze", ["box", "last"], ["box1"]),
            node("Squeeze", ["boxes", "first"], ["boxes0"]),
            node("Gather", ["boxes0", "box1"], ["kept"], axis=0),
            node("Split", ["kept", "halves"], ["mid", "wide"], axis=1),
            node("Mul", ["wide", "half"], ["reach"]),
            node("Sub", ["mid", "reach"], ["low"]),
            node("Add", ["mid", "reach"], ["high"]),
            node("Squeeze", ["scores", "first"], ["scores0"]),
            node("Concat", ["cls", "box"], ["at"], axis=1),
            node("GatherND", ["scores0", "at"], ["score1"]),
            node("Unsqueeze", ["score1", "last"], ["score"]),
            node("Cast", ["cls"], ["clsf"], to=TensorProto.FLOAT),
            node("Transpose", ["k"], ["kt"], perm=[0, 2, 1]),
            node("Squeeze", ["kt", "first"], ["kt0"]),
            node("Gather", ["kt0", "box1"], ["kk"], axis=0),
            node("Concat", ["low", "high", "score", "clsf", "kk"], ["rows"], axis=1),
            node("Unsqueeze", ["rows", "first"], ["output0"]),
        ]
    sides = [f"{side}{axis}" for axis in "hw"] if isinstance(side, str) else [side] * 2
    return saved(path, nodes, given, [1, 3, *sides], ["output0", "output1"], metadata)


def _discs() -> tuple[list[Any], dict[str, Array]]:
    """`score` (1, 1, y, x): above one half at the middle of a bright disc, and nowhere else."""
    y, x = np.mgrid[-RADIUS - 1 : RADIUS + 2, -RADIUS - 1 : RADIUS + 2]
    inside = y**2 + x**2 <= RADIUS**2
    kernel = np.where(inside, 1 / inside.sum(), -1 / (~inside).sum()).astype(np.float32)
    given = {"disc": np.stack([kernel / 3] * 3)[None]}
    nodes = [
        node("Conv", ["images", "disc"], ["fit"], pads=[RADIUS + 1] * 4),
        node("MaxPool", ["fit"], ["top"], kernel_shape=[5, 5], pads=[2] * 4),
        node("Equal", ["fit", "top"], ["peak"]),
        node("Cast", ["peak"], ["peakf"], to=TensorProto.FLOAT),
        node("Mul", ["fit", "peakf"], ["score"]),
    ]
    return nodes, given


def disc_yolo(path: Path, side: int | str = 64) -> str:
    """A YOLO-seg that finds discs: one prediction a pixel, and the brightness as its prototype."""
    nodes, given = _discs()
    extent = np.full((1, 3, 1, 1), 1 / 3, np.float32)
    given |= _CONSTANTS | {
        "mean": extent,
        "wide": np.float32(2 * RADIUS + 3),
        "shape": np.array([0, 0, -1], np.int64),
    }
    nodes += [
        node("Conv", ["images", "mean"], ["bright"]),
        node("Sub", ["bright", "half"], ["output1"]),
        *_grid("score"),
        node("Add", ["x", "half"], ["mx"]),
        node("Add", ["y", "half"], ["my"]),
        node("Mul", ["ones", "wide"], ["size"]),
        node("Concat", ["mx", "my", "size", "size", "score", "ones"], ["all"], axis=1),
        node("Reshape", ["all", "shape"], ["output0"]),
    ]
    sides = [f"{side}{axis}" for axis in "hw"] if isinstance(side, str) else [side] * 2
    names = {"names": "{0: 'disc'}", "task": "segment", "stride": "32", "imgsz": "[64, 64]"}
    return saved(path, nodes, given, [1, 3, *sides], ["output0", "output1"], names)


def detector(
    path: Path,
    boxes: Array,
    labels: Array,
    scores: Array,
    masks: Array | None,
    *,
    rank: int = 3,
    sides: tuple[Any, Any] = ("h", "w"),
    names: tuple[str, ...] = ("boxes", "labels", "scores", "masks"),
) -> str:
    """What torchvision's detectors give, whatever the picture: its mean is added, as nothing."""
    values = [boxes, labels, scores] + ([] if masks is None else [masks])
    given = {f"v{i}": value for i, value in enumerate(values)} | {"zero": np.float32(0)}
    nodes = [
        node("ReduceMean", ["images"], ["mean"], keepdims=0),
        node("Mul", ["mean", "zero"], ["none"]),
    ]
    for i, (name, value) in enumerate(zip(names, values, strict=False)):
        if value.dtype == np.int64:
            nodes.append(node("Identity", [f"v{i}"], [name]))
        else:
            nodes.append(node("Add", [f"v{i}", "none"], [name]))
    shape = [3, *sides] if rank == 3 else [1, 3, *sides]
    used = list(names[: len(values)])
    return saved(path, nodes, given, shape, used, integers=(names[1],))


def disc_detector(path: Path) -> str:
    """A detector of torchvision's layout that finds discs; its masks are whole pictures."""
    nodes, given = _discs()
    given |= _CONSTANTS | {
        "mean": np.full((1, 3, 1, 1), 1 / 3, np.float32),
        "least": np.float32(0.5),
        "first": np.array([0], np.int64),
        "tail": np.array([2], np.int64),
        "reach": np.array([[RADIUS + 1.5] * 2], np.float32),
        "halfs": np.array([[0.5, 0.5]], np.float32),
    }
    nodes = [node("Unsqueeze", ["picture", "first"], ["images"]), *nodes]
    nodes += [
        node("Greater", ["score", "least"], ["hit"]),
        node("NonZero", ["hit"], ["at4"]),
        node("Transpose", ["at4"], ["at"], perm=[1, 0]),
        node("GatherND", ["score", "at"], ["scores"]),
        node("Gather", ["at", "columns"], ["xy"], axis=1),
        node("Cast", ["xy"], ["xyf"], to=TensorProto.FLOAT),
        node("Add", ["xyf", "halfs"], ["mid"]),
        node("Sub", ["mid", "reach"], ["low"]),
        node("Add", ["mid", "reach"], ["high"]),
        node("Concat", ["low", "high"], ["boxes"], axis=1),
        node("Shape", ["scores"], ["count"]),
        node("ConstantOfShape", ["count"], ["labels"], value=helper.make_tensor("v", 7, [1], [1])),
        node("Conv", ["images", "mean"], ["bright"]),
        node("Concat", ["count", "ends"], ["tiles"], axis=0),
        node("Tile", ["bright", "tiles"], ["many"]),
        *_near(),
    ]
    given |= {
        "columns": np.array([3, 2], np.int64),
        "ends": np.array([1, 1, 1], np.int64),
        "x0": np.array([0], np.int64),
        "y0": np.array([1], np.int64),
        "wide": np.float32(RADIUS + 1.2),
    }
    graph = helper.make_graph(
        nodes,
        "discs",
        [helper.make_tensor_value_info("picture", TensorProto.FLOAT, [3, "h", "w"])],
        [
            helper.make_tensor_value_info(name, kind, None)
            for name, kind in (("boxes", 1), ("labels", 7), ("scores", 1), ("masks", 1))
        ],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in given.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path.write_bytes(made.SerializeToString())
    return str(path)


def _near() -> list[Any]:
    """`masks` (n, 1, y, x): the brightness near each object's middle."""
    found = [*_grid("bright")]
    for name, at in (("x", "x0"), ("y", "y0")):
        found += [
            node("Gather", ["xyf", at], [f"{name}n"], axis=1),
            node("Unsqueeze", [f"{name}n", "tail"], [f"{name}n3"]),
            node("Unsqueeze", [f"{name}n3", "tail"], [f"{name}n4"]),
            node("Sub", [name, f"{name}n4"], [f"{name}d"]),
            node("Abs", [f"{name}d"], [f"{name}a"]),
            node("Less", [f"{name}a", "wide"], [f"{name}l"]),
        ]
    return [
        *found,
        node("And", ["xl", "yl"], ["near"]),
        node("Cast", ["near"], ["nearf"], to=TensorProto.FLOAT),
        node("Mul", ["many", "nearf"], ["masks"]),
    ]


def stars(path: Path, rays: int = 32, *, seed: int = 0, grid: int = 1, joint: bool = False) -> str:
    """A drawn StarDist, channels last as Keras exports it; `joint`: with one output."""
    rng = np.random.default_rng(seed)
    given = {
        "p": (rng.normal(size=(1, 3, 9, 9)) / 3).astype(np.float32),
        "d": (rng.normal(size=(rays, 3, 5, 5)) / 4).astype(np.float32),
        "middle": np.float32(7),
        "about": np.float32(1),
    }
    nodes = [
        node("Transpose", ["images"], ["first"], perm=[0, 3, 1, 2]),
        node("Conv", ["first", "p"], ["pc"], pads=[4] * 4, strides=[grid] * 2),
        node("Conv", ["first", "d"], ["dc"], pads=[2] * 4, strides=[grid] * 2),
        node("Sigmoid", ["pc"], ["ps"]),
        node("Tanh", ["dc"], ["dt"]),
        node("Mul", ["dt", "about"], ["dm"]),
        node("Add", ["dm", "middle"], ["da"]),
        node("Transpose", ["ps"], ["prob"], perm=[0, 2, 3, 1]),
        node("Transpose", ["da"], ["dist"], perm=[0, 2, 3, 1]),
    ]
    if joint:
        nodes.append(node("Concat", ["prob", "dist"], ["both"], axis=3))
    outputs = ["both"] if joint else ["prob", "dist"]
    return saved(path, nodes, given, [1, "h", "w", 3], outputs)


def disc_stars(path: Path) -> str:
    """A StarDist that finds discs."""
    nodes, given = _discs()
    given |= {
        "zeros": np.zeros((32, 1, 1, 1), np.float32),
        "radius": np.full(32, RADIUS + 0.05, np.float32),
    }
    nodes = [node("Transpose", ["last"], ["images"], perm=[0, 3, 1, 2]), *nodes]
    nodes += [
        node("Conv", ["score", "zeros", "radius"], ["rays"]),
        node("Transpose", ["score"], ["prob"], perm=[0, 2, 3, 1]),
        node("Transpose", ["rays"], ["dist"], perm=[0, 2, 3, 1]),
    ]
    for one in nodes:  # the input is channels last
        one.input[:] = [
            "images" if n == "last" else "first" if n == "images" else n for n in one.input
        ]
        one.output[:] = ["first" if n == "images" else n for n in one.output]
    return saved(path, nodes, given, [1, "h", "w", 3], ["prob", "dist"])


def disc_cells(path: Path, side: int | str = "n") -> str:
    """A Cellpose whose flows go to the middles of discs, and a style vector, which nobody needs."""
    reach = 2 * RADIUS
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1].astype(np.float32)
    near = y**2 + x**2 <= reach**2
    given = _CONSTANTS | {
        "mean": np.full((1, 3, 1, 1), 1 / 3, np.float32),
        "to": np.stack([y * near, x * near])[:, None] / np.float32(30),
        "five": np.float32(5),
        "steep": np.float32(20),
    }
    nodes = [
        node("Conv", ["images", "mean"], ["bright"]),
        node("Sub", ["bright", "half"], ["above"]),
        node("Relu", ["above"], ["lit"]),
        node("Conv", ["lit", "to"], ["away"], pads=[reach] * 4),
        node("Tanh", ["away"], ["unit"]),
        node("Mul", ["unit", "five"], ["flow"]),
        node("Mul", ["above", "steep"], ["inside"]),
        node("Concat", ["flow", "inside"], ["output"], axis=1),
        node("GlobalAveragePool", ["above"], ["style"]),
    ]
    sides = [f"{side}{axis}" for axis in "hw"] if isinstance(side, str) else [side] * 2
    return saved(path, nodes, given, [1, 3, *sides], ["output", "style"])


def session(path: str, batch: Array) -> list[Array]:
    """All outputs, by ONNX Runtime itself."""
    import onnxruntime

    made = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    found: list[Array] = made.run(None, {made.get_inputs()[0].name: batch})
    return found


def discs(
    seed: int, size: tuple[int, int], count: int, apart: int = 2 * RADIUS + 6
) -> tuple[Array, Array]:
    """A picture (y, x, 3) of dim ground and bright discs apart from each other, and their ids (y, x)."""
    rng = np.random.default_rng(seed)
    picture = rng.integers(0, 40, (*size, 3)).astype(np.uint8)
    ids = np.zeros(size, np.uint32)
    y, x = np.mgrid[: size[0], : size[1]]
    middles: list[tuple[int, int]] = []
    while len(middles) < count:
        cy, cx = (int(rng.integers(RADIUS + 1, n - RADIUS - 1)) for n in size)
        if all(max(abs(cy - a), abs(cx - b)) >= apart for a, b in middles):
            middles.append((cy, cx))
            inside = (y - cy) ** 2 + (x - cx) ** 2 <= RADIUS**2
            ids[inside] = len(middles)
            picture[inside] = 200 + rng.integers(0, 50, 3)
    _, first = np.unique(ids, return_index=True)
    order = np.argsort(first[1:]) + 1
    new = np.zeros(count + 1, np.uint32)
    new[order] = np.arange(1, count + 1)
    return picture, new[ids]


def told_by_item(path: str, scaling: dict[str, Any], *classes: str) -> None:
    """An item of STAC's extension MLM beside a model: how values are scaled, and classes from 0 on."""
    named = [{"value": i, "name": name} for i, name in enumerate(classes)]
    properties = {
        "mlm:input": [{"name": "x", "value_scaling": [scaling]}],
        "mlm:output": [{"name": "y", "classification:classes": named}],
    }
    item = {"type": "Feature", "properties": properties, "assets": {}}
    Path(f"{path}.json").write_text(json.dumps(item))
