"""Tensors of a safetensors file: an 8-byte length, a JSON header, raw little-endian values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segengine.guards import texts

_DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U8": "u1",
    "BOOL": "?",
}


def read_safetensors(path: Path) -> dict[str, NDArray[Any]]:
    """Tensors by key, mapped from the file. Raises ValueError that names a file it cannot read."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > min(texts.MOST, path.stat().st_size):
                raise ValueError("its header is longer than the file, or than headers are")
            header = texts.parse(file.read(length), "its header")
        found = {}
        data = np.memmap(path, np.uint8, "r", offset=8 + length)
        for name, about in header.items():
            if name != "__metadata__":
                start, stop = about["data_offsets"]
                if not 0 <= start <= stop <= len(data):
                    raise ValueError(f"tensor {name[:80]!r} lies beyond the file")
                values = data[start:stop].view(_DTYPES[about["dtype"]])
                found[name] = values.reshape(about["shape"])
        return found
    except (AttributeError, LookupError, TypeError, ValueError, ArithmeticError) as error:
        raise ValueError(f"{path}: is not a safetensors file that can be read: {error}") from error
