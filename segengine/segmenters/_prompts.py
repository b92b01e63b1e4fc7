"""What a network with prompts is asked for: points and boxes, in pixels of each frame.

FILE.geojson    `_drawn`: points, and polygons for their boxes, in pixels or on the map
STORE           `_stored`: the objects that another job found, by the names of frames

    |----- window -----|        A prompt goes to each window that holds it, a box to each that
    |  +-------+       |        holds its middle, cut to it. What is found is joined over windows
    |  |   x   |       |        as all objects are.
    |  +-------+       |
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from segengine.types import Cell, Frames, Site

Floats = NDArray[np.float64]
Ask = Literal["boxes", "centroids"]
MOST = 1 << 14
"""Prompts of a frame."""


@dataclass(frozen=True, slots=True, eq=False)
class Prompts:
    """Points and boxes."""

    corners: Floats
    """(n, 2, 2): x and y of the first and of the last corner; of a point twice the same."""
    boxed: NDArray[np.bool_]
    """(n,) False: a point."""

    def __len__(self) -> int:
        return len(self.boxed)

    def within(self, size: Cell) -> Prompts:
        """Those that a frame of (height, width) has a part of, boxes cut to it."""
        found = self._only(np.flatnonzero(self._meet(size)))
        return Prompts(np.clip(found.corners, 0, np.array(size[::-1], np.float64)), found.boxed)

    def meet(self, size: Cell) -> bool:
        """Whether a frame of (height, width) has a part of any."""
        return bool(self._meet(size).any())

    def _meet(self, size: Cell) -> NDArray[np.bool_]:
        low, high = self.corners[:, 0], self.corners[:, 1]
        begins = np.where(self.boxed[:, None], high > 0, low >= 0)
        return np.asarray((begins & (low < np.array(size[::-1], np.float64))).all(axis=1))

    def of_window(self, corner: Cell, size: Cell) -> Prompts:
        """Those whose middle a window holds, boxes cut to it, in its pixels."""
        start, end = np.array(corner[::-1], np.float64), np.array(size[::-1], np.float64)
        middle = self.corners.mean(axis=1) - start
        held = (middle >= 0) & (middle < end)
        found = self._only(np.flatnonzero(held.all(axis=1)))
        return Prompts(np.clip(found.corners - start, 0, end), found.boxed)

    def _only(self, chosen: NDArray[np.int64]) -> Prompts:
        return Prompts(self.corners[chosen], self.boxed[chosen])


class Prompting(Protocol):
    """Where prompts come from."""

    @property
    def digest(self) -> str:
        """Of all that decides what is asked."""
        ...

    @property
    def by_name(self) -> bool:
        """Whether frames have their own by their names."""
        ...

    def of(self, frames: Frames | None, frame: int, size: Cell) -> Prompts:
        """Those of one frame of a call, of a size. Raises ValueError where they are not known."""
        ...

    def remarks(self, sites: Iterable[Site]) -> Iterator[str]:
        """What may not be meant, of all scenes that they are asked of."""
        ...
