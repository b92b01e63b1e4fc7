"""Edges: parity with SciPy, scikit-image and OpenCV, tiled equals whole, and closed regions."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage import data, feature, filters, segmentation

from segengine.segmenters.edges import Canny, Contrast, Edges, Regions, create
from segengine.store.values import decode, encode
from segengine.types import Linker, Segmenter, Surveyor

KERNELS = ("sobel", "prewitt", "roberts", "scharr")
LOCAL = (*KERNELS, "log")
STEP = {"sobel": 4, "prewitt": 3, "scharr": 16}
DTYPES = ("uint8", "uint16", "int16", "float32")


def photo() -> np.ndarray:
    """A real gray photo (y, x), uint8."""
    return np.asarray(data.camera()[::2, ::2])


def random_image(seed: int, dtype: str, shape: tuple[int, int, int, int]) -> np.ndarray:
    """Random pixels (n, y, x, band) with flat parts, so that ties and flat ground occur."""
    rng = np.random.default_rng(seed)
    n, y, x, bands = shape
    coarse = rng.integers(0, 6, (n, y // 4 + 1, x // 4 + 1, bands))
    image = np.repeat(np.repeat(coarse, 4, 1), 4, 2)[:, :y, :x] * 40 + rng.integers(0, 25, shape)
    if dtype == "float32":
        return (image / 255).astype(dtype)
    return (image * {"uint8": 1, "uint16": 257, "int16": 120}[dtype]).astype(dtype)


def windows(
    image: np.ndarray, halo: int, rows: list[int], cols: list[int]
) -> list[tuple[tuple[slice, slice, slice], tuple[slice, slice, slice], np.ndarray]]:
    """Between cuts: where a window goes, what to crop it to, and its pixels with clipped halo."""
    height, width = image.shape[1:3]
    out = []
    for top, bottom in zip([0, *rows], [*rows, height], strict=True):
        for left, right in zip([0, *cols], [*cols, width], strict=True):
            y0, x0 = max(0, top - halo), max(0, left - halo)
            place = np.s_[:, top:bottom, left:right]
            crop = np.s_[:, top - y0 : bottom - y0, left - x0 : right - x0]
            out.append((place, crop, image[:, y0 : bottom + halo, x0 : right + halo]))
    return out


def tiled(segmenter: Segmenter, image: np.ndarray, rows: list[int], cols: list[int]) -> np.ndarray:
    """Labels of windows, each with its halo, cropped."""
    assert segmenter.halo is not None
    out = np.full(image.shape[:3], 99, np.uint8)
    for place, crop, pixels in windows(image, segmenter.halo, rows, cols):
        out[place] = segmenter.segment(pixels).labels[crop]
    return out


def cuts(size: int) -> st.SearchStrategy[list[int]]:
    inside = st.integers(1, max(1, size - 1))
    return st.lists(inside, max_size=3, unique=True).map(
        lambda found: sorted(c for c in found if c < size)
    )


def made(**options: Any) -> Any:
    return create(**options)


# ------------------------------------------------------------------------------------------ parity


@pytest.mark.parametrize("operator", ["sobel", "prewitt"])
def test_responses_are_those_of_scipy(operator: str) -> None:
    image = photo()
    got = made(operator=operator).response(image[None, ..., None])[0]
    for axis in (0, 1):
        expected = getattr(ndimage, operator)(image.astype(np.int64), axis=axis, mode="reflect")
        assert np.array_equal(got[..., axis], expected)


def test_signs_of_the_responses() -> None:
    """Brighter downwards and to the right is positive; the tutorial convolves with these kernels."""
    ramp = np.add.outer(3 * np.arange(9), 5 * np.arange(9)).astype(np.uint8)
    got = made(operator="sobel").response(ramp[None, ..., None])[0]
    assert got[4, 4].tolist() == [8 * 3, 8 * 5]
    image = photo().astype(np.int64)
    got = made(operator="sobel").response(photo()[None, ..., None])[0]
    horizontal = np.array([[1, 2, 1], [0, 0, 0], [-1, -2, -1]])
    vertical = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    assert np.array_equal(got[..., 0], ndimage.convolve(image, horizontal, mode="reflect"))
    assert np.array_equal(got[..., 1], -ndimage.convolve(image, vertical, mode="reflect"))


@pytest.mark.parametrize("operator", ["sobel", "prewitt", "scharr"])
def test_responses_are_those_of_scikit_image(operator: str) -> None:
    """Theirs divide by the weights, in float64: some 1e-15 of the range."""
    image = photo().astype(np.float64)
    got = made(operator=operator).response(photo()[None, ..., None])[0] / STEP[operator]
    assert np.allclose(got[..., 0], getattr(filters, f"{operator}_h")(image), atol=1e-11, rtol=0)
    assert np.allclose(got[..., 1], getattr(filters, f"{operator}_v")(image), atol=1e-11, rtol=0)


def test_roberts_has_the_magnitude_of_the_published_diagonals() -> None:
    image = photo()
    got = made(operator="roberts").response(image[None, ..., None])[0]
    falling = filters.roberts_pos_diag(image.astype(np.float64))
    rising = filters.roberts_neg_diag(image.astype(np.float64))
    assert np.array_equal((got**2).sum(-1), 2 * (falling**2 + rising**2))
    assert np.array_equal(got[..., 0], falling + rising)
    assert np.array_equal(got[..., 1], falling - rising)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("operator", KERNELS)
def test_an_edge_is_a_magnitude_above_the_threshold(operator: str, dtype: str) -> None:
    """Against scikit-image's magnitude, which is rounded: so not within 1e-9 of the level."""
    image = random_image(3, dtype, (1, 60, 70, 1))
    span = 1 if dtype == "float32" else np.iinfo(dtype).max
    # Theirs is the root of the mean square of the two; Roberts' also, of twice our unit.
    magnitude = getattr(filters, operator)(image[0, ..., 0].astype(np.float64)) * 2**0.5
    magnitude /= 2**0.5 if operator == "roberts" else 1
    clear = np.abs(magnitude - 0.15 * span) > 1e-9 * span
    got = made(operator=operator, threshold=0.15).segment(image).labels[0]
    assert 0.02 < got.mean() < 0.98
    assert clear.mean() > 0.99
    assert np.array_equal(got[clear], (magnitude > 0.15 * span)[clear])


