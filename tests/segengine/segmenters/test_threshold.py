"""Threshold: parity with scikit-image and NumPy, and tiled equals whole."""

from __future__ import annotations

import functools
from fractions import Fraction
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage import data, filters

from segengine.segmenters import _gray
from segengine.segmenters._histogram import Histogram, Sums
from segengine.segmenters.threshold import Cuts, Fixed, Local, Threshold, _unrounded, create
from segengine.store.values import decode, encode
from segengine.types import Segmenter, Surveyor

RGB = (2125, 7154, 721)
STATISTICS = ("mean", "otsu", "multiotsu", "triangle", "li")
DTYPES = ("bool", "uint8", "int8", "uint16", "int16", "int32", "float32", "float64")


def photo(dtype: str = "uint8") -> np.ndarray:
    """A real gray photo (y, x) in a dtype, all of its range used."""
    gray = data.camera()[::2, ::2].astype(np.int64)
    y, x = np.mgrid[: gray.shape[0], : gray.shape[1]]
    wide = gray * 257 + (y * 31 + x * 17) % 257
    if dtype == "float32":
        return (wide / 65535).astype(np.float32)
    return {"uint8": gray, "uint16": wide, "int16": wide - 32768}[dtype].astype(dtype)


def random_image(
    seed: int, dtype: str, shape: tuple[int, int, int, int] = (1, 13, 17, 1)
) -> np.ndarray:
    """Random pixels (n, y, x, band) with flat parts, so that values repeat."""
    rng = np.random.default_rng(seed)
    n, y, x, bands = shape
    coarse = rng.integers(0, 256, (n, y // 3 + 1, x // 3 + 1, bands))
    image = np.repeat(np.repeat(coarse, 3, 1), 3, 2)[:, :y, :x] // 2 + rng.integers(0, 60, shape)
    if dtype == "bool":
        return image > 80
    if dtype == "int8":
        return (image - 90).astype(np.int8)
    if np.dtype(dtype).kind == "f":
        return ((image - 40) / 97).astype(dtype)
    return (image * 97 % 60000 - (9000 if dtype[0] == "i" else 0)).astype(dtype)


def fitted(image: np.ndarray, **options: Any) -> Segmenter:
    """The segmenter of a whole image (n, y, x, band)."""
    made = create(**options)
    if not isinstance(made, Surveyor):
        return made
    return made.fit(made.survey(image, np.ones(image.shape[:3], np.bool_)))


def labels(image: np.ndarray, **options: Any) -> np.ndarray:
    """Labels (y, x) of one image (y, x) or (y, x, band)."""
    pixels = image[None, ..., None] if image.ndim == 2 else image[None]
    out = fitted(pixels, **options).segment(pixels).labels
    assert out.dtype == np.uint8
    assert out.shape == pixels.shape[:3]
    return out[0]


def tiled(segmenter: Segmenter, image: np.ndarray, rows: list[int], cols: list[int]) -> np.ndarray:
    """Labels of windows between cuts, each given its halo clipped at the real border, cropped."""
    halo, (height, width) = segmenter.halo, image.shape[1:3]
    assert halo is not None
    out = np.full(image.shape[:3], 99, np.uint8)
    for top, bottom in zip([0, *rows], [*rows, height], strict=True):
        for left, right in zip([0, *cols], [*cols, width], strict=True):
            y0, x0 = max(0, top - halo), max(0, left - halo)
            window = image[:, y0 : bottom + halo, x0 : right + halo]
            got = segmenter.segment(window).labels
            out[:, top:bottom, left:right] = got[:, top - y0 : bottom - y0, left - x0 : right - x0]
    return out


def cuts(size: int) -> st.SearchStrategy[list[int]]:
    inside = st.integers(1, max(1, size - 1))
    return st.lists(inside, max_size=3, unique=True).map(
        lambda found: sorted(c for c in found if c < size)
    )


# ------------------------------------------------------------------------------------------ parity


def between(values: np.ndarray, levels: tuple[float, ...]) -> Fraction:
    """Variance between the classes of integer values (n,), as an exact fraction."""
    sides = np.searchsorted(levels, values.ravel())
    parts = [values.ravel()[sides == k].astype(np.int64) for k in range(len(levels) + 1)]
    squares = (Fraction(int(p.sum()) ** 2, len(p)) for p in parts if len(p))
    return sum(squares, -Fraction(int(values.sum(dtype=np.int64)) ** 2, values.size))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16"])
def test_triangle_is_that_of_scikit_image(dtype: str) -> None:
    image = photo(dtype)
    assert np.array_equal(
        labels(image, method="triangle"), image > filters.threshold_triangle(image)
    )


@pytest.mark.parametrize("dtype", ["uint32", "int32", "uint64", "int64"])
def test_triangle_of_wide_integers_is_that_of_narrow_ones(dtype: str) -> None:
    """Bins of float32 are single numbers below 256; beyond, each of several in equal parts."""
    image = photo("uint8")
    expected = image > filters.threshold_triangle(image)
    assert np.array_equal(labels(image.astype(dtype), method="triangle"), expected)
    less = image.astype(dtype) - 200 if dtype.startswith("i") else image.astype(dtype)
    assert np.array_equal(labels(less, method="triangle"), expected)
    skew = np.random.default_rng(0).gamma(2, 60, (300, 300)).clip(0, 900).astype(np.uint16)
    expected = skew > filters.threshold_triangle(skew)
    assert (labels(skew.astype(dtype), method="triangle") == expected).mean() > 0.98
    wide = labels(skew.astype(dtype) * 1_000_000, method="triangle")
    assert (wide == expected).mean() > 0.98


@pytest.mark.parametrize("name", ["camera", "coins", "page", "moon", "text"])
def test_otsu_is_that_of_scikit_image(name: str) -> None:
    image = getattr(data, name)()
    assert np.array_equal(labels(image, method="otsu"), image > filters.threshold_otsu(image))


@pytest.mark.parametrize(
    ("dtype", "classes"), [("uint16", 2), ("int16", 2), ("uint8", 3), ("uint8", 4)]
)
def test_otsu_is_no_worse_than_that_of_scikit_image(dtype: str, classes: int) -> None:
    """Theirs sums in float32, so its levels can miss the optimum by some 1e-7 of the variance."""
    image = photo(dtype)
    theirs = (
        [filters.threshold_otsu(image)]
        if classes == 2
        else filters.threshold_multiotsu(image, classes)
    )
    ours = fitted(image[None, ..., None], method="multiotsu", classes=classes)
    assert isinstance(ours, Cuts)
    best, other = between(image, ours.cuts), between(image, tuple(theirs))
    assert other <= best <= other * (1 + Fraction(1, 10**6))
    assert np.allclose(ours.cuts, theirs, atol=np.ptp(image.astype(np.int64)) / 250)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16"])
def test_li_is_that_of_scikit_image(dtype: str) -> None:
    """Theirs fails on negative integers, so it gets them shifted."""
    image = photo(dtype)
    shifted = image - image.min().astype(np.int64)
    assert np.array_equal(labels(image, method="li"), shifted > filters.threshold_li(shifted))


@pytest.mark.parametrize(("method", "bins"), [("otsu", 1), ("triangle", 2), ("li", 1)])
def test_levels_of_floats_are_near_those_of_scikit_image(method: str, bins: int) -> None:
    """Within so many of its 256 bins: ours are 128 an octave, and levels lie between bins."""
    image = photo("float32")
    ours = fitted(image[None, ..., None], method=method)
    assert isinstance(ours, Cuts)
    theirs = float(getattr(filters, f"threshold_{method}")(image))
    assert ours.cuts[0] == pytest.approx(theirs, abs=bins * float(np.ptp(image)) / 256)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(0, 20), min_size=2, max_size=14),
    st.integers(2, 5),
    st.sampled_from(["uint8", "uint16"]),
)
def test_multiotsu_has_the_greatest_variance_of_all_cuts(
    counts: list[int], classes: int, dtype: str
) -> None:
    """Against every way to cut, in exact fractions; of equal ones the lowest."""
    step = 17 if dtype == "uint8" else 4001
    values = np.repeat(np.arange(len(counts)) * step, counts).astype(dtype)
    occupied = sorted(set(values.tolist()))
    image = values.reshape(1, 1, -1, 1)
    if len(occupied) < classes:
        if occupied:
            found = fitted(image, method="multiotsu", classes=classes).segment(image).labels
            assert np.array_equal(found.ravel(), np.searchsorted(occupied, values))
        return

    chosen = fitted(image, method="multiotsu", classes=classes)
    assert isinstance(chosen, Cuts)
    best = max(between(values, c) for c in combinations(occupied[:-1], classes - 1))
    # float64 may take one of two optima that differ by a rounding.
    assert between(values, chosen.cuts) >= best * (1 - Fraction(1, 10**12))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "int32", "float32"])
