"""The grid of a scene's pixels: where it lies, how another one maps to it, and the one that a job asks for.

part                   Grid(height, width, transform, wkt)     as its header says
target                 the finest part's; with `resolution` or `crs` one of its own, which starts
                       at the upper left corner of the finest part's extent in that CRS
local(grid, part)      pixels of the target to pixels of a part in the same CRS, without rounding
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any

from segengine.errors import CorruptInputError
from segengine.sources._bounds import require_bounded
from segengine.terms.quantities import metres_of

IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
"""The transform of what lies nowhere: coordinates are pixels."""
KERNELS = ("nearest", "bilinear", "cubic", "average")
"""How pixels of one grid may become those of another."""
_UNITS = {"2": 25_400.0, "3": 10_000.0}
"""Micrometres of a TIFF's units of resolution: inches, centimetres."""
_FEWEST = 1000.0
"""Pixels of one of these, of a microscope: photos, too, have 72 or 300 an inch, which mean nothing."""
_STEPS = 41
"""Points along each side of a grid of which it is looked up where they lie."""
_LONGEST = 1 << 16
"""Characters of a CRS as WKT."""
_ROUND = 1e-6
"""Part of a pixel by which an extent may overstep whole pixels and not count as one more."""

_ALIKE = 0.01
"""By how much pixels may differ from the side that is asked for in metres, and are read as they are."""

LAID = ("", "compound", "local")
"""Kinds of CRS in which x and y of a file can lie."""
_KINDS = {
    "VERT_CS": "vertical",
    "VERTCRS": "vertical",
    "GEOCCS": "geocentric",
    "GEODCRS": "geocentric",
    "LOCAL_CS": "local",
    "ENGCRS": "local",
}
"""By how their WKT begins."""

Six = tuple[float, float, float, float, float, float]


@dataclass(frozen=True, slots=True)
class Grid:
    """Rows and columns of pixels, and where they lie."""

    height: int
    width: int
    transform: Six = IDENTITY
    """a, b, c, d, e, f: x = a column + b row + c, y = d column + e row + f, from the upper left corner."""
    wkt: str = ""
    """The CRS of x and y; empty: none is known."""

    @property
    def placed(self) -> bool:
        """Whether its pixels lie anywhere."""
        return bool(self.wkt) or self.transform != IDENTITY

    @property
    def straight(self) -> bool:
        """Whether its rows run along x, and its columns along y."""
        return self.transform[1] == self.transform[3] == 0

    @property
    def area(self) -> float:
        """Of a pixel, in units of the CRS."""
        a, b, _, d, e, _ = self.transform
        return abs(a * e - b * d)

    @property
    def corners(self) -> list[tuple[float, float]]:
        """x and y of its four corners."""
        a, b, c, d, e, f = self.transform
        ends = ((0, 0), (self.width, 0), (self.width, self.height), (0, self.height))
        return [(a * i + b * j + c, d * i + e * j + f) for i, j in ends]

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """Least x and y, most x and y."""
        xs, ys = zip(*self.corners, strict=True)
        return min(xs), min(ys), max(xs), max(ys)


def require_grid(resolution: object, crs: object, resampling: object) -> None:
    """Raise ValueError for options of a grid that name none."""
    if isinstance(resolution, str):
        if not metres_of(resolution):
            raise ValueError(
                f"resolution: is {resolution[:40]!r}; write a number, or metres as 10 m"
            )
    elif resolution is not None and (
        isinstance(resolution, bool)
        or not isinstance(resolution, int | float)
        or not 0 < resolution < math.inf
    ):
        raise ValueError(f"resolution: is {resolution!r}; it must be a number above 0")
    if crs is not None and (not isinstance(crs, str) or not crs.strip() or len(crs) > _LONGEST):
        raise ValueError(f"crs: is {str(crs)[:100]!r}; name it as EPSG:32633")
    if isinstance(crs, str):
        try:
            _require_map(crs)
        except ValueError as error:
            raise ValueError(f"crs: {error}") from error
    if resampling not in KERNELS:
        raise ValueError(f"resampling: is {resampling!r}; choose from {', '.join(KERNELS)}")