@pytest.mark.parametrize("operator", KERNELS)
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32"])
@pytest.mark.parametrize("bands", [1, 3])
def test_a_step_equal_to_the_threshold_is_no_edge(operator: str, dtype: str, bands: int) -> None:
    """Exactly, at a fifth of the range: no root, no rounding of 0.2."""
    height = np.iinfo(dtype).max // 5
    assert height * 5 == np.iinfo(dtype).max
    segmenter = made(operator=operator, threshold=0.2)
    image = np.zeros((1, 8, 8, bands), dtype)
    image[:, :, 4:] = height
    assert not segmenter.segment(image).labels.any()
    image[:, :, 4:] = height + 1
    assert segmenter.segment(image).labels.any()


@pytest.mark.parametrize("operator", LOCAL)
def test_directions(operator: str) -> None:
    """A step between rows is a horizontal edge, one between columns a vertical edge."""
    image = np.zeros((1, 24, 26, 1), np.uint8)
    image[:, 12:] = 200
    rows = made(operator=operator, direction="horizontal").segment(image).labels
    both = made(operator=operator).segment(image).labels
    assert rows.any()
    assert np.array_equal(rows, both)
    assert not made(operator=operator, direction="vertical").segment(image).labels.any()
    turned = image.transpose(0, 2, 1, 3)
    columns = made(operator=operator, direction="vertical").segment(turned).labels
    assert np.array_equal(columns, rows.transpose(0, 2, 1))


