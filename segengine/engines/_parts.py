"""Batches that a GPU's memory has no room for, run in parts."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segengine.engines import Outputs


class Parts:
    """As many windows at once as memory has been found to have room for."""

    def __init__(self, is_full: Callable[[Exception], bool]) -> None:
        """`is_full`: whether what an engine raised says that memory is."""
        self._is_full = is_full
        self._most = sys.maxsize

    def run(self, call: Callable[[NDArray[Any]], Outputs], batch: NDArray[Any]) -> Outputs:
        """What `call` gives of a batch (n, ...), every output (n, ...).

        Where memory is full, half as many are tried, from then on too: it will not grow. Raises what
        `call` does of one window alone.
        """
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
        if len(found) == 1:
            return found[0]
        return {name: np.concatenate([each[name] for each in found]) for name in found[0]}
