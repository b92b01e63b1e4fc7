"""SavedModels: every operation of every graph and function, before TensorFlow sees the folder.

Loading a SavedModel runs parts of it (initialisers, tables, assets), whatever its signature calls, so
that one list holds for all of `saved_model.pb`. Operations that read and write checkpoints are there
in every SavedModel, in the functions of its saver. TensorFlow does not run those when it loads, and
nothing else may lead to them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from segengine.guards.copies import check_inside
from segengine.guards.operations import ALLOWED, SAVER
from segengine.guards.zips import shown

GRAPHS = "saved_model.pb"
_OTHERS = ("saved_model.pbtxt", "saved_model.cpb")
"""What TensorFlow may read in its place."""
_LOADED = re.compile(r"variables/variables\.(index|data-\d{5}-of-\d{5})")
_BESIDE = re.compile(r"(fingerprint\.pb|keras_metadata\.pb|assets(\.extra)?/.*)")
"""Files that TensorFlow's exports have too; none of them is read."""
_KINDS = ("user_object", "function", "variable", "bare_concrete_function", "constant", "resource")
MOST = 2 << 30
"""Bytes of a protocol buffer."""


def parts(folder: Path) -> Iterator[tuple[Path, str]]:
    """The files that a SavedModel consists of, with their names in it. Raises ValueError."""
    for name in _OTHERS:
        if (folder / name).exists():
            raise ValueError(f"the SavedModel has a {name}, which is refused; keep {GRAPHS} alone")
    yield folder / GRAPHS, GRAPHS
    for file in sorted(folder.rglob("*")):
        name = file.relative_to(folder).as_posix()
        if file.is_dir() or not (_LOADED.fullmatch(name) or _BESIDE.fullmatch(name)):
            continue
        check_inside(file, folder, name)
        yield file, name


def check(folder: Path) -> None:
    """Raise ValueError where a SavedModel has an operation that is not allowed, wherever it stands."""
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    from tensorflow.core.protobuf import saved_model_pb2

    file = folder / GRAPHS
    if file.stat().st_size >= MOST:
        raise ValueError(f"{GRAPHS} is larger than 2 GiB, which no protocol buffer is")
    saved = saved_model_pb2.SavedModel()
    try:
        saved.ParseFromString(file.read_bytes())
    except DecodeError as error:
        raise ValueError(f"not a SavedModel that loads: {GRAPHS} is damaged ({error})") from error
    for graph in saved.meta_graphs:
        _Graph(graph).check()


