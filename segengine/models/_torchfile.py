"""Tensors of a torch state dict (`.pth`), read without torch and without unpickling.

A `.pth` is a pickle beside raw storages: in a zip archive (torch 1.6 on), or one after the other in a
plain file (before; the published Mask R-CNN weights are older). The pickle is walked opcode by
opcode (`pickletools` of the standard library only lists them). Only opcodes that build dicts,
lists, tuples, numbers and strings are followed, and of the globals only those named here, each of
which stands for a value of ours: no code that a file names is ever imported or called.
"""

from __future__ import annotations

import io
import math
import pickletools
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from segengine.guards import zips

_MAGIC = 0x1950A86A20F9469CFC6C
"""First pickle of a file before torch 1.6 (torch/serialization.py)."""
_DTYPES = {
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}
_MARK = object()


@dataclass(frozen=True, slots=True)
class _Global:
    name: str


@dataclass(frozen=True, slots=True)
class _Storage:
    dtype: str
    key: str
    count: int


@dataclass(frozen=True, slots=True)
class _Tensor:
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read_torch(path: Path) -> dict[str, NDArray[Any]]:
    """Tensors by key; a training checkpoint's are under `model` or `state_dict`.

    Raises ValueError that names the file where it is no state dict, or holds anything else.
    """
    try:
        with path.open("rb") as file:
            # By its first bytes: a pickle with a zip behind it is none of both.
            if file.read(len(zips.MAGIC)) == zips.MAGIC:
                return _read_zip(file)
            if zipfile.is_zipfile(file):
                raise ValueError("it is a zip behind something else, which is refused")
            file.seek(0)
            return _read_plain(file, path.stat().st_size)
    except _DAMAGES as error:
        told = str(error) or type(error).__name__
        raise ValueError(f"{path}: is not a torch state dict that can be read: {told}") from error


_DAMAGES = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    NotImplementedError,
    RecursionError,
    StopIteration,
    TypeError,
    ValueError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)
"""What a walk over a damaged or made-up file may end in."""


def _read_zip(file: IO[bytes]) -> dict[str, NDArray[Any]]:
    zips.check(file)
    with zipfile.ZipFile(file) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith("/data.pkl"))
        root = name.removesuffix("data.pkl")
        if (
            f"{root}byteorder" in archive.namelist()
            and archive.read(f"{root}byteorder") != b"little"
        ):
            raise ValueError("it is not little-endian")
        state = _walk(io.BytesIO(archive.read(name)))
        return _tensors(state, lambda storage: archive.read(f"{root}data/{storage.key}"))


def _read_plain(file: IO[bytes], size: int) -> dict[str, NDArray[Any]]:
    if _walk(file) != _MAGIC:
        raise ValueError("it starts with another magic number")
    for _ in ("protocol", "machine"):
        _walk(file)
    state = _walk(file)
    sizes = {t.storage.key: t.storage for t in _flat(state).values()}
    stored: dict[str, bytes] = {}
    for key in _walk(file):
        (count,) = struct.unpack("<q", file.read(8))
        if key not in sizes:
            raise ValueError(f"storage {key} belongs to no tensor")
        if not 0 <= count <= size:
            raise ValueError(f"storage {key} counts {count} values, more than the file has")
        stored[key] = file.read(count * np.dtype(sizes[key].dtype).itemsize)
    return _tensors(state, lambda storage: stored[storage.key])


def _flat(state: Any) -> dict[str, _Tensor]:
    for key in ("model", "state_dict"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict):
        raise ValueError(f"it holds a {type(state).__name__}, not a dict of tensors")
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, _Tensor):
            raise ValueError(f"{name} is a {type(value).__name__}, not a tensor")
    return state


def _tensors(state: Any, read: Callable[[_Storage], bytes]) -> dict[str, NDArray[Any]]:
    return {name: _array(tensor, read(tensor.storage)) for name, tensor in _flat(state).items()}


def _array(tensor: _Tensor, data: bytes) -> NDArray[Any]:
    values = np.frombuffer(data, tensor.storage.dtype)
    last = tensor.offset + sum(
        (n - 1) * s for n, s in zip(tensor.shape, tensor.strides, strict=True)
    )
    least = min((tensor.offset, *tensor.strides, *tensor.shape), default=0)
    if math.prod(tensor.shape) and (least < 0 or last >= len(values)):
        raise ValueError(f"a tensor of shape {tensor.shape} goes beyond its storage")
    if math.prod(tensor.shape) > len(values):  # the same values again and again
        raise ValueError(f"a tensor of shape {tensor.shape} is larger than its storage")
    steps = tuple(s * values.itemsize for s in tensor.strides)
    found = np.lib.stride_tricks.as_strided(values[tensor.offset :], tensor.shape, steps)
    return np.ascontiguousarray(found).reshape(tensor.shape)


