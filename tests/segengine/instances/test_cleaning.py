"""Components are smoothed, filled and sieved as SciPy and scikit-image do it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage
from skimage.measure import label
from skimage.morphology import remove_small_holes, remove_small_objects

from segengine.instances.cleaning import VOID, Cleaning, clean_frame, kinds_of
from tests.segengine.instances.test_splitting import blobs

WHOLE = slice(None), slice(None)


def kinds(labels: np.ndarray, **options: Any) -> np.ndarray:
    inner = slice(0, labels.shape[0]), slice(0, labels.shape[1])
    return kinds_of(labels, 255, Cleaning((1,), **options), inner)


@pytest.mark.parametrize("sigma", [0.7, 1.0, 2.5, 8.0])
def test_a_smoothed_mask_is_that_of_scipys_gaussian(sigma: float) -> None:
    mask = blobs(5, 70, 45) ^ (np.random.default_rng(5).random((70, 45)) < 0.05)
    found = kinds(mask.astype(np.uint8), smooth=sigma) > 0
    blurred = ndimage.gaussian_filter(mask.astype(float), sigma)
    clear = abs(blurred - 0.5) > 1e-5  # weights are of 20 bits
    np.testing.assert_array_equal(found[clear], (blurred > 0.5)[clear])
    assert clear.mean() > 0.99
    assert (found != mask).any()


def test_a_straight_border_stays_where_it_is() -> None:
    labels = np.zeros((40, 40), np.uint8)
    labels[:, 17:] = 1
    np.testing.assert_array_equal(kinds(labels, smooth=3.0) > 0, labels > 0)


@given(
    seed=st.integers(0, 9999),
    height=st.integers(2, 60),
    width=st.integers(2, 60),
    connectivity=st.integers(1, 2),
    holes=st.sampled_from([0, 1, 4, 30]),
    min_area=st.sampled_from([0, 2, 25]),
)
def test_objects_are_those_of_scikit_images_pipeline(
    seed: int, height: int, width: int, connectivity: int, holes: int, min_area: int
) -> None:
    mask = blobs(seed, height, width)
    if not mask.any() or holes >= mask.size:
        return
    how = Cleaning((1,), connectivity=connectivity, holes=holes, min_area=min_area)
    ids, classes, whole = clean_frame(mask.astype(np.uint8), 255, how)
    wanted = remove_small_holes(mask, max_size=holes, connectivity=connectivity)
    wanted = remove_small_objects(wanted, max_size=min_area - 1, connectivity=connectivity)
    np.testing.assert_array_equal(ids, label(wanted, connectivity=connectivity))
    assert set(classes[1:].tolist()) <= {1}
    assert not whole.any()


def test_ids_count_by_first_pixel_over_all_classes() -> None:
    labels = np.array([[0, 2, 2, 0, 1], [1, 0, 0, 0, 1], [1, 2, 255, 2, 2]], np.uint8)
    ids, classes, _ = clean_frame(labels, 255, Cleaning((1, 2)))
    np.testing.assert_array_equal(ids, [[0, 1, 1, 0, 2], [3, 0, 0, 0, 2], [3, 4, 0, 5, 5]])
    assert classes[1:].tolist() == [2, 1, 1, 2, 2]
    ids, classes, _ = clean_frame(labels, 255, Cleaning((2,), min_area=2))
    np.testing.assert_array_equal(ids > 0, [[0, 1, 1, 0, 0], [0] * 5, [0, 0, 0, 1, 1]])
    assert classes[1:].tolist() == [2, 2]


def test_a_hole_beside_void_or_of_two_classes_is_none() -> None:
    labels = np.ones((7, 21), np.uint8)
    labels[:, 14:] = 2
    labels[3, 2] = labels[3, 7] = labels[3, 13] = labels[3, 14] = 0  # the last lie between classes
    labels[2, 7] = 255
    ids, classes, _ = clean_frame(labels, 255, Cleaning((1, 2), holes=9))
    assert ids[3, 2] == ids[0, 0] == 1
    assert ids[3, 7] == ids[2, 7] == ids[3, 13] == ids[3, 14] == 0
    assert classes[1:].tolist() == [1, 2]


def test_void_is_no_object_whatever_lies_around_it() -> None:
    labels = np.ones((30, 30), np.uint8)
    labels[10:12, 5:25] = 255
    found = kinds(labels, smooth=3.0)
    assert (found[labels == 255] == VOID).all()
    ids, _, _ = clean_frame(labels, 255, Cleaning((1,), smooth=3.0, holes=100))
    np.testing.assert_array_equal(ids == 0, labels == 255)
