"""Shapes are the pixels that their programs, or independent rasterisers, make of them."""

from __future__ import annotations

import json
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from rasterio.features import rasterize

from segengine.datasets.annotations import labelme, labelstudio
from segengine.datasets.annotations.shapes import (
    Patch,
    ellipse,
    filled,
    rectangle,
    together,
    turned,
)

from .files import masks_of, read

SIZE = (21, 34)
FIXTURES = Path(__file__).parent / "fixtures"


def whole(patch: Patch) -> np.ndarray:
    mask = np.zeros(SIZE, bool)
    (y, x), (height, width) = patch.corner, patch.mask.shape
    mask[y : y + height, x : x + width] = patch.mask
    return mask


def drawn(rows: list[str]) -> np.ndarray:
    return np.array([[letter == "#" for letter in row] for row in rows])


corners = st.lists(
    st.tuples(st.floats(-9, 40), st.floats(-9, 30)),
    min_size=3,
    max_size=9,
)


@given(points=corners, seed=st.integers(0, 99))
@settings(deadline=None, max_examples=40)
def test_polygons_are_those_of_gdal(points: list[tuple[float, float]], seed: int) -> None:
    """Off the centres of pixels, where either way of rounding is right."""
    ring = np.array(points) + np.random.default_rng(seed).uniform(0.01, 0.02, (len(points), 2))
    shape = {"type": "Polygon", "coordinates": [[*ring.tolist(), ring[0].tolist()]]}
    expected = rasterize([shape], out_shape=SIZE, dtype="uint8").astype(bool)
    # GDAL snaps corners to a grid where they are beyond the picture: what is inside agrees
    if (ring >= 0).all() and (ring <= SIZE[::-1]).all():
        np.testing.assert_array_equal(whole(filled([ring], SIZE)), expected)
    else:
        assert (whole(filled([ring], SIZE)) != expected).sum() <= 2


def test_a_hole_is_left_out_and_parts_are_joined() -> None:
    outer, inner = rectangle(2, 2, 10, 10), rectangle(4, 5, 3, 2)
    apart = filled([rectangle(20, 1, 4, 4)], SIZE)
    mask = whole(together([filled([outer, inner], SIZE), apart]))
    expected = np.zeros(SIZE, bool)
    expected[2:12, 2:12] = expected[1:5, 20:24] = True
    expected[5:7, 4:7] = False
    np.testing.assert_array_equal(mask, expected)


def test_neighbours_share_no_pixel_and_leave_none() -> None:
    rng = np.random.default_rng(3)
    for _ in range(50):
        top, bottom = rng.uniform(0, 34, 2)
        left = np.array([(0, 0), (top, 0), (bottom, 21), (0, 21)])
        right = np.array([(top, 0), (34, 0), (34, 21), (bottom, 21)])
        both = whole(filled([left], SIZE)).astype(int) + whole(filled([right], SIZE))
        assert (both == 1).all()


@pytest.mark.parametrize("degrees", [0, 30, 90, 211.5])
def test_ellipses_are_those_of_the_formula(degrees: float) -> None:
    center, radii, angle = (15.3, 9.1), (8.2, 3.4), np.radians(degrees)
    expected = np.zeros(SIZE, bool)
    for y in range(SIZE[0]):
        for x in range(SIZE[1]):
            at = complex(x + 0.5 - center[0], y + 0.5 - center[1]) * np.exp(-1j * angle)
            expected[y, x] = (at.real / radii[0]) ** 2 + (at.imag / radii[1]) ** 2 <= 1
    np.testing.assert_array_equal(whole(ellipse(center, radii, SIZE, degrees)), expected)


def test_boxes_turn_clockwise() -> None:
    box = turned(rectangle(10, 5, 6, 3), 90, (10, 5))
    expected = np.zeros(SIZE, bool)
    expected[5:11, 7:10] = True
    np.testing.assert_array_equal(whole(filled([box], SIZE)), expected)


def test_brushes_are_those_of_label_studio() -> None:
    """As its SDK encodes them: white, green and half transparent, words of every kind."""
    for one in json.loads((FIXTURES / "brushes.json").read_text())["brushes"]:
        mask = drawn(one["mask"])
        np.testing.assert_array_equal(labelstudio.brushed(one["rle"], mask.shape), mask)


def test_shapes_are_those_of_labelme(tmp_path: Path) -> None:
    """As its own `shape_to_mask` draws them, also beyond the picture."""
    known = json.loads((FIXTURES / "labelme.json").read_text())
    for shape, rows in zip(known["shapes"], known["masks"], strict=True):
        path = tmp_path / "a.json"
        path.write_text(json.dumps({"shapes": [shape], "imageHeight": 21, "imageWidth": 34}))
        path.touch()
        found = masks_of(read(tmp_path / "{stem}.json", "a.png", SIZE), SIZE)
        mask = found[0][1] if found else np.zeros(SIZE, bool)
        np.testing.assert_array_equal(mask, drawn(rows), err_msg=str(shape))
        path.unlink()


def test_labelme_outlines_are_written_where_they_hold() -> None:
    rng = np.random.default_rng(5)
    for _ in range(100):
        mask = np.kron(rng.random((4, 5)) < 0.7, np.ones((3, 3), bool))
        outline = labelme._outline(mask)
        if outline is not None:
            again = labelme.drawn("polygon", outline, outline.min(0), outline.max(0), mask.shape)
            assert again.mask.sum() == mask.sum()
