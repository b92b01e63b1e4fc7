"""Plain values to bytes and back, without pickle: what survey states and fits are committed as.

A value is built of None, bool, int, float, str, bytes, NumPy arrays and scalars, lists, tuples, dicts
named tuples and dataclasses of these, which are named by their tags. Equal values give equal bytes.

    magic | header length (8 bytes) | header (JSON) | array bytes, one after another      (zstd)
"""

from __future__ import annotations

import base64
import dataclasses
import json
from typing import Any

import numpy as np
from numcodecs.zstd import compress, decompress

from segengine.store.tags import class_of, tag_of

MAGIC = b"SEGV\x01"
_PLAIN = (bool, int, float, str, type(None))
_DAMAGE = (
    KeyError, IndexError, TypeError, AttributeError, ImportError, OverflowError, RecursionError,
)  # fmt: skip
"""What building a value from bytes that are no value may raise, beside ValueError."""


def encode(value: Any) -> bytes:
    """Bytes of a value. Raises TypeError naming the type that cannot be committed."""
    arrays: list[memoryview] = []
    header = json.dumps(_tree(value, arrays), separators=(",", ":")).encode()
    raw = b"".join([MAGIC, len(header).to_bytes(8, "little"), header, *arrays])
    return bytes(compress(raw, 1))


def decode(data: bytes, trusted: tuple[str, ...] = ()) -> Any:
    """The value behind bytes.

    Dataclasses are only built from modules of the `trusted` top-level packages, so that a store
    cannot make a reader import what it likes. Raises ValueError on foreign or damaged bytes.
    """
    try:
        raw = bytes(decompress(data))
    except RuntimeError as error:
        raise ValueError(f"not a committed value: {error}") from error
    if not raw.startswith(MAGIC):
        raise ValueError("not a committed value: no magic bytes")
    start = len(MAGIC) + 8
    end = start + int.from_bytes(raw[len(MAGIC) : start], "little")
    try:
        tree = json.loads(raw[start:end])
        return _Decoder(memoryview(raw), end, ("segengine", *trusted)).build(tree)
    except _DAMAGE as error:
        raise ValueError(f"not a committed value: {type(error).__name__}: {error}") from error


def _tree(value: Any, arrays: list[memoryview]) -> Any:
    if isinstance(value, np.generic):
        value = np.asarray(value)
        return {"g": _array(value, arrays)}
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, bytes):
        return {"b": base64.b64encode(value).decode()}
    if isinstance(value, np.ndarray):
        return {"a": _array(value, arrays)}
    if isinstance(value, list):
        return [_tree(item, arrays) for item in value]
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        inner = {name: _tree(item, arrays) for name, item in value._asdict().items()}
        return {"c": tag_of(type(value)), "f": inner}
    if isinstance(value, tuple):
        return {"t": [_tree(item, arrays) for item in value]}
    if isinstance(value, dict):
        return {"d": [[_tree(k, arrays), _tree(v, arrays)] for k, v in value.items()]}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        kind = type(value)
        fields = {
            f.name: _tree(getattr(value, f.name), arrays)
            for f in dataclasses.fields(value)
            if f.init
        }
        return {"c": tag_of(kind), "f": fields}
    raise TypeError(
        f"{type(value).__name__} cannot be committed; use numbers, strings, NumPy arrays, tuples, "
        "lists, dicts or dataclasses of these"
    )


def _array(value: np.ndarray[Any, Any], arrays: list[memoryview]) -> list[Any]:
    if value.dtype.hasobject:
        raise TypeError("an array of objects cannot be committed")
    little = np.ascontiguousarray(value, dtype=value.dtype.newbyteorder("<"))
    arrays.append(little.reshape(-1).view(np.uint8).data)
    return [little.dtype.str, list(value.shape)]


class _Decoder:
    def __init__(self, raw: memoryview, offset: int, trusted: tuple[str, ...]) -> None:
        self.raw, self.offset, self.trusted = raw, offset, trusted

    def build(self, node: Any) -> Any:
        if isinstance(node, list):
            return [self.build(item) for item in node]
        if not isinstance(node, dict):
            return node
        if "a" in node:
            return self.array(node["a"]).copy()
        if "g" in node:
            return self.array(node["g"])[()]
        if "b" in node:
            return base64.b64decode(node["b"])
        if "t" in node:
            return tuple(self.build(item) for item in node["t"])
        if "d" in node:
            return {self.build(k): self.build(v) for k, v in node["d"]}
        return self.instance(node["c"], {k: self.build(v) for k, v in node["f"].items()})

    def array(self, described: list[Any]) -> np.ndarray[Any, Any]:
        dtype, shape = np.dtype(described[0]), tuple(described[1])
        count = int(np.prod(shape, dtype=np.int64))
        found = np.frombuffer(self.raw, dtype, count, self.offset).reshape(shape)
        self.offset += found.nbytes
        return found.astype(dtype.newbyteorder("="), copy=False)

    def instance(self, name: str, fields: dict[str, Any]) -> Any:
        return class_of(name, self.trusted)(**fields)
