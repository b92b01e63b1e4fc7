"""Outlines in longitude and latitude wherever on earth: valid for shapely, of the mask's area."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import shapely
from pyproj import Geod
from rasterio.crs import CRS
from scipy import ndimage

from segengine.export._features import placed, to_lonlat
from segengine.instances.polygons import oriented, polygons
from segengine.placing import Placing

EARTH = Geod(ellps="WGS84")
SIDE = 40


def disc(far: float, inner: float = -1) -> np.ndarray:
    """A disc in the middle of a frame, or a ring."""
    y, x = np.indices((SIDE, SIDE)) + 0.5
    distance = np.hypot(y - SIDE / 2, x - SIDE / 2)
    return np.asarray((distance < far) & (distance >= inner))


def corners() -> np.ndarray:
    """Three of four quadrants: the middle is a vertex."""
    mask = np.zeros((SIDE, SIDE), np.bool_)
    mask[5:35, 5:35] = True
    mask[20:, 20:] = False
    return mask


def half() -> np.ndarray:
    """The middle lies on an edge."""
    mask = np.zeros((SIDE, SIDE), np.bool_)
    mask[5:20, 5:35] = True
    return mask


MASKS = {
    "disc": disc(15),
    "ring": disc(17, 8),
    "ring off the middle": np.roll(disc(12, 5), 6, axis=1),
    "corners": corners(),
    "half": half(),
    "whole": np.ones((SIDE, SIDE), np.bool_),
    "lobes": ndimage.gaussian_filter(np.random.default_rng(3).random((SIDE, SIDE)), 1.5) > 0.49,
    "noise": np.random.default_rng(0).random((SIDE, SIDE)) < 0.4,
}


def centred(side: float, x: float = 0, y: float = 0) -> tuple[float, ...]:
    return (side, 0, x - side * SIDE / 2, 0, -side, y + side * SIDE / 2)


PLACES: dict[str, tuple[str, tuple[float, ...]]] = {
    **{
        f"{code} {name}": (f"EPSG:{code}", where)
        for code in (3413, 3995, 3031, 6931, 3571)
        for name, where in (
            ("pole", centred(25_000)),
            ("near the pole", centred(20_000, 130_000, 90_000)),
            ("towards the antimeridian", centred(10_000, -1.3e6, 1.3e6)),
            ("above", centred(10_000, 0, 2e6)),
            ("below", centred(10_000, 30_000, -2e6)),
        )
    },
    "3857 right edge": ("EPSG:3857", centred(30_000, 20_037_508, 8e6)),
    "3857 left edge": ("EPSG:3857", centred(30_000, -20_037_508, -4e6)),
    "3857 whole": ("EPSG:3857", centred(40_075_016 / SIDE, 0, 0)),
    "4326 178.5": ("EPSG:4326", (0.1, 0, 178.5, 0, -0.1, 70)),
    "4326 190": ("EPSG:4326", (0.1, 0, 190, 0, -0.1, 10)),
    "4326 -181.5": ("EPSG:4326", (0.1, 0, -181.5, 0, -0.1, -50)),
    "4326 0 to 360": ("EPSG:4326", (9, 0, 0, 0, -4, 80)),
    "4326 whole": ("EPSG:4326", (9, 0, -180, 0, -4.5, 90)),
    "32601": ("EPSG:32601", centred(500, 200_000, 7.5e6)),
    "2263 feet": ("EPSG:2263", centred(300, 950_000, 250_000)),
}


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("place", PLACES)
def test_polygons_are_valid_and_have_the_area_of_the_mask(place: str, mask: str) -> None:
    code, transform = PLACES[place]
    wkt = CRS.from_string(code).to_wkt()
    outline = [
        [placed(Placing(1, 1, transform=(*transform,)), ring) for ring in polygon]
        for polygon in polygons(MASKS[mask])
    ]
    pixel = math.hypot(transform[0], transform[3])
    (found,) = to_lonlat(wkt, "s")([outline], min(pixel, abs(transform[4])))
    shapes = []
    for polygon in found:
        exterior, *holes = oriented(polygon)
        shape = shapely.Polygon(exterior, holes)
        assert shapely.LinearRing(exterior).is_ccw
        assert not any(shapely.LinearRing(hole).is_ccw for hole in holes)
        shapes.append(shape)
    whole = shapely.MultiPolygon(shapes)
    assert shapely.is_valid_reason(whole) == "Valid Geometry"
    west, south, east, north = whole.bounds
    assert west >= -180
    assert east <= 180
    assert south >= -90
    assert north <= 90
    ground = Placing.of({"crs_wkt": wkt, "transform": [*transform]}, SIDE, SIDE).ground
    assert ground is not None
    totals = ground.totals(MASKS[mask][None].view(np.uint8), 2, (0, 0))
    assert totals is not None
    assert ground.exponent is not None
    expected = math.ldexp(totals[1], ground.exponent)
    coarse = "whole" in place or "360" in place  # pixels of degrees, whose edges are no geodesics
    assert area(whole) == pytest.approx(expected, rel=2e-2 if coarse else 1e-3)


@pytest.mark.parametrize("seed", range(20))
def test_lobes_around_a_pole(seed: int) -> None:
    """Outlines that cross the antimeridian again and again on their way around the pole."""
    soft = ndimage.gaussian_filter(np.random.default_rng(seed).random((SIDE, SIDE)), 2)
    mask = (soft > np.median(soft)) & ~disc(3)
    y, x = np.indices((SIDE, SIDE)) + 0.5
    mask |= np.abs(np.hypot(y - SIDE / 2, x - SIDE / 2) - 8) < 1.5
    transform = centred(25_000)
    wkt = CRS.from_epsg(3413).to_wkt()
    outline = [
        [placed(Placing(1, 1, transform=(*transform,)), ring) for ring in p] for p in polygons(mask)
    ]
    (found,) = to_lonlat(wkt, "s")([outline], 25_000)
    whole = shapely.MultiPolygon([shapely.Polygon(p[0], p[1:]) for p in map(oriented, found)])
    assert whole.is_valid
    ground = Placing.of({"crs_wkt": wkt, "transform": [*transform]}, SIDE, SIDE).ground
    assert ground is not None
    totals = ground.totals(mask[None].view(np.uint8), 2, (0, 0))
    assert totals is not None
    assert ground.exponent is not None
    assert area(whole) == pytest.approx(math.ldexp(totals[1], ground.exponent), rel=5e-4)


def area(shape: Any) -> float:
    """Geodesic, in parts of less than a hemisphere; edges get points: straight in degrees, they are no
    geodesics."""
    total = 0.0
    for west in range(-180, 180, 60):
        for south in range(-90, 90, 45):
            part = shapely.intersection(shape, shapely.box(west, south, west + 60, south + 45))
            dense = shapely.segmentize(shapely.orient_polygons(part), 0.25)
            total += float(EARTH.geometry_area_perimeter(dense)[0]) if not part.is_empty else 0
    return total
