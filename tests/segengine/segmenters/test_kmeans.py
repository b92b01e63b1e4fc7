"""K-means against OpenCV, scikit-learn, scikit-image and brute force; tiled against whole."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import reduce
from itertools import pairwise
from typing import Any

import cv2
import numpy as np
import pytest
import skimage.color
import skimage.data
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.cluster import KMeans as SklearnKMeans

from segengine.errors import JobError
from segengine.segmenters import _cells, _labboxes, _nearest, _worth
from segengine.segmenters._cells import LIMIT, Cells
from segengine.segmenters._colorspace import embedded
from segengine.segmenters.kmeans import KMeans, KMeansSurveyor, create
from segengine.types import Segmenter, Surveyor
from tests.segengine.sources.scenes import write

PLAIN = [
    (np.uint8, 1), (np.uint8, 2), (np.uint8, 3), (np.uint8, 5), (np.uint16, 1), (np.uint16, 3),
    (np.int16, 2), (np.bool_, 1), (np.int32, 3), (np.uint64, 1), (np.float16, 2), (np.float32, 1),
    (np.float32, 4), (np.float64, 3),
]  # fmt: skip
CASES = [("bands", *case) for case in PLAIN] + [
    (space, dtype, 3) for space in ("rgb", "hsv", "lab") for dtype in (np.uint8, np.uint16)
]


@pytest.fixture(autouse=True, scope="module")
def enough() -> Iterator[None]:
    """Compiled loops, whatever this process has met."""
    before, _worth.ENOUGH = _worth.ENOUGH, 0
    yield
    _worth.ENOUGH = before


def everywhere(pixels: NDArray[Any]) -> NDArray[np.bool_]:
    return np.ones(pixels.shape[:3], np.bool_)


def fitted(pixels: NDArray[Any], clusters: int, **options: Any) -> KMeans:
    surveyor = create(clusters, **options)
    return surveyor.fit(surveyor.survey(pixels, everywhere(pixels)))


@pytest.mark.parametrize(("space", "dtype", "bands"), CASES)
def test_few_pixels_are_surveyed_and_labelled_as_many_are(
    space: str, dtype: Any, bands: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compiled loops are loaded once a process has met many; what it met changes nothing."""
    pixels = values(np.random.default_rng(bands), (1, 90, 70, bands), dtype, few=False)
    found = []
    for enough in (0, 1 << 60):
        monkeypatch.setattr(_worth, "ENOUGH", enough)
        segmenter = fitted(pixels, 5, space=space)
        found.append((segmenter, segmenter.segment(pixels).labels))
    assert found[0][0] == found[1][0]
    np.testing.assert_array_equal(found[0][1], found[1][1])


def inertia(points: NDArray[Any], labels: NDArray[Any], centres: Any) -> float:
    spread = points.reshape(-1, points.shape[-1]) - np.asarray(centres, float)[labels.reshape(-1)]
    return float((spread**2).sum())


def brute(axes: NDArray[Any], centres: Any) -> NDArray[Any]:
    """Nearest centre of float64 points (dimension, m), lowest on ties, in the plainest way."""
    squared = sum((a[:, None] - c) ** 2 for a, c in zip(axes, np.asarray(centres).T, strict=True))
    return np.asarray(squared).argmin(axis=1)


def values(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any, few: bool) -> NDArray[Any]:
    """Random pixels of a dtype, of its whole range or of few values."""
    kind = np.dtype(dtype)
    if few or kind.kind == "b":
        return rng.integers(0, 3, shape).astype(kind)
    if kind.kind == "f":
        return (rng.normal(0, 30, shape) * rng.choice([1, 1e-3], shape)).astype(kind)
    info = np.iinfo(kind)
    return rng.integers(info.min, info.max, shape, dtype=kind, endpoint=True)


def photo(name: str, size: int = 120) -> NDArray[np.uint8]:
    image = getattr(skimage.data, name)()[..., :3]
    return np.ascontiguousarray(cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA))[None]


def test_conforms_to_the_protocols() -> None:
    surveyor: Surveyor[Cells] = create(2)
    segmenter: Segmenter = fitted(photo("coffee", 8), 2)
    assert isinstance(surveyor, Surveyor)
    assert isinstance(segmenter, Segmenter)
    assert surveyor.classes == segmenter.classes == ("cluster 0", "cluster 1")
    assert (segmenter.halo, segmenter.stride) == (0, 1)