@pytest.mark.parametrize("sigma", [0.7, 2.0, 5.3])
def test_log_is_that_of_scipy(sigma: float) -> None:
    """SciPy's truncated kernel does not sum to 0, ours does: they differ by its answer to 1."""
    image = photo().astype(np.float64)
    got = made(operator="log", sigma=sigma).response(image[None, ..., None])[0].sum(-1)
    expected = ndimage.gaussian_laplace(image, sigma, mode="reflect")
    leak = abs(float(ndimage.gaussian_laplace(np.ones((99, 99)), sigma)[49, 49]))
    assert np.allclose(got, expected, atol=leak * 255 + 1e-9, rtol=0)
    assert leak * 255 < 0.05 * np.abs(expected).max()


def test_log_marks_the_thin_middle_of_a_step() -> None:
    """One pixel wide, at the threshold that is the height of the step and not far above."""
    image = np.zeros((1, 40, 40, 1), np.uint8)
    image[:, :, 20:] = 100
    for sigma in (1.5, 2.0, 4.0):
        below = made(operator="log", sigma=sigma, threshold=0.85 * 100 / 255).segment(image).labels
        above = made(operator="log", sigma=sigma, threshold=1.05 * 100 / 255).segment(image).labels
        assert np.array_equal(np.unique(np.nonzero(below)[2]), [19])
        assert below[:, :, 19].all()
        assert not above.any()


# ------------------------------------------------------------------------------------------- canny


@pytest.mark.parametrize("source", ["camera", "coins", "random"])
def test_canny_is_that_of_opencv(source: str) -> None:
    """Bit for bit, given the same gradients."""
    image = random_image(4, "uint8", (1, 120, 90, 1))[0, ..., 0]
    if source != "random":
        image = np.asarray(getattr(data, source)())
    dx, dy = (
        cv2.Sobel(image, cv2.CV_16S, *order, ksize=3, borderType=cv2.BORDER_REFLECT)
        for order in ((1, 0), (0, 1))
    )
    segmenter = made(operator="canny", sigma=0, low=0.08, high=0.2)
    got = segmenter.segment(image[None, ..., None]).labels[0]
    expected = cv2.Canny(dx, dy, 0.08 * 255 * 4, 0.2 * 255 * 4, L2gradient=True) > 0
    assert expected.any()
    assert np.array_equal(got, expected)


def test_canny_is_much_that_of_scikit_image() -> None:
    """Away from the border 97 % of either's edges lie within a pixel of the other's.

    Theirs interpolates magnitudes along the gradient, where ours (and OpenCV's) picks one of four
    sectors, and pads with 0.
    """
    image = photo().astype(np.float64) / 255
    got = made(operator="canny", sigma=1.4, low=0.04, high=0.1).segment(
        image.astype(np.float32)[None, ..., None]
    )
    theirs = feature.canny(image, 1.4, 0.16, 0.4)
    inside = np.s_[8:-8, 8:-8]
    a, b = got.labels[0].astype(bool)[inside], theirs[inside]
    near = np.ones((3, 3), np.bool_)
    assert ndimage.binary_dilation(b, near)[a].mean() > 0.96
    assert ndimage.binary_dilation(a, near)[b].mean() > 0.96


CANNY = st.fixed_dictionaries(
    {
        "sigma": st.sampled_from([0, 0.5, 1.0, 1.4]),
        "low": st.sampled_from([0, 0.02, 0.05]),
        "high": st.sampled_from([0.05, 0.15, 0.25]),
        "direction": st.sampled_from(["horizontal", "vertical", "both"]),
    }
)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    dtype=st.sampled_from(DTYPES),
    bands=st.sampled_from([1, 3]),
    options=CANNY,
    shape=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    draw=st.data(),
)
def test_a_tiled_draft_is_the_whole_one_and_links_to_the_edges(
    seed: int,
    dtype: str,
    bands: int,
    options: dict[str, Any],
    shape: tuple[int, int],
    draw: st.DataObject,
) -> None:
    image = random_image(seed, dtype, (1, *shape, bands))
    segmenter = made(operator="canny", **options)
    assert isinstance(segmenter, Linker)
    whole = segmenter.draft(image)
    assert segmenter.halo is not None
    got = np.full_like(whole, 99)
    rows, columns = draw.draw(cuts(shape[0])), draw.draw(cuts(shape[1]))
    for place, crop, pixels in windows(image, segmenter.halo, rows, columns):
        got[place] = segmenter.draft(pixels)[crop]
    assert np.array_equal(got, whole)
    assert whole.max() <= segmenter.keep
    pieces, _ = ndimage.label(whole[0] > 0, np.ones((3, 3)))
    linked = np.isin(pieces, np.unique(pieces[whole[0] >= segmenter.keep])) & (pieces > 0)
    assert np.array_equal(segmenter.segment(image).labels[0], linked)


