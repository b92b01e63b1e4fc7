"""Slides of pathology (Aperio, Hamamatsu, Leica, Ventana, pyramidal TIFF), by micrometres a pixel."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from segengine.errors import CorruptInputError
from segengine.sources._bounds import MOST_BYTES, require_bounded
from segengine.sources._files import changed, open_input
from segengine.sources._grid import Grid, require_grid, target
from segengine.sources._volumes import damage, needed
from segengine.sources._warp import Resampling, Warp
from segengine.types import Bool, Entry, FrameRef, Probe, Tile, Unreadable

GLASS = 220
"""Gray from which on a pixel is glass, in all three bands."""
_COARSE = 8.0
"""Micrometres, or pixels of the slide where it says none, of a pixel by which tissue is looked for."""
_LARGEST = 1 << 26
"""Pixels of the level that is looked at as a whole."""
_COARSER = 1 + 1e-3
"""By how much a level may be coarser than what is asked for and still be it."""


@dataclass(frozen=True, slots=True)
class Slides:
    """Slides as one frame each in RGB of 8 bit, read by tiffslide in windows of the level that fits."""

    resolution: float | None = None
    """Micrometres a pixel; None: the finest level as it is."""
    resampling: Resampling = "nearest"
    """From the coarsest level that is no coarser."""
    tissue: bool = False
    """Glass is void, and windows without tissue are never read."""

    def __post_init__(self) -> None:
        require_grid(self.resolution, None, self.resampling)
        if not isinstance(self.tissue, bool):
            raise ValueError(f"tissue: is {self.tissue!r}; it must be true or false")

    def probe(self, entry: Entry) -> Probe:
        """What the headers of its levels say; raises CorruptInputError or TransientInputError."""
        with _opened(entry.uri) as slide:
            grid, _, _ = self._grids(slide)
            require_bounded(grid.height, grid.width, 3)
            about: dict[str, Any] = {"levels": len(slide.levels)}
            if slide.micrometres is not None:
                about["micrometres"] = [grid.transform[4], grid.transform[0]]
            if self.tissue:
                slide.tissue()  # what cannot be looked at is said now
            return Probe(
                kind="volume",
                height=grid.height,
                width=grid.width,
                bands=3,
                dtype="uint8",
                windowed=True,
                attributes={"slide": about},
            )

    def tile(self, ref: FrameRef, rows: slice, cols: slice) -> Tile | Unreadable:
        """A window of a slide. Raises as `probe`."""
        with _opened(ref.uri) as slide:
            grid, level, own = self._grids(slide)
            other = changed(ref, grid.height, grid.width)
            if other is not None:
                return other
            there = None
            if self.tissue:
                there = _picked(_tissue(slide, ref), grid, rows, cols)
                if not there.any():
                    shape = rows.stop - rows.start, cols.stop - cols.start
                    return Tile(np.zeros((*shape, 3), np.uint8), there)
            warp = Warp(grid, own, self.resampling)
            pixels, valid = warp.read(partial(slide.read, level), rows, cols, 3, "uint8")
        if there is not None:
            valid = there if valid is None else valid & there
        return Tile(np.ascontiguousarray(pixels), None if valid is None or valid.all() else valid)

    def _grids(self, slide: _Slide) -> tuple[Grid, int, Grid]:
        """The grid of the mask; the level that it is read from, and that one's grid."""
        finest = slide.grid(0)
        if self.resolution is None:
            return finest, 0, finest
        if slide.micrometres is None:
            raise CorruptInputError(
                "says no micrometres a pixel; leave source.resolution out to read its finest level"
            )
        grid = target([finest], [""], self.resolution, "")
        fit = [
            i
            for i in range(len(slide.levels))
            if max(slide.grid(i).transform[0], slide.grid(i).transform[4])
            <= self.resolution * _COARSER
        ]
        level = max(fit, key=lambda i: slide.grid(i).transform[0], default=0)
        return grid, level, slide.grid(level)