# the objective


@pytest.mark.parametrize("name", ["coffee", "astronaut", "rocket", "retina", "logo", "colorwheel"])
@pytest.mark.parametrize("clusters", [3, 8, 16])
def test_fits_as_well_as_opencv_and_scikit_learn(name: str, clusters: int) -> None:
    pixels = photo(name)
    points = pixels.reshape(-1, 3).astype(np.float32)
    criteria = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 10, 1.0)
    cv2.setRNGSeed(0)
    _, labels, centres = cv2.kmeans(points, clusters, None, criteria, 10, cv2.KMEANS_PP_CENTERS)
    theirs = inertia(pixels, labels, centres)

    ours = fitted(pixels, clusters)
    got = inertia(pixels, ours.segment(pixels).labels, ours.centres)
    assert got <= 1.002 * theirs
    # One cell a colour here: what is reported is the inertia itself.
    assert ours.inertia == pytest.approx(got, rel=1e-9)

    sklearn = SklearnKMeans(clusters, n_init=1, random_state=0).fit(points)
    assert got <= 1.002 * sklearn.inertia_


@pytest.mark.parametrize("clusters", [3, 16])
def test_coarse_cells_fit_as_well_as_the_colours_themselves(clusters: int) -> None:
    pixels = np.repeat(np.repeat(photo("astronaut", 200), 2, 1), 2, 2)
    noise = np.random.default_rng(0).integers(-6, 7, pixels.shape)
    pixels = np.clip(pixels + noise, 0, 255).astype(np.uint8)
    surveyor = create(clusters)
    state = surveyor.survey(pixels, everywhere(pixels))
    assert state.level == 2
    ours = surveyor.fit(state)
    got = inertia(pixels, ours.segment(pixels).labels, ours.centres)
    points = pixels.reshape(-1, 3).astype(np.float32)
    sklearn = SklearnKMeans(clusters, n_init=1, random_state=0, max_iter=30).fit(points)
    assert got <= 1.002 * sklearn.inertia_
    assert got <= ours.inertia <= 1.02 * got  # reported: the labels of cells, not of pixels


def test_many_bands_fit_as_well_as_scikit_learn() -> None:
    rng = np.random.default_rng(1)
    spectra = rng.uniform(0, 1, (5, 9)) + np.linspace(0, 1, 9)
    mixed = rng.dirichlet(np.full(5, 0.2), 20000) @ spectra + rng.normal(0, 0.02, (20000, 9))
    for pixels in (mixed.astype(np.float32), np.rint(mixed * 4000).clip(0).astype(np.uint16)):
        image = pixels.reshape(1, 100, 200, 9)
        ours = fitted(image, 5, space="bands")
        sklearn = SklearnKMeans(5, n_init=3, random_state=0).fit(pixels.astype(np.float64))
        got = inertia(image, ours.segment(image).labels, ours.centres)
        assert got <= 1.01 * sklearn.inertia_


@pytest.mark.parametrize("clusters", [1, 4])
def test_fits_the_optimum_of_separate_blobs(clusters: int) -> None:
    rng = np.random.default_rng(0)
    middles = np.array([[10.0, 20], [-40, 3], [100, -9], [55, 60]])[:clusters]
    blob = rng.integers(0, clusters, (1, 90, 90))
    pixels = (middles[blob] + rng.normal(0, 1, (1, 90, 90, 2))).astype(np.float32)
    got = fitted(pixels, clusters, space="bands")
    want = np.array([pixels[blob == i].mean(axis=0) for i in range(clusters)])
    order = np.argsort(want.mean(axis=1))
    np.testing.assert_allclose(got.centres, want[order], atol=0.01)
    np.testing.assert_array_equal(np.argsort(order)[blob], got.segment(pixels).labels)


# exactly the nearest centre


