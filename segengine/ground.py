"""Ground area of pixels: geodesic on the ellipsoid of the scene's CRS, row by row.

A pixel's area is that of the geodesic quadrangle between its corners. Along a row it is taken to be
that of the pixel in the middle of each strip of columns, which is as narrow as it must be; down a
block of rows it is read off a polynomial through some of them, which is exact far beyond the measure.
Strips and blocks are counted from the scene's corner, and areas are whole numbers of a unit that is
the scene's own: sums do not depend on how the scene is cut.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

STRIP, BLOCK = 256, 1024
"""Columns, at most, and rows that areas are worked out for at once."""
TOGETHER = 8
"""Strips whose areas are worked out with one call of PROJ's."""
_UNLIKE = 1e-4
"""By how much areas may differ, as a share, from the middle of a strip to its side."""
_DEGREES = (4, 16)
"""Of the polynomials: the first where it is as exact, as it is for all but very long blocks."""
_EXACT = 1e-7
"""By how much, as a share, it may miss the area of one more pixel; a small pixel's own is rounded so."""
_WIDE = 250.0
"""Metres that a box has a side of whose area is told for a small pixel's in it."""
_BITS = 30
"""Binary digits of the area of the pixel in the middle of a scene."""
_SCENES = 1 << 13
"""Of which the unit and the strip are remembered."""