@pytest.mark.parametrize("bands", [1, 2, 3, 4])
@pytest.mark.parametrize("side", ["dark", "bright"])
def test_the_mean_is_exact(dtype: str, bands: int, side: str) -> None:
    """Against fractions: gray x count > sum, the weighted sum unrounded."""
    image = random_image(5, dtype, (1, 9, 11, bands))
    weights = RGB if bands == 3 else (1,) * bands
    if dtype == "float32":
        weighted = sum(image[..., b].astype(np.float64) * w for b, w in enumerate(weights))
        gray = [Fraction(float(g)) for g in (weighted / sum(weights)).astype(np.float32).flat]
    else:
        gray = [Fraction(sum(int(v) * w for v, w in zip(p, weights, strict=True)))
                for p in image.reshape(-1, bands).tolist()]  # fmt: skip
    above = np.array([g * len(gray) > sum(gray) for g in gray]).reshape(image.shape[:3])
    expected = above if side == "bright" else ~above
    got = fitted(image, method="mean", object=side).segment(image).labels
    assert np.array_equal(got, expected)
    assert 0 < above.mean() < 1


def test_mean_and_otsu_of_a_colour_photo() -> None:
    image = data.astronaut()[::2, ::2]
    gray = image.astype(np.int64) @ np.array(RGB)
    assert np.array_equal(labels(image, method="mean"), gray * gray.size > gray.sum())
    rounded = np.round(gray / 10000).astype(np.uint8)
    assert np.array_equal(labels(image, method="otsu"), rounded > filters.threshold_otsu(rounded))


