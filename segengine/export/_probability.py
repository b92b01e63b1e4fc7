"""How likely an object's class is over its pixels, from what is stored of it, exactly."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segengine.fixed_point import to_fixed, to_float, total
from segengine.reader import SceneStore
from segengine.store.keys import CONFIDENCE, PROBABILITIES
from segengine.types import CERTAIN, NO_CONFIDENCE

_BLOCKS = 64
"""Chunks that are kept: objects come by rows."""


class Probability:
    """Mean probabilities of a scene's objects; the same however the scene is cut.

    Of confidence where there are no probabilities: an object's pixels have its class as their label.
    """

    def __init__(self, scene: SceneStore) -> None:
        self._scene, self._array = scene, scene.probabilities
        if self._array is None:
            self._array = scene.confidence
        self._block = lru_cache(_BLOCKS)(self._read)

    def mean(
        self, frame: int, kind: int, mask: NDArray[np.bool_], corner: tuple[int, int]
    ) -> float | None:
        """Of a class over a mask (y, x) whose first pixel is `corner`; None: not stored, or no pixel."""
        count = int(np.count_nonzero(mask))
        if self._array is None or not count or (self._by_class and kind >= self._array.shape[1]):
            return None
        side, (top, left), (height, width) = self._array.chunks[-1], corner, mask.shape
        added = 0
        for row in range(top // side, -(-(top + height) // side)):
            for column in range(left // side, -(-(left + width) // side)):
                y, x = max(top, row * side), max(left, column * side)
                block = self._block(frame, kind, row, column)[y - row * side :, x - column * side :]
                part = mask[y - top :, x - left :][: block.shape[0], : block.shape[1]]
                terms = block[: part.shape[0], : part.shape[1]][part]
                added += total(to_fixed(np.nan_to_num(terms)))
        return to_float(added, count)

    @property
    def _by_class(self) -> bool:
        return self._scene.probabilities is not None

    def _read(self, frame: int, kind: int, row: int, column: int) -> NDArray[Any]:
        assert self._array is not None
        side = self._array.chunks[-1]
        rows, columns = (slice(place * side, (place + 1) * side) for place in (row, column))
        if self._by_class:
            return self._scene.read(PROBABILITIES, frame, kind, rows, columns)
        return shares(self._scene.read(CONFIDENCE, frame, rows, columns))


def shares(confidence: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The probabilities that a confidence layer stands for; NaN for void."""
    found = np.where(confidence == NO_CONFIDENCE, np.nan, confidence / CERTAIN)
    return found.astype(np.float32)
