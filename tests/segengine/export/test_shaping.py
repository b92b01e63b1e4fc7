"""Polygons of a frame, shaped together: none overlap, and all but what is left out is covered."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from rasterio.crs import CRS

from segengine.export._instances import Piece
from segengine.export._objects import _row
from segengine.export._regions import regions
from segengine.export._shaping import Shaping, shapes, simplified
from segengine.placing import Placing

VOID = 255
UTM = CRS.from_epsg(32613).to_wkt()


def scene_of(labels: np.ndarray, placing: Placing) -> Any:
    """A scene of a mask alone."""
    height, width = labels.shape
    layout = SimpleNamespace(
        placing=placing, frame=lambda _: SimpleNamespace(height=height, width=width)
    )
    return SimpleNamespace(
        name="s", layout=layout, void=VOID, probabilities=None, confidence=None,
        read=lambda _, __, rows, cols: labels[rows, cols],
    )  # fmt: skip


def shaped(labels: np.ndarray, shaping: Shaping, placing: Placing) -> list[tuple[Any, Any]]:
    """Each region that is written: what is known of it, and its polygon."""
    scene = scene_of(labels, placing)
    found = regions(labels.shape, VOID, lambda rows: labels[rows], placing.ground)
    piece = Piece("s", 0, [_row(scene, 0, region) for region in found])
    return [
        (shape, shapely.MultiPolygon([shapely.Polygon(p[0], p[1:]) for p in shape.outline]))
        for after in simplified(scene, [piece], shaping)
        for shape in shapes(scene, after.rows, shaping, after.kept)
    ]


def placing_of(kind: str, shape: tuple[int, ...]) -> Placing:
    wkt, transform = UTM, (2.0, 0, 500_000, 0, -2.0, 4_400_000)
    return Placing(*shape) if kind == "pixels" else Placing(*shape, wkt=wkt, transform=transform)


NESTED = np.pad(np.pad(np.full((2, 3), 2, np.uint8), 1, constant_values=0), 3, constant_values=1)
"""A region of 6 pixels in a hole of 20 of another."""
AREAS = st.sampled_from([0, 4, 6, 20, 30])


@given(
    hnp.arrays(
        np.uint8,
        st.tuples(st.integers(1, 14), st.integers(1, 14)),
        elements=st.sampled_from([0, 0, 0, 1, 2, VOID]),
    ),
    AREAS,
    AREAS,
    st.sampled_from([0, 1, 3, 100]),
    st.sampled_from(["pixels", "metres"]),
)
@example(NESTED, 6, 6, 0, "pixels")  # a hole as large as what lies in it
@example(NESTED, 6, 20, 0, "pixels")
@example(NESTED, 20, 20, 3, "pixels")
@example(NESTED, 0, 30, 0, "metres")
@example(NESTED, 0, 0, 100, "pixels")
@settings(max_examples=60, deadline=None)
def test_none_overlap_and_only_what_is_left_out_is_uncovered(
    labels: np.ndarray, least: float, most: float, side: float, kind: str
) -> None:
    shaping, placing = Shaping(side, least, most), placing_of(kind, labels.shape)
    found = shaped(labels, shaping, placing)
    shapes_ = [polygon for _, polygon in found]
    whole = shapely.union_all(shapes_)
    assert all(map(shapely.is_valid, shapes_))
    assert all(polygon.area > 0 for polygon in shapes_)
    assert sum(polygon.area for polygon in shapes_) == pytest.approx(whole.area)
    everything = shaped(labels, Shaping(), placing)
    kept = [shape.row["id"] for shape, _ in everything if shape.area >= least]
    assert [shape.row["id"] for shape, _ in found] == kept
    if not side:
        rough = [polygon for shape, polygon in everything if shape.area >= least]
        assert shapely.union_all(rough).difference(whole).area == 0
        holes = [shapely.Polygon(r) for p in shapely.get_parts(shapes_) for r in p.interiors]
        for hole in holes:  # each is too large, or holds what is written
            inside = any(hole.covers(polygon) for polygon in shapes_)
            pixels = 1 if kind == "pixels" else 4
            assert inside or hole.area * pixels > most * 0.999
    if not least and (labels != VOID).all():
        height, width = labels.shape
        assert whole.equals(shapely.box(0, 0, width, height))


def test_the_corners_of_a_frame_stay() -> None:
    """Also where their triangle is small."""
    labels = (np.indices((30, 40)).sum(axis=0) // 9 % 3).astype(np.uint8)
    found = shaped(labels, Shaping(simplify=100.0), placing_of("metres", labels.shape))
    whole = shapely.union_all([polygon for _, polygon in found])
    assert whole.equals(shapely.box(0, 0, 40, 30))