def test_canny_links_over_several_strips() -> None:
    image = np.tile(photo(), (2, 8))[None, ..., None]
    segmenter = made(operator="canny")
    whole = segmenter.draft(image)
    for place, crop, pixels in windows(image, segmenter.halo, [133, 400], [900]):
        assert np.array_equal(segmenter.draft(pixels)[crop], whole[place])
    assert set(np.unique(whole)) == {0, 1, 2}


# ------------------------------------------------------------------------------ tiled equals whole


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    dtype=st.sampled_from(DTYPES),
    bands=st.sampled_from([1, 2, 3]),
    operator=st.sampled_from(LOCAL),
    direction=st.sampled_from(["horizontal", "vertical", "both"]),
    sigma=st.sampled_from([None, 0.5, 1.3]),
    shape=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    draw=st.data(),
)
def test_tiled_equals_whole(
    seed: int,
    dtype: str,
    bands: int,
    operator: str,
    direction: str,
    sigma: float | None,
    shape: tuple[int, int],
    draw: st.DataObject,
) -> None:
    image = random_image(seed, dtype, (2, *shape, bands))
    segmenter = made(operator=operator, direction=direction, sigma=sigma, threshold=0.08)
    whole = segmenter.segment(image).labels
    assert whole.dtype == np.uint8
    rows, columns = draw.draw(cuts(shape[0])), draw.draw(cuts(shape[1]))
    assert np.array_equal(tiled(segmenter, image, rows, columns), whole)


@pytest.mark.parametrize("operator", LOCAL)
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_tiled_equals_whole_over_several_strips(operator: str, dtype: str) -> None:
    image = np.tile(photo(), (2, 8))[None, ..., None]
    if dtype == "float32":
        image = (image / 255).astype(np.float32)
    segmenter = made(operator=operator)
    whole = segmenter.segment(image).labels
    assert 0.01 < whole.mean() < 0.5
    assert np.array_equal(tiled(segmenter, image, [133, 400], [900]), whole)


@pytest.mark.parametrize("operator", [*LOCAL, "canny"])
@pytest.mark.parametrize("output", ["edges", "regions"])
def test_nan_and_infinity_do_not_crash(operator: str, output: str) -> None:
    image = random_image(0, "float32", (1, 30, 30, 1))
    image[0, 15, 15], image[0, 3, 3], image[0, 3, 20] = np.nan, np.inf, -np.inf
    assert made(operator=operator, output=output).segment(image).labels.shape == (1, 30, 30)
    image[:] = np.nan
    assert made(operator=operator, output=output).segment(image).labels.shape == (1, 30, 30)


# ----------------------------------------------------------------------------------------- regions