class _Graph:
    """One meta graph: its nodes, the functions that they call, and the objects to be made of them."""

    def __init__(self, meta: Any) -> None:
        self._meta = meta
        self._functions = {f.signature.name: f for f in meta.graph_def.library.function}
        self._nodes = {node.name: node for node in meta.graph_def.node}

    def check(self) -> None:
        meta = self._meta
        registered = _registered()
        for name in self._functions:
            if name in registered:
                raise _error(f"its function {shown(name)} is called like an operation")
        if len(self._functions) != len(meta.graph_def.library.function):
            raise _error("it has two functions of one name")
        if len(self._nodes) != len(meta.graph_def.node):
            raise _error("it has two nodes of one name")
        if meta.asset_file_def or self._assets():
            raise _error("it has assets, files that it reads when it is loaded")
        nodes, functions = self._saver()
        for node in meta.graph_def.node:
            self._check_node(node, "the graph", node.name in nodes, functions)
        for name, function in self._functions.items():
            for node in function.node_def:
                self._check_node(node, f"function {shown(name)}", name in functions, functions)
        for gradient in meta.graph_def.library.gradient:
            for name in (gradient.function_name, gradient.gradient_func):
                if name not in self._functions:
                    raise _error(f"its gradient {shown(name)} is no function of it")
        self._check_restores(nodes, functions)
        self._check_entries(nodes, functions)
        self._check_objects()

    def _saver(self) -> tuple[set[str], set[str]]:
        """Nodes and functions through which a checkpoint is written and read, and nothing else."""
        told = self._meta.saver_def
        names = [told.save_tensor_name, told.restore_op_name]
        nodes = self._behind(name for name in names if name)
        nodes = {
            n for n in nodes if self._nodes[n].op not in ALLOWED or self._called(self._nodes[n])
        }
        functions: set[str] = set()
        left = [name for node in nodes for name in self._called(self._nodes[node])]
        while left:
            name = left.pop()
            if name in functions or name not in self._functions:
                continue
            functions.add(name)
            left += [n for node in self._functions[name].node_def for n in self._called(node)]
        return nodes, functions

    def _behind(self, names: Iterable[str]) -> set[str]:
        """Nodes of the graph that some are computed from, and they themselves."""
        found: set[str] = set()
        left = [_node(name) for name in names]
        while left:
            name = left.pop()
            if name not in found and name in self._nodes:
                found.add(name)
                left += [_node(source) for source in self._nodes[name].input]
        return found

    def _called(self, node: Any) -> list[str]:
        """Functions that a node calls: by its attributes, or by being named so itself."""
        found = [node.op] if node.op in self._functions else []
        return found + [name for value in node.attr.values() for name in _functions_of(value)]

    def _check_node(self, node: Any, where: str, saves: bool, saver: set[str]) -> None:
        known = node.op in ALLOWED or node.op in self._functions or (saves and node.op in SAVER)
        if not known:
            raise _error(f"op {shown(node.op)} in {where}, node {shown(node.name)} is not allowed")
        for name in self._called(node):
            if name not in self._functions:
                raise _error(
                    f"op {shown(node.op)} in {where}, node {shown(node.name)} calls {shown(name)}, "
                    "which is no function of it"
                )
            if name in saver and not saves:
                raise _error(
                    f"op {shown(node.op)} in {where}, node {shown(node.name)} calls "
                    f"{shown(name)}, which reads or writes checkpoints"
                )

    def _check_restores(self, nodes: set[str], functions: set[str]) -> None:
        """What a checkpoint is read from must be what the loader says: its own variables."""
        told = _node(self._meta.saver_def.filename_tensor_name)
        for name in nodes:
            node = self._nodes[name]
            if node.op == "RestoreV2" and _node(node.input[0]) != told:
                raise _error(f"op RestoreV2 in the graph, node {shown(name)} reads another file")
        for name in functions:
            own = {argument.name for argument in self._functions[name].signature.input_arg}
            for node in self._functions[name].node_def:
                if node.op == "RestoreV2" and _node(node.input[0]) not in own:
                    raise _error(
                        f"op RestoreV2 in function {shown(name)}, node {shown(node.name)} reads "
                        "another file"
                    )

    def _check_entries(self, nodes: set[str], functions: set[str]) -> None:
        """Nothing that is run may lead to the saver: signatures, initialisers, objects' functions."""
        entries = [
            tensor.name
            for signature in self._meta.signature_def.values()
            for tensor in (*signature.inputs.values(), *signature.outputs.values())
        ]
        for collection in self._meta.collection_def.values():
            entries += list(collection.node_list.value)
        for name in sorted(self._behind(entries) & nodes):
            node = self._nodes[name]
            if node.op in SAVER or functions.intersection(self._called(node)):
                raise _error(
                    f"op {shown(node.op)} in the graph, node {shown(name)} is not allowed where a "
                    "signature or an initialiser leads to it"
                )
        objects = self._meta.object_graph_def
        called = set(objects.concrete_functions)
        for entry in objects.nodes:
            called.update(entry.function.concrete_functions)
            called.add(entry.bare_concrete_function.concrete_function_name)
        for name in sorted(called & functions):
            raise _error(f"its object calls {shown(name)}, which reads or writes checkpoints")

    def _assets(self) -> bool:
        return any(n.WhichOneof("kind") == "asset" for n in self._meta.object_graph_def.nodes)

    def _check_objects(self) -> None:
        for entry in self._meta.object_graph_def.nodes:
            kind = entry.WhichOneof("kind")
            if kind is not None and kind not in _KINDS:
                raise _error(f"it has an object of the kind {kind}")
            for name in (entry.registered_name, entry.registered_saver):
                if name and not name.startswith("tf."):
                    raise _error(f"it has an object of the class {shown(name)}")


def _node(tensor: str) -> str:
    """Name of the node that an input names: `^a`, `a:0`, `a:out:0`."""
    return tensor.removeprefix("^").partition(":")[0]


def _functions_of(value: Any) -> list[str]:
    kind = value.WhichOneof("value")
    if kind == "func":
        return [value.func.name, *_nested(value.func.attr)]
    if kind == "list":
        return [n for f in value.list.func for n in (f.name, *_nested(f.attr))]
    return []


def _nested(attributes: Mapping[str, Any]) -> list[str]:
    return [name for value in attributes.values() for name in _functions_of(value)]


def _registered() -> frozenset[str]:
    """Every operation that TensorFlow has."""
    from tensorflow.core.framework import op_def_pb2
    from tensorflow.python.client import pywrap_tf_session

    found = op_def_pb2.OpList()
    found.ParseFromString(pywrap_tf_session.TF_GetBuffer(pywrap_tf_session.TF_GetAllOpList()))
    return frozenset(op.name for op in found.op)


def _error(text: str) -> ValueError:
    return ValueError(f"the SavedModel is refused: {text}")
