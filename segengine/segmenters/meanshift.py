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
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import numpy as np

from segengine.instances.merging import merged_frames
from segengine.segmenters._meanshift import Filter
from segengine.segmenters._options import require_number, require_whole
from segengine.segmenters._regions import COLORS
from segengine.segmenters._squares import View
from segengine.segmenters._windows import InWindows
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
    require_whole("spatial", spatial, 1, MOST_SPATIAL)
    require_whole("iterations", iterations, 1, MOST_ITERATIONS)
    require_whole("min_size", min_size, 1, MOST_SIZE)
    if small not in get_args(Small):
        raise ValueError(f"small: {small!r} is not one of {', '.join(get_args(Small))}")
    require_number("range", range, LEAST, MOST)
    if join_spatial is not None:
        require_number("join_spatial", join_spatial, LEAST, MOST)
    if join_range is not None:
        require_number("join_range", join_range, LEAST, MOST)
    if isinstance(convergence, bool) or not isinstance(convergence, int | float):
        raise ValueError(f"convergence: {convergence!r} is no number")
    if not 0 <= convergence < math.inf:
        raise ValueError(f"convergence: {convergence} is not finite, 0 or more")
    reach = float(range)
    near = spatial / 2 if join_spatial is None else float(join_spatial)
    like = reach / 2 if join_range is None else float(join_range)
    how = Filter(spatial, reach, iterations, float(convergence))
    return MeanShift(how, near / spatial, like / reach, min_size, small == "drop")


@dataclass(frozen=True, slots=True)
class MeanShift(InWindows):
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
    version: ClassVar[int] = 1
    stride: ClassVar[int] = 1
    outputs: ClassVar[tuple[str, ...]] = ("labels", "instances")
    classes: ClassVar[tuple[str, ...]] = ("line", "region")
    colors: ClassVar[tuple[Color, ...]] = COLORS

    @property
    def halo(self) -> int:
        return self.filter.reach + 1  # a link looks at the neighbour

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
        window = height, width
        view = View(self.corner, self.size or window, window)
        (top, bottom), (left, right) = (view.inner(axis, self.filter.reach) for axis in (0, 1))
        return slice(min(top, height), max(top, bottom)), slice(min(left, width), max(left, right))


_merger: type[Merger] = MeanShift
_placed: type[Placed] = MeanShift
