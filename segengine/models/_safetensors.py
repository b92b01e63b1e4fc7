"""Tensors of a safetensors file: an 8-byte length, a JSON header, raw little-endian values."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
            header = json.loads(file.read(length))
        found = {}
        data = np.memmap(path, np.uint8, "r", offset=8 + length)
        for name, about in header.items():
            if name != "__metadata__":
                start, stop = about["data_offsets"]
                values = data[start:stop].view(_DTYPES[about["dtype"]])
                found[name] = values.reshape(about["shape"])
        return found
    except (KeyError, TypeError, ValueError, MemoryError, OverflowError) as error:
        raise ValueError(f"{path}: is not a safetensors file that can be read: {error}") from error
