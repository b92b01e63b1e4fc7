"""Outlines against rasterio's and shapely's, and masks cut from run lengths against pycocotools."""

from __future__ import annotations

import numpy as np
import pytest
import rasterio.features
import shapely
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from pycocotools import mask as coco

from segengine.export._features import placed
from segengine.export._table import well_known_binary
from segengine.instances.polygons import oriented, polygons
from segengine.instances.rle import (
    centroids,
    compress_runs,
    decode_crop,
    decompress_runs,
    encode_rle,
)
from segengine.placing import Placing

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
masks = npst.arrays(np.bool_, npst.array_shapes(min_dims=2, max_dims=2, max_side=10))


@settings(max_examples=300)
@given(masks)
@example(np.array([[1, 1, 0], [1, 0, 1], [1, 1, 1]], bool))  # a hole open through a corner
def test_outlines_are_valid_and_those_of_the_mask(mask: np.ndarray) -> None:
    found = [shapely.Polygon(p[0], p[1:]) for p in polygons(mask)]
    assert all(p.is_valid for p in found)
    assert sum(p.area for p in found) == mask.sum()
    theirs = [
        shapely.geometry.shape(shape)
        for shape, _ in rasterio.features.shapes(mask.view(np.uint8), mask=mask, connectivity=4)
    ]
    assert len(found) == len(theirs)
    assert shapely.union_all(found).equals(shapely.union_all(theirs))


@settings(max_examples=100)
@given(masks, st.sampled_from([(2, 0, 5, 0, -2, 9), (0, 3, 1, 3, 0, 2), (1, 0.5, 0, 0, 1, 0)]))
def test_rings_turn_as_the_formats_want(mask: np.ndarray, transform: tuple[float, ...]) -> None:
    for polygon in polygons(mask, (3, 4)):
        exterior, *holes = oriented(
            [placed(Placing(1, 1, transform=(*transform,)), ring) for ring in polygon]
        )
        assert shapely.LinearRing(exterior).is_ccw
        assert not any(shapely.LinearRing(hole).is_ccw for hole in holes)


def test_binary_geometries_are_read_by_geos() -> None:
    mask = np.zeros((9, 9), bool)
    mask[1:6, 1:6], mask[2:4, 2:4], mask[7, 7] = True, False, True
    parts = polygons(mask, (100, 200))
    many = shapely.from_wkb(well_known_binary(parts))
    assert many.geom_type == "MultiPolygon"
    assert many.bounds == (201, 101, 208, 108)
    one = shapely.from_wkb(well_known_binary(parts[:1]))
    assert (one.geom_type, len(one.interiors), one.area) == ("Polygon", 1, 21)


@settings(max_examples=200)
@given(masks, st.tuples(*[st.integers(0, 9)] * 4))
def test_a_crop_is_the_mask_in_its_box(mask: np.ndarray, margin: tuple[int, int, int, int]) -> None:
    top, left, bottom, right = margin
    whole = np.pad(mask, ((top, bottom), (left, right)))
    crop, (y, x) = decode_crop(encode_rle(mask, (top, left), whole.shape), whole.shape[0])
    pasted = np.zeros_like(whole)
    pasted[y : y + crop.shape[0], x : x + crop.shape[1]] = crop
    np.testing.assert_array_equal(pasted, whole)
    if mask.any():
        assert crop.any(axis=0)[[0, -1]].all()
        assert crop.any(axis=1)[[0, -1]].all()
        rows, columns = np.nonzero(whole)
        text = encode_rle(mask, (top, left), whole.shape)
        wanted = (columns.mean() + 0.5, rows.mean() + 0.5)
        # of several at once those that have no pixel have no centre
        many = centroids(
            ["", text, encode_rle(whole & False, (0, 0), whole.shape), text], len(whole)
        )
        np.testing.assert_allclose(many, [(np.nan,) * 2, wanted, (np.nan,) * 2, wanted])


@settings(max_examples=50)
@given(st.lists(masks, max_size=6))
def test_centroids_are_those_of_each_mask_alone(found: list[np.ndarray]) -> None:
    texts = [encode_rle(mask, (0, 0), (10, 10)) for mask in found]
    each = [centroids([text], 10)[0] for text in texts]
    np.testing.assert_array_equal(centroids(texts, 10), np.reshape(each, (-1, 2)))
    with pytest.raises(ValueError, match="damaged"):
        centroids([*texts, "P", "0"], 10)  # which are one run only together


@settings(max_examples=200)
@given(st.lists(st.integers(1, 1 << 20), min_size=1, max_size=12), st.booleans())
def test_run_lengths_of_any_size(runs: list[int], filled: bool) -> None:
    given_runs = [0, *runs] if filled else runs
    total = sum(given_runs)
    theirs = coco.frPyObjects({"size": [1, total], "counts": given_runs}, 1, total)["counts"]
    text = compress_runs(np.array(given_runs))
    assert text == theirs.decode()
    assert decompress_runs(text).tolist() == given_runs