def crs_of(text: str) -> Any:
    """A CRS as rasterio has it. Raises ValueError with a reason for a text that is none."""
    from rasterio.errors import CRSError

    try:
        return _crs(text)
    except CRSError as error:
        raise ValueError(f"{text!r} is no CRS, as EPSG:32633 is") from error


def _require_map(text: str) -> None:
    """Raise ValueError for a CRS that no grid of pixels can lie in. Raises as `crs_of`."""
    kind = kind_of(crs_of(text))
    if kind == "compound":
        raise ValueError(f"{text!r} is a compound CRS; name the horizontal one that it begins with")
    if kind:
        raise ValueError(
            f"{text!r} is a {kind} CRS; name a geographic or a projected one, as EPSG:32633 is"
        )


def kind_of(crs: Any) -> str:
    """What rasterio's CRS is, where it is no geographic or projected one; empty: it is one.

    A compound one is one of a map with heights.
    """
    start = str(crs.to_wkt()).partition("[")[0]
    if crs.is_geographic or crs.is_projected:
        return "compound" if start in ("COMPD_CS", "COMPOUNDCRS") else ""
    return _KINDS.get(start, "mapless")


def wkt_of(crs: Any) -> str:
    """A file's CRS as text; empty for none, and for one of heights or the like: x and y are not in it.

    A local one is kept: what lies in the same one lies together.
    """
    return crs.to_wkt() if crs and kind_of(crs) in LAID else ""


def turn_of(text: str) -> float:
    """What a turn around the earth is in units of a CRS; 0: it has no longitudes. Raises as `crs_of`."""
    crs = crs_of(text)
    return 2 * math.pi / float(crs.units_factor[1]) if crs.is_geographic else 0.0


@lru_cache(maxsize=256)
def _crs(text: str) -> Any:
    import rasterio
    from rasterio.crs import CRS

    with rasterio.Env():
        return CRS.from_user_input(text)


@lru_cache(maxsize=1024)
def same_crs(one: str, other: str) -> bool:
    """Whether two texts name one CRS; of two that are empty nothing says otherwise."""
    if one == other:
        return True
    return bool(one and other) and bool(_crs(one) == _crs(other))


def local(grid: Grid, part: Grid) -> Six:
    """The transform from pixels of `grid` to pixels of `part`, in one CRS.

    Worked out in fractions and rounded once: where one pixel's centre lies on the border of two others
    (10 m to 20 m), it lies there exactly, wherever a window starts.
    """
    a, b, c, d, e, f = map(Fraction, part.transform)
    whole = a * e - b * d
    if whole == 0:
        raise CorruptInputError("its transform is of no area")
    p, q, r, s, t, u = map(Fraction, grid.transform)
    found = (
        (e * p - b * s) / whole,
        (e * q - b * t) / whole,
        (e * (r - c) - b * (u - f)) / whole,
        (a * s - d * p) / whole,
        (a * t - d * q) / whole,
        (a * (u - f) - d * (r - c)) / whole,
    )
    return tuple(map(float, found))  # type: ignore[return-value] # six of them


def inverse(six: Six) -> Six:
    """From coordinates to pixels."""
    return local(Grid(1, 1), Grid(1, 1, six))


def shifted(six: Six, column: int, row: int) -> Six:
    """The transform of what starts at a column and a row."""
    a, b, c, d, e, f = six
    return a, b, a * column + b * row + c, d, e, d * column + e * row + f


def finest(grids: Sequence[Grid]) -> Grid:
    """The one of the smallest pixels, the first of several; all lie in one CRS."""
    return min(grids, key=lambda grid: grid.area)


def side_in_metres(grid: Grid) -> float | None:
    """The side of a grid's pixels, where its CRS is in metres or another length; None: nothing tells."""
    factor = _length(grid.wkt)
    return None if factor is None else math.sqrt(grid.area) * factor


@lru_cache(maxsize=256)
def _length(wkt: str) -> float | None:
    """Metres in the unit of a projected CRS."""
    crs = _crs(wkt) if wkt else None
    return float(crs.linear_units_factor[1]) if crs is not None and crs.is_projected else None


