"""The area of interest: which pixels of a grid have their centre in it, and what is read for them.

    [west, south, east, north] in degrees, or GeoJSON, GeoPackage, FlatGeobuf
    -> polygons in their own CRS -> outlines in pixels of a grid, with as many points as bends ask for
    -> blocks of 512 counted from the grid's corner: GDAL's rule of centres, whatever the window is

A polygon's sides are straight in its own CRS. West of a box may be greater than east: then it crosses
the date line.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segengine.errors import CorruptInputError, JobError, TransientInputError
from segengine.sources._grid import Grid, crs_of, inverse, turn_of
from segengine.sources._polygons import DEGREES, Polygon, digest, polygons_in
from segengine.types import Bool

BLOCK = 512
"""Side of what is filled at once."""
STRIP = 256
"""Rows of a window that are read at once where the area does not fill it."""
_BEND = 1e-3
"""Of a pixel: by how much a side may miss the bend that it has in the grid."""
_ROUNDS, _MOST = 12, 1 << 21
"""Times that sides are halved, and points of all outlines then."""
_EDGE = 41
"""Points along each side of a grid of which it is looked up where they lie."""

BETWEEN = "holds no centre of a pixel"
"""An area that touches a scene, and has none of its pixels; other scenes lie outside."""

Box = tuple[float, float, float, float]
"""West, south, east, north, in degrees."""


def require_area(area: object) -> str | Box | None:
    """The option as text or a box. Raises ValueError for anything else."""
    if area is None or (isinstance(area, str) and area.strip()):
        return area
    if not isinstance(area, Sequence) or isinstance(area, str) or len(area) != 4:
        raise ValueError(
            f"area: is {str(area)[:100]!r}; name a file of polygons, or [west, south, east, north]"
        )
    if any(isinstance(v, bool) or not isinstance(v, int | float) for v in area):
        raise ValueError(f"area: {list(area)!r} are not four numbers, in degrees")
    west, south, east, north = (float(v) for v in area)
    if not (-180 <= west <= 180 and -180 <= east <= 180 and -90 <= south < north <= 90):
        raise ValueError(
            f"area: {list(area)!r} is no box of degrees: west and east lie in -180 to 180, south is less "
            "than north, both in -90 to 90"
        )
    if west == east:
        raise ValueError(f"area: {list(area)!r} has no width")
    return west, south, east, north


def mark_of(area: str | Sequence[float] | None) -> str:
    """Digest of what an area says; empty: there is none. Raises ValueError where it cannot be read."""
    if area is None:
        return ""
    if not isinstance(area, str):
        return repr(tuple(map(float, area)))
    try:
        return digest(area)
    except (CorruptInputError, TransientInputError) as error:
        raise ValueError(f"area: {area}: {error}") from error


def require_polygons(given: object) -> None:
    """Raise ValueError, of one line, where an area's polygons cannot be read."""
    area = require_area(given)
    if area is not None:
        mark = mark_of(area)
        try:
            _shape(area, mark)
        except (CorruptInputError, TransientInputError) as error:
            raise ValueError(f"area: {area}: {error}") from error


def missed(inputs: int, reasons: Iterable[str]) -> JobError:
    """The error for an area that has no pixel of so many inputs; `reasons`: what was said of them."""
    if any(BETWEEN in reason for reason in reasons):
        return JobError(
            f"source.area: {BETWEEN} of the {inputs:,} inputs, and a pixel lies where its centre does; "
            "make it larger, or the pixels smaller by source.resolution"
        )
    return JobError(f"source.area: lies outside all of the {inputs:,} inputs; check its CRS")


@dataclass(frozen=True, slots=True, eq=False)
class Shape:
    """An area in its own CRS."""

    wkt: str
    polygons: tuple[Polygon, ...]

    @property
    def bounds(self) -> NDArray[np.float64]:
        """(polygon, 4): least x and y, most x and y."""
        ends = [(*p[0].min(axis=0), *p[0].max(axis=0)) for p in self.polygons]
        return np.array(ends).reshape(-1, 4)


@lru_cache(maxsize=8)
def _shape(area: str | Box, mark: str) -> Shape:
    if isinstance(area, str):
        wkt, polygons = polygons_in(area)
        if mark and digest(area) != mark:
            raise TransientInputError("source.area has changed since the run began; run again")
        return Shape(wkt, polygons)
    west, south, east, north = area
    boxes = [(west, east)] if west < east else [(west, 180.0), (-180.0, east)]
    return Shape(
        DEGREES,
        tuple(
            (np.array([(a, south), (b, south), (b, north), (a, north), (a, south)], np.float64),)
            for a, b in boxes
            if a < b
        ),
    )