def _walk(file: Any) -> Any:
    """The value of one pickle."""
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    argument: Any
    for opcode, argument, _ in pickletools.genops(file):
        name = opcode.name
        if name in ("PROTO", "FRAME"):
            continue
        if name == "STOP":
            return stack.pop()
        if name in _CONSTANTS:
            stack.append(_CONSTANTS[name]())
        elif name in _LITERALS:
            stack.append(argument)
        elif name in ("BINPUT", "LONG_BINPUT", "PUT"):
            memo[int(argument)] = stack[-1]
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            stack.append(memo[int(argument)])
        elif name == "GLOBAL":
            stack.append(_known(argument.replace(" ", ".")))
        elif name == "STACK_GLOBAL":
            attribute, module = stack.pop(), stack.pop()
            stack.append(_known(f"{module}.{attribute}"))
        elif name in _BUILDERS:
            _BUILDERS[name](stack)
        else:
            raise ValueError(f"its pickle has the opcode {name}, which weights do not need")
    raise ValueError("its pickle has no end")


_CONSTANTS: dict[str, Callable[[], Any]] = {
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "MARK": lambda: _MARK,
}
_LITERALS = frozenset(
    [
        "BINUNICODE",
        "SHORT_BINUNICODE",
        "BININT",
        "BININT1",
        "BININT2",
        "LONG1",
        "LONG",
        "BINFLOAT",
        "BINSTRING",
        "SHORT_BINSTRING",
    ]
)
_CALLED = frozenset(
    {
        "collections.OrderedDict",
        "torch._utils._rebuild_tensor_v2",
        "torch._utils._rebuild_parameter",
    }
)


def _known(name: str) -> _Global:
    storage = name.startswith("torch.") and name.removeprefix("torch.") in _DTYPES
    if name not in _CALLED and not storage:
        raise ValueError(f"its pickle names {name}, which weights do not need")
    return _Global(name)


def _marked(stack: list[Any]) -> list[Any]:
    at = len(stack) - 1 - next(i for i, v in enumerate(reversed(stack)) if v is _MARK)
    items = stack[at + 1 :]
    del stack[at:]
    return items


def _reduce(stack: list[Any]) -> None:
    arguments, function = stack.pop(), stack.pop()
    name = function.name if isinstance(function, _Global) else str(function)
    if name == "collections.OrderedDict" and not arguments:
        stack.append({})
    elif name == "torch._utils._rebuild_tensor_v2" and isinstance(arguments[0], _Storage):
        storage, offset, shape, strides = arguments[:4]
        stack.append(_Tensor(storage, offset, tuple(shape), tuple(strides)))
    elif name == "torch._utils._rebuild_parameter" and isinstance(arguments[0], _Tensor):
        stack.append(arguments[0])
    else:
        raise ValueError(f"its pickle calls {name}, which weights do not need")


def _persistent(stack: list[Any]) -> None:
    kind, dtype, key, _device, count = stack.pop()[:5]
    if kind != "storage" or not isinstance(dtype, _Global):
        raise ValueError(f"its pickle refers to a {kind}")
    stack.append(_Storage(_DTYPES[dtype.name.removeprefix("torch.")], str(key), int(count)))


def _tuple(count: int) -> Callable[[list[Any]], None]:
    def build(stack: list[Any]) -> None:
        items = tuple(stack[-count:])
        del stack[-count:]
        stack.append(items)

    return build


def _list_tuple(stack: list[Any]) -> None:
    items = _marked(stack)
    stack.append(tuple(items))


def _set_items(stack: list[Any]) -> None:
    items = _marked(stack)
    for key, value in zip(items[::2], items[1::2], strict=True):
        _put(stack[-1], key, value)


def _set_item(stack: list[Any]) -> None:
    value, key = stack.pop(), stack.pop()
    _put(stack[-1], key, value)


def _put(target: Any, key: Any, value: Any) -> None:
    if not isinstance(target, dict) or not isinstance(key, str | int):
        raise ValueError("its pickle has a key that is no name")
    target[key] = value


def _append(stack: list[Any]) -> None:
    value = stack.pop()
    stack[-1].append(value)


def _appends(stack: list[Any]) -> None:
    items = _marked(stack)
    stack[-1].extend(items)


def _build(stack: list[Any]) -> None:
    stack.pop()  # attributes of the OrderedDict: versions of the modules


_BUILDERS: dict[str, Callable[[list[Any]], None]] = {
    "TUPLE": _list_tuple,
    "TUPLE1": _tuple(1),
    "TUPLE2": _tuple(2),
    "TUPLE3": _tuple(3),
    "APPEND": _append,
    "APPENDS": _appends,
    "SETITEM": _set_item,
    "SETITEMS": _set_items,
    "REDUCE": _reduce,
    "BUILD": _build,
    "BINPERSID": _persistent,
}
