"""ONNX: every node of every graph, subgraph and function, and where the tensors lie.

Operations of the standard touch nothing but tensors. Others come by domain: only those of
com.microsoft that tools which quantise and fuse write are allowed, and functions that the model brings
itself, which are walked too. Tensors may lie in files beside the model, below its folder.
"""

from __future__ import annotations

import re
from pathlib import Path

from segengine.guards import protobuf, words
from segengine.guards.copies import check_inside
from segengine.guards.protobuf import BYTES, FIXED32, VARINT, Schema, Value, fields, text
from segengine.guards.zips import shown

_STANDARD = ("", "ai.onnx", "ai.onnx.ml")
_MICROSOFT = words("""
    BiasAdd BiasGelu BiasSoftmax BiasSplitGelu ConvTransposeWithDynamicPads CropAndResize
    DequantizeLinear DequantizeBFP DynamicQuantizeMatMul FastGelu FusedConv FusedGemm FusedMatMul
    FusedMatMulActivation Gelu GridSample GroupNorm Inverse MatMulInteger16 MatMulIntegerToFloat
    MatMulNBits MultiHeadAttention Attention MaxpoolWithMask NhwcConv NhwcFusedConv NhwcMaxPool Pad
    QAttention QGemm QLinearAdd QLinearAveragePool QLinearConcat QLinearConv QLinearGlobalAveragePool
    QLinearLeakyRelu QLinearMul QLinearReduceMean QLinearSigmoid QLinearSoftmax QLinearWhere
    QuantizeLinear QuickGelu SkipGroupNorm SkipLayerNormalization SkipSimplifiedLayerNormalization
    SimplifiedLayerNormalization TransposeMatMul Trilu Unique UnfoldTensor
    """)
_SETTINGS = "ort_config"
"""Metadata from which ONNX Runtime may take its own settings."""
_DEEPEST = 64
_MOST_PAIRS, _LONGEST = 1 << 10, 1 << 16
"""Entries of a model's metadata, and bytes of a text there."""

_MODEL: Schema = {
    1: ("ir_version", VARINT),
    2: ("producer_name", BYTES),
    3: ("producer_version", BYTES),
    4: ("domain", BYTES),
    5: ("model_version", VARINT),
    6: ("doc", BYTES),
    7: ("graph", BYTES),
    8: ("opset", BYTES),
    14: ("metadata", BYTES),
    25: ("function", BYTES),
    26: ("configuration", BYTES),
}
_GRAPH: Schema = {
    1: ("node", BYTES),
    2: ("name", BYTES),
    5: ("tensor", BYTES),
    10: ("doc", BYTES),
    11: ("input", BYTES),
    12: ("output", BYTES),
    13: ("value_info", BYTES),
    14: ("quantization", BYTES),
    15: ("sparse", BYTES),
    16: ("metadata", BYTES),
}
_NODE: Schema = {
    1: ("input", BYTES),
    2: ("output", BYTES),
    3: ("name", BYTES),
    4: ("op", BYTES),
    5: ("attribute", BYTES),
    6: ("doc", BYTES),
    7: ("domain", BYTES),
    8: ("overload", BYTES),
    9: ("metadata", BYTES),
    10: ("configuration", BYTES),
}
_ATTRIBUTE: Schema = {
    1: ("name", BYTES),
    2: ("f", FIXED32),
    3: ("i", VARINT),
    4: ("s", BYTES),
    5: ("tensor", BYTES),
    6: ("graph", BYTES),
    7: ("floats", FIXED32),
    8: ("ints", VARINT),
    9: ("strings", BYTES),
    10: ("tensor", BYTES),
    11: ("graph", BYTES),
    13: ("doc", BYTES),
    14: ("type", BYTES),
    15: ("types", BYTES),
    20: ("kind", VARINT),
    21: ("reference", BYTES),
    22: ("sparse", BYTES),
    23: ("sparse", BYTES),
}
_TENSOR: Schema = {
    1: ("dims", VARINT),
    2: ("dtype", VARINT),
    3: ("segment", BYTES),
    4: ("floats", FIXED32),
    5: ("int32s", VARINT),
    6: ("strings", BYTES),
    7: ("int64s", VARINT),
    8: ("name", BYTES),
    9: ("raw", BYTES),
    10: ("doubles", 1),
    11: ("uint64s", VARINT),
    12: ("doc", BYTES),
    13: ("external", BYTES),
    14: ("location", VARINT),
    16: ("metadata", BYTES),
}
_SPARSE: Schema = {1: ("tensor", BYTES), 2: ("tensor", BYTES), 3: ("dims", VARINT)}
_FUNCTION: Schema = {
    1: ("name", BYTES),
    4: ("input", BYTES),
    5: ("output", BYTES),
    6: ("attributes", BYTES),
    7: ("node", BYTES),
    8: ("doc", BYTES),
    9: ("opset", BYTES),
    10: ("domain", BYTES),
    11: ("attribute", BYTES),
    12: ("value_info", BYTES),
    13: ("overload", BYTES),
    14: ("metadata", BYTES),
}
_VALUE_INFO: Schema = {
    1: ("name", BYTES),
    2: ("type", BYTES),
    3: ("doc", BYTES),
    4: ("metadata", BYTES),
}
_PAIR: Schema = {1: ("key", BYTES), 2: ("value", BYTES)}
_PLACE = re.compile(r"[\w .+=@-]+(/[\w .+=@-]+)*")


