"""Regions of one colour each, grown from seeds: pixel by pixel, while colours are near the seed's.

Seeded region growing (Adams and Bischof 1994), with seeds that are found where the frame is even and
regions of like colour made one at the end, as Shih and Cheng do (2005). Growing is in `_growing`, seeds and
merging in `_seeded`.

What differs from the published one: all regions grow at the same time, a pixel a round, where theirs takes
the most alike pixel of the whole frame next; a region's colour is that of its seed, not the mean so far;
the distance has an end, so that what is like no seed beside it stays background. So a pixel of a grid's
regions follows from what lies around it, and scenes are cut as one likes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from segengine.instances.join import BAND
from segengine.segmenters import _seeded
from segengine.segmenters._growing import UNBOUNDED, planes, top_of
from segengine.segmenters._options import require_number, require_whole
from segengine.segmenters._regions import COLORS, numbered, of_frames
from segengine.segmenters._squares import View
from segengine.segmenters._windows import InWindows
from segengine.segmenters.superpixels import (
    CLASSES,
    check_space,
    require_top,
)
from segengine.types import Cell, Color, Pixels, Prediction, Segmenter

MOST_SPACING, MOST_REACH = 1024, 4096
MOST_DISTANCE = 1e6
"""Of the range, beyond which floats may go."""
_PLACES = 1 << 31
"""Pixels of a side: more than any frame has."""
_SLACK = 1 + 1e-6
"""A colour that lies as far off as is allowed is not beyond it by rounding."""


def create(
    distance: float = 0.1,
    seeds: Literal["grid"] | Sequence[Sequence[int]] = "grid",
    spacing: int | None = None,
    reach: int | None = None,
    merge: float | None = None,
    top: float | None = None,
) -> Grid | Seeds:
    """A segmenter that grows regions from seeds.

    - `distance`: greatest distance of a pixel's colour from its seed's: the root mean square over the
      bands, as a fraction of the range (see `top`), 0 to 1e6.
    - `seeds`: `grid`, one in each square where the frame is most even, or a list of [y, x] in
      pixels, below 2^31.
    - `spacing`: side in pixels of the grid's squares; default 16.
    - `reach`: pixels that a region may grow, counted in steps; default twice `spacing`, or without
      end from a list.
    - `merge`: regions that touch are one where their mean colours are as near as this, measured as
      `distance` is, 0 to 1e6; default half of `distance`, or none with a list.
    - `top`: value that the range ends with, 2047 of 11 bits in a file of 16; 1e-12 to 1e20, default
      the dtype's greatest, 1 of floats.
    """
    require_top(top)
    require_number("distance", distance, 0, MOST_DISTANCE)
    if merge is not None:
        require_number("merge", merge, 0, MOST_DISTANCE)
    if reach is not None:
        require_whole("reach", reach, 1, MOST_REACH)
    if seeds == "grid":
        side = 16 if spacing is None else spacing
        require_whole("spacing", side, 2, MOST_SPACING)
        steps = 2 * side if reach is None else reach
        near = distance / 2 if merge is None else merge
        return Grid(distance=float(distance), spacing=side, reach=steps, near=float(near), top=top)
    if spacing is not None:
        raise ValueError("spacing: is of `seeds: grid`, and these are listed")
    return Seeds(
        distance=float(distance),
        places=_places(seeds),
        reach=UNBOUNDED if reach is None else reach,
        near=None if merge is None else float(merge),
        top=top,
    )


@dataclass(frozen=True, slots=True)
class Grid(InWindows):
    """Regions from the most even pixel of every square."""

    distance: float
    """Fraction of the range."""
    spacing: int
    """Side of the squares, in pixels."""
    reach: int
    """Steps that a region may grow."""
    near: float
    """Fraction of the range up to which regions that touch are one."""
    top: float | None
    """Value that the range ends with; None: the dtype's."""
    version: ClassVar[int] = 1
    stride: ClassVar[int] = 1
    agrees: ClassVar[bool] = True
    outputs: ClassVar[tuple[str, ...]] = ("labels", "instances")
    classes: ClassVar[tuple[str, ...]] = CLASSES
    colors: ClassVar[tuple[Color, ...]] = COLORS

    @property
    def halo(self) -> int:
        """A region's pixels, those that decide on each of them, and the squares of their seeds."""
        squares = self.spacing + self.spacing // 2 + 2
        return 3 * (self.reach + 1) + squares + BAND

    def check_pixels(self, bands: int, dtype: str) -> None:
        """Raise ValueError where colours cannot be compared."""
        check_space(None, bands, dtype)

    def segment(self, pixels: Pixels) -> Prediction:
        """Labels and ids (n, y, x) of pixels (n, y, x, band); right where the halo around is given too."""
        self.check_pixels(pixels.shape[-1], str(pixels.dtype))
        window = pixels.shape[1], pixels.shape[2]
        view = View(self.corner, self.size or window, window)
        margin = self.halo - BAND
        rows, cols = view.inner(0, margin), view.inner(1, margin)
        limit = _squared(self.distance, pixels, self.top)
        near = _squared(self.near, pixels, self.top)

        def ids(frame: Pixels) -> NDArray[np.uint32]:
            values = planes(frame)
            found = _seeded.grown_from_grid(values, view, self.spacing, limit, self.reach)
            return numbered(_seeded.merged(values, found, near, rows, cols) if self.near else found)

        return of_frames(pixels, ids)