def assert_regions(labels: np.ndarray, ids: np.ndarray) -> None:
    """4-connected regions that lines keep apart, numbered by first pixel."""
    assert labels.dtype == np.uint8
    assert ids.dtype == np.uint32
    assert np.array_equal(labels, ids > 0)
    numbers, first = np.unique(ids[ids > 0], return_index=True)
    assert np.array_equal(numbers, np.arange(1, len(numbers) + 1))
    assert np.all(np.diff(first) > 0)
    assert len(numbers) >= 1
    for a, b in ((ids[1:], ids[:-1]), (ids[:, 1:], ids[:, :-1])):
        assert not np.any((a != b) & (a > 0) & (b > 0))
    pieces, count = ndimage.label(ids > 0)
    assert count == len(numbers)
    assert len(np.unique(np.stack((pieces[ids > 0], ids[ids > 0])), axis=1)[0]) == count


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    dtype=st.sampled_from(DTYPES),
    bands=st.sampled_from([1, 3]),
    operator=st.sampled_from([*LOCAL, "canny"]),
    min_size=st.sampled_from([1, 4, 10**6]),
    shape=st.tuples(st.integers(1, 30), st.integers(1, 30)),
)
def test_regions_are_closed(
    seed: int, dtype: str, bands: int, operator: str, min_size: int, shape: tuple[int, int]
) -> None:
    image = random_image(seed, dtype, (2, *shape, bands))
    segmenter = made(operator=operator, output="regions", min_size=min_size)
    assert segmenter.halo is None
    got = segmenter.segment(image)
    for labels, ids in zip(got.labels, got.instances, strict=True):
        assert_regions(labels, ids)


@pytest.mark.parametrize("operator", [*LOCAL, "canny"])
def test_regions_of_discs(operator: str) -> None:
    """Each disc and the ground are a region of their own."""
    y, x = np.mgrid[:90, :120]
    image = np.zeros((1, 90, 120, 1), np.uint8)
    for centre in ((25, 30), (25, 85), (65, 60)):
        image[0, np.hypot(y - centre[0], x - centre[1]) < 15] = 180
    got = made(operator=operator, output="regions").segment(image)
    assert got.instances.max() == 4
    assert (
        len({int(got.instances[0, y, x]) for y, x in ((25, 30), (25, 85), (65, 60), (0, 0))}) == 4
    )


@pytest.mark.parametrize("name", ["camera", "coins", "coffee"])
def test_regions_are_those_of_scikit_image_s_flooding(name: str) -> None:
    """The water rises in steps, so that a border may lie a pixel aside: of how many is in CHANGELOG."""
    image = np.atleast_3d(getattr(data, name)())[None]
    gradient = made(output="regions").gradient
    relief = gradient.power(image[0])
    flat, _ = ndimage.label(relief <= gradient.bound(0.05, image[0]))
    sizes = np.bincount(flat.ravel())
    seeds = np.where(sizes[flat] >= 16, flat, 0)
    theirs = segmentation.watershed(relief, seeds, watershed_line=True)
    ours = made(output="regions").segment(image).instances[0]
    assert ours.max() == len(np.unique(seeds)) - 1
    assert 0.003 < ((ours > 0) != (theirs > 0)).mean() < 0.005
    shared = np.zeros((theirs.max() + 1, ours.max() + 1), int)
    both = (ours > 0) & (theirs > 0)
    np.add.at(shared, (theirs[both], ours[both]), 1)
    assert 0.001 < (both.sum() - shared.max(axis=1).sum()) / ours.size < 0.01


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([1, 4, 9]))
def test_every_large_flat_piece_has_a_region_and_no_other(seed: int, least: int) -> None:
    """Against SciPy's labelling of what is flat by scikit-image's gradient."""
    image = random_image(seed, "uint8", (1, 40, 50, 1))
    got = made(output="regions", threshold=0.0801, min_size=least).segment(image)
    magnitude = filters.sobel(image[0, ..., 0].astype(np.float64)) * 2**0.5
    pieces, count = ndimage.label(magnitude <= 0.0801 * 255)
    large = [k for k in range(1, count + 1) if (pieces == k).sum() >= least]
    if large:
        assert got.instances.max() == len(large)
        homes = [set(np.unique(got.instances[0][pieces == k]).tolist()) - {0} for k in large]
        assert sorted(home.pop() for home in homes) == list(range(1, len(large) + 1))
        assert not any(homes)


# ---------------------------------------------------------------------------------------- contrast