def check(path: Path, base: Path) -> tuple[str, ...]:
    """The files below a folder that a model's tensors lie in. Raises ValueError."""
    try:
        return _Walk(base).model(protobuf.mapped(path))
    except ValueError as error:
        raise ValueError(f"not an ONNX model that loads: {error}") from error


def nodes(path: Path) -> tuple[list[tuple[str, list[str], list[str]]], list[str]]:
    """Operation, inputs and outputs of each node of a model's graph; and the graph's outputs."""
    found: list[tuple[str, list[str], list[str]]] = []
    outputs: list[str] = []
    parts = fields(protobuf.mapped(path), _MODEL, "the model")
    graph = next(_bytes(value) for name, value in parts if name == "graph")
    for name, value in fields(graph, _GRAPH, "the graph"):
        if name == "node":
            about = list(fields(_bytes(value), _NODE, "a node"))
            op, inputs, outs = (
                [text(v) for n, v in about if n == key] for key in ("op", "input", "output")
            )
            found.append((op[-1] if op else "", inputs, outs))
        elif name == "output":
            about_output = dict(fields(_bytes(value), _VALUE_INFO, "an output"))
            outputs.append(_text(about_output, "name"))
    return found, outputs


def metadata(path: Path) -> dict[str, str]:
    """What a model says of itself beside its graph, by key; longer texts are left out."""
    parts = fields(protobuf.mapped(path), _MODEL, "the model")
    pairs = [_pair(value) for name, value in parts if name == "metadata"]
    if len(pairs) > _MOST_PAIRS:
        raise ValueError(
            f"its metadata has {len(pairs):,} entries; at most {_MOST_PAIRS:,} are read"
        )
    short = (p for p in pairs if all(len(_bytes(v)) <= _LONGEST for v in p.values()))
    return {_text(pair, "key"): _text(pair, "value") for pair in short}