def test_the_printed_loop_of_the_tutorial_is_not_the_mean_threshold() -> None:
    """The erratum that the docstring names: the mean is taken again at every pixel."""
    gray = data.camera()[::4, ::4] / 255
    loop = gray.ravel().copy()
    total = loop.sum()
    for i, value in enumerate(loop):
        new = 0.0 if value > total / loop.size else 1.0
        total += new - value
        loop[i] = new
    ours = labels(data.camera()[::4, ::4], object="dark")
    differing = np.mean(loop.reshape(gray.shape) != ours)
    assert 0.01 < differing < 0.3


@pytest.mark.parametrize("window", [3, 15, 51])
def test_local_mean_is_that_of_scikit_image(window: int) -> None:
    """Theirs is a rounded float64 mean: only pixels within 1e-6 of it may differ."""
    image = photo()
    level = filters.threshold_local(image, window, method="mean", offset=4, mode="reflect")
    clear = np.abs(image - level) > 1e-6
    got = labels(image, method="local", weighting="mean", window=window, offset=-4)
    assert clear.mean() > 0.95
    assert np.array_equal(got[clear], (image > level)[clear])


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_local_gaussian_is_that_of_scikit_image(dtype: str) -> None:
    image = photo(dtype).astype(np.float64)
    level = filters.threshold_local(image, 21, method="gaussian", mode="reflect")
    clear = np.abs(image - level) > 1e-6 * np.ptp(image)
    got = labels(photo(dtype), method="local", window=21)
    assert clear.mean() > 0.95
    assert np.array_equal(got[clear], (image > level)[clear])