def outlines_on(area: str | Box, mark: str, grid: Grid) -> tuple[Polygon, ...]:
    """An area in pixels (column, row) of a grid that goes on without end. Raises as `area_on`, and
    CorruptInputError where the grid's CRS does not hold all of it."""
    if not grid.wkt:
        raise CorruptInputError("has no CRS, by which source.area could be found in it")
    shape = _shape(area, mark)
    return tuple(_outlines(shape.polygons, shape.wkt, grid))


def touching(outlines: Sequence[Polygon], boxes: NDArray[np.int64]) -> Bool:
    """(box,) which of (box, 4), first row and column and those after the last, meet an area."""
    import shapely

    tree = shapely.STRtree(
        [shapely.make_valid(shapely.Polygon(each[0], each[1:])) for each in outlines]
    )
    top, left, bottom, right = boxes.T
    met, _ = tree.query(shapely.box(left, top, right, bottom), predicate="intersects")
    found = np.zeros(len(boxes), np.bool_)
    found[met] = True
    return found


def area_on(area: str | Box, mark: str, grid: Grid) -> AreaOn:
    """An area on a grid; `mark`: what its file said when that was planned, empty: what it says now.

    Raises CorruptInputError where nothing says where the grid lies, TransientInputError.
    """
    now = digest(area) if isinstance(area, str) and not mark else mark
    return _area_on(area, now, grid)


@lru_cache(maxsize=64)
def _area_on(area: str | Box, mark: str, grid: Grid) -> AreaOn:
    if not grid.placed or not grid.wkt:
        raise CorruptInputError(
            "has no CRS or no transform, by which source.area could be found in it"
        )
    shape = _shape(area, mark)
    low, high = _around(grid, shape.wkt)
    polygons: list[Polygon] = []
    for turns in _turns(shape.wkt):
        by = np.array([turns, 0.0])
        for polygon, bounds in zip(shape.polygons, shape.bounds, strict=True):
            least, most = bounds[:2] + by, bounds[2:] + by
            if (least <= high).all() and (most >= low).all():
                span = high - low
                inner = (least >= low - span).all() and (most <= high + span).all()
                moved = tuple(ring + by for ring in polygon)
                polygons += [moved] if inner else _clipped(moved, low - span, high + span)
    outlines = _outlines(polygons, shape.wkt, grid)
    return AreaOn(grid, tuple(_around_the_earth(outlines, grid)))


def _turns(wkt: str) -> tuple[float, ...]:
    """What longitudes may differ by that are the same place; 0 alone in a CRS without longitudes."""
    turn = turn_of(wkt)
    return (0.0, -turn, turn) if turn else (0.0,)


def _around_the_earth(outlines: Iterator[Polygon], grid: Grid) -> Iterator[Polygon]:
    """Outlines where a turn brings them to the grid: scenes go on beyond 180 degrees, or begin at 0."""
    a, _, _, d, _, _ = inverse(grid.transform)
    turns = [turn * np.array([a, d]) for turn in _turns(grid.wkt)]
    for outline in outlines:
        for by in turns:
            moved = tuple(ring + by for ring in outline)
            low, high = moved[0].min(axis=0), moved[0].max(axis=0)
            if (high >= 0).all() and (low <= (grid.width, grid.height)).all():
                yield moved