def is_measured(grid: Grid) -> bool:
    """Whether a resolution in metres says anything of a grid: others are read as they are."""
    return grid.placed and grid.area > 0 and side_in_metres(grid) is not None


def side_of(resolution: float | str | None, grids: Sequence[Grid], crs: str) -> float | None:
    """A resolution in units of the CRS that is come to; None: that of the finest part."""
    if not isinstance(resolution, str):
        return resolution
    metres = metres_of(resolution)
    if metres is None or not all(map(is_measured, grids)):
        return None
    factor = _length(crs or grids[0].wkt)
    own = side_in_metres(finest(grids))
    if factor is None or (own is not None and not crs and abs(own / metres - 1) <= _ALIKE):
        return None
    return metres / factor


def target(
    grids: Sequence[Grid], names: Sequence[str], resolution: float | str | None, crs: str
) -> Grid:
    """The grid that parts of a scene come to; `names` are the parts', `crs` is empty for their own.

    `resolution`: in units of the CRS, or as `10 m`, which says nothing of a scene that is not in metres.

    Raises CorruptInputError for parts that cannot be brought to one: unlike CRS, no place, no overlap.
    """
    first = grids[0]
    for grid, name in zip(grids, names, strict=True):
        if not all(map(math.isfinite, grid.transform)) or grid.area == 0:
            raise CorruptInputError(f"{_called(name)} has a transform of no area")
        if not crs and not same_crs(grid.wkt, first.wkt):
            one, other = called_crs(first.wkt), called_crs(grid.wkt)
            raise CorruptInputError(
                f"its bands lie in unlike CRS ({names[0]}: {one}, {name}: {other}); set source.crs"
            )
        unlike = (grid.height, grid.width) != (first.height, first.width)
        if unlike and not (grid.placed and first.placed):
            raise CorruptInputError(
                f"its bands differ in size and nothing says where they lie ({names[0]}: {first.width} "
                f"x {first.height}, {name}: {grid.width} x {grid.height} pixels)"
            )
    resolution = side_of(resolution, grids, crs)
    if crs or resolution is not None:
        first_unplaced = next((n for g, n in zip(grids, names, strict=True) if not g.placed), None)
        if first_unplaced is not None:
            raise CorruptInputError(
                f"{_called(first_unplaced)} lies nowhere: it has no transform, or one of ground control "
                "points; `gdalwarp` it first, or leave source.resolution and source.crs out"
            )
    if crs and any(not grid.wkt for grid in grids):
        raise CorruptInputError("has no CRS, which source.crs could be reached from")
    found = _target(grids, resolution, crs)
    require_bounded(found.height, found.width, len(grids))
    return found


def _target(grids: Sequence[Grid], resolution: float | None, crs: str) -> Grid:
    if crs and len({grid.wkt for grid in grids}) > 1:
        base = min(grids, key=lambda grid: reprojected(grid, crs, None).area)
    else:
        base = finest(grids)
    if crs and not same_crs(crs, base.wkt):
        return reprojected(base, crs, resolution)
    if resolution is None:
        return base
    left, bottom, right, top = base.bounds
    upright = bool(base.wkt) or base.transform[4] < 0
    return Grid(
        height=_cells(top - bottom, resolution),
        width=_cells(right - left, resolution),
        transform=(resolution, 0.0, left, 0.0, -resolution, top)
        if upright
        else (resolution, 0.0, left, 0.0, resolution, bottom),
        wkt=base.wkt,
    )


def micrometres(tags: Mapping[str, str]) -> Six:
    """The transform of a picture under a microscope, from a TIFF's resolution; of others the identity.

    >>> micrometres({"TIFFTAG_XRESOLUTION": "40000", "TIFFTAG_YRESOLUTION": "20000",
    ...              "TIFFTAG_RESOLUTIONUNIT": "3 (pixels/cm)"})
    (0.25, 0.0, 0.0, 0.0, 0.5, 0.0)
    """
    unit = _UNITS.get(tags.get("TIFFTAG_RESOLUTIONUNIT", "")[:1])
    try:
        sides = [float(tags[f"TIFFTAG_{axis}RESOLUTION"]) for axis in "XY"]
    except (KeyError, ValueError):
        return IDENTITY
    if unit is None or not all(_FEWEST < side < math.inf for side in sides):
        return IDENTITY
    return unit / sides[0], 0.0, 0.0, 0.0, unit / sides[1], 0.0


