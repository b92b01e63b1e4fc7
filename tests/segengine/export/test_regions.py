"""Regions of a label map, band by band, against GDAL's polygonizer and the outlines of whole masks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import rasterio.features
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from rasterio.crs import CRS

from segengine.export import _regions
from segengine.export._regions import regions
from segengine.ground import Ground
from segengine.instances.polygons import polygons

VOID = 255


def found(labels: np.ndarray, **more: Any) -> list[_regions.Region]:
    return list(regions(labels.shape, VOID, lambda rows: labels[rows], **more))


def shape_of(polygon: list[np.ndarray]) -> Any:
    return shapely.Polygon(polygon[0], polygon[1:])


MAPS = hnp.arrays(
    np.uint8,
    st.tuples(st.integers(1, 40), st.integers(1, 23)),
    elements=st.sampled_from([0, 1, 2, VOID]),
)


@given(MAPS)
@settings(max_examples=120, deadline=None)
def test_they_are_gdals(labels: np.ndarray) -> None:
    ours = found(labels)
    theirs = [
        (int(value), shapely.geometry.shape(geometry))
        for geometry, value in rasterio.features.shapes(labels, labels != VOID, connectivity=4)
    ]
    assert len(ours) == len(theirs)
    assert sum(r.area for r in ours) == (labels != VOID).sum()
    by_place = {(r.label, shapely.normalize(shape_of(r.polygon)).wkb): r for r in ours}
    for value, shape in theirs:
        region = by_place.pop((value, shapely.normalize(shape).wkb), None)
        if region is None:  # GDAL lets a ring run through a corner: as areas they are the same
            (key, region), *_ = [
                (k, r) for k, r in by_place.items()
                if k[0] == value and shape_of(r.polygon).equals(shapely.make_valid(shape))
            ]  # fmt: skip
            del by_place[key]
        assert shape_of(region.polygon).is_valid
        assert shape_of(region.polygon).area == region.area
    assert not by_place


@given(MAPS, st.integers(0, 2))
@settings(max_examples=60, deadline=None)
def test_outlines_are_those_of_the_masks(labels: np.ndarray, kind: int) -> None:
    ours = [shapely.normalize(shape_of(r.polygon)) for r in found(labels) if r.label == kind]
    whole = [shapely.normalize(shape_of(polygon)) for polygon in polygons(labels == kind)]
    assert sorted(s.wkb for s in ours) == sorted(s.wkb for s in whole)


def test_bands_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    labels = rng.choice([0, 1, 2, VOID], (200, 90), p=[0.5, 0.3, 0.1, 0.1]).astype(np.uint8)
    labels[10:190, 40] = 1  # one across many bands
    likely = rng.random((3, 200, 90)).astype(np.float32)
    place = Ground(CRS.from_epsg(32613).to_wkt(), (10.0, 0, 5e5, 0, -10.0, 4.4e6), 200, 90)
    more: dict[str, Any] = {"ground": place, "probabilities": lambda k, rows: likely[k, rows]}
    whole = {shapely.normalize(shape_of(r.polygon)).wkb: r for r in found(labels, **more)}
    monkeypatch.setattr(_regions, "_PIXELS", 1)  # 16 rows
    cut = {shapely.normalize(shape_of(r.polygon)).wkb: r for r in found(labels, **more)}
    assert cut.keys() == whole.keys()
    for key, region in cut.items():
        other = whole[key]
        assert (region.label, region.area, region.metres, region.probability) == (
            other.label, other.area, other.metres, other.probability
        )  # fmt: skip
        assert region.metres == pytest.approx(100 * region.area, rel=2e-3)
        inside = rasterio.features.rasterize([shape_of(region.polygon)], labels.shape).astype(bool)
        assert region.area == inside.sum()
        assert region.probability == pytest.approx(likely[region.label][inside].mean(), abs=1e-6)
    numbers = [r.number for r in found(labels)]
    assert len(set(numbers)) == len(numbers)


def test_where_the_ground_is_unknown_areas_are() -> None:
    wkt = CRS.from_string("+proj=ortho +lat_0=0 +lon_0=0").to_wkt()
    place = Ground(wkt, (1e4, 0, -1e5, 0, -1e4, 7e6), 1100, 20)
    labels = np.zeros((1100, 20), np.uint8)
    labels[1024:] = 1  # areas are told, or not, by blocks of so many rows
    metres = {r.label: r.metres for r in found(labels, ground=place)}
    assert metres[0] is None  # its first rows are beyond the globe
    assert metres[1] is not None
