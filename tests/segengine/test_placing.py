"""Where a scene lies."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from pyproj import CRS

from segengine.placing import Placing

UTM = CRS.from_epsg(32633).to_wkt()
NORTH_UP = [10.0, 0.0, 500_000.0, 0.0, -20.0, 4_000_000.0]
POINTS = {"crs_wkt": UTM, "points": [[0, 0, 1.0, 2.0, 0.0]]}


@pytest.mark.parametrize(
    ("attributes", "georeferenced", "pointed", "known"),
    [
        ({}, False, False, False),
        ({"crs_wkt": UTM}, False, False, False),
        ({"transform": NORTH_UP}, False, False, False),
        ({"crs_wkt": UTM, "transform": NORTH_UP}, True, False, True),
        ({"crs_wkt": "nonsense", "transform": NORTH_UP}, True, False, False),
        ({"gcps": POINTS}, False, True, False),
        ({"rpcs": {"LINE_OFF": "1"}}, False, True, False),
        ({"gcps": POINTS, "crs_wkt": UTM, "transform": NORTH_UP}, True, False, True),
    ],
)
def test_what_is_known_of_a_scene(
    attributes: dict[str, Any], georeferenced: bool, pointed: bool, known: bool
) -> None:
    found = Placing.of(attributes, 4, 6)
    assert (found.georeferenced, found.pointed) == (georeferenced, pointed)
    assert (found.ground is not None) == known


def test_pixels_are_placed_by_the_transform_alone() -> None:
    """Of a GeoTIFF's nine numbers, the first six."""
    turned = Placing.of({"transform": [3.0, 4.0, 100.0, -4.0, 3.0, 200.0, 0.0, 0.0, 1.0]}, 4, 6)
    x, y = turned.at(np.array([0, 2]), np.array([0, 1]))
    assert (x.tolist(), y.tolist()) == ([100.0, 110.0], [200.0, 195.0])
    assert turned.pixel == 5.0
    assert Placing.of({"transform": NORTH_UP}, 4, 6).pixel == 10.0


def test_areas_are_those_of_the_pixels() -> None:
    """In the unit of the scene; near the middle of a zone a metre is 0.04 % longer than on the map."""
    ground = Placing.of({"crs_wkt": UTM, "transform": NORTH_UP}, 4, 6).ground
    assert ground is not None
    assert ground.exponent is not None
    (area, _) = ground.totals(np.zeros((1, 4, 6), np.uint8), 1, (0, 0)) or (0, 0)
    assert math.ldexp(area, ground.exponent) == pytest.approx(24 * 200 * 1.0008, rel=1e-4)
