"""A frame cut into squares that lie where they lie, whatever window of it is looked at.

Squares of `side` begin at the frame's first pixel; what is left at its end and is less than half a square
belongs to the last one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segengine.types import Cell


@dataclass(frozen=True, slots=True)
class View:
    """Where a window lies in its frame, and which of its sides are those of the frame."""

    corner: Cell
    """First pixel of the window."""
    frame: Cell
    """(height, width) of the frame."""
    window: Cell
    """(height, width) of the window."""

    def bounds(self, axis: int, side: int) -> NDArray[np.int64]:
        """First pixels in the window of the squares along an axis, and its end; those cut are shorter."""
        start, whole = self.corner[axis], self.frame[axis]
        last = max(1, (2 * whole + side) // (2 * side)) - 1
        stop = start + self.window[axis]
        first, final = min(start // side, last), min((stop - 1) // side, last)
        edges = np.arange(first, final + 2, dtype=np.int64) * side
        edges[0], edges[-1] = start, stop
        return edges - start

    def origins(self, axis: int, side: int) -> NDArray[np.int64]:
        """Of each square of `bounds` where it begins, in the window's pixels, though that be outside."""
        start, squares = self.corner[axis], len(self.bounds(axis, side)) - 1
        last = max(1, (2 * self.frame[axis] + side) // (2 * side)) - 1
        return (min(start // side, last) + np.arange(squares)) * side - start

    def cut(self, axis: int) -> tuple[bool, bool]:
        """Whether the frame goes on before the window's first pixel, and after its last."""
        start = self.corner[axis]
        return start > 0, start + self.window[axis] < self.frame[axis]

    def inner(self, axis: int, margin: int) -> tuple[int, int]:
        """First pixel and end of what is at least `margin` away from where the window is cut."""
        before, after = self.cut(axis)
        length = self.window[axis]
        return margin if before else 0, length - margin if after else length