class _Walk:
    def __init__(self, base: Path) -> None:
        self._base = base
        self._files: dict[str, int] = {}
        self._own: set[tuple[str, str]] = set()
        """Domain and name of the model's functions."""

    def model(self, data: memoryview) -> tuple[str, ...]:
        parts = list(fields(data, _MODEL, "the model"))
        functions = [_bytes(value) for name, value in parts if name == "function"]
        for function in functions:
            about = dict(fields(function, _FUNCTION, "a function"))
            self._own.add((_text(about, "domain"), _text(about, "name")))
        clash = next((n for d, n in self._own if d in (*_STANDARD, "com.microsoft")), None)
        if clash is not None:
            raise ValueError(
                f"its function {shown(clash)} is of a domain of ONNX, which is refused"
            )
        graphs = 0
        for name, value in parts:
            if name == "graph":
                graphs += 1
                self._graph(_bytes(value), "the graph", 0)
            elif name == "metadata" and _text(_pair(value), "key") == _SETTINGS:
                raise ValueError(f"its metadata has {_SETTINGS}, settings of a session; remove it")
        if graphs != 1:
            raise ValueError(f"it has {graphs} graphs, not one")
        for function in functions:
            own = f"function {shown(_text(dict(fields(function, _FUNCTION, 'it')), 'name'))}"
            self._body(function, _FUNCTION, own, 0)
        return tuple(sorted(self._files))

    def _graph(self, data: memoryview, where: str, depth: int) -> None:
        if depth > _DEEPEST:
            raise ValueError(f"its graphs lie deeper than {_DEEPEST} and are refused")
        self._body(data, _GRAPH, where, depth)

    def _body(self, data: memoryview, schema: Schema, where: str, depth: int) -> None:
        for name, value in fields(data, schema, where):
            if name == "node":
                self._node(_bytes(value), where, depth)
            elif name == "attribute":
                self._attribute(_bytes(value), where, depth)
            elif name == "tensor":
                self._tensor(_bytes(value))
            elif name == "sparse":
                self._sparse(_bytes(value))

    def _node(self, data: memoryview, where: str, depth: int) -> None:
        parts = list(fields(data, _NODE, "a node"))
        # Of a field that stands twice the last counts; all are looked at.
        names, ops, domains = (
            [text(v) for n, v in parts if n == key] for key in ("name", "op", "domain")
        )
        label = f"{where}, node {shown(names[-1] if names else '')}"
        for domain in domains or [""]:
            for op in ops or [""]:
                if not self._is_allowed(domain, op):
                    told = f"{domain}.{op}" if domain else op
                    raise ValueError(f"op {shown(told)} in {label} is not allowed")
        for key, value in parts:
            if key == "attribute":
                self._attribute(_bytes(value), label, depth)

    def _is_allowed(self, domain: str, op: str) -> bool:
        if domain in _STANDARD:
            return True
        return (domain, op) in self._own or (domain == "com.microsoft" and op in _MICROSOFT)

    def _attribute(self, data: memoryview, where: str, depth: int) -> None:
        for name, value in fields(data, _ATTRIBUTE, "an attribute"):
            if name == "graph":
                self._graph(_bytes(value), f"a graph in {where}", depth + 1)
            elif name == "tensor":
                self._tensor(_bytes(value))
            elif name == "sparse":
                self._sparse(_bytes(value))

    def _sparse(self, data: memoryview) -> None:
        for name, value in fields(data, _SPARSE, "a sparse tensor"):
            if name == "tensor":
                self._tensor(_bytes(value))

    def _tensor(self, data: memoryview) -> None:
        parts = list(fields(data, _TENSOR, "a tensor"))
        name = next((text(v) for n, v in parts if n == "name"), "")
        external = [_pair(value) for key, value in parts if key == "external"]
        outside = any(n == "location" and v not in (0,) for n, v in parts)
        if not external and not outside:
            return
        about = {_text(pair, "key"): _text(pair, "value") for pair in external}
        if len(about) != len(external):
            raise ValueError(f"tensor {shown(name)} names its file twice, which is refused")
        self._external(name, about)

    def _external(self, name: str, about: dict[str, str]) -> None:
        place = about.get("location", "")
        told = f"tensor {shown(name)} lies in {shown(place)}"
        if not _PLACE.fullmatch(place) or ".." in place.split("/"):
            raise ValueError(f"{told}, which is no file below the model's folder and is refused")
        file = self._base / place
        if place not in self._files:
            if not file.is_file():
                raise ValueError(f"{told}, and there is no such file")
            check_inside(file, self._base, f"{told}, which")
            self._files[place] = file.stat().st_size
        try:
            offset, length = (int(about.get(key) or 0) for key in ("offset", "length"))
        except ValueError:
            raise ValueError(f"{told}, at no number") from None
        if offset < 0 or length < 0 or offset + length > self._files[place]:
            raise ValueError(f"{told}, beyond its end")


def _bytes(value: Value) -> memoryview:
    assert isinstance(value, memoryview)
    return value


def _pair(value: Value) -> dict[str, Value]:
    return dict(fields(_bytes(value), _PAIR, "a pair of texts"))


def _text(parts: dict[str, Value], key: str) -> str:
    return text(parts[key]) if key in parts else ""