@pytest.mark.parametrize("weighting", ["mean", "gaussian"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("bands", [1, 3])
def test_flat_ground_is_equal_to_its_mean_and_so_not_above(
    weighting: str, dtype: str, bands: int
) -> None:
    image = np.full((1, 20, 23, bands), 77, dtype) * np.dtype(dtype).type(
        1 / 3 if dtype[0] == "f" else 1
    )
    got = fitted(image, method="local", weighting=weighting, window=9).segment(image)
    assert not got.labels.any()


# ------------------------------------------------------------------------------------ fixed levels


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32", "float64"])
def test_a_pixel_equal_to_a_level_is_not_above_it(dtype: str) -> None:
    image = np.array([[9, 10, 11, 20, 21]], dtype)
    assert labels(image, method="fixed", levels=10).tolist() == [[0, 0, 1, 1, 1]]
    assert labels(image, method="fixed", levels=[10, 20]).tolist() == [[0, 0, 1, 1, 2]]
    assert labels(image, method="fixed", levels=10, object="dark").tolist() == [[1, 1, 0, 0, 0]]
    assert labels(image, method="fixed", levels=9.5, offset=1).tolist() == [[0, 0, 1, 1, 1]]


def test_a_decimal_level_is_compared_as_it_is_written() -> None:
    tenth = np.array([[0.1, 0.2]], np.float32)
    assert labels(tenth, method="fixed", levels=0.1).tolist() == [[0, 1]]
    assert labels(tenth.astype(np.float64), method="fixed", levels=0.1).tolist() == [[0, 1]]
    # Gray of (1, 0, 0) is exactly 0.2125.
    red = np.array([[[1, 0, 0], [0, 1, 0]]], np.uint8)
    assert labels(red, method="fixed", levels=0.2125).tolist() == [[0, 1]]


def test_levels_outside_of_the_dtype() -> None:
    image = np.array([[0, 255]], np.uint8)
    assert labels(image, method="fixed", levels=-3).tolist() == [[1, 1]]
    assert labels(image, method="fixed", levels=300).tolist() == [[0, 0]]
    assert labels(image, method="mean", offset=1e9).tolist() == [[0, 0]]
    assert labels(image.astype(np.float32), method="mean", offset=-1e300).tolist() == [[1, 1]]


def test_64_bit_integers_keep_their_last_bit() -> None:
    image = np.array([[2**60, 2**60 + 1, 2**60 + 2, 2**60 + 1]], np.int64)
    assert labels(image).tolist() == [[0, 0, 1, 0]]
    assert labels(image.astype(np.uint64)).tolist() == [[0, 0, 1, 0]]


def test_byte_order_does_not_matter() -> None:
    image = photo("uint16")
    swapped = image.astype(image.dtype.newbyteorder())
    for method in STATISTICS:
        assert np.array_equal(labels(swapped, method=method), labels(image, method=method))


# --------------------------------------------------------------------------- statistics that merge


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    dtype=st.sampled_from(DTYPES),
    bands=st.sampled_from([1, 2, 3, 5]),
    method=st.sampled_from(STATISTICS),
    rows=cuts(13),
    columns=cuts(17),
)
def test_a_survey_does_not_know_the_cuts(
    seed: int, dtype: str, bands: int, method: str, rows: list[int], columns: list[int]
) -> None:
    image = random_image(seed, dtype, (2, 13, 17, bands))
    valid = np.random.default_rng(seed).random(image.shape[:3]) < 0.8
    surveyor = create(method=method)
    assert isinstance(surveyor, Threshold)
    parts = [
        surveyor.survey(p, v)
        for a, m in zip(np.split(image, rows, 1), np.split(valid, rows, 1), strict=True)
        for p, v in zip(np.split(a, columns, 2), np.split(m, columns, 2), strict=True)
    ]
    whole = surveyor.fit(surveyor.survey(image, valid))
    merged = functools.reduce(surveyor.merge, reversed(parts))
    assert surveyor.fit(merged) == whole
    assert surveyor.fit(decode(encode(merged))) == whole
    segmenter = decode(encode(whole))
    assert segmenter == whole
    assert np.array_equal(tiled(segmenter, image, rows, columns), whole.segment(image).labels)


def test_merging_is_associative_and_commutative() -> None:
    surveyor = create(method="otsu")
    assert isinstance(surveyor, Surveyor)
    a, b, c = (
        surveyor.survey(random_image(s, "float32"), np.ones((1, 13, 17), np.bool_))
        for s in range(3)
    )
    left = surveyor.merge(surveyor.merge(a, b), c)
    right = surveyor.merge(c, surveyor.merge(b, a))
    assert encode(left) == encode(right)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16"])
def test_a_histogram_counts_what_numpy_counts(dtype: str) -> None:
    image = random_image(3, dtype, (2, 40, 30, 1))
    valid = image[..., 0] % 3 != 0
    state = Histogram.of(image, valid)
    values, counts = np.unique(image[..., 0][valid], return_counts=True)
    assert np.array_equal(state.occupied().means, values)
    assert np.array_equal(state.occupied().counts, counts)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(width=32, allow_nan=True, allow_infinity=True), min_size=1, max_size=30))
