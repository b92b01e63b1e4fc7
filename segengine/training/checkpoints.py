"""Checkpoints: all that a training needs to go on, in one file that is replaced atomically.

An `.npz` of the variables of model (with the state of its dropouts) and optimizer, and a JSON text:
epochs done, history, the best epoch, and a digest of the job and its data, so that no run goes on
from another one's weights. A kill leaves the previous file or the new one, never half of one.
"""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segengine.errors import SegengineError

FILE = "checkpoint.npz"
BEST = "best.npz"


@dataclass(frozen=True, slots=True)
class State:
    """How far a training is."""

    digest: str
    """Of the job and its data."""
    epochs: int = 0
    """Epochs done."""
    history: dict[str, list[float]] = field(default_factory=dict)
    """Figures by name, one an epoch."""
    best: int = 0
    """Epochs done when the validation loss was least; 0: not yet."""


def save(folder: Path, name: str, state: State, variables: Sequence[Any]) -> None:
    """Write a checkpoint of Keras variables, atomically and durably."""
    buffer = io.BytesIO()
    arrays = {f"v{i}": np.asarray(v) for i, v in enumerate(variables)}
    text = np.frombuffer(json.dumps(asdict(state)).encode(), np.uint8)
    np.savez(buffer, allow_pickle=False, state=text, **arrays)
    write(folder / name, buffer.getvalue())


def load(folder: Path, name: str) -> tuple[State, list[NDArray[Any]]] | None:
    """A checkpoint's state and arrays; None where there is none. Raises SegengineError if damaged."""
    file = folder / name
    try:
        # opened here: NumPy leaves a file open that it cannot read
        with file.open("rb") as raw, np.load(raw, allow_pickle=False) as data:
            state = State(**json.loads(data["state"].tobytes()))
            return state, [data[f"v{i}"] for i in range(len(data.files) - 1)]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise SegengineError(
            f"{file}: is no checkpoint: {error}; delete it to begin anew"
        ) from None


def restore(file: Path, variables: Sequence[Any], arrays: Sequence[NDArray[Any]]) -> None:
    """Set Keras variables. Raises SegengineError where the arrays are not theirs."""
    if [tuple(v.shape) for v in variables] != [a.shape for a in arrays]:
        raise SegengineError(
            f"{file}: holds other variables than this network's, as of another version of a "
            "package; delete it to begin anew"
        )
    for variable, array in zip(variables, arrays, strict=True):
        variable.assign(array)


def write(file: Path, data: bytes) -> None:
    """Replace a file's content, atomically and durably."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f"{file.name}.partial")
    with partial.open("wb") as out:
        out.write(data)
        out.flush()
        os.fsync(out.fileno())
    partial.replace(file)