@given(
    seed=st.integers(0, 10**6),
    clusters=st.integers(1, 40),
    spread=st.sampled_from([1, 8, 255]),
)
@settings(max_examples=25, deadline=None)
def test_every_8_bit_colour_gets_the_nearest_centre(seed: int, clusters: int, spread: int) -> None:
    rng = np.random.default_rng(seed)
    low = rng.integers(0, 256 - spread)
    # Coarse steps make ties; twins among the centres too.
    step = rng.choice([1, 64, 128, 256])
    centres = rng.integers(low * 256, (low + spread) * 256, (clusters, 3)) // step * step / 256
    centres = tuple(map(tuple, centres.tolist()))
    pixels = rng.integers(low, low + spread + 1, (2, 40, 37, 3)).clip(0, 255).astype(np.uint8)
    labels = _nearest.label_pixels(pixels, centres)
    assert labels.dtype == np.uint8
    want = brute(pixels.reshape(-1, 3).T.astype(np.float64), centres)
    np.testing.assert_array_equal(labels.reshape(-1), want)


@pytest.mark.parametrize(("space", "dtype", "bands"), CASES)
def test_every_pixel_gets_the_nearest_centre(space: str, dtype: Any, bands: int) -> None:
    rng = np.random.default_rng(bands)
    pixels = values(rng, (2, 30, 31, bands), dtype, few=False)
    segmenter = fitted(pixels, 6, space=space)
    axes = embedded(pixels.reshape(-1, bands), segmenter.space, pixels.dtype)
    want = brute(axes, segmenter.centres)
    np.testing.assert_array_equal(segmenter.segment(pixels).labels.reshape(-1), want)


@pytest.mark.parametrize(
    ("dtype", "bands", "top", "size"),
    [
        (np.uint16, 3, 2047, 80),
        (np.uint16, 3, 65535, 740),
        (np.uint16, 2, 30, 80),
        (np.uint16, 4, 9000, 80),
        (np.uint8, 4, 255, 80),
        (np.uint8, 2, 255, 740),
    ],
)
def test_boxes_of_values_label_as_every_pixel_by_itself(
    dtype: Any, bands: int, top: int, size: int
) -> None:
    rng = np.random.default_rng(top + size)
    whole = np.array(rng.integers(0, top, (2, bands), endpoint=True), np.float64)
    # Two as near to what lies between them, one that repeats another, and one out of the way.
    centres = np.vstack([whole, whole[:1] + 2, whole[1:], np.zeros((1, bands))])
    centres[4, 0] = rng.integers(0, top * 256) / 256
    given = tuple(map(tuple, np.minimum(centres, top).tolist()))
    pixels = rng.integers(0, top, (1, 3 * size, size, bands), dtype=dtype, endpoint=True)
    near = pixels.reshape(-1, bands)[: size * size]
    near[:] = np.clip(whole[0] + 1 + rng.integers(-3, 4, near.shape), 0, top)
    pixels[0, -1, -5:] = np.iinfo(dtype).max  # hot pixels, far above all centres
    assert bool(_nearest._boxing(pixels, given)) == (size > 80)
    big = np.tile(pixels, (1, 10, 1, 1))
    assert _nearest._boxing(big, given)
    want = brute(pixels.reshape(-1, bands).T.astype(np.float64), given).reshape(pixels.shape[:-1])
    assert len(np.unique(want)) >= 3
    np.testing.assert_array_equal(_nearest.label_pixels(pixels, given), want)
    np.testing.assert_array_equal(_nearest.label_pixels(big, given), np.tile(want, (1, 10, 1)))


@pytest.mark.parametrize(("clusters", "top"), [(1, 900), (3, 2047), (8, 65535), (40, 65535)])
def test_boxes_of_16_bit_colours_label_in_lab_as_every_colour_by_itself(
    clusters: int, top: int
) -> None:
    rng = np.random.default_rng(clusters)
    side = 730
    pixels = rng.integers(0, top, (1, side, side, 3), np.uint16, endpoint=True)
    pixels[0, :, :200] = rng.integers(0, top, (side, 200, 1), np.uint16, endpoint=True)  # grays
    # About where both curves, to linear and to the root, have their two parts meet.
    pixels[0, :, 200:300] = np.clip(rng.normal(0.04, 0.02, (side, 100, 3)), 0, 1) * min(top, 65535)
    assert side * side > _labboxes.WORTH
    segmenter = fitted(pixels[:, ::8, ::8], clusters, space="lab")
    want = brute(embedded(pixels.reshape(-1, 3), "lab", pixels.dtype), segmenter.centres)
    np.testing.assert_array_equal(segmenter.segment(pixels).labels.reshape(-1), want)
    # Two equal centres, between which the lower label decides: neither has a box.
    twins = replace(segmenter, centres=(*segmenter.centres, segmenter.centres[0]))
    assert twins.segment(pixels).labels.max() < clusters