def test_the_float_mean_is_exact(values: list[float]) -> None:
    image = np.array(values, np.float32).reshape(1, 1, -1, 1)
    finite = [Fraction(v) for v in values if np.isfinite(v)]
    state = Histogram.of(image, np.ones(image.shape[:3], np.bool_))
    assert state.mean() == (sum(finite) / len(finite) if finite else 0)
    bins = state.occupied()
    assert bins.counts.sum() == len(finite)
    assert np.all(np.diff(bins.means) > 0)
    assert np.all((bins.lows <= bins.means) & (bins.means <= bins.tops))


def test_sums_of_great_images_are_exact() -> None:
    image = np.full((1, 1200, 1100, 3), 65535, np.uint16)
    state = Sums.of(image, np.ones(image.shape[:3], np.bool_))
    assert state.totals == (65535 * 1200 * 1100,) * 3


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_nodata_is_left_out(dtype: str) -> None:
    image = random_image(1, dtype)
    valid = np.zeros(image.shape[:3], np.bool_)
    valid[:, 3:9, 2:11] = True
    for method in STATISTICS:
        surveyor = create(method=method)
        assert isinstance(surveyor, Surveyor)
        inside = image[:, 3:9, 2:11]
        expected = surveyor.fit(surveyor.survey(inside, np.ones(inside.shape[:3], np.bool_)))
        assert surveyor.fit(surveyor.survey(image, valid)) == expected