def test_thresholds_of_a_surveyed_contrast_do_not_know_the_unit() -> None:
    """The same photo in 8 bits, and as floats in some unit, has the same edges."""
    pixels = photo()[None, ..., None]
    valid = np.ones(pixels.shape[:3], np.bool_)
    for options in ({}, {"operator": "canny"}, {"operator": "log"}, {"output": "regions"}):
        surveyor = made(scope="scene", **options)
        assert isinstance(surveyor, Surveyor)
        assert surveyor.scope == "scene"
        one = surveyor.fit(surveyor.survey(pixels, valid)).segment(pixels).labels
        scaled = (pixels * 0.25).astype(np.float32)
        other = surveyor.fit(surveyor.survey(scaled, valid)).segment(scaled).labels
        assert np.mean(one != other) < 0.01
        assert one.any()


def test_the_contrast_is_what_the_gray_spans_and_merges_exactly() -> None:
    pixels = photo()[None, ..., None]
    valid = np.ones(pixels.shape[:3], np.bool_)
    surveyor = made(scope="run")
    assert isinstance(surveyor, Contrast)
    whole = surveyor.fit(surveyor.survey(pixels, valid))
    assert isinstance(whole, Edges)
    low, high = np.quantile(photo(), [0.01, 0.99], method="inverted_cdf")
    assert whole.measure.contrast == float(high) - float(low)
    parts = [
        surveyor.survey(pixels[:, i : i + 50], valid[:, i : i + 50]) for i in range(0, 256, 50)
    ]
    merged = parts[0]
    for part in parts[1:]:
        merged = surveyor.merge(part, merged)
    assert surveyor.fit(merged) == whole
    nothing = surveyor.fit(surveyor.survey(pixels, ~valid))
    assert nothing.segment(pixels).labels.shape == (1, 256, 256)


# ----------------------------------------------------------------------------------------- options


@pytest.mark.parametrize("operator", [*LOCAL, "canny"])
@pytest.mark.parametrize("output", ["edges", "regions"])
def test_segmenters_travel_and_describe_themselves(operator: str, output: str) -> None:
    for scope in ("dtype", "frame"):
        segmenter = made(operator=operator, output=output, scope=scope)
        assert decode(encode(segmenter)) == segmenter
        assert len(segmenter.colors) == len(segmenter.classes) == 2
        assert segmenter.outputs[0] == "labels"
        assert ("instances" in segmenter.outputs) == (output == "regions")
        assert segmenter.version == (2 if output == "regions" else 1)
        assert fields(segmenter)
    kind = Regions if output == "regions" else Canny if operator == "canny" else Edges
    assert isinstance(made(operator=operator, output=output), kind)


@pytest.mark.parametrize("operator", [*LOCAL, "canny"])
@pytest.mark.parametrize("output", ["edges", "regions"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1), (2, 2)])
def test_images_smaller_than_a_kernel(operator: str, output: str, shape: tuple[int, int]) -> None:
    image = random_image(1, "uint8", (2, *shape, 1))
    segmenter = made(operator=operator, output=output)
    assert segmenter.segment(image).labels.shape == (2, *shape)
    assert segmenter.response(image).shape == (2, *shape, 2)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"operator": "laplace"}, "operator"),
        ({"direction": "up"}, "direction"),
        ({"output": "lines"}, "output"),
        ({"scope": "shard"}, "scope"),
        ({"threshold": -1}, "threshold"),
        ({"threshold": "high"}, "threshold"),
        ({"operator": "canny", "threshold": 0.1}, "threshold"),
        ({"low": 0.1}, "low, high"),
        ({"operator": "canny", "low": 0.3, "high": 0.2}, "low"),
        ({"operator": "canny", "high": float("inf")}, "high"),
        ({"sigma": 0.1}, "sigma"),
        ({"sigma": float("nan")}, "sigma"),
        ({"operator": "log", "sigma": 0}, "sigma"),
        ({"output": "regions", "min_size": 0}, "min_size"),
    ],
)
def test_a_bad_option_is_named(options: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=f"^{named}: "):
        create(**options)
