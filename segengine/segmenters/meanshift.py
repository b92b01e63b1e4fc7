"""Mean shift: an image parted in regions that are alike, as Orfeo ToolBox' LargeScaleMeanShift does.

    filter     each pixel moves to the mean of what is near and like it, place and values (`_meanshift`)
    connect    neighbours, by their sides, are one region where they ended near and like each other
    merge      a region that is too small becomes one with the neighbour of the nearest mean
               (`segengine.instances.merging`)

Nothing depends on the cut: a pixel's way has an end, so that windows with that much context filter it
alike, and regions are joined and merged by integers over the whole frame (Michel, Youssefi and Grizonnet
2015, "Stable mean-shift algorithm and its application to the segmentation of arbitrarily large remote
sensing images").
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self, get_args

import numpy as np

from segengine.instances.merging import merged_frames
from segengine.segmenters._meanshift import Filter
from segengine.types import Bool, Color, Connected, Merger, Pixels, Placed, Prediction

Small = Literal["merge", "drop"]
MOST_SPATIAL = 64
MOST_ITERATIONS = 1000
MOST_SIZE = 1 << 30
LEAST, MOST = 1e-12, 1e12
"""Of radii, whose squares float32 holds."""


def create(
    spatial: int = 5,
    range: float = 15.0,
    iterations: int = 10,
    convergence: float = 0.1,
    join_spatial: float | None = None,
    join_range: float | None = None,
    min_size: int = 50,
    small: Small = "merge",
) -> MeanShift:
    """Regions of pixels that mean shift brings together.

    - `spatial`: radius in pixels within which a pixel looks for what is like it.
    - `range`: radius in the units of the pixels, Euclidean over all bands; 1e-12 to
      1e12, and 1/32 or more for integers of 16 bits, 1/8192 for those of 8.
    - `iterations`: most steps of a pixel; the context of a window is `iterations * spatial + 1`.
    - `convergence`: a pixel rests after a step whose square is below it, in pixels and units.
    - `join_spatial`, `join_range`: how near neighbours must end to be one region; default: half of
      `spatial` and of `range`.
    - `min_size`: pixels from which on a region stays.
    - `small`: what becomes of smaller ones; `merge`d with a neighbour, or `drop`ped (label 0).
    """
    if not _whole(spatial) or not 1 <= spatial <= MOST_SPATIAL:
        raise ValueError(f"spatial: {spatial!r} is no whole number of pixels, 1 to {MOST_SPATIAL}")
    if not _whole(iterations) or not 1 <= iterations <= MOST_ITERATIONS:
        raise ValueError(f"iterations: {iterations!r} is no whole number, 1 to {MOST_ITERATIONS}")
    if not _whole(min_size) or not 1 <= min_size <= MOST_SIZE:
        raise ValueError(f"min_size: {min_size!r} is no whole number of pixels, 1 to {MOST_SIZE}")
    if small not in get_args(Small):
        raise ValueError(f"small: {small!r} is not one of {', '.join(get_args(Small))}")
    reach = _positive("range", range)
    if isinstance(convergence, bool) or not isinstance(convergence, int | float):
        raise ValueError(f"convergence: {convergence!r} is no number")
    if not 0 <= convergence < math.inf:
        raise ValueError(f"convergence: {convergence} is not finite, 0 or more")
    near = spatial / 2 if join_spatial is None else _positive("join_spatial", join_spatial)
    like = reach / 2 if join_range is None else _positive("join_range", join_range)
    how = Filter(spatial, reach, iterations, float(convergence))
    return MeanShift(how, near / spatial, like / reach, min_size, small == "drop")


@dataclass(frozen=True, slots=True)
class MeanShift:
    """1 in a region, 0 where it was dropped; ids in `instances`."""

    filter: Filter
    near: float
    """How near neighbours must end to be one region, as a part of the spatial radius."""
    like: float
    """The same of the range radius."""
    least: int
    """Pixels from which on a region stays."""
    drops: bool
    """Smaller ones are dropped, not merged."""
    corner: tuple[int, int] = (0, 0)
    """Where the windows' first pixel is in their frame."""
    size: tuple[int, int] | None = None
    """Of the frame; None: windows are whole frames."""
    version: ClassVar[int] = 1
    stride: ClassVar[int] = 1
    outputs: ClassVar[tuple[str, ...]] = ("labels", "instances")
    classes: ClassVar[tuple[str, ...]] = ("line", "region")
    colors: ClassVar[tuple[Color, ...]] = ((24, 26, 34), (104, 160, 214))

    @property
    def halo(self) -> int:
        return self.filter.reach + 1  # a link looks at the neighbour

    def at(self, corner: tuple[int, int], size: tuple[int, int]) -> Self:
        """It, for windows that begin at `corner` of frames of `size`: their halo stays unfiltered."""
        return replace(self, corner=corner, size=size)

    def check_pixels(self, bands: int, dtype: str) -> None:
        """Raise ValueError where the radius is too small for what integers are told in."""
        if not self.filter.tells(np.dtype(dtype)):
            raise ValueError(
                f"range: {self.filter.range:g} is too small for {dtype}, whose neighbours differ by 1"
            )

    def connect(self, pixels: Pixels, valid: Bool) -> Connected:
        """Links and filtered values of pixels (n, y, x, band), where valid (n, y, x).

        In what is only context of a window they are 0.
        """
        _, height, width, bands = pixels.shape
        rows, cols = self._known(height, width)
        links = np.zeros(valid.shape, np.uint8)
        values = np.zeros((*valid.shape, bands), np.int32)
        for frame, ok, link, value in zip(pixels, valid, links, values, strict=True):
            part = self.filter.connect(frame, ok, (rows, cols), self.near, self.like)
            link[rows, cols], value[rows, cols] = part
        return Connected(links, values)

    def segment(self, pixels: Pixels) -> Prediction:
        """Label whole frames (n, y, x, band); ids from 1 in each, by first pixel in raster order."""
        valid: Bool = np.ones(pixels.shape[:3], np.bool_)
        if pixels.dtype.kind == "f":
            valid &= ~np.isnan(pixels).any(axis=-1)
        ids = merged_frames(self.connect(pixels, valid), valid, self.least, self.drops)
        return Prediction((ids > 0).view(np.uint8), instances=ids)

    def _known(self, height: int, width: int) -> tuple[slice, slice]:
        """The part of a window whose pixels' ways end in it: all but the context where it is cut."""
        reach, found = self.filter.reach, []
        for start, length, whole in zip(
            self.corner, (height, width), self.size or (height, width), strict=True
        ):
            first = reach if start > 0 else 0
            last = length - reach if start + length < whole else length
            found.append(slice(min(first, length), max(first, last)))
        return found[0], found[1]


def _positive(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not LEAST <= value <= MOST:
        raise ValueError(f"{name}: {value!r} is not a number from {LEAST:g} to {MOST:g}")
    return float(value)


def _whole(value: object) -> bool:
    """True for an int that is no bool: options come from a file, whatever their annotation."""
    return isinstance(value, int) and not isinstance(value, bool)


_merger: type[Merger] = MeanShift
_placed: type[Placed] = MeanShift
