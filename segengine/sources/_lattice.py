"""The lattice of a map of many scenes, and where each of them lies on it.

lattice(grids)         the finest scene's own pixels, going on without end; with `resolution` square ones
                       from the upper left corner of all scenes on, in `crs`
Lattice.boxes(grid)    rows and columns that a scene covers, and those that its pixels may reach
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from segengine.errors import CorruptInputError
from segengine.mosaics import Cells
from segengine.sources._grid import (
    IDENTITY,
    Grid,
    crs_of,
    local,
    reprojected,
    same_crs,
    shifted,
    side_of,
)
from segengine.sources._mosaic import shift
from segengine.types import Probe

ROUND = 1e-3
"""Part of a pixel by which a scene may overstep whole pixels and not cover one more."""
_NEARLY = 1.1
"""By how much a pixel in the CRS asked for may be larger than one of another CRS, and be as fine."""
_KERNEL = 3
"""Pixels of the coarser grid that a kernel may reach."""
_BULGE = 200
"""Of a side that is bent in another CRS: the part by which it may lie beyond what GDAL looked at."""
_FARTHEST = 1 << 40
_TOLD = ("crs_wkt", "transform", "nodata", "band_names")
"""What is said of a map as of any scene."""


def grid_of(probe: Probe) -> Grid:
    """The grid of a scene whose header has been read."""
    place = tuple(probe.attributes.get("transform") or IDENTITY)
    wkt = str(probe.attributes.get("crs_wkt") or "")
    return Grid(probe.height, probe.width, place, wkt)


def told_of(grid: Grid, attributes: Mapping[str, Any], *, ordered: bool) -> dict[str, Any]:
    """JSON values for the group of a map, from those of one of its scenes.

    `ordered`: as one file would have them that is read as it is, else in the order that they have.
    """
    found = {**attributes, "crs_wkt": grid.wkt, "transform": list(grid.transform)}
    keys = _TOLD if ordered else tuple(found)
    return {key: found[key] for key in keys if key in _TOLD and found.get(key, "") != ""}


def require_placed(grid: Grid, crs: str) -> None:
    """Raise CorruptInputError for a scene that lies nowhere, or cannot be brought to `crs`."""
    if not all(map(math.isfinite, grid.transform)) or grid.area == 0:
        raise CorruptInputError("has a transform of no area")
    if crs and not grid.wkt:
        raise CorruptInputError("has no CRS, which source.crs could be reached from")
    if crs and not same_crs(crs, grid.wkt):
        reprojected(grid, crs, None)


def lattice(grids: Sequence[Grid], resolution: float | str | None, crs: str) -> Lattice:
    """The lattice of scenes, all placed, and in one CRS where `crs` is empty."""
    resolution = side_of(resolution, grids, crs)
    wkt = crs_of(crs).to_wkt() if crs else grids[0].wkt
    here = [grid for grid in grids if same_crs(grid.wkt, wkt)]
    there = [reprojected(grid, wkt, resolution) for grid in grids if not same_crs(grid.wkt, wkt)]
    if resolution is None:
        finest = [min(each, key=lambda grid: grid.area) for each in (here, there) if each]
        own = finest[0]
        if here and there and own.area > _NEARLY * finest[1].area:
            own = finest[1]
        return Lattice(Grid(1, 1, own.transform, own.wkt))
    lefts, bottoms, _, tops = zip(*(grid.bounds for grid in (*here, *there)), strict=True)
    if not wkt and here[0].transform[4] > 0:  # y grows downwards, as in a picture
        return Lattice(Grid(1, 1, (resolution, 0.0, min(lefts), 0.0, resolution, min(bottoms))))
    return Lattice(Grid(1, 1, (resolution, 0.0, min(lefts), 0.0, -resolution, max(tops)), wkt))


@dataclass(frozen=True, slots=True)
class Lattice:
    """Pixels of one size in one CRS, counted from a corner in all directions."""

    grid: Grid
    """Of the first pixel."""

    def starting(self, row: int, column: int) -> Lattice:
        """The same, counted from another corner."""
        return Lattice(Grid(1, 1, shifted(self.grid.transform, column, row), self.grid.wkt))

    def boxes(self, grid: Grid) -> tuple[Cells, Cells]:
        """First row and column that a scene covers, and those after the last; and of those it may reach.

        Raises CorruptInputError for a scene that is too far away to count.
        """
        same = same_crs(grid.wkt, self.grid.wkt)
        found = grid if same else reprojected(grid, self.grid.wkt, None)
        a, b, c, d, e, f = local(found, self.grid)
        ends = ((0, 0), (found.width, 0), (found.width, found.height), (0, found.height))
        columns = [a * i + b * j + c for i, j in ends]
        rows = [d * i + e * j + f for i, j in ends]
        if not max(map(abs, (*columns, *rows))) < _FARTHEST:
            raise CorruptInputError("lies too far from the other scenes to be in one map with them")
        top, left = math.floor(min(rows) + ROUND), math.floor(min(columns) + ROUND)
        bottom = max(math.ceil(max(rows) - ROUND), top + 1)
        right = max(math.ceil(max(columns) - ROUND), left + 1)
        covers = top, left, bottom, right
        if same and shift(self.grid, grid) is not None:
            return covers, covers
        more = 4 + math.ceil(_KERNEL * max(1.0, math.sqrt(found.area / self.grid.area)))
        more += 0 if same else max(bottom - top, right - left) // _BULGE
        return covers, (top - more, left - more, bottom + more, right + more)
