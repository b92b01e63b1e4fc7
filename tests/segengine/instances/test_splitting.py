"""Components are split as scikit-image splits each of them alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage
from skimage._shared.coord import ensure_spacing
from skimage.measure import label
from skimage.morphology import local_maxima, reconstruction
from skimage.segmentation import watershed

from segengine.instances.splitting import CELL, FARTHEST, LARGEST, distances, split

WAYS = ("watershed", "distance", "hmaxima")


def blobs(seed: int, height: int, width: int) -> np.ndarray:
    """Smooth and rough blobs of any share, some of which touch the border."""
    rng = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(rng.random((height, width)), rng.choice([0, 0.7, 1.5, 3]))
    found: np.ndarray = noise > np.quantile(noise, rng.choice([0.2, 0.5, 0.8]))
    return found


def seeds_of(mask: np.ndarray, how: str, near: int, height: float, connectivity: int) -> np.ndarray:
    """(seed, 2) in raster order, of one component."""
    squares = np.rint(ndimage.distance_transform_edt(mask) ** 2).astype(int)
    if how == "hmaxima":
        structure = ndimage.generate_binary_structure(2, connectivity)
        depth = np.where(mask, np.sqrt(squares), -100.0)
        tops = reconstruction(depth - height, depth, footprint=structure)
        flat = label(
            local_maxima(tops, connectivity=connectivity) & mask, connectivity=connectivity
        )
        places = [np.argwhere(flat == i) for i in range(1, flat.max() + 1)]
        found = np.array([p[np.argmax(squares[tuple(p.T)])] for p in places])
    else:
        square = np.ones((2 * near + 1, 2 * near + 1))
        highest = (ndimage.maximum_filter(squares, footprint=square) == squares) & mask
        found = np.argwhere(highest)[np.argsort(-squares[highest], kind="stable")]
        found = ensure_spacing(found, spacing=near) if near > 1 else found
    return found[np.lexsort(found.T[::-1])]


def alone(mask: np.ndarray, how: str, near: int, height: float, connectivity: int) -> np.ndarray:
    """What one component is split into by scikit-image, numbered by its seeds."""
    seeds = seeds_of(mask, how, near, height, connectivity)
    if how == "distance":
        y, x = np.indices(mask.shape)[..., None]
        nearest = (y - seeds[:, 0]) ** 2 + (x - seeds[:, 1]) ** 2
        return np.where(mask, nearest.argmin(axis=-1) + 1, 0)
    markers = np.zeros(mask.shape, int)
    markers[tuple(seeds.T)] = np.arange(1, len(seeds) + 1)
    # the heap says nothing of seeds of one height: the earlier in raster order goes first
    surface = -np.rint(ndimage.distance_transform_edt(mask) ** 2) * (len(seeds) + 1)
    surface[tuple(seeds.T)] -= len(seeds) - np.arange(len(seeds))
    return watershed(surface, markers, mask=mask, connectivity=connectivity)


@pytest.mark.parametrize("how", WAYS)
@given(
    seed=st.integers(0, 9999),
    height=st.integers(1, 50),
    width=st.integers(1, 50),
    near=st.integers(1, 8),
    rise=st.sampled_from([0.3, 0.5, 1.0, 2.0]),
    connectivity=st.integers(1, 2),
)
def test_each_component_is_split_as_scikit_image_splits_it_alone(
    how: str, seed: int, height: int, width: int, near: int, rise: float, connectivity: int
) -> None:
    ids = label(blobs(seed, height, width), connectivity=connectivity).astype(np.int32)
    count = int(ids.max())
    found = split(ids, count, how, min_distance=near, height=rise, connectivity=connectivity)
    wanted, last = np.zeros_like(ids), 0
    for number in range(1, count + 1):
        mask = ids == number
        one = mask.astype(int) if mask.all() else alone(mask, how, near, rise, connectivity)
        wanted[mask] = one[mask] + last
        last += one.max()
    np.testing.assert_array_equal(found.ids, wanted)
    np.testing.assert_array_equal(found.owner[found.ids], ids)


def test_distances_are_those_of_scipy_and_to_other_components_too() -> None:
    mask = blobs(7, 90, 130)
    found = np.empty(mask.shape, np.int32)
    distances(mask.astype(np.int32), found)
    exact = np.rint(ndimage.distance_transform_edt(mask) ** 2)
    np.testing.assert_array_equal(found, exact)
    halves = np.where(mask, 1 + (np.arange(130) >= 60), 0).astype(np.int32)
    distances(halves, found)
    for number in (1, 2):
        exact = np.rint(ndimage.distance_transform_edt(halves == number) ** 2)
        np.testing.assert_array_equal(found[halves == number], exact[halves == number])


def test_seeds_are_apart_also_where_min_distance_is_wide() -> None:
    mask = np.zeros((140, 3 * CELL * 4), bool)
    mask[60:80] = mask[20:120, 30:60] = mask[:, 150:180] = True
    for near in (20, 45, 90):
        found = split(
            mask.astype(np.int32), 1, "watershed", min_distance=near, height=1, connectivity=1
        )
        np.testing.assert_array_equal(found.ids, alone(mask, "watershed", near, 1, 1))


def test_what_is_to_stay_whole_does() -> None:
    ids = label(blobs(3, 60, 60)).astype(np.int32)
    count = int(ids.max())
    keep = np.zeros(count + 1, bool)
    largest = int(np.bincount(ids.ravel())[1:].argmax()) + 1
    keep[largest] = True
    for how in WAYS:
        found = split(ids, count, how, min_distance=2, height=0.3, connectivity=1, whole=keep)
        assert np.count_nonzero(found.owner == largest) == 1
        assert len(found.owner) > count + 1
        np.testing.assert_array_equal(found.owner[found.ids], ids)


def test_distances_end_at_half_the_largest_side() -> None:
    assert FARTHEST * 4 == LARGEST
    found = np.empty((1, 5000), np.int32)
    ids = np.ones((1, 5000), np.int32)
    ids[0, 0] = 0
    distances(ids, found)
    assert found.max() == FARTHEST
    assert found[0, 100] == 100**2
