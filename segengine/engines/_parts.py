"""Batches in parts: where a GPU's memory has no room for all, or kernels give of more not the same bits."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segengine.engines import Outputs


class Parts:
    """As many windows at once as memory has been found to have room for."""

    def __init__(
        self,
        is_full: Callable[[Exception], bool],
        together: Callable[[int], int] | None = None,
    ) -> None:
        """`is_full`: whether what an engine raised says that memory is. `together`: how many windows
        of so many pixels are always run at once, the last of them repeated where there are fewer, for
        the bits of a window not to depend on its neighbours; None: as many as come."""
        self._is_full = is_full
        self._together = together
        self._most = sys.maxsize

    def run(self, call: Callable[[NDArray[Any]], Outputs], batch: NDArray[Any]) -> Outputs:
        """What `call` gives of a batch (n, ...), every output (n, ...).

        Where memory is full, half as many are tried, from then on too: it will not grow. Raises what
        `call` does of one window alone.
        """
        if self._together is not None and len(batch):
            pixels = math.prod(sorted(batch.shape[1:])[-2:])  # bands may come first or last
            return _alike(call, batch, self._together(pixels))
        found: list[Outputs] = []
        done = 0
        while done < len(batch) or not found:
            part = batch[done : done + self._most]
            try:
                found.append(call(part))
            except Exception as error:
                if len(part) == 1 or not self._is_full(error):
                    raise
                self._most = len(part) // 2
            else:
                done += len(part)
        return _joined(found)


def paired(pixels: int) -> int:
    """How many windows of so many pixels oneDNN runs at once at the least cost for each.

    What it gives of one alone differs in the last bit from what it gives of the same beside others,
    and takes twice as long; of a few or many it is the same. From a million pixels on memory counts.
    """
    return 1 if pixels >= 1 << 20 else 2 if pixels >= 1 << 14 else 8


def _alike(call: Callable[[NDArray[Any]], Outputs], batch: NDArray[Any], count: int) -> Outputs:
    found = []
    for start in range(0, len(batch), count):
        part = batch[start : start + count]
        lacks = count - len(part)
        made = call(np.concatenate([part, np.repeat(part[-1:], lacks, axis=0)]) if lacks else part)
        found.append({name: v[: len(part)] if v.ndim else v for name, v in made.items()})
    return _joined(found)


def _joined(found: list[Outputs]) -> Outputs:
    if len(found) == 1:
        return found[0]
    return {  # a number by the side is of no window
        name: np.concatenate([each[name] for each in found]) if values.ndim else values
        for name, values in found[0].items()
    }
