"""Ground areas against pyproj's geodesic polygons, pixel by pixel; cut or whole, the same sums."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from pyproj import CRS, Geod, Proj, Transformer
from rasterio.crs import CRS as Rasterio
from rasterio.transform import Affine

from segengine.ground import Ground
from segengine.placing import Placing

WGS84 = Geod(ellps="WGS84")
FOOT = 1200 / 3937
PLACES = {
    "mercator at 60 degrees": ("EPSG:3857", (500, 0, 2e6, 0, -500, 8399737)),
    "degrees": ("EPSG:4326", (0.5, 0, -180, 0, -0.5, 90)),
    "utm": ("EPSG:32633", (10, 0, 300000, 0, -10, 5e6)),
    "polar": ("EPSG:3413", (5000, 0, 1e6, 0, -5000, 2e6)),
    "turned": ("EPSG:32633", (8, 6, 300000, 6, -8, 5e6)),
    "feet": ("EPSG:2263", (30, 0, 950000, 0, -30, 250000)),
    "equal area": ("EPSG:6933", (25000, 0, -5e6, 0, -25000, 7e6)),
}


def made(place: str, height: int = 40, width: int = 30) -> Ground:
    code, transform = PLACES[place]
    wkt = Rasterio.from_string(code).to_wkt()
    found = Placing.of({"crs_wkt": wkt, "transform": [*transform]}, height, width).ground
    assert found is not None
    return found


def geodesic(place: str, height: int, width: int) -> np.ndarray:
    """(y, x) square metres, each pixel a polygon of its four corners."""
    code, transform = PLACES[place]
    crs = CRS.from_user_input(code)
    to = Transformer.from_crs(crs, crs.geodetic_crs, always_xy=True)
    place_of, area = Affine(*transform), np.empty((height, width))
    for y in range(height):
        for x in range(width):
            corners = [place_of @ (x + i, y + j) for i, j in ((0, 0), (1, 0), (1, 1), (0, 1))]
            lon, lat = to.transform(*zip(*corners, strict=True))
            area[y, x] = abs(crs.get_geod().polygon_area_perimeter(lon, lat)[0])
    return area


def metres(ground: Ground, totals: tuple[int, ...] | None) -> list[float]:
    assert totals is not None
    assert ground.exponent is not None
    return [math.ldexp(total, ground.exponent) for total in totals]


@pytest.mark.parametrize("place", PLACES)
def test_areas_are_geodesic(place: str) -> None:
    ground, area = made(place), geodesic(place, 40, 30)
    labels = np.random.default_rng(0).choice([0, 1, 255], (1, 40, 30)).astype(np.uint8)
    found = metres(ground, ground.totals(labels, 2, (0, 0)))
    expected = [area[labels[0] == k].sum() for k in (0, 1, 255)]
    assert found == pytest.approx(expected, rel=2e-5)
    half = np.zeros((1, 40, 30), np.uint8)
    half[:, 20:] = 1  # a class in the south alone: rows are not all of one area
    found = metres(ground, ground.totals(half, 2, (0, 0)))
    assert found == pytest.approx([area[:20].sum(), area[20:].sum(), 0], rel=2e-6)
    east = np.zeros((1, 40, 30), np.uint8)
    east[..., 15:] = 1
    found = metres(ground, ground.totals(east, 2, (0, 0)))
    assert found == pytest.approx([area[:, :15].sum(), area[:, 15:].sum(), 0], rel=2e-4)


def test_mercator_at_60_degrees_is_a_fourth() -> None:
    ground = made("mercator at 60 degrees", 4, 4)
    (found,) = metres(ground, ground.totals(np.zeros((1, 4, 4), np.uint8), 1, (0, 0)))[:1]
    assert found == pytest.approx(16 * 500**2 / 4, rel=0.01)


def test_feet_are_feet() -> None:
    ground = made("feet", 4, 4)
    (found,) = metres(ground, ground.totals(np.zeros((1, 4, 4), np.uint8), 1, (0, 0)))[:1]
    assert found == pytest.approx(16 * (30 * FOOT) ** 2, rel=2e-4)  # the scale of the map
    local = (
        'LOCAL_CS["site",UNIT["US survey foot",0.304800609601219],AXIS["x",EAST],AXIS["y",NORTH]]'
    )
    site = Placing.of({"crs_wkt": local, "transform": [2, 0, 0, 0, -2, 0]}, 4, 4).ground
    assert site is not None
    (found,) = metres(site, site.totals(np.zeros((1, 4, 4), np.uint8), 1, (0, 0)))[:1]
    assert found == pytest.approx(16 * (2 * FOOT) ** 2, rel=1e-8)


def test_the_whole_earth() -> None:
    ground = made("degrees", 360, 720)
    found = metres(ground, ground.totals(np.zeros((1, 360, 720), np.uint8), 1, (0, 0)))
    assert found[0] == pytest.approx(510_065_621_724_088, rel=2e-5)  # edges are geodesics


@pytest.mark.parametrize("place", ["mercator at 60 degrees", "polar", "turned"])
def test_sums_do_not_depend_on_the_cuts(place: str) -> None:
    ground = made(place, 1500, 700)
    labels = np.random.default_rng(1).choice([0, 1, 2, 255], (1, 1500, 700)).astype(np.uint8)
    whole = ground.totals(labels, 3, (0, 0))
    assert whole is not None
    for side in (512, 48 * 7):
        parts: Any = np.zeros(4, object)
        for y in range(0, 1500, side):
            for x in range(0, 700, side):
                found = ground.totals(labels[:, y : y + side, x : x + side], 3, (y, x))
                parts += np.array(found, object)
        assert tuple(parts) == whole


def test_rows_are_read_off_a_polynomial_exactly() -> None:
    ground = made("degrees", 360, 20)
    rows = ground.rows(0, 360, 0)
    assert ground.exponent is not None
    area = geodesic("degrees", 360, 1)[:, 0]
    assert (
        np.abs(np.ldexp(rows.astype(np.float64), ground.exponent) - area).max() < 1e-6 * area.max()
    )


@pytest.mark.parametrize("place", ["utm", "turned", "polar", "feet"])
@pytest.mark.parametrize("smaller", [1, 40])
def test_each_pixel_has_its_own_area(place: str, smaller: int) -> None:
    """By the scale of the map there; small pixels too, whose geodesic polygons are rounded."""
    code, transform = PLACES[place]
    a, b, c, d, e, f = (v / smaller if i in (0, 1, 3, 4) else v for i, v in enumerate(transform))
    wkt = Rasterio.from_string(code).to_wkt()
    ground = Placing.of({"crs_wkt": wkt, "transform": [a, b, c, d, e, f]}, 2100, 700).ground
    assert ground is not None
    found = ground.metres(slice(0, 2100), slice(0, 700))
    rng = np.random.default_rng(2)
    rows, columns = rng.integers(0, 2100, 300), rng.integers(0, 700, 300)
    x, y = a * (columns + 0.5) + b * (rows + 0.5) + c, d * (columns + 0.5) + e * (rows + 0.5) + f
    projection, unit = Proj(code), CRS.from_user_input(code).axis_info[0].unit_conversion_factor
    lon, lat = projection(x, y, inverse=True)
    scale = projection.get_factors(lon, lat).areal_scale
    expected = abs(a * e - b * d) * unit**2 / scale
    coarse = smaller == 1 and place == "polar"  # edges are geodesics
    assert found[rows, columns] == pytest.approx(expected, rel=1e-5 if coarse else 1e-8)
    for window in ((slice(1000, 1100), slice(250, 600)), (slice(2099, 2100), slice(699, 700))):
        assert np.array_equal(ground.metres(*window), found[window])


def test_what_has_no_place_has_no_area() -> None:
    wkt = Rasterio.from_epsg(4326).to_wkt()
    assert Placing.of({"transform": [1, 0, 0, 0, -1, 0]}, 4, 4).ground is None
    assert Placing.of({"crs_wkt": wkt}, 4, 4).ground is None
    assert (
        Placing.of({"crs_wkt": "nonsense", "transform": [1, 0, 0, 0, -1, 0]}, 4, 4).ground is None
    )
