"""Coverages against exactextract, whole and cut, and by Python alone."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import shapely
from exactextract import exact_extract
from exactextract.raster import NumPyRasterSource

from segengine.areas import coverage
from segengine.areas.coverage import BITS, Outlines, pixels_of, tally

HEIGHT, WIDTH, CLASSES = 120, 150, 3


def outlines(polygons: list[Any]) -> Outlines:
    """Polygons and multipolygons in columns and rows."""
    multi = [shapely.MultiPolygon([p]) if p.geom_type == "Polygon" else p for p in polygons]
    _, points, (rings, parts, firsts) = shapely.to_ragged_array(multi)
    outer = np.zeros(len(rings) - 1, np.bool_)
    outer[parts[:-1]] = True
    first_rings = np.asarray(parts, np.int64)[firsts]
    zones = np.arange(len(polygons))
    return Outlines.of(zones, points, np.asarray(rings, np.int64), outer, first_rings)


def stars(seed: int, count: int) -> list[Any]:
    """Polygons of many sizes, some with holes, some of two parts, some turned the other way."""
    rng = np.random.default_rng(seed)
    found: list[Any] = []
    while len(found) < count:
        centre = rng.random(2) * (WIDTH, HEIGHT)
        angles = np.sort(rng.random(rng.integers(3, 20))) * 2 * np.pi
        radius = rng.random(len(angles)) * rng.choice([0.3, 3, 40, 200]) + 0.02
        points = centre + np.stack([np.cos(angles) * radius, np.sin(angles) * radius], axis=1)
        shape = shapely.Polygon(points[:: rng.choice([1, -1])])
        if not shape.is_valid:
            continue
        if len(found) % 3 == 0:
            shape = shape.difference(shape.representative_point().buffer(shape.length / 60))
        if len(found) % 5 == 0:
            shape = shape.difference(
                shapely.box(centre[0], -999, centre[0] + shape.length / 90, 999)
            )
        found.append(shape)
    return found


def exact(labels: np.ndarray, polygons: list[Any]) -> np.ndarray:
    """(polygon, class + 1) coverages by exactextract."""
    raster = NumPyRasterSource(
        labels[::-1].astype(np.int32), 0, 0, labels.shape[1], labels.shape[0]
    )
    features = [
        {"type": "Feature", "properties": {}, "geometry": json.loads(shapely.to_geojson(p))}
        for p in polygons
    ]
    found = np.zeros((len(polygons), CLASSES + 1))
    for i, feature in enumerate(exact_extract(raster, features, ["values", "coverage"])):
        values = np.asarray(feature["properties"]["values"], np.int64)
        shares = np.asarray(feature["properties"]["coverage"], np.float64)
        for label in range(CLASSES):
            found[i, label] = shares[values == label].sum()
        found[i, CLASSES] = shares[values >= CLASSES].sum()
    return found


@pytest.fixture(scope="module")
def labels() -> np.ndarray:
    found = np.random.default_rng(0).integers(0, CLASSES + 1, (HEIGHT, WIDTH)).astype(np.uint8)
    found[found == CLASSES] = 255
    return found


def test_coverages_are_those_of_exactextract(labels: np.ndarray) -> None:
    polygons = stars(1, 150)
    own = outlines(polygons)
    chosen = np.arange(len(polygons))
    counts, grounds = tally(labels, np.full(labels.shape, 8.0), (0, 0), own, chosen, CLASSES)
    expected = exact(labels, polygons)
    found = np.ldexp(counts.astype(np.float64), -BITS)
    whole = np.maximum(expected.sum(axis=1, keepdims=True), 1e-3)
    assert (np.abs(found - expected) / whole).max() < 3e-7  # its coverages are of 32 bits
    assert np.array_equal(grounds, counts * 8)
    areas = [polygon.area for polygon in polygons]
    assert pixels_of(own) == pytest.approx(areas, rel=1e-7, abs=1e-8)


@pytest.mark.parametrize("side", [(7, 11), (64, 64), (1, 150)])
def test_sums_do_not_depend_on_the_cuts(labels: np.ndarray, side: tuple[int, int]) -> None:
    polygons = stars(2, 40)
    own = outlines(polygons)
    weights = 1 + np.random.default_rng(3).random(labels.shape)
    chosen = np.arange(len(polygons))
    whole = tally(labels, weights, (0, 0), own, chosen, CLASSES)
    parts = [np.zeros_like(sums) for sums in whole]
    for y in range(0, HEIGHT, side[0]):
        for x in range(0, WIDTH, side[1]):
            box = (slice(y, min(HEIGHT, y + side[0])), slice(x, min(WIDTH, x + side[1])))
            meeting = own.meeting(*box)
            for sums, part in zip(
                parts,
                tally(labels[box], weights[box], (y, x), own, meeting, CLASSES),
                strict=True,
            ):
                sums[meeting] += part
    assert all(np.array_equal(a, b) for a, b in zip(parts, whole, strict=True))


def test_what_is_in_a_band_does_not_matter(
    labels: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = outlines(stars(4, 20))
    weights = np.ones(labels.shape)
    whole, _ = tally(labels, weights, (0, 0), own, np.arange(20), CLASSES)
    monkeypatch.setattr(coverage, "_BAND", 500)
    banded, _ = tally(labels, weights, (0, 0), own, np.arange(20), CLASSES)
    assert np.array_equal(banded, whole)


def test_python_gives_the_same(labels: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    own = outlines(stars(5, 12))
    part, weights = labels[:30, :40], np.full((30, 40), 0.75)
    whole = tally(part, weights, (40, 50), own, np.arange(12), CLASSES)
    monkeypatch.setattr(coverage, "_edge", coverage._edge.plain)
    monkeypatch.setattr(coverage, "_tally", coverage._tally.plain)
    assert all(
        np.array_equal(a, b)
        for a, b in zip(
            tally(part, weights, (40, 50), own, np.arange(12), CLASSES), whole, strict=True
        )
    )


def test_neighbours_add_up_to_what_both_cover(labels: np.ndarray) -> None:
    points = np.random.default_rng(6).random((60, 2)) * (WIDTH + 20, HEIGHT + 20) - 10
    cells = shapely.voronoi_polygons(
        shapely.MultiPoint(points), extend_to=shapely.box(-30, -30, WIDTH + 30, HEIGHT + 30)
    )
    polygons = list(shapely.get_parts(cells))
    counts, _ = tally(
        labels, np.ones(labels.shape), (0, 0), outlines(polygons), np.arange(len(polygons)), CLASSES
    )
    expected = [(labels == k).sum() for k in (0, 1, 2, 255)]
    assert np.ldexp(counts.sum(axis=0).astype(float), -BITS) == pytest.approx(expected, rel=1e-7)


def test_places_far_outside_do_not_matter(labels: np.ndarray) -> None:
    far = shapely.Polygon([(-1e9, -1e9), (1e9, -1e9), (75, 60), (1e9, 1e9), (-1e9, 1e9)])
    counts, _ = tally(labels, np.ones(labels.shape), (0, 0), outlines([far]), np.arange(1), CLASSES)
    near = shapely.intersection(far, shapely.box(-9, -9, WIDTH + 9, HEIGHT + 9))
    assert np.ldexp(counts.astype(float), -BITS) == pytest.approx(exact(labels, [near]), rel=1e-6)