@given(seed=st.integers(0, 10**6), clusters=st.integers(1, 60), bands=st.integers(1, 9))
@settings(max_examples=8, deadline=None)
def test_many_floats_are_compared_as_few_are(seed: int, clusters: int, bands: int) -> None:
    rng = np.random.default_rng(seed)
    # Of few values, so that there are ties.
    axes = rng.integers(-9, 9, (bands, _nearest._FEW + 77)).astype(np.float32)
    axes[:, rng.integers(0, axes.shape[1], 500)] = [[np.nan]] * bands
    axes[0, rng.integers(0, axes.shape[1], 500)] = np.inf
    centres = tuple(map(tuple, rng.integers(-9, 9, (clusters, bands)).astype(float).tolist()))
    labels = _nearest.label_points(axes, centres)
    halves = [_nearest.label_points(half, centres) for half in np.array_split(axes, 2, axis=1)]
    np.testing.assert_array_equal(labels, np.concatenate(halves))


def test_label_dtype_leaves_room_for_void() -> None:
    ramp = np.arange(300, dtype=np.uint16).reshape(1, 15, 20, 1)
    assert fitted(ramp, 255).segment(ramp).labels.dtype == np.uint8
    many = fitted(ramp, 256)
    assert many.segment(ramp).labels.dtype == np.uint16
    assert many.segment(ramp).labels.max() == 255
    exact = fitted(ramp, 300)
    np.testing.assert_array_equal(exact.segment(ramp).labels, ramp[..., 0])
    assert exact.inertia == 0


# tiled equals whole


@given(
    case=st.sampled_from(CASES),
    seed=st.integers(0, 10**6),
    few=st.booleans(),
    rows=st.lists(st.integers(0, 24), max_size=4),
    cols=st.lists(st.integers(0, 17), max_size=3),
)
@settings(max_examples=50, deadline=None)
def test_tiled_equals_whole(
    case: tuple[Any, Any, int], seed: int, few: bool, rows: list[int], cols: list[int]
) -> None:
    space, dtype, bands = case
    rng = np.random.default_rng(seed)
    pixels = values(rng, (2, 24, 17, bands), dtype, few)
    valid = rng.random(pixels.shape[:3]) < rng.choice([0.1, 0.9])
    surveyor = create(3, space=space, attempts=2)
    whole = surveyor.survey(pixels, valid)
    rows, cols = sorted({0, 24, *rows}), sorted({0, 17, *cols})
    tiles = [
        (slice(f, f + 1), slice(top, bottom), slice(left, right))
        for f in range(2)
        for top, bottom in pairwise(rows)
        for left, right in pairwise(cols)
    ]
    states = [surveyor.survey(pixels[tile], valid[tile]) for tile in tiles]
    rng.shuffle(states)
    assert reduce(surveyor.merge, states) == whole

    segmenter = surveyor.fit(whole)
    assert surveyor.fit(reduce(surveyor.merge, states[::-1])) == segmenter
    labels = segmenter.segment(pixels).labels
    for tile in tiles:
        np.testing.assert_array_equal(segmenter.segment(pixels[tile]).labels, labels[tile])