def _cells(length: float, size: float) -> int:
    return max(1, math.ceil(length / size - _ROUND))


@lru_cache(maxsize=1024)
def reprojected(grid: Grid, crs: str, resolution: float | None) -> Grid:
    """The grid in another CRS, as `gdalwarp` lays it out; with `resolution` of square pixels of that size.

    Raises CorruptInputError where that CRS does not hold it whole: a pole, the date line.
    """
    import rasterio
    from rasterio.warp import calculate_default_transform

    wanted = crs_of(crs)
    _require_within_a_turn(grid)
    _require_held(grid, wanted, crs)
    try:
        with rasterio.Env():
            place, columns, rows = calculate_default_transform(
                _crs(grid.wkt), wanted, grid.width, grid.height, *grid.bounds
            )
    except Exception as error:
        raise _torn(crs) from error
    left, top = place.c, place.f
    right, bottom = left + place.a * columns, top + place.e * rows
    if not all(map(math.isfinite, (left, top, right, bottom))):
        raise _torn(crs)
    wkt = wanted.to_wkt()
    if resolution is None:
        return Grid(rows, columns, (place.a, 0.0, left, 0.0, place.e, top), wkt)
    return Grid(
        height=_cells(top - bottom, resolution),
        width=_cells(right - left, resolution),
        transform=(resolution, 0.0, left, 0.0, -resolution, top),
        wkt=wkt,
    )


def _require_within_a_turn(grid: Grid) -> None:
    """Raise CorruptInputError for longitudes beyond half a turn: what is looked up there comes back as
    one of the other side, so that all beyond it would be void."""
    turn = turn_of(grid.wkt)
    left, _, right, _ = grid.bounds
    slack = abs(grid.transform[0]) + abs(grid.transform[1])
    if turn and (left < -turn / 2 - slack or right > turn / 2 + slack):
        raise CorruptInputError(
            f"its longitudes go from {left:g} to {right:g}, beyond {turn / 2:g}, from where nothing can be "
            "brought to source.crs; cut it there and move it by a turn, as by `gdal_translate -projwin` "
            "and `-a_ullr`, or leave source.crs out"
        )


def _require_held(grid: Grid, wanted: Any, crs: str) -> None:
    """Raise CorruptInputError where parts of a grid lie nowhere in a CRS, or at its other end."""
    import numpy as np
    from rasterio.warp import transform

    steps = np.linspace(0, 1, _STEPS)
    columns, rows = np.meshgrid(steps * grid.width, steps * grid.height)
    a, b, c, d, e, f = grid.transform
    xs, ys = (a * columns + b * rows + c).ravel(), (d * columns + e * rows + f).ravel()
    try:
        found = np.array(transform(_crs(grid.wkt), wanted, xs.tolist(), ys.tolist()))
    except Exception as error:
        raise _torn(crs) from error
    if not np.isfinite(found).all():
        raise _torn(crs)
    for axis in found.reshape(2, _STEPS, _STEPS):
        step = max(np.abs(np.diff(axis, axis=0)).max(), np.abs(np.diff(axis, axis=1)).max())
        if step > (axis.max() - axis.min()) / 2:
            raise _torn(crs)


def _torn(crs: str) -> CorruptInputError:
    return CorruptInputError(
        f"cannot be brought to {crs}, which does not hold all of it in one piece (a pole, the date "
        "line); set another source.crs"
    )


def _called(name: str) -> str:
    return name or "it"


def called_crs(wkt: str) -> str:
    """A CRS by its code, or by its name."""
    if not wkt:
        return "none"
    crs = _crs(wkt)
    code = crs.to_epsg()
    return f"EPSG:{code}" if code else wkt.partition('"')[2].partition('"')[0]
