"""What is odd about where a job puts its scenes: told, and done as it is asked."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from segengine import asked
from segengine.placing import Placing
from segengine.planning.trained import side_of
from segengine.store.seals import scenes_called

if TYPE_CHECKING:
    from segengine.planning.plan import Plan

Bounds = tuple[float, float, float, float]
"""West, south, east and north in degrees; west is greater than east across the date line."""
_STEPS = 5
"""Points looked at along each side of a scene."""
_NEAR = 6.0
"""Degrees, at most, that a scene may lie outside and not be far: maps take in the next UTM zone."""


def oddities(plan: Plan) -> Iterator[str]:
    """A line where `source.crs` is far from scenes, and where metres say nothing of a CRS."""
    layouts = {name: la for name, la in plan.layouts.items() if not la.gone.all()}
    source = plan.job.source
    if source.crs is not None and (use := _area_of_use(source.crs)) is not None:
        far = [name for name, la in layouts.items() if not _meets(la.placing, use)]
        if far:
            yield (
                f"source.crs {_short(source.crs)} is far from {scenes_called(far)}: it is for "
                f"{_shown(use)}; if that is not meant, name the CRS of their place"
            )
    trained = asked.trained(plan.plugin)
    told = trained is not None and trained.resolution is not None  # which has a line of its own
    if isinstance(source.resolution, str) and not told:
        odd = [n for n, la in layouts.items() if la.placing.georeferenced and side_of(la) is None]
        if odd:
            yield (
                f"source.resolution {source.resolution} says nothing of a CRS in degrees, and pixels are "
                f"read as they are: {scenes_called(odd)}; set source.crs to one in metres, or the "
                "resolution in degrees as a number"
            )


@lru_cache(maxsize=64)
def _area_of_use(crs: str) -> Bounds | None:
    """Where a CRS is meant to be used; None: nothing tells."""
    from pyproj import CRS
    from pyproj.exceptions import CRSError

    try:
        found = CRS.from_user_input(crs).area_of_use
    except CRSError:  # as GDAL alone reads it
        return None
    return None if found is None else tuple(found.bounds)  # type: ignore[return-value]


def _meets(placing: Placing, use: Bounds) -> bool:
    """Whether some of a scene lies where a CRS is used; True too where nothing tells."""
    if not placing.georeferenced:
        return True
    a, b, c, d, e, f = map(float, placing.transform)
    steps = [i / (_STEPS - 1) for i in range(_STEPS)]
    across = [(x * placing.width, y * placing.height) for x in steps for y in steps]
    xs = [a * x + b * y + c for x, y in across]
    ys = [d * x + e * y + f for x, y in across]
    to = _to_degrees(placing.wkt)
    if to is None:
        return True
    lon, lat = to.transform(xs, ys)
    points = [
        (x, y) for x, y in zip(lon, lat, strict=True) if math.isfinite(x) and math.isfinite(y)
    ]
    return bool(points) and _overlap(points, use, min(_NEAR, (use[2] - use[0]) % 360))


def _overlap(points: Iterable[tuple[float, float]], use: Bounds, near: float = 0.0) -> bool:
    """Whether the box of points comes that near to an area of use; longitudes go on around the earth."""
    west, south, east, north = use
    east += 360 if east < west else 0
    west, south, east, north = west - near, south - near, east + near, north + near
    lons, lats = zip(*points, strict=True)
    if max(lats) < south or min(lats) > north:
        return False
    if max(lons) - min(lons) > 180:  # on both sides of the date line
        lons = tuple(lon % 360 for lon in lons)
    turns = (-360, 0, 360)
    return any(max(lons) + turn >= west and min(lons) + turn <= east for turn in turns)


@lru_cache(maxsize=64)
def _to_degrees(wkt: str) -> Any:
    """pyproj's; None: the CRS lies nowhere on earth, as a site's own."""
    from pyproj import CRS, Transformer
    from pyproj.exceptions import ProjError

    try:
        return Transformer.from_crs(CRS.from_wkt(wkt), CRS.from_epsg(4326), always_xy=True)
    except ProjError:
        return None


def _shown(use: Bounds) -> str:
    west, south, east, north = (f"{abs(value):g}" for value in use)
    sides = ("W" if use[0] < 0 else "E", "S" if use[1] < 0 else "N",
             "W" if use[2] < 0 else "E", "S" if use[3] < 0 else "N")  # fmt: skip
    return f"{west}{sides[0]} to {east}{sides[2]}, {south}{sides[1]} to {north}{sides[3]}"


def _short(crs: str) -> str:
    return crs if len(crs) <= 40 else f"{crs[:37]}..."