@pytest.mark.parametrize(
    ("dtype", "bands", "spread"),
    [
        (np.uint8, 3, 20),
        (np.uint8, 3, 60),
        (np.uint8, 3, 255),
        (np.uint8, 4, 255),
        (np.uint16, 3, 60000),
        (np.int16, 2, 20000),
        (np.float32, 3, 1000),
    ],
)
def test_survey_is_the_same_however_it_is_cut(dtype: Any, bands: int, spread: int) -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, spread, (1, 400, 401, bands)).astype(dtype)
    valid = rng.random(pixels.shape[:3]) < 0.97
    whole = _cells.count(pixels, valid)
    assert whole.pixels == valid.sum()
    cuts = [slice(0, 9), slice(9, 60), slice(60, 300), slice(300, 400)]
    parts = [_cells.count(pixels[:, cut], valid[:, cut]) for cut in cuts]
    assert parts[0].level <= whole.level
    assert parts[3] + (parts[1] + parts[0]) + parts[2] == whole
    assert _cells.empty(pixels.dtype, bands) + whole == whole
    # Against a histogram written out by hand.
    kept, level = pixels[valid].astype(np.int64), whole.level
    index, inverse = np.unique(kept >> level, axis=0, return_inverse=True)
    assert len(index) <= LIMIT
    finer = 0 if dtype == np.uint8 and level == 2 else level - 1
    assert level == 0 or len(np.unique(kept >> finer, axis=0)) > LIMIT
    np.testing.assert_array_equal(whole.index, index)
    np.testing.assert_array_equal(whole.counts, np.bincount(inverse.reshape(-1)))
    if _cells.exact(pixels.dtype):
        np.testing.assert_array_equal(whole.sums.sum(axis=0), kept.sum(axis=0))
        assert whole.squares == (kept**2).sum()
        means = [np.bincount(inverse.reshape(-1), k) / whole.counts for k in kept.T]
        np.testing.assert_allclose(whole.means().T, means)


def test_summary_keeps_pixels_and_sums_within_its_limit() -> None:
    rng = np.random.default_rng(0)
    for bands in (1, 3, 9):
        pixels = rng.integers(-300, 300, (1, 60, 60, bands)).astype(np.int16)
        cells = _cells.count(pixels, everywhere(pixels))
        for limit in (5, 100, 10**6):
            means, counts = cells.summary(limit)
            assert min(limit, len(cells.counts)) / 9 <= len(counts) <= limit
            assert counts.sum() == 3600
            np.testing.assert_allclose(
                counts @ means, pixels.reshape(-1, bands).sum(axis=0), rtol=1e-9, atol=1e-6
            )


def test_more_sign_patterns_than_cells_still_end() -> None:
    rng = np.random.default_rng(0)
    pixels = rng.choice([-1.0, 1.0], (1, 300, 300, 20)).astype(np.float32)
    cells = _cells.count(pixels, everywhere(pixels))
    assert cells.pixels == 90000
    assert len(cells.counts) <= LIMIT
    halves = [_cells.count(p, everywhere(p)) for p in np.array_split(pixels, 2, axis=1)]
    assert halves[0] + halves[1] == cells
    assert np.isfinite(create(3, space="bands", attempts=1).fit(cells).centres).all()


# labels, colours


def test_labels_ascend_with_brightness_then_with_the_centre() -> None:
    colors = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (9, 9, 9), (200, 200, 200)]
    pixels = np.array(colors, np.uint8)[np.random.default_rng(0).integers(0, 5, (1, 20, 20))]
    got = fitted(pixels, 5)
    weights = [0.2125, 0.7154, 0.0721]
    assert list(got.colors) == sorted(colors, key=lambda c: np.dot(c, weights))
    assert got.centres == got.colors
    np.testing.assert_array_equal(np.array(got.colors)[got.segment(pixels).labels], pixels)

    twins = np.array(
        [[[[3, 1], [1, 3], [2, 2], [0, 0]]]], np.uint8
    )  # bands: the mean, then the centre
    assert fitted(twins, 4, space="bands").centres == ((0, 0), (1, 3), (2, 2), (3, 1))


@pytest.mark.parametrize("space", ["hsv", "lab"])
def test_brightness_of_other_spaces_is_that_of_the_mean_colour(space: str) -> None:
    pixels = photo("coffee", 64)
    got = fitted(pixels, 5, space=space)
    labels = got.segment(pixels).labels
    means = np.array([pixels[labels == i].mean(axis=0) for i in range(5)])
    np.testing.assert_allclose(got.colors, means, atol=0.51)
    assert (np.diff(means @ [0.2125, 0.7154, 0.0721]) > 0).all()