@pytest.mark.parametrize("method", STATISTICS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_nothing_valid_and_one_value_do_not_crash(method: str, dtype: str) -> None:
    image = np.ones((1, 4, 5, 3), dtype)
    surveyor = create(method=method)
    assert isinstance(surveyor, Surveyor)
    nothing = surveyor.fit(surveyor.survey(image, np.zeros((1, 4, 5), np.bool_)))
    assert nothing.segment(image).labels.shape == (1, 4, 5)
    assert nothing.classes == surveyor.classes
    flat = surveyor.fit(surveyor.survey(image, np.ones((1, 4, 5), np.bool_)))
    assert not flat.segment(image).labels.any()
    if np.dtype(dtype).kind == "f":
        image[:] = np.nan
        assert surveyor.fit(surveyor.survey(image, np.ones((1, 4, 5), np.bool_))) == nothing


# ------------------------------------------------------------------------------ tiled equals whole


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    dtype=st.sampled_from(["uint8", "uint16", "int16", "int32", "float32"]),
    bands=st.sampled_from([1, 2, 3]),
    weighting=st.sampled_from(["mean", "gaussian"]),
    window=st.sampled_from([3, 5, 7, 9]),
    side=st.sampled_from(["dark", "bright"]),
    shape=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    draw=st.data(),
)
def test_local_tiled_equals_whole(
    seed: int,
    dtype: str,
    bands: int,
    weighting: str,
    window: int,
    side: str,
    shape: tuple[int, int],
    draw: st.DataObject,
) -> None:
    image = random_image(seed, dtype, (1, *shape, bands))
    segmenter = create("local", 0.5, window=window, weighting=weighting, object=side)
    assert isinstance(segmenter, Local)
    rows, columns = draw.draw(cuts(shape[0])), draw.draw(cuts(shape[1]))
    whole = segmenter.segment(image).labels
    assert np.array_equal(tiled(segmenter, image, rows, columns), whole)


def test_local_tiled_equals_whole_on_a_frame_of_several_strips() -> None:
    image = np.tile(photo(), (2, 8))[None, ..., None]
    segmenter = create("local", window=35)
    assert isinstance(segmenter, Local)
    whole = segmenter.segment(image).labels
    assert np.array_equal(tiled(segmenter, image, [101, 300], [700]), whole)


def test_nan_keeps_to_its_neighbourhood() -> None:
    image = photo("float32")[None, ..., None].copy()
    holed = image.copy()
    holed[0, 50, 60] = np.nan
    for weighting in ("mean", "gaussian"):
        segmenter = create("local", window=9, weighting=weighting)
        assert isinstance(segmenter, Local)
        differs = np.argwhere(segmenter.segment(image).labels != segmenter.segment(holed).labels)
        assert np.all(np.abs(differs[:, 1:] - (50, 60)) <= segmenter.halo)


# ------------------------------------------------------------------------- a frame of its own level


@given(
    seed=st.integers(0, 1000),
    method=st.sampled_from(STATISTICS),
    dtype=st.sampled_from(DTYPES),
    bands=st.sampled_from((1, 2, 3)),
    side=st.sampled_from(("dark", "bright")),
    offset=st.sampled_from((0, 0.5, -7, 300)),
    seen=st.sampled_from(("all", "some", "none")),
)
def test_a_frame_is_labelled_at_once_as_step_by_step(
    seed: int, method: Any, dtype: str, bands: int, side: Any, offset: float, seen: str
) -> None:
    image = random_image(seed, dtype, (1, 13, 17, bands))
    valid = (
        np.random.default_rng(seed).random(image.shape[:3])
        < {"all": 1, "some": 0.5, "none": 0}[seen]
    )
    surveyor = create(method, offset=offset, object=side)
    assert isinstance(surveyor, Threshold)
    expected = surveyor.fit(surveyor.survey(image, valid))
    found, prediction = surveyor.label_frame(image, valid)
    assert found == expected
    assert prediction.labels.dtype == np.uint8
    assert np.array_equal(prediction.labels, expected.segment(image).labels)


# --------------------------------------------------------------------------------- the gray itself


@pytest.mark.parametrize("scale", [1, 2, 3, 10])
def test_a_level_of_the_histogram_cuts_where_gray_rounds(scale: int) -> None:
    """For every gray: it rounds to more than the level just where it is above the cut."""
    gray = np.arange(-7 * scale, 7 * scale)
    for level in range(-6, 6):
        above = np.round(gray / scale) > level
        assert np.array_equal(gray > _unrounded(level, scale), above)


