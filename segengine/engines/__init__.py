"""Engines run a network on batches of windows: one protocol, one file an engine.

An engine knows nothing of bands, scales, layouts or classes; it feeds arrays to a network and hands
its outputs back. It is opened once a process, and compiles at its first batch.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Shape = tuple[int | None, ...]
Precision = Literal["float32", "bfloat16"]
Outputs = dict[str, NDArray[Any]]


CPU_BATCH, GPU_BATCH = 1 << 20, 1 << 23
"""Pixels of a batch."""


class Engine(Protocol):
    """A network that is ready to run."""

    @property
    def input_shape(self) -> Shape:
        """(n, ...) of the network's only input, in its own layout; None: any."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """What a batch is cast to before it is fed."""
        ...

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs, in the network's order."""
        ...

    @property
    def provenance(self) -> str:
        """Name and version of the engine, and the instruction set it runs on."""
        ...

    @property
    def integers(self) -> frozenset[str]:
        """Names of the outputs that hold whole numbers, or true and false."""
        ...

    @property
    def ending(self) -> str | None:
        """What the first output's values end in: sigmoid, softmax, linear; None: not known."""
        ...

    def run(self, batch: NDArray[Any]) -> Outputs:
        """Every output of a batch, by name, floats as float32."""
        ...

    def try_out(self, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        """Shape of each output for a batch of a shape.

        Raises ValueError where the network does not take it, or gives what is not finite.
        """
        ...


def threads() -> int:
    """Threads an engine may use: those of its Dask worker, else the cores of this process.

    Dask's nanny starts each worker with `OMP_NUM_THREADS` set.
    """
    told = os.environ.get("OMP_NUM_THREADS", "")
    if told.isdigit() and int(told) > 0:
        return int(told)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def gpus(
    environment: Mapping[str, str] = os.environ, folder: Path = Path("/proc/driver/nvidia/gpus")
) -> tuple[str, ...]:
    """The GPUs that this process may use, as `CUDA_VISIBLE_DEVICES` names them.

    >>> gpus({"CUDA_VISIBLE_DEVICES": "2, 3"}), gpus({"CUDA_VISIBLE_DEVICES": "-1"})
    (('2', '3'), ())
    """
    told = environment.get("CUDA_VISIBLE_DEVICES")
    if told is None:
        count = len(list(folder.iterdir())) if folder.is_dir() else 0
        return tuple(map(str, range(count)))
    names = [name.strip() for name in told.split(",")]
    # CUDA takes them up to the first that is none.
    return tuple(takewhile(lambda name: name not in ("", "-1"), names))


def paying() -> int:
    """Pixels of a batch beyond which more at once gains nothing, on what this process has."""
    return GPU_BATCH if gpus() else CPU_BATCH


def instruction_set() -> str:
    """The widest vector instructions of this processor, as far as the system tells."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            flags = next((line for line in file if line.startswith("flags")), "").split()
    except OSError:
        return "unknown"
    known = ("amx_bf16", "avx512_bf16", "avx512f", "avx2", "avx", "sse4_2")
    return next((name for name in known if name in flags), "unknown")


def run_once(engine: Engine, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """`try_out` by running a batch of noise."""
    found = of_noise(engine, shape)
    for name, values in found.items():
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise ValueError(f"its output {name} is NaN or infinite; do its weights hold NaN?")
    return {name: values.shape for name, values in found.items()}


def of_noise(engine: Engine, shape: tuple[int, ...]) -> Outputs:
    """The outputs of a batch of noise. Raises ValueError where the network does not take it."""
    noise = np.random.default_rng(0).random(shape)
    try:
        return engine.run((noise * (1 if engine.dtype.kind == "f" else 255)).astype(engine.dtype))
    except Exception as error:
        raise ValueError(f"it does not take windows of {shape}: {reason(error)}") from error


def as_float(values: Any) -> NDArray[Any]:
    """A NumPy array; floats of any width as float32."""
    array = np.asarray(values)
    return array if array.dtype.kind in "iub" else array.astype(np.float32, copy=False)


def reason(error: BaseException) -> str:
    """The first line of a library's error that says something, for a message of one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    first = lines[0] if lines else type(error).__name__
    # Keras' errors of weights go on with an example over several lines
    return first.partition(" Example error message")[0][:300]