def test_colors_of_other_pixels_are_stretched() -> None:
    gray = np.array([100, 900, 500], np.uint16).repeat(50).reshape(1, 10, 15, 1)
    assert fitted(gray, 3).colors == ((0, 0, 0), (128, 128, 128), (255, 255, 255))
    assert fitted(gray.astype(np.uint8), 1, space="bands").colors[0][0] == 159  # 8 bit as it is
    flat = np.full((1, 3, 3, 4), -1.5, np.float32)
    assert fitted(flat, 2, space="bands").colors == ((0, 0, 0), (0, 0, 0))


# spaces


def test_lab_is_scikit_image_s() -> None:
    rng = np.random.default_rng(0)
    for dtype in (np.uint8, np.uint16):
        colors = rng.integers(0, np.iinfo(dtype).max, (500, 3), dtype, endpoint=True)
        colors[0], colors[1] = 0, np.iinfo(dtype).max
        want = skimage.color.rgb2lab(colors / np.iinfo(dtype).max)
        np.testing.assert_allclose(embedded(colors, "lab", colors.dtype).T, want, atol=1e-3)


def test_hsv_is_scikit_image_s_with_hue_as_an_angle() -> None:
    colors = np.random.default_rng(0).integers(0, 256, (500, 3), np.uint8)
    colors[:3] = [[0, 0, 0], [255, 255, 255], [77, 77, 77]]
    hue, saturation, value = skimage.color.rgb2hsv(colors).T
    turn = 2 * np.pi * hue
    want = [saturation * np.cos(turn), saturation * np.sin(turn), value]
    np.testing.assert_allclose(embedded(colors, "hsv", colors.dtype), want, atol=1e-12)


def test_reds_on_both_sides_of_zero_degrees_are_one_cluster() -> None:
    red, crimson, green = (250, 12, 0), (250, 0, 12), (0, 250, 0)
    pixels = np.array([red, crimson, green], np.uint8)[[[[0, 1, 2, 0, 1, 2]]]]
    labels = fitted(pixels, 2, space="hsv").segment(pixels).labels
    np.testing.assert_array_equal(labels, [[[0, 0, 1, 0, 0, 1]]])


# degenerate input


@pytest.mark.parametrize(("space", "dtype", "bands"), CASES)
def test_more_clusters_than_colours(space: str, dtype: Any, bands: int) -> None:
    pixels = np.zeros((1, 4, 4, bands), dtype)
    one = fitted(pixels, 3, space=space)
    assert one.inertia == pytest.approx(0, abs=1e-12)
    assert len(set(one.centres)) == 1
    assert not one.segment(pixels).labels.any()
    pixels[0, 0] = 1
    two = fitted(pixels, 5, space=space)
    assert len(two.centres) == len(two.colors) == len(two.classes) == 5
    assert len(set(two.centres)) == 2
    np.testing.assert_array_equal(two.segment(pixels).labels[0], [[1] * 4] + [[0] * 4] * 3)


def test_no_valid_pixel() -> None:
    pixels = photo("coffee", 8)
    surveyor = create(3)
    state = surveyor.survey(pixels, np.zeros(pixels.shape[:3], np.bool_))
    assert state.pixels == 0
    nothing = surveyor.fit(state)
    assert nothing.centres == ((0.0, 0.0, 0.0),) * 3
    assert not nothing.segment(pixels).labels.any()
    full = surveyor.survey(pixels, everywhere(pixels))
    assert surveyor.merge(state, full) == full


