"""Where a scene lies: what its attributes say of CRS, transform and the size of pixels on the ground.

    crs_wkt, transform    x = a column + b row + c, y = d column + e row + f, from the upper left corner
    gcps, rpcs            ground control points and rational functions, which place it by themselves

Nobody else reads these attributes. A scene with a transform and no CRS has coordinates of its own
kind; one with neither, those of its pixels.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from segengine.ground import Ground


class ControlPoints(NamedTuple):
    """Pixels of which it is known where they lie."""

    wkt: str | None
    """The CRS of x and y."""
    points: Sequence[Sequence[float]]
    """Row, column, x, y, z."""


@dataclass(frozen=True, slots=True)
class Placing:
    """Where a scene of a height and a width lies."""

    height: int
    width: int
    wkt: str = ""
    """Its CRS; empty: none is known."""
    transform: tuple[float, ...] = ()
    """a, b, c, d, e, f; empty: none is known."""
    gcps: ControlPoints | None = None
    rpcs: Mapping[str, Any] | None = None
    """Rational polynomial coefficients, as GDAL names them."""

    @classmethod
    def of(cls, attributes: Mapping[str, Any], height: int, width: int) -> Placing:
        """As a scene's attributes say."""
        points = attributes.get("gcps")
        return cls(
            height=height,
            width=width,
            wkt=str(attributes.get("crs_wkt") or ""),
            transform=tuple(attributes.get("transform") or ())[:6],
            gcps=None if not points else ControlPoints(points["crs_wkt"], points["points"]),
            rpcs=attributes.get("rpcs") or None,
        )

    @property
    def crs(self) -> str:
        """The name of its CRS, with which WKT begins.

        >>> Placing(1, 1, 'PROJCRS["WGS 84 / UTM zone 13N",BASEGEOGCRS["WGS 84"]]').crs
        'WGS 84 / UTM zone 13N'
        """
        return next(iter(self.wkt.split('"')[1:2]), "")

    @property
    def georeferenced(self) -> bool:
        """True where its pixels have coordinates of a CRS."""
        return bool(self.wkt and self.transform)

    @property
    def pointed(self) -> bool:
        """True where points or functions place it, and no transform does."""
        return bool((self.gcps or self.rpcs) and not self.transform)

    @property
    def ground(self) -> Ground | None:
        """How large its pixels are; None: it is not georeferenced, or that cannot be told."""
        if not self.georeferenced:
            return None
        found = Ground(self.wkt, tuple(map(float, self.transform)), self.height, self.width)
        return found if found.exponent is not None else None

    @property
    def grid_mapping(self) -> dict[str, Any]:
        """The same as CF and GDAL keep it beside an array, and rioxarray reads it; empty: unknown.

        Sources: CF conventions 1.11, section 5.6; GDAL's `spatial_ref` and `GeoTransform`; rioxarray's
        `write_gcps`.
        """
        found: dict[str, Any] = {}
        points = self.gcps if not self.transform else None
        wkt = points.wkt if points is not None else self.wkt
        if wkt:
            found |= {**_cf(wkt), "crs_wkt": wkt, "spatial_ref": wkt}
        if self.transform:
            a, b, c, d, e, f = map(float, self.transform)
            found["GeoTransform"] = " ".join(map(str, (c, a, b, f, d, e)))
        if points is not None:
            found["gcps"] = json.dumps(_features(points.points))
        return found

    @property
    def pixel(self) -> float:
        """The shorter side of a pixel, in units of the transform."""
        a, b, _, d, e, _ = self.transform
        return min(math.hypot(a, d), math.hypot(b, e))

    def at(
        self, columns: NDArray[Any], rows: NDArray[Any]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """x and y of places in the frame, by the transform."""
        a, b, c, d, e, f = self.transform
        return a * columns + b * rows + c, d * columns + e * rows + f


def _cf(wkt: str) -> dict[str, Any]:
    """A CRS as attributes of CF; empty where CF has none for it."""
    from pyproj import CRS
    from pyproj.exceptions import ProjError

    try:
        found: dict[str, Any] = CRS.from_wkt(wkt).to_cf()
    except (ProjError, KeyError):
        return {}
    return found


def _features(points: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Ground control points as GeoJSON."""
    return {
        "type": "FeatureCollection",
        "features": [
            {
                "type": "Feature",
                "properties": {"id": str(i), "info": "", "row": row, "col": column},
                "geometry": {"type": "Point", "coordinates": [x, y, z]},
            }
            for i, (row, column, x, y, z) in enumerate(points, 1)
        ],
    }
