"""Pixels of one grid brought to another, by GDAL's warper, so that they do not depend on the window.

    target grid, in blocks counted from its corner             each warped whole, and cropped
      block -> the part of the source that its pixels and the kernel reach -> GDAL -> block

GDAL's warper itself rounds by where a window starts, approximates along the rows of a chunk, and works
the kernel's width out of a chunk's shape. Here a block is always the same call, its rows are short, and
the width is that of pixels inside of it. Nearest along parallel axes, or from one CRS to another, is an
index, and needs no warper.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from segengine.errors import CorruptInputError
from segengine.sources._grid import IDENTITY, Grid, Six, crs_of, inverse, local, same_crs, shifted
from segengine.sources._mesh import centres, lying
from segengine.types import Bool

Resampling = Literal["nearest", "bilinear", "cubic", "average"]
ROWS = 512
"""Of a block, which is warped in one call."""
COLUMNS, FEWER = 512, 64
"""Of a block, and where GDAL warps from one CRS to another: it takes points between the ends and the
middle of a row to lie on lines, to an eighth of a pixel at worst; within so few columns to some
thousandths."""
_MOST = 1 << 28
"""Pixels of a source that one block may need: below that a scale is a mistake."""
_STRIP = 1 << 21
"""Pixels of a source that are held at a time where only some of them are picked."""
_TIE = 1e-10
"""Of a pixel: a centre that lies so near before a border lies on it, as for GDAL."""
_RADIUS = {"nearest": 0.0, "bilinear": 1.0, "cubic": 2.0, "average": 0.5}
"""Of the kernels, in pixels of the coarser grid."""
_STEPS = 21
"""Points along each side of a block of which it is known where they lie in the source."""
_FEW = 5
"""The same, where it is asked how far the next pixels lie."""
_PLANE = "EPSG:3857"
"""Any: the coordinates of both are then pixels."""
_AS = {
    "int8": "int16",
    "int64": "float64",
    "uint64": "float64",
    "bool": "uint8",
    "float16": "float32",
}
"""What the warper does not take, as what it does."""

Read = Callable[[slice, slice], tuple[NDArray[Any], Bool | None]]
"""Pixels (y, x, band) and where they are valid of rows and columns of the source."""


@dataclass(frozen=True, slots=True)
class Warp:
    """From one grid to another."""

    grid: Grid
    """Of what is asked for."""
    source: Grid
    """Of what is read."""
    resampling: Resampling = "nearest"

    @property
    def plain(self) -> bool:
        """Whether both are one."""
        return self.grid == self.source or (
            (self.grid.height, self.grid.width) == (self.source.height, self.source.width)
            and self.grid.transform == self.source.transform
            and same_crs(self.grid.wkt, self.source.wkt)
        )

    @property
    def meets(self) -> bool:
        """Whether the source lies, in part at least, where the target does."""
        here, there = _overlap(self)
        return min(*here, *there) > 0

    @property
    def picks(self) -> bool:
        """Whether each pixel is one of the source, told by its row and its column."""
        straight = self.grid.straight and self.source.straight
        return straight and self.resampling == "nearest" and self._in_one_crs

    @property
    def points(self) -> bool:
        """Whether each pixel is one of the source, told by where its centre lies in another CRS."""
        return self.resampling == "nearest" and not self._in_one_crs

    @property
    def columns(self) -> int:
        """Of a block."""
        return COLUMNS if self._in_one_crs or self.points else FEWER

    @property
    def _in_one_crs(self) -> bool:
        return same_crs(self.grid.wkt, self.source.wkt)

    def read(
        self, read: Read, rows: slice, cols: slice, bands: int, dtype: str
    ) -> tuple[NDArray[Any], Bool | None]:
        """Pixels (y, x, band) and where they are valid of rows and columns of the target."""
        if self.plain:
            return read(rows, cols)
        shape = rows.stop - rows.start, cols.stop - cols.start
        pixels = np.zeros((*shape, bands), dtype)
        valid = np.zeros(shape, np.bool_)
        work = self._picked if self.picks else self._warped
        for at, found, sure in work(read, rows, cols):
            pixels[at] = found
            valid[at] = sure
        return pixels, None if valid.all() else valid

    # Nearest, along the axes

    def _picked(
        self, read: Read, rows: slice, cols: slice
    ) -> Iterator[tuple[tuple[slice, slice], NDArray[Any], Any]]:
        a, _, c, _, e, f = local(self.grid, self.source)
        down, row = _within(_index(rows, e, f), self.source.height)
        along, column = _within(_index(cols, a, c), self.source.width)
        if not (len(row) and len(column)):
            return
        left, right = int(column.min()), int(column.max()) + 1
        step = max(1, int(_STRIP / ((right - left) * max(1.0, abs(e)))))
        for start in range(0, len(row), step):
            part = row[start : start + step]
            top, bottom = int(part.min()), int(part.max()) + 1
            pixels, valid = read(slice(top, bottom), slice(left, right))
            pick = np.ix_(part - top, column - left)
            at = (
                slice(down.start + start, down.start + start + len(part)),
                slice(along.start, along.start + len(column)),
            )
            yield at, pixels[pick], True if valid is None else valid[pick]

    # All else, block by block

    def _warped(
        self, read: Read, rows: slice, cols: slice
    ) -> Iterator[tuple[tuple[slice, slice], NDArray[Any], Any]]:
        wide = self.columns
        for y in range(rows.start // ROWS * ROWS, rows.stop, ROWS):
            for x in range(cols.start // wide * wide, cols.stop, wide):
                block = self._pointed(read, y, x) if self.points else self._block(read, y, x)
                if block is None:
                    continue
                top, bottom = max(y, rows.start), min(y + ROWS, rows.stop)
                left, right = max(x, cols.start), min(x + wide, cols.stop)
                inner = slice(top - y, bottom - y), slice(left - x, right - x)
                at = (
                    slice(top - rows.start, bottom - rows.start),
                    slice(left - cols.start, right - cols.start),
                )
                pixels, valid = block
                yield at, pixels[inner], True if valid is None else valid[inner]

    def _block(self, read: Read, y: int, x: int) -> tuple[NDArray[Any], Bool | None] | None:
        """Pixels and validity of a block; None: nothing of the source lies there."""
        reach = self._reach(y, x)
        if reach is None:
            return None
        rows, cols, inside = reach
        self._require_few(rows, cols)
        pixels, valid = read(rows, cols)
        if inside and valid is None:
            return self._call(pixels, None, rows, cols, y, x)
        if valid is not None and not valid.any():
            return None
        sure = np.ones(pixels.shape[:2], np.bool_) if valid is None else valid
        return self._call(pixels, sure, rows, cols, y, x)

    def _require_few(self, rows: slice, cols: slice) -> None:
        if (rows.stop - rows.start) * (cols.stop - cols.start) > _MOST:
            raise CorruptInputError(
                f"{(rows.stop - rows.start) * (cols.stop - cols.start):,} of its pixels would make one "
                f"block of {self.columns} x {ROWS}: source.resolution is too coarse, or source.crs tears it"
            )

    def _pointed(self, read: Read, y: int, x: int) -> tuple[NDArray[Any], Bool | None] | None:
        """As `_block`, of the pixels in which the centres of a block's lie."""
        columns, lines = centres(self.grid, self.source, y, x, (ROWS, self.columns))
        with np.errstate(invalid="ignore"):
            there = (columns >= 0) & (columns < self.source.width - _TIE)
            there &= (lines >= 0) & (lines < self.source.height - _TIE)
        if not there.any():
            return None
        column = np.floor(np.where(there, columns, 0) + _TIE).astype(np.int64)
        line = np.floor(np.where(there, lines, 0) + _TIE).astype(np.int64)
        whole = _span(line[there]), _span(column[there])
        self._require_few(*whole)
        area = (whole[0].stop - whole[0].start) * (whole[1].stop - whole[1].start)
        step = max(1, ROWS * _STRIP // area)
        found: NDArray[Any] | None = None
        for start in range(0, ROWS, step):
            some = slice(start, start + step)
            here = there[some]
            if not here.any():
                continue
            rows, cols = _span(line[some][here]), _span(column[some][here])
            pixels, valid = read(rows, cols)
            if found is None:
                found = np.zeros((*there.shape, pixels.shape[-1]), pixels.dtype)
            at = line[some][here] - rows.start, column[some][here] - cols.start
            found[some][here] = pixels[at]
            if valid is not None:
                here[here] = valid[at]  # a view: of `there`
        assert found is not None
        return found, None if there.all() else there

    def _reach(self, y: int, x: int) -> tuple[slice, slice, bool] | None:
        """Rows and columns of the source that a block needs, and whether all of these are there."""
        columns, lines = self._in_source(y, x)
        if not len(columns):
            return None
        sx, sy = self.scale_of(y, x)
        radius = _RADIUS[self.resampling]
        # Between the points that were looked at a line may bulge.
        more = 2.0 if self._in_one_crs else 4.0
        across = radius * max(1.0, 1 / sx) + more
        down = radius * max(1.0, 1 / sy) + more
        left, right = math.floor(columns.min() - across), math.ceil(columns.max() + across)
        top, bottom = math.floor(lines.min() - down), math.ceil(lines.max() + down)
        height, width = self.source.height, self.source.width
        inside = left >= 0 and top >= 0 and right <= width and bottom <= height
        rows = slice(max(top, 0), min(bottom, height))
        cols = slice(max(left, 0), min(right, width))
        if rows.start >= rows.stop or cols.start >= cols.stop:
            return None
        return rows, cols, inside and len(columns) == _STEPS**2

    def _in_source(self, y: int, x: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Columns and rows in the source of points all over a block, those that lie anywhere."""
        steps = np.linspace(0, 1, _STEPS)
        points = np.meshgrid(x + steps * self.columns, y + steps * ROWS)
        return self._to_source(points[0].ravel(), points[1].ravel())

    def _to_source(
        self, columns: NDArray[np.float64], lines: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        if self._in_one_crs:
            return _at(local(self.grid, self.source), columns, lines)
        from rasterio.warp import transform

        xs, ys = _at(self.grid.transform, columns, lines)
        found = transform(crs_of(self.grid.wkt), crs_of(self.source.wkt), xs.tolist(), ys.tolist())
        there = np.isfinite(found[0]) & np.isfinite(found[1])
        return _at(
            inverse(self.source.transform),
            np.asarray(found[0])[there],
            np.asarray(found[1])[there],
        )

    @property
    def scale(self) -> tuple[float, float]:
        """Pixels of the target in one of the source, along the source's x and y, where both overlap."""
        return _scale(self, *_shared(self))

    def scale_of(self, y: int, x: int) -> tuple[float, float]:
        """The same in a block. It is the target's place that tells: a source that is cut has the same."""
        return _scale(self, y, x, ROWS, self.columns)

    def least_scale(self, rows: slice, cols: slice) -> tuple[float, float]:
        """The least of the blocks in which rows and columns of the target lie."""
        wide = self.columns
        scales = [
            self.scale_of(y, x)
            for y in range(rows.start // ROWS * ROWS, rows.stop, ROWS)
            for x in range(cols.start // wide * wide, cols.stop, wide)
        ]
        return min(sx for sx, _ in scales), min(sy for _, sy in scales)

    def _call(
        self, pixels: NDArray[Any], valid: Bool | None, rows: slice, cols: slice, y: int, x: int
    ) -> tuple[NDArray[Any], Bool | None]:
        from rasterio import Affine
        from rasterio.enums import Resampling as Kernels
        from rasterio.warp import reproject

        dtype = pixels.dtype
        used = np.dtype(_AS.get(dtype.name, dtype.name))
        layers = np.moveaxis(pixels, -1, 0).astype(used, copy=False)
        bands = len(layers)
        if valid is not None:
            alpha = np.where(valid, _full(used), used.type(0))[None]
            layers = np.concatenate([np.where(valid, layers, used.type(0)), alpha])
        found = np.zeros((len(layers), ROWS, self.columns), used)
        if self._in_one_crs:
            start, place = shifted(IDENTITY, cols.start, rows.start), local(self.grid, self.source)
            crs = (crs_of(_PLANE),) * 2
        else:
            start = shifted(self.source.transform, cols.start, rows.start)
            place, crs = self.grid.transform, (crs_of(self.source.wkt), crs_of(self.grid.wkt))
        sx, sy = self.scale_of(y, x)
        reproject(
            np.ascontiguousarray(layers),
            found,
            src_transform=Affine(*start),
            src_crs=crs[0],
            dst_transform=Affine(*shifted(place, x, y)),
            dst_crs=crs[1],
            src_alpha=0 if valid is None else bands + 1,
            dst_alpha=0 if valid is None else bands + 1,
            resampling=Kernels[self.resampling],
            XSCALE=repr(sx),
            YSCALE=repr(sy),
        )
        result = np.moveaxis(found[:bands], 0, -1)
        if used != dtype:
            result = (np.rint(result) if dtype.kind in "iu" else result).astype(dtype)
        return result, None if valid is None else found[bands] > 0


def _span(index: NDArray[np.int64]) -> slice:
    return slice(int(index.min()), int(index.max()) + 1)


def _index(span: slice, step: float, start: float) -> NDArray[np.int64]:
    """Rows (or columns) of the source under the centres of those of the target."""
    centres = np.arange(span.start, span.stop) + 0.5
    return np.floor(step * centres + start + _TIE).astype(np.int64)


def _within(index: NDArray[np.int64], size: int) -> tuple[slice, NDArray[np.int64]]:
    """The stretch of an index that the source holds; it only grows, or only falls."""
    there = np.flatnonzero((index >= 0) & (index < size))
    if not len(there):
        return slice(0, 0), index[:0]
    span = slice(int(there[0]), int(there[-1]) + 1)
    return span, index[span]


@lru_cache(maxsize=4096)
def _scale(warp: Warp, y: float, x: float, height: float, width: float) -> tuple[float, float]:
    """The kernel's, over an area of the target: by how far the next pixels lie; nearly whole steps are
    whole, as for GDAL."""
    if warp._in_one_crs:
        a, b, _, d, e, _ = local(warp.grid, warp.source)
        return 1 / _whole(math.hypot(a, b)), 1 / _whole(math.hypot(d, e))
    steps = np.linspace(0, 1, _FEW)
    columns, lines = x + steps * width, y + steps * height
    here = lying(warp.grid, warp.source, columns, lines)
    along = lying(warp.grid, warp.source, columns + 1, lines) - here
    down = lying(warp.grid, warp.source, columns, lines + 1) - here
    lengths = np.hypot(along, down).reshape(2, -1)
    lengths = lengths[:, np.isfinite(lengths).all(axis=0)]
    if not lengths.size:
        return 1.0, 1.0
    # Where a source begins and ends is no matter, but for the last digits.
    sx, sy = (1 / _whole(round(float(length), 6)) for length in np.median(lengths, axis=1))
    return sx, sy


def _shared(warp: Warp) -> tuple[float, float, float, float]:
    """First row and column, and how many, of the target's that lie around the source."""
    back = Warp(warp.source, warp.grid)
    steps = np.linspace(0, 1, _STEPS)
    points = np.meshgrid(steps * warp.source.width, steps * warp.source.height)
    columns, lines = back._to_source(points[0].ravel(), points[1].ravel())
    if not len(columns):
        return 0.0, 0.0, float(warp.grid.height), float(warp.grid.width)
    left, right = np.clip((columns.min(), columns.max()), 0, warp.grid.width).tolist()
    top, bottom = np.clip((lines.min(), lines.max()), 0, warp.grid.height).tolist()
    return top, left, bottom - top, right - left


@lru_cache(maxsize=256)
def _overlap(warp: Warp) -> tuple[tuple[float, float], tuple[float, float]]:
    """Columns and rows of the target, and of the source, where they overlap; 0 or less: nowhere."""
    back = Warp(warp.source, warp.grid)
    return _covered(back, warp.grid), _covered(warp, warp.source)


def _covered(warp: Warp, grid: Grid) -> tuple[float, float]:
    """Columns and rows of `grid`, the source of a warp, that its target covers."""
    steps = np.linspace(0, 1, _STEPS)
    points = np.meshgrid(steps * warp.grid.width, steps * warp.grid.height)
    columns, lines = warp._to_source(points[0].ravel(), points[1].ravel())
    if not len(columns):
        return 0.0, 0.0
    return (
        float(min(columns.max(), grid.width) - max(columns.min(), 0.0)),
        float(min(lines.max(), grid.height) - max(lines.min(), 0.0)),
    )


def _whole(step: float) -> float:
    near = float(round(step))
    return near if near >= 1 and abs(step - near) < 0.05 else max(step, 1e-9)


def _full(dtype: np.dtype[Any]) -> Any:
    """What stands for all of a pixel in an alpha band."""
    return dtype.type(1) if dtype.kind == "f" else np.iinfo(dtype).max


def _at(
    six: Six, columns: NDArray[np.float64], lines: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    a, b, c, d, e, f = six
    return a * columns + b * lines + c, d * columns + e * lines + f