@dataclass(frozen=True, slots=True, eq=False)
class AreaOn:
    """Outlines in pixels of a grid: (column, row) from its corner."""

    grid: Grid
    outlines: tuple[Polygon, ...]
    boxes: NDArray[np.int64] = field(init=False)
    """(outline, 4): first column and row, those after the last."""

    def __post_init__(self) -> None:
        ends = [
            (*np.floor(p[0].min(axis=0)), *np.ceil(p[0].max(axis=0) + 1)) for p in self.outlines
        ]
        most = float(1 << 40)
        boxes = np.clip(np.array(ends).reshape(-1, 4), -most, most).astype(np.int64)
        object.__setattr__(self, "boxes", boxes)

    def inside(self, rows: slice, cols: slice) -> Bool:
        """(y, x) pixels whose centre lies in a polygon."""
        found = np.zeros((rows.stop - rows.start, cols.stop - cols.start), np.bool_)
        if not self._touches(rows, cols):
            return found
        for y in range(rows.start // BLOCK * BLOCK, rows.stop, BLOCK):
            for x in range(cols.start // BLOCK * BLOCK, cols.stop, BLOCK):
                block = _block(self, y, x)
                if block is None:
                    continue
                top, bottom = max(y, rows.start), min(y + BLOCK, rows.stop)
                left, right = max(x, cols.start), min(x + BLOCK, cols.stop)
                found[
                    top - rows.start : bottom - rows.start, left - cols.start : right - cols.start
                ] = block[top - y : bottom - y, left - x : right - x]
        return found

    def beyond(self, side: int) -> Bool:
        """(y, x) squares of `side` pixels that no outline comes near: at once, and some are left out.

        All that an outline touches or surrounds is burnt into one small picture, and a square around it
        for what rounding may miss.
        """
        import cv2
        import rasterio
        from rasterio import Affine
        from rasterio.features import rasterize

        size = -(-self.grid.height // side), -(-self.grid.width // side)
        if not self.outlines:
            return np.ones(size, np.bool_)
        shapes = [
            {"type": "Polygon", "coordinates": [(ring / side).tolist() for ring in outline]}
            for outline in self.outlines
        ]
        with rasterio.Env():
            near: Any = rasterize(
                shapes, size, fill=0, default_value=1, dtype="uint8", all_touched=True,
                transform=Affine.identity(),
            )  # fmt: skip
        around: Bool = cv2.dilate(near, np.ones((3, 3), np.uint8)) == 0
        return around

    def anywhere(self) -> bool:
        """Whether any pixel of the grid lies inside."""
        for left, top, right, bottom in self.boxes.tolist():
            for y in range(max(top, 0), min(bottom, self.grid.height), BLOCK):
                for x in range(max(left, 0), min(right, self.grid.width), BLOCK):
                    rows = slice(y, min(y + BLOCK, bottom, self.grid.height))
                    if self.inside(rows, slice(x, min(x + BLOCK, right, self.grid.width))).any():
                        return True
        return False

    def touches(self) -> bool:
        """Whether it shares any ground with the grid, if not the centre of a pixel."""
        whole = np.array([[0, 0, self.grid.height, self.grid.width]])
        return bool(touching(self.outlines, whole).any())

    def reads(self, inside: Bool) -> Iterator[tuple[slice, slice]]:
        """Rows and columns of a window, whose pixels are inside or not, that hold all that are."""
        if inside.all():
            yield slice(0, inside.shape[0]), slice(0, inside.shape[1])
            return
        last: tuple[int, int, int, int] | None = None
        for start in range(0, inside.shape[0], STRIP):
            strip = inside[start : start + STRIP]
            rows, cols = np.flatnonzero(strip.any(axis=1)), np.flatnonzero(strip.any(axis=0))
            if not len(rows):
                continue
            box = (start + int(rows[0]), start + int(rows[-1]) + 1, int(cols[0]), int(cols[-1]) + 1)
            if last is not None and last[1] == box[0] and last[2:] == box[2:]:
                last = last[0], box[1], box[2], box[3]
                continue
            if last is not None:
                yield slice(last[0], last[1]), slice(last[2], last[3])
            last = box
        if last is not None:
            yield slice(last[0], last[1]), slice(last[2], last[3])

    def _touches(self, rows: slice, cols: slice) -> bool:
        """Whether a pixel of the window may lie inside: by the outlines' boxes."""
        left, top, right, bottom = self.boxes.T
        near = (left < cols.stop) & (right > cols.start) & (top < rows.stop) & (bottom > rows.start)
        return bool(near.any())


@lru_cache(maxsize=64)
def _block(area: AreaOn, y: int, x: int) -> Bool | None:
    """Pixels of a block from a row and a column on; None: none of them lies inside."""
    import rasterio
    from rasterio import Affine
    from rasterio.features import rasterize

    left, top, right, bottom = area.boxes.T
    near = np.flatnonzero(
        (left < x + BLOCK) & (right > x) & (top < y + BLOCK) & (bottom > y)
    ).tolist()
    if not near:
        return None
    corner = np.array([x, y], np.float64)
    shapes = [
        {"type": "Polygon", "coordinates": [(r - corner).tolist() for r in area.outlines[i]]}
        for i in near
    ]
    with rasterio.Env():
        found: Any = rasterize(
            shapes, (BLOCK, BLOCK), fill=0, default_value=1, dtype="uint8",
            transform=Affine.identity(),
        )  # fmt: skip
    return found.astype(np.bool_) if found.any() else None


def _around(grid: Grid, wkt: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Least and most x and y of a grid in another CRS, with some margin.

    What lies far away is left out, or cut: there a CRS's formulas mean nothing.
    """
    from rasterio.warp import transform

    steps = np.linspace(0, 1, _EDGE)
    columns, rows = (p.ravel() for p in np.meshgrid(steps * grid.width, steps * grid.height))
    a, b, c, d, e, f = grid.transform
    xs, ys = a * columns + b * rows + c, d * columns + e * rows + f
    try:
        found = np.array(transform(crs_of(grid.wkt), crs_of(wkt), xs.tolist(), ys.tolist()))
    except Exception as error:
        raise CorruptInputError("source.area cannot be brought to its CRS") from error
    found = found[:, np.isfinite(found).all(axis=0)]
    if not found.size:
        raise CorruptInputError("source.area cannot be brought to its CRS")
    low, high = found.min(axis=1), found.max(axis=1)
    margin = (high - low) / (_EDGE - 1)
    if crs_of(wkt).is_geographic and high[0] - low[0] > 180:
        low[0], high[0] = -360.0, 360.0  # it lies across the date line, or around a pole
    return low - margin, high + margin


def _clipped(
    polygon: Polygon, low: NDArray[np.float64], high: NDArray[np.float64]
) -> list[Polygon]:
    """What of a polygon lies in a box, far outside of which the grid has no pixel."""
    import shapely

    shape = shapely.make_valid(shapely.Polygon(polygon[0], polygon[1:]))
    found = shapely.get_parts(shapely.get_parts(shapely.clip_by_rect(shape, *low, *high)))
    return [
        tuple(shapely.get_coordinates(ring) for ring in (part.exterior, *part.interiors))
        for part in found
        if part.geom_type == "Polygon" and not part.is_empty
    ]


def _outlines(polygons: Sequence[Polygon], wkt: str, grid: Grid) -> Iterator[Polygon]:
    used = 0
    for polygon in polygons:
        rings = tuple(_bent(ring, wkt, grid) for ring in polygon)
        used += sum(map(len, rings))
        if used > _MOST:
            raise CorruptInputError(f"source.area has more than {_MOST:,} points in its grid")
        yield rings


def _bent(ring: NDArray[np.float64], wkt: str, grid: Grid) -> NDArray[np.float64]:
    """A ring in pixels, its sides halved until they follow what they are in the polygon's own CRS."""
    points = ring
    pixels = _to_pixels(points, wkt, grid)
    if wkt == grid.wkt:
        return pixels
    todo = np.ones(len(points) - 1, np.bool_)
    for _ in range(_ROUNDS):
        if not todo.any() or len(points) > _MOST:
            break
        at = np.flatnonzero(todo)
        middle = (points[at] + points[at + 1]) / 2
        moved = _to_pixels(middle, wkt, grid)
        bend = np.abs(moved - (pixels[at] + pixels[at + 1]) / 2).max(axis=1)
        keep = bend > _BEND
        points = np.insert(points, at[keep] + 1, middle[keep], axis=0)
        pixels = np.insert(pixels, at[keep] + 1, moved[keep], axis=0)
        halved = np.zeros(len(todo), np.bool_)
        halved[at[keep]] = True
        todo = np.repeat(halved, np.where(halved, 2, 1))
    return pixels


def _to_pixels(points: NDArray[np.float64], wkt: str, grid: Grid) -> NDArray[np.float64]:
    from rasterio.warp import transform

    xs, ys = points[:, 0], points[:, 1]
    if wkt != grid.wkt:
        try:
            moved = transform(crs_of(wkt), crs_of(grid.wkt), xs.tolist(), ys.tolist())
        except Exception as error:
            raise CorruptInputError("source.area cannot be brought to its CRS") from error
        xs, ys = (np.asarray(axis, np.float64) for axis in moved)
    if not (np.isfinite(xs).all() and np.isfinite(ys).all()):
        raise CorruptInputError(
            "source.area reaches where its CRS does not: cut the area, or set source.crs"
        )
    a, b, c, d, e, f = inverse(grid.transform)
    return np.stack([a * xs + b * ys + c, d * xs + e * ys + f], axis=1)
