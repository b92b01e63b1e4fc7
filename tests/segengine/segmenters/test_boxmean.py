"""The mean around each pixel by compiled running sums: as of whole numbers, and as without them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.lib.stride_tricks import sliding_window_view

from segengine.segmenters import _boxmean, _gray, _kernels, threshold
from segengine.segmenters.threshold import create
from tests.segengine.segmenters.test_threshold import random_image

RGB = (2125, 7154, 721)
INTEGERS = ("bool", "uint8", "int8", "uint16", "int16", "int32", "uint32", "int64")


@pytest.fixture(autouse=True)
def _compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threshold, "compiled_pays", lambda *_: True)


def labels(image: np.ndarray, *, quick: bool = True, **options: Any) -> np.ndarray:
    segmenter = create("local", weighting="mean", **options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threshold, "compiled_pays", lambda *_: quick)
        return segmenter.segment(image).labels  # type: ignore[union-attr]


def excess(gray: np.ndarray, size: int) -> np.ndarray:
    """gray x size² less the sum of the window, which 64 bits hold here."""
    padded = np.pad(gray, size // 2, mode="symmetric")
    return gray * size**2 - sliding_window_view(padded, (size, size)).sum((2, 3))


@given(
    seed=st.integers(0, 10_000),
    dtype=st.sampled_from(INTEGERS),
    bands=st.sampled_from((1, 2, 3, 5)),
    shape=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    window=st.sampled_from((3, 5, 11, 27)),
    offset=st.sampled_from((0, 0.5, -3, 1e9)),
    side=st.sampled_from(("dark", "bright")),
)
def test_integers_are_compared_exactly(
    seed: int, dtype: str, bands: int, shape: tuple[int, int], window: int, offset: float, side: Any
) -> None:
    bands = 1 if dtype == "int64" else bands
    image = random_image(seed, dtype, (1, *shape, bands))
    weights = RGB if bands == 3 else (1,) * bands
    gray = sum(image[0, ..., b].astype(object) * w for b, w in enumerate(weights))
    over = (
        excess(np.asarray(gray, object), window) > int(offset * 2) * sum(weights) * window**2 // 2
    )
    found = labels(image, window=window, offset=offset, object=side)
    assert np.array_equal(found[0], over if side == "bright" else ~over)


@given(
    seed=st.integers(0, 10_000),
    dtype=st.sampled_from(("float32", "float64", "float16", "int64", "uint64")),
    bands=st.sampled_from((1, 2, 3, 8)),
    shape=st.tuples(st.integers(1, 90), st.integers(1, 60)),
    window=st.sampled_from((3, 9, 31)),
    odd=st.sampled_from(("", "nan", "inf", "flat", "huge", "whole")),
    side=st.sampled_from(("dark", "bright")),
    offset=st.sampled_from((0, 0.01)),
)
def test_what_is_rounded_is_decided_as_without(
    seed: int, dtype: str, bands: int, shape: Any, window: int, odd: str, side: Any, offset: float
) -> None:
    image = random_image(seed, dtype, (1, *shape, bands))
    if np.dtype(dtype).kind == "f":
        place = (0, shape[0] // 2, shape[1] // 3)
        if odd in ("nan", "inf"):
            image[place] = float(odd)
        if odd == "huge":
            image[place] = np.finfo(dtype).max
        if odd == "whole":
            image[:] = np.rint(image * 40)
        if odd == "flat":
            image[:, shape[0] // 3 :] = 0.1
    found, expected = (
        labels(image, quick=quick, window=window, object=side, offset=offset)
        for quick in (True, False)
    )
    assert np.array_equal(found, expected)


@given(st.integers(0, 1000), st.sampled_from((3, 7)), st.integers(1, 40), st.integers(1, 40))
def test_sides_are_those_of_the_sums_where_these_are_clear(
    seed: int, size: int, height: int, width: int
) -> None:
    rng = np.random.default_rng(seed)
    padded = rng.normal(0, 100, (height + size - 1, width + size - 1)).astype(np.float32)
    sums = sliding_window_view(padded.astype(np.longdouble), (size, size)).sum((2, 3))
    radius = size // 2
    centre = padded[radius : radius + height, radius : radius + width].astype(np.longdouble)
    clear = centre * size**2 - sums
    found, differs = _boxmean.sides(padded, size, 10.0, -10.0)
    sure = np.abs(np.abs(clear) - 10) > 1e-6
    assert np.array_equal(found[sure], (clear > 10)[sure])
    assert np.array_equal(differs[sure], (np.abs(clear) < 10)[sure])


def test_a_sum_that_goes_over_the_top_of_its_dtype_tells_all_the_same() -> None:
    """A line of windows' sums: over 2³¹ at its end, each excess below it."""
    image = np.random.default_rng(0).integers(60000, 65536, (40, 3000), np.uint16)
    found = np.empty(image.shape, np.bool_)
    _boxmean.exceeds(image, 31, 0, np.dtype(np.int32), found)
    padded = _kernels.pad(image.astype(np.int64), 15)
    sums = _kernels.run_sum(_kernels.run_sum(padded, 31, 0), 31, 1)
    assert np.array_equal(found, image.astype(np.int64) * 31**2 > sums)


@given(
    seed=st.integers(0, 10_000),
    dtype=st.sampled_from((*INTEGERS, ">u2", "float32", "float64", "float16", ">f4")),
    bands=st.sampled_from((1, 2, 3, 4, 8, 11)),
)
def test_compiled_gray_is_the_gray(seed: int, dtype: str, bands: int) -> None:
    image = random_image(seed, dtype, (1, 9, 11, bands))[:, ::2]
    if np.dtype(dtype).kind == "f":
        image[0, 0, 0] = (-0.0, np.nan, np.inf, 1e-40)[seed % 4]
        found, expected = _gray.single_quickly(image), _gray.single(image)
        assert found.tobytes() == expected.tobytes()
    elif _gray.is_exact(image.dtype, bands):
        assert np.array_equal(_gray.exact_quickly(image), _gray.exact(image))


def test_plain_python_says_the_same() -> None:
    """What is compiled is what is written."""
    rng = np.random.default_rng(1)
    gray = rng.integers(0, 256, (6, 8), np.uint8)
    found, expected = np.empty((2, 6, 8), np.bool_)
    lines, least = np.zeros((3, 13), np.int64), np.zeros(1, np.int64)
    _boxmean._exceeds.plain(gray, 2, least, lines, found)
    _boxmean.exceeds(gray, 5, 0, np.dtype(np.int32), expected)
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("quick", [True, False])
@pytest.mark.parametrize("side", ["dark", "bright"])
def test_where_the_mean_is_no_number_nothing_is_on_a_side_of_it(side: Any, quick: bool) -> None:
    image = np.full((1, 60, 60, 1), np.inf, np.float32)
    assert not labels(image, quick=quick, window=9, object=side).any()