@dataclass(frozen=True, slots=True)
class Seeds:
    """Regions of whole frames from given pixels, the same in each."""

    distance: float
    """Fraction of the range."""
    places: tuple[Cell, ...]
    """(y, x) of the seeds."""
    reach: int
    """Steps that a region may grow."""
    near: float | None
    """Fraction of the range up to which regions that touch are one; None: none are."""
    top: float | None
    """Value that the range ends with; None: the dtype's."""
    version: ClassVar[int] = 1
    halo: ClassVar[None] = None
    stride: ClassVar[int] = 1
    outputs: ClassVar[tuple[str, ...]] = ("labels", "instances")
    classes: ClassVar[tuple[str, ...]] = CLASSES
    colors: ClassVar[tuple[Color, ...]] = COLORS

    def check_pixels(self, bands: int, dtype: str) -> None:
        """Raise ValueError where colours cannot be compared."""
        check_space(None, bands, dtype)

    def segment(self, pixels: Pixels) -> Prediction:
        """Labels and ids (n, y, x) of whole frames (n, y, x, band)."""
        self.check_pixels(pixels.shape[-1], str(pixels.dtype))
        _, height, width, _ = pixels.shape
        limit, places = _squared(self.distance, pixels, self.top), np.array(self.places, np.int64)
        near = None if self.near is None else _squared(self.near, pixels, self.top)

        def ids(frame: Pixels) -> NDArray[np.uint32]:
            if len(places) == 1 and self.reach >= height * width:
                out = np.empty((height, width), np.uint32)
                _seeded.flood(frame, self.places[0], limit, out)
                return out
            values = planes(frame)
            found = _seeded.grown_from(values, places, limit, self.reach)
            if near is not None:
                found = _seeded.merged(values, found, near, (0, height), (0, width))
            return numbered(found)

        return of_frames(pixels, ids)


def _squared(distance: float, pixels: Pixels, top: float | None) -> float:
    """A fraction of the range as a squared distance, summed over the bands."""
    return float((distance * (top or top_of(pixels.dtype))) ** 2 * pixels.shape[-1] * _SLACK)


def _places(seeds: object) -> tuple[Cell, ...]:
    """Seeds as a job has them."""
    message = f"seeds: {seeds!r} is neither grid nor a list of [y, x]"
    if isinstance(seeds, str) or not isinstance(seeds, Sequence) or not seeds:
        raise ValueError(message)
    for place in seeds:
        if isinstance(place, str) or not isinstance(place, Sequence) or len(place) != 2:
            raise ValueError(message)
        for value in place:
            if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < _PLACES:
                raise ValueError(
                    f"seeds: {list(place)!r} is no [y, x] in whole pixels, 0 or more and below 2^31"
                )
    return tuple((y, x) for y, x in seeds)


_segmenters: tuple[type[Segmenter], ...] = (Grid, Seeds)
