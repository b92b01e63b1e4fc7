"""A segmenter that has to know where in their frames the windows lie that it is called with."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

from segengine.types import Cell


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class InWindows:
    """Where that is, as `Placed` tells it."""

    corner: Cell = (0, 0)
    """First pixel of the windows, in their frames."""
    size: Cell | None = None
    """(height, width) of the frames; None: windows are whole frames."""

    def at(self, corner: Cell, size: Cell) -> Self:
        """It, for windows at a corner of frames of a size."""
        return replace(self, corner=corner, size=size)