@dataclass(frozen=True, slots=True)
class _Slide:
    """An open slide."""

    file: Any
    levels: tuple[tuple[int, int], ...]
    """(height, width) of each, the finest first."""
    micrometres: tuple[float, float] | None
    """Of a pixel of the finest, y and x."""

    def grid(self, level: int) -> Grid:
        """Where the pixels of a level lie, in micrometres from the upper left corner."""
        (height, width), (tall, wide) = self.levels[level], self.levels[0]
        y, x = self.micrometres or (1.0, 1.0)
        return Grid(height, width, (x * wide / width, 0.0, 0.0, 0.0, y * tall / height, 0.0))

    def read(self, level: int, rows: slice, cols: slice) -> tuple[NDArray[np.uint8], None]:
        """(y, x, 3) of a level."""
        (tall, wide), (height, width) = self.levels[0], self.levels[level]
        # Places are told in pixels of the finest level, and rounded down to those of this one.
        place = -(-cols.start * wide // width), -(-rows.start * tall // height)
        size = cols.stop - cols.start, rows.stop - rows.start
        found = np.asarray(self.file.read_region(place, level, size, as_array=True))
        if found.shape[:2] != size[::-1] or found.dtype != np.uint8 or found.shape[2] < 3:
            raise CorruptInputError(f"damaged slide: {found.shape} of {found.dtype} is no RGB")
        return found[..., :3], None

    def tissue(self) -> Bool:
        """(y, x) of a coarse level, where there is something on the glass or beside it."""
        most = _COARSE * max((self.micrometres or (1.0, 1.0))[1], 1)
        coarse = [i for i in range(len(self.levels)) if self.grid(i).transform[0] <= most]
        held = [i for i in range(len(self.levels)) if math.prod(self.levels[i]) <= _LARGEST]
        level = next((i for i in reversed(coarse) if i in held), held[0] if held else None)
        if level is None:
            raise CorruptInputError("has no level that is small enough to look for tissue")
        height, width = self.levels[level]
        pixels, _ = self.read(level, slice(0, height), slice(0, width))
        import cv2

        # Of a finer level each gap between cells would be glass, and each speck something.
        parts = max(int(most / self.grid(level).transform[0]), 1)
        if parts > 1:
            size = max(width // parts, 1), max(height // parts, 1)
            pixels = np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA))
        glass = pixels.min(axis=-1) >= GLASS
        near = cv2.dilate((~glass).astype(np.uint8), np.ones((3, 3), np.uint8))
        return np.asarray(near > 0)


def _tissue(slide: _Slide, ref: FrameRef) -> Bool:
    if not ref.fingerprint:
        return slide.tissue()
    key = ref.uri, ref.fingerprint
    found = _TISSUE.get(key)
    if found is None:
        found = slide.tissue()
        while len(_TISSUE) >= _KEPT:
            _TISSUE.pop(next(iter(_TISSUE), key), None)
        _TISSUE[key] = found
    return found


_TISSUE: dict[tuple[str, str], Bool] = {}
_KEPT = 4


def _picked(tissue: Bool, grid: Grid, rows: slice, cols: slice) -> Bool:
    """(y, x) of a window of a grid over the whole slide: the coarse pixel that each centre lies in."""
    height, width = tissue.shape
    y = ((2 * np.arange(rows.start, rows.stop) + 1) * height) // (2 * grid.height)
    x = ((2 * np.arange(cols.start, cols.stop) + 1) * width) // (2 * grid.width)
    return tissue[np.ix_(np.minimum(y, height - 1), np.minimum(x, width - 1))]


@contextmanager
def _opened(uri: str) -> Iterator[_Slide]:
    """An open slide. Raises CorruptInputError, TransientInputError."""
    tiffslide = needed("tiffslide")
    log = logging.getLogger("tifffile")
    if not log.handlers:  # else what it finds odd goes to the terminal, though nobody asked
        log.addHandler(logging.NullHandler())
    with open_input(uri) as file, warnings.catch_warnings(), damage("slide"):
        warnings.simplefilter("ignore")
        size = file.seek(0, 2)
        file.seek(0)
        with tiffslide.TiffSlide(file) as found:
            levels = tuple((int(h), int(w)) for w, h in found.level_dimensions)
            require_bounded(*levels[0], 3)
            _require_whole(found.ts_tifffile, size)
            yield _Slide(found, levels, _micrometres(found.properties))


def _require_whole(file: Any, size: int) -> None:
    """Raise CorruptInputError for tiles beyond the end, or larger than what is decoded whole."""
    for level in file.series[0].levels:
        page = level.keyframe
        if not page.is_tiled and math.prod(page.shape) > _LARGEST * 3:
            raise CorruptInputError("a slide without tiles, which is not read in windows")
        if math.prod(page.chunks) * page.dtype.itemsize > MOST_BYTES:
            raise CorruptInputError(
                f"has tiles of {page.chunks}; at most {MOST_BYTES:,} bytes are read"
            )
        ends = np.add(page.dataoffsets, page.databytecounts, dtype=np.int64)
        if len(ends) and int(ends.max()) > size:
            raise CorruptInputError(
                f"cut short: a tile ends at byte {int(ends.max()):,} of {size:,}"
            )


def _micrometres(properties: Any) -> tuple[float, float] | None:
    found = [properties.get(f"tiffslide.mpp-{axis}") for axis in "yx"]
    try:
        sides = [float(cast("Any", side)) for side in found]
    except (TypeError, ValueError):
        return None
    return (sides[0], sides[1]) if all(0 < side < 1e4 for side in sides) else None