@pytest.mark.parametrize("shape", [(0, 4, 4, 3), (1, 0, 4, 3), (2, 3, 0, 3)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_empty_arrays(shape: tuple[int, ...], dtype: Any) -> None:
    pixels = np.zeros(shape, dtype)
    got = fitted(pixels, 2)
    assert got.pixels == 0
    assert got.segment(pixels).labels.shape == shape[:3]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_nan_and_infinity_are_not_counted_and_do_no_harm(dtype: Any) -> None:
    rng = np.random.default_rng(0)
    pixels = rng.normal(0, 1, (1, 30, 30, 2)).astype(dtype)
    surveyor = create(3, space="bands")
    valid = everywhere(pixels)
    valid[0, :9] = False
    want = surveyor.survey(pixels, valid)
    broken = pixels.copy()
    broken[0, :9, :, 1] = np.array([np.nan, np.inf, -np.inf])[rng.integers(0, 3, (9, 30))]
    assert surveyor.survey(broken, everywhere(pixels)) == want
    segmenter = surveyor.fit(want)
    labels = segmenter.segment(broken).labels
    assert labels.max() < 3
    np.testing.assert_array_equal(labels[:, 9:], segmenter.segment(pixels).labels[:, 9:])


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1e30])
def test_the_scale_of_floats_does_not_matter(scale: float) -> None:
    pixels = np.random.default_rng(0).uniform(-1, 1, (1, 40, 40, 2))
    scale = 2.0 ** np.floor(np.log2(scale))
    one, other = (fitted(p, 4, space="bands") for p in (pixels, pixels * scale))
    np.testing.assert_array_equal(np.array(one.centres) * scale, other.centres)
    np.testing.assert_array_equal(one.segment(pixels).labels, other.segment(pixels * scale).labels)


# repeatability


def test_equal_surveys_give_equal_fits_and_the_seed_decides() -> None:
    pixels = photo("astronaut", 48)
    assert fitted(pixels, 12, seed=7) == fitted(pixels, 12, seed=7)
    few = [fitted(pixels, 24, seed=seed, attempts=1) for seed in range(4)]
    assert len(set(few)) > 1
    assert len({fitted(pixels, 24, seed=0, attempts=n) for n in (1, 2, 3)}) > 1


def test_the_fit_does_not_grow_with_the_picture() -> None:
    got = fitted(photo("astronaut"), 3)
    assert len(repr(got)) < 1000
    assert got.pixels == 120 * 120
    assert isinstance(got.inertia, float)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clusters": 0}, "clusters: must be an integer from 1 to 65534, not 0"),
        ({"clusters": 65535}, "clusters"),
        ({"clusters": 2.5}, "clusters"),
        ({"clusters": True}, "clusters"),
        ({"clusters": 3, "space": "cmyk"}, "space: must be one of rgb, hsv, lab, bands"),
        ({"clusters": 3, "scope": "shard"}, "scope: must be one of frame, scene, run"),
        ({"clusters": 3, "seed": -1}, "seed"),
        ({"clusters": 3, "attempts": 0}, "attempts"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create(**options)


@pytest.mark.parametrize(
    ("space", "bands", "dtype", "message"),
    [
        ("rgb", 4, np.uint8, "rgb needs 1 or 3 bands, the pixels have 4; use space: bands"),
        ("hsv", 1, np.uint8, "hsv needs 3 bands"),
        ("lab", 3, np.float32, "lab needs 3 bands of uint8 or uint16"),
        ("bands", 2, np.complex64, "complex64"),
    ],
)
def test_pixels_a_space_cannot_take(space: Any, bands: int, dtype: Any, message: str) -> None:
    pixels = np.zeros((1, 2, 2, bands), dtype)
    with pytest.raises(ValueError, match=message):
        create(2, space=space).survey(pixels, everywhere(pixels))


def test_bands_without_colours_are_a_mistake_of_the_job_unless_some_scenes_have_them(
    bench: Any,
) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (3, 40, 40), np.uint8)
    source = {"kind": "raster", "paths": [str(bench.inputs)]}
    asked = {"kind": "kmeans", "clusters": 2}
    write(bench.inputs / "two.tif", noise[:2], 10)
    with pytest.raises(
        JobError, match=r"^segmenter\.space: rgb needs .*; use space: bands \(scene"
    ):
        bench.run(asked, source=source)
    assert not bench.store.exists()
    write(bench.inputs / "three.tif", noise, 10)
    done = bench.run(asked, source=source)
    assert (done.exit_code, [each.name for each in done.failed]) == (3, ["two.tif"])
    assert bench.run({**asked, "space": "bands"}, source=source).exit_code == 0


def test_surveys_of_unlike_pixels_do_not_merge() -> None:
    surveyor: KMeansSurveyor = create(2)
    a, b = np.zeros((1, 2, 2, 3), np.uint8), np.zeros((1, 2, 2, 1), np.uint8)
    with pytest.raises(ValueError, match="cannot be merged"):
        surveyor.merge(surveyor.survey(a, everywhere(a)), surveyor.survey(b, everywhere(b)))