@dataclass(frozen=True, slots=True)
class Ground:
    """Where a scene lies, and how large it is."""

    wkt: str
    transform: tuple[float, ...]
    """a, b, c, d, e, f: x = a column + b row + c, y = d column + e row + f."""
    height: int
    width: int

    @property
    def exponent(self) -> int | None:
        """Areas are counted in 2 to this power square metres; None: they cannot be told."""
        return _exponent(self)

    @property
    def strip(self) -> int:
        """Columns of a strip."""
        return _strip(self)

    def rows(self, first: int, last: int, column: int) -> NDArray[np.int64]:
        """Areas of the pixels of rows `first` to `last` in the strip of a column, in the unit."""
        group, place = divmod(column // self.strip, TOGETHER)
        blocks = range(first // BLOCK, -(-last // BLOCK))
        whole = np.concatenate([_blocks(self, block, group)[place] for block in blocks])
        start = blocks.start * BLOCK
        return whole[first - start : last - start]

    def weights(self, rows: slice, cols: slice) -> NDArray[np.int64]:
        """(y, x) areas of the pixels of a window in the unit, as records count them."""
        found = np.empty((rows.stop - rows.start, cols.stop - cols.start), np.int64)
        left = cols.start
        while left < cols.stop:
            right = min(cols.stop, (left // self.strip + 1) * self.strip)
            column = self.rows(rows.start, rows.stop, left)
            found[:, left - cols.start : right - cols.start] = column[:, None]
            left = right
        return found

    def metres(self, rows: slice, cols: slice) -> NDArray[np.float64]:
        """(y, x) square metres of the pixels of a window, each its own; NaN where they cannot be told."""
        found = np.empty((rows.stop - rows.start, cols.stop - cols.start))
        for block in range(rows.start // BLOCK, -(-rows.stop // BLOCK)):
            for strip in range(cols.start // STRIP, -(-cols.stop // STRIP)):
                y, x = block * BLOCK, strip * STRIP
                tile = _tile(self, block, strip)
                inside = tile[max(0, rows.start - y) : rows.stop - y, max(0, cols.start - x) :]
                inside = inside[:, : cols.stop - max(x, cols.start)]
                down, across = max(y, rows.start) - rows.start, max(x, cols.start) - cols.start
                found[down : down + inside.shape[0], across : across + inside.shape[1]] = inside
        return found

    def totals(
        self,
        labels: NDArray[Any],
        classes: int,
        corner: tuple[int, int],
        counts: Sequence[Sequence[int]] | None = None,
    ) -> tuple[int, ...] | None:
        """Area of each class, then of void, of labels (n, y, x) whose first pixel is `corner`.

        In the unit; what lies outside of the scene is left out. None: some of it cannot be told.
        `counts`: pixels of each class, then of void, of each frame, where they are known.
        """
        import cv2

        y, x = corner
        inside = labels[:, : max(0, self.height - y), : max(0, self.width - x)]
        found, strip = [0] * (classes + 1), self.strip
        edges = [x, *range((x // strip + 1) * strip, x + inside.shape[2], strip)]
        parts = [slice(a - x, b - x) for a, b in pairwise([*edges, x + inside.shape[2]])]
        if 0 in inside.shape:
            return tuple(found)
        weights = [self.rows(y, y + inside.shape[1], left) for left in edges]
        if min(int(column.min()) for column in weights) < 0:
            return None
        whole = sum(int(w.sum()) * (p.stop - p.start) for w, p in zip(weights, parts, strict=True))
        for i, frame in enumerate(inside):
            if counts is None:
                there, rest = _present(frame, classes), classes
            else:
                there = [label for label in range(classes) if counts[i][label]]
                # where nothing is void, the last one is what the others leave
                rest = classes if counts[i][classes] or not there else there.pop()
            known = 0
            for label in there:
                seen = (frame == label).view(np.uint8)
                for column, part in zip(weights, parts, strict=True):
                    row = cv2.reduce(seen[:, part], 1, cv2.REDUCE_SUM, dtype=cv2.CV_32S)
                    area = int(row[:, 0].astype(np.int64) @ column)
                    found[label] += area
                    known += area
            found[rest] += whole - known
        return tuple(found)


def _present(labels: NDArray[Any], classes: int) -> list[int]:
    """Which of the classes there are, ascending."""
    if labels.dtype.itemsize > 2:
        return [label for label in np.unique(labels).tolist() if label < classes]
    there = np.zeros(np.iinfo(labels.dtype).max + 1, np.bool_)
    there[labels] = True
    return np.flatnonzero(there[:classes]).tolist()


@lru_cache(_SCENES)
def _exponent(ground: Ground) -> int | None:
    middle = _areas(ground, np.array([ground.height // 2]), (ground.width - 1) / 2)
    area = float(middle[0])
    return math.floor(math.log2(area)) - _BITS if math.isfinite(area) and area > 0 else None


@lru_cache(_SCENES)
def _strip(ground: Ground) -> int:
    """The widest strip, a power of two, over which pixels are alike; looked at in nine places."""
    rows = np.array([0, ground.height // 2, ground.height - 1])
    wide = STRIP
    while wide > 1:
        half = min(wide, ground.width) / 2
        middles = {half, ground.width / 2, ground.width - half}  # one, of a narrow scene
        across = np.add.outer(sorted(middles), (-half, 0, half))[..., None]
        sides = _areas(ground, rows, across)
        spread = np.ptp(sides, axis=1) / np.mean(sides, axis=1)
        if float(np.nan_to_num(spread, nan=0).max()) <= 2 * _UNLIKE:
            break
        wide //= 2
    return wide


@lru_cache(maxsize=1 << 11)
def _blocks(ground: Ground, block: int, group: int) -> NDArray[np.int64]:
    """(strip, row) areas down a block of rows, in the unit, of a group of strips; -1 where they cannot
    be told."""
    first, last = block * BLOCK, min(ground.height, (block + 1) * BLOCK)
    wide = ground.strip
    strips = range(group * TOGETHER, min(-(-ground.width // wide), (group + 1) * TOGETHER))
    columns = [(s * wide + min(ground.width, (s + 1) * wide) - 1) / 2 for s in strips]
    areas = _down(ground, np.arange(first, last), np.array(columns))
    unit = ground.exponent
    if unit is None:
        return np.full(areas.shape, -1, np.int64)
    unknown = ~np.isfinite(areas)
    areas[unknown] = 0
    counted: NDArray[np.int64] = np.rint(np.ldexp(np.maximum(areas, 0), -unit)).astype(np.int64)
    counted[unknown.any(axis=1)] = -1
    return counted


def _down(
    ground: Ground, rows: NDArray[np.int64], columns: NDArray[np.float64]
) -> NDArray[np.float64]:
    """(column, row) areas down columns, of all rows by a polynomial through some of them."""
    found = np.empty((len(columns), len(rows)))
    left = np.arange(len(columns))
    for degree in _DEGREES:
        if len(rows) <= 2 * degree or not len(left):
            break
        nodes, through = _interpolation(degree, len(rows))
        known = _areas(ground, (rows[0] + nodes)[None], columns[left, None])
        # one by one: how a library multiplies matrices depends on their sizes
        tried = np.array([through @ column for column in known[:, :-1]])
        good = np.abs(tried[:, -1] - known[:, -1]) <= _EXACT * known[:, -1]
        good |= degree == _DEGREES[-1]
        found[left[good]] = tried[good, :-1]
        left = left[~good]
    if len(left):
        found[left] = _areas(ground, rows[None], columns[left, None])
    return found


@lru_cache(maxsize=32)
def _tile(ground: Ground, block: int, strip: int) -> NDArray[np.float64]:
    """(y, x) square metres of a block of rows and a strip of columns, by polynomials in both."""
    first, last = block * BLOCK, min(ground.height, (block + 1) * BLOCK)
    left, right = strip * STRIP, min(ground.width, (strip + 1) * STRIP)
    rows, columns = np.arange(first, last), np.arange(left, right)
    # the area of a pixel of a metre is told to five digits only, that of all around it to more
    middle = _areas(ground, np.array([ground.height // 2]), (ground.width - 1) / 2)[0]
    span = max(1.0, _WIDE / math.sqrt(middle)) if middle > 0 else 1.0
    for degree in _DEGREES:
        if len(rows) * len(columns) <= 4 * degree**2:
            break
        (down, through), (across, along) = (_interpolation(degree, len(n)) for n in (rows, columns))
        known = _areas(ground, first + down[:, None], left + across[None], span)
        tried = _spread(known[:-1, :-1], through[-1:], along[-1:])
        if degree == _DEGREES[-1] or abs(tried[0, 0] - known[-1, -1]) <= _EXACT * known[-1, -1]:
            return _spread(known[:-1, :-1], through[:-1], along[:-1])
    return _areas(ground, rows[:, None], columns[None], span)


def _spread(known: Any, through: Any, along: Any) -> NDArray[np.float64]:
    """`through` @ `known` @ `along`.T, each number by the same operations whatever the machine."""
    middle = sum(through[:, i, None] * known[i] for i in range(len(known)))
    found: NDArray[np.float64] = sum(middle[:, i, None] * along[:, i] for i in range(len(known)))
    return found


@lru_cache(maxsize=64)
def _interpolation(degree: int, count: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Rows, of `count`, whose values tell those of all, and one more that a trial is made of; what
    times the values (degree + 1,) is all of them (count + 1,), that one's the last."""
    from numpy.polynomial import chebyshev

    nodes = chebyshev.chebpts1(degree + 1)
    trial = math.cos(math.pi / (degree + 1))  # where it can be farthest off
    at = np.append(np.linspace(-1, 1, count), trial)
    weights = np.full((degree + 1, 1), 2 / (degree + 1))
    weights[0] /= 2
    fit = weights * chebyshev.chebvander(nodes, degree).T
    through = np.asarray(chebyshev.chebvander(at, degree) @ fit, np.float64)
    return (np.append(nodes, trial) + 1) * (count - 1) / 2, through


@dataclass(frozen=True, slots=True)
class _Earth:
    """From a CRS to degrees on its ellipsoid; without one, to metres."""

    to_geographic: Any
    geod: Any
    factor: float
    """Degrees in a unit of the geographic CRS; or, without an ellipsoid, metres in one of the CRS."""


@lru_cache(maxsize=64)
def _earth(wkt: str) -> _Earth | None:
    from pyproj import CRS, Transformer
    from pyproj.exceptions import ProjError

    try:
        crs = CRS.from_wkt(wkt)
        crs = crs if len(crs.sub_crs_list) == 0 else crs.sub_crs_list[0]
        geographic, geod = crs.geodetic_crs, crs.get_geod()
        if geographic is None or geod is None:
            units = {axis.unit_conversion_factor for axis in crs.axis_info[:2]}
            return _Earth(None, None, units.pop()) if len(units) == 1 else None
        if geographic.is_geocentric:
            geographic = geographic.to_2d()
        radians = geographic.axis_info[0].unit_conversion_factor
        to = Transformer.from_crs(crs, geographic, always_xy=True)
        return _Earth(to, geod, math.degrees(radians))
    except (ProjError, IndexError):
        return None


def _areas(
    ground: Ground, rows: NDArray[Any], columns: Any, span: float = 1.0
) -> NDArray[np.float64]:
    """Square metres of the pixels at some rows and columns (whole or not); NaN where unknown.

    As large as in the mean of a box of `span` x `span` pixels around each.
    """
    rows, columns = rows + 0 * columns, columns + 0 * rows  # of one shape
    earth = _earth(ground.wkt)
    a, b, c, d, e, f = ground.transform
    if earth is None:
        return np.full(rows.shape, np.nan)
    if earth.to_geographic is None:
        return np.full(rows.shape, abs(a * e - b * d) * earth.factor**2)
    more = (span - 1) / 2
    across = columns.reshape(-1, 1) + np.array([-more, 1 + more, 1 + more, -more])
    down = rows.reshape(-1, 1) + np.array([-more, -more, 1 + more, 1 + more])
    x, y = a * across + b * down + c, d * across + e * down + f
    lon, lat = earth.to_geographic.transform(x, y)
    lon, lat = np.asarray(lon) * earth.factor, np.asarray(lat) * earth.factor
    known = np.isfinite(lon).all(axis=1) & np.isfinite(lat).all(axis=1)
    lat = np.clip(lat, -90, 90)
    found = np.full(rows.size, np.nan)
    for i in np.flatnonzero(known).tolist():
        found[i] = abs(earth.geod.polygon_area_perimeter(lon[i], lat[i])[0]) / span**2
    return found.reshape(rows.shape)
