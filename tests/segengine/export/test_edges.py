"""Reprojected edges against pyproj, densely sampled: what a reader draws stays on the pixels' edges."""

from __future__ import annotations

import itertools

import numpy as np
import pyproj
import pytest
import rasterio
import shapely

from segengine.errors import StoreError
from segengine.export._edges import densified
from segengine.export._features import STRAY, to_lonlat

WGS84 = "OGC:CRS84"


def box(x: float, y: float, width: float, height: float) -> np.ndarray:
    corners = [(x, y), (x + width, y), (x + width, y + height), (x, y + height), (x, y)]
    return np.array(corners, float)


def sampled(ring: np.ndarray) -> np.ndarray:
    """A ring's edges, 200 points each."""
    share = np.linspace(0, 1, 200)[:, None]
    return np.concatenate([a + share * (b - a) for a, b in itertools.pairwise(ring)])


def stray(ring: np.ndarray, found: np.ndarray, crs: str) -> float:
    """Greatest distance between an edge and what is straight in longitude and latitude."""
    back = pyproj.Transformer.from_crs(WGS84, crs, always_xy=True)
    drawn = np.stack(back.transform(*sampled(found).T), axis=1)
    there = shapely.distance(shapely.LineString(ring), shapely.points(drawn)).max()
    forth = shapely.distance(shapely.LineString(drawn), shapely.points(sampled(ring))).max()
    return float(max(there, forth))


@pytest.mark.parametrize(
    ("crs", "place", "pixel", "side"),
    [
        ("EPSG:32613", (450e3, 4400e3), 10.0, 100),  # a field of a Sentinel-2 scene
        ("EPSG:32613", (300e3, 4300e3), 0.5, 20_000),
        ("EPSG:32633", (200e3, 8500e3), 10.0, 10_980),  # a whole scene far north
        ("EPSG:3413", (-2e6, -1.5e6), 1000.0, 1500),  # Greenland
        ("EPSG:3035", (2.6e6, 1.6e6), 25.0, 40_000),
    ],
)
def test_an_edge_stays_within_a_quarter_of_a_pixel(
    crs: str, place: tuple[float, float], pixel: float, side: int
) -> None:
    ring, hole = (box(*place, k * pixel, k * pixel) for k in (side, 2))
    ((polygon,),) = to_lonlat(pyproj.CRS(crs).to_wkt(), "s")([[[ring, hole[::-1]]]], pixel)
    assert stray(ring, polygon[0], crs) < STRAY * pixel
    assert len(polygon[1]) == 5  # short edges get nothing
    ends = np.stack(pyproj.Transformer.from_crs(crs, WGS84, always_xy=True).transform(*ring.T))
    bare = stray(ring, ends.T, crs)
    assert (len(polygon[0]) == len(ring)) == (bare < STRAY * pixel)
    if bare >= STRAY * pixel:  # as few as hold: with half of them it would not
        assert stray(ring, polygon[0][::2], crs) > STRAY * pixel
    # a corner is a corner still
    near = shapely.distance(shapely.MultiPoint(polygon[0]), shapely.points(ends.T))
    assert near.max() < 1e-7  # a centimetre: PROJ has more than one version here


def test_an_edge_across_a_pole_gets_a_point_a_pixel_at_most() -> None:
    forth = pyproj.Transformer.from_crs("EPSG:3413", WGS84, always_xy=True)
    back = pyproj.Transformer.from_crs(WGS84, "EPSG:3413", always_xy=True)
    ring = box(0, -1e5, 5e4, 2e5)
    (found,) = densified(
        [ring],
        1000,
        10,
        lambda p: np.stack(forth.transform(*p.T), axis=1),
        lambda p: np.stack(back.transform(*p.T), axis=1),
    )
    assert shapely.LineString(found).equals(shapely.LineString(ring))
    assert 5 < len(found) <= 501
    assert np.hypot(*np.diff(found, axis=0).T).min() >= 1000 - 1e-6


def test_neighbours_along_a_long_edge_do_not_overlap() -> None:
    """Two objects on either side of a border of corners: what lies between them is a sliver at most."""
    pixel, wkt = 10.0, rasterio.crs.CRS.from_epsg(32633).to_wkt()
    upper = box(2e5, 8.5e6, 1e5, 1e4)
    lower = box(2e5, 8.49e6, 1e5, 1e4)
    notch = np.array([(2.4e5, 8.5e6), (2.4e5, 8.4999e6), (2.6e5, 8.4999e6), (2.6e5, 8.5e6)])
    lower = np.concatenate([lower[:3], notch[::-1], lower[3:]])
    found = to_lonlat(wkt, "s")([[[upper]], [[lower]]], pixel)
    first, second = (shapely.Polygon(outline[0][0]) for outline in found)
    assert first.is_valid
    assert second.is_valid
    metre = 1 / 111e3
    assert first.intersection(second).area < 1e5 * pixel / 2 * metre**2


def test_what_has_no_longitude_is_an_error() -> None:
    wkt = pyproj.CRS("ESRI:54009").to_wkt()  # Mollweide: an ellipse in a square
    with pytest.raises(StoreError, match="s: has no longitude and latitude everywhere"):
        to_lonlat(wkt, "s")([[[box(-1.8e7, 0, 1000, 8e6)]]], 1000.0)