def test_gray_is_the_weighted_sum() -> None:
    rng = np.random.default_rng(0)
    for dtype in ("uint8", "int8", "uint16", "int16", "int32"):
        info = np.iinfo(dtype)
        image = rng.integers(info.min, info.max, (1, 50, 60, 3), dtype, endpoint=True)
        expected = image.astype(np.int64) @ np.array(RGB)
        assert np.array_equal(_gray.exact(image), expected)
        if info.bits <= 16:
            assert np.array_equal(_gray.rounded(image), np.round(expected / 10000))


@pytest.mark.parametrize("red", range(0, 256, 17))
def test_gray_of_bytes_rounds_each_colour_half_to_even(red: int) -> None:
    image = np.empty((1, 256, 256, 3), np.uint8)
    image[..., 0], image[..., 1], image[..., 2] = red, *np.indices((256, 256))
    low, rest = np.divmod(image.astype(np.int64) @ np.array(RGB), 10000)
    up = (rest > 5000) | ((rest == 5000) & (low % 2 == 1))
    assert np.array_equal(_gray.rounded(image), low + up)


def test_every_sum_of_bytes_that_lies_halfway_rounds_to_even() -> None:
    red, green = np.indices((256, 256)).reshape(2, -1)
    blue = (5000 - red * RGB[0] - green * RGB[1]) * pow(RGB[2], -1, 10000) % 10000
    halves = np.stack((red, green, blue), -1)[blue < 256]
    assert not ((halves @ np.array(RGB) - 5000) % 10000).any()
    assert len(halves) > 1000
    assert not (_gray.rounded(halves.astype(np.uint8)) % 2).any()


@pytest.mark.parametrize("bands", [2, 4, 8, 100, 300])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "uint32", "float32"])
def test_gray_of_many_bands_is_their_mean_however_long_the_image(dtype: str, bands: int) -> None:
    rng = np.random.default_rng(0)
    shape = (1, 7, 5000, bands) if bands < 10 else (1, 3, 50, bands)
    if dtype == "float32":
        image = rng.normal(0, 1e6, shape).astype(dtype)
        total = np.zeros(shape[:3])
        for band in range(bands):
            total += image[..., band]
        assert np.array_equal(_gray.single(image), (total / bands).astype(dtype))
        return
    info = np.iinfo(dtype)
    image = rng.integers(info.min, info.max, shape, dtype, endpoint=True)
    image[:, :, :9] = info.max
    expected = image.astype(np.int64).sum(axis=-1)
    assert np.array_equal(_gray.exact(image).astype(np.int64), expected)
    if info.bits <= 16:
        assert np.array_equal(_gray.rounded(image), np.rint(expected / bands))


# ----------------------------------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"method": "median"}, "method"),
        ({"object": "red"}, "object"),
        ({"scope": "shard"}, "scope"),
        ({"weighting": "box"}, "weighting"),
        ({"offset": float("nan")}, "offset"),
        ({"offset": "1"}, "offset"),
        ({"method": "fixed"}, "levels"),
        ({"method": "otsu", "levels": 3}, "levels"),
        ({"method": "fixed", "levels": [2, 1]}, "levels"),
        ({"method": "fixed", "levels": []}, "levels"),
        ({"method": "fixed", "levels": "high"}, "levels"),
        ({"method": "fixed", "levels": [float("inf")]}, "levels"),
        ({"method": "multiotsu", "classes": 1}, "classes"),
        ({"method": "multiotsu", "classes": 2.5}, "classes"),
        ({"method": "local", "window": 4}, "window"),
        ({"method": "local", "window": True}, "window"),
    ],
)
def test_a_bad_option_is_named(options: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=f"^{named}: "):
        create(**options)


def test_classes_and_colours_belong_together() -> None:
    for made in (
        create(),
        create("multiotsu", classes=5),
        create("fixed", levels=[1, 2, 3]),
        create("fixed", levels=7),
        create("local"),
    ):
        assert len(made.colors) == len(made.classes)
    assert create().classes == ("background", "object")
    assert create("multiotsu").classes == ("level 0", "level 1", "level 2")
    assert isinstance(create("fixed", levels=1), Fixed)
