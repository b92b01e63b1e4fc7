"""The compiled loops of edges: the masks are those of NumPy's fixed arithmetic, whatever the pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from segengine.segmenters import _canny, _gray, _rows, edges
from segengine.segmenters._nearly import Near

OPERATORS = ("sobel", "prewitt", "roberts", "scharr", "log", "canny")
DTYPES = ("uint8", "uint16", "int16", "float32", "bool", "int8", "int32", "int64", "float64", ">u2")


def image(rng: np.random.Generator, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    """Random pixels (y, x, band) with flat parts and steps, so that there are ties."""
    y, x, bands = shape
    coarse = rng.integers(0, 6, (y // 4 + 1, x // 4 + 1, bands))
    values = np.repeat(np.repeat(coarse, 4, 0), 4, 1)[:y, :x] * 40
    values += rng.integers(0, 25, shape) * rng.integers(0, 2)
    kind = np.dtype(dtype)
    if kind.kind == "b":
        return values > 100
    if kind.kind == "f":
        return (values / 255 + rng.choice([0, 280])).astype(kind)
    low = np.iinfo(kind).min if rng.integers(2) else 0
    return (values * ((np.iinfo(kind).max - low) // 255) + low).astype(kind)


def both(
    segmenter: Any, pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> tuple[np.ndarray, np.ndarray]:
    """Labels of frames (n, y, x, band), a draft above the mask: compiled, and by NumPy alone."""
    found = []
    for compiled in (True, False):
        with monkeypatch.context() as patch:
            patch.setattr(_rows, "compiled_pays", lambda *_, compiled=compiled: compiled)
            patch.setattr(Near, "of", lambda *_: None)
            labels = segmenter.segment(pixels).labels
            drafts = [segmenter.draft(pixels)] if hasattr(segmenter, "draft") else []
            found.append(np.concatenate([*drafts, labels]))
    return found[0], found[1]


@settings(max_examples=250, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    operator=st.sampled_from(OPERATORS),
    dtype=st.sampled_from(DTYPES),
    bands=st.integers(1, 9),
    direction=st.sampled_from(["horizontal", "vertical", "both"]),
    sigma=st.sampled_from([None, 0, 0.5, 0.7, 1.4, 1.7, 2.3, 3.6]),
    part=st.sampled_from([0, 0.01, 0.05, 0.2]),
    shape=st.one_of(
        st.tuples(st.integers(1, 40), st.integers(1, 40)),
        st.tuples(st.just(1), st.integers(1, 70)),
        st.tuples(st.integers(1, 70), st.just(1)),
    ),
    spoilt=st.booleans(),
)
def test_masks_are_those_of_the_definition(
    seed: int,
    operator: str,
    dtype: str,
    bands: int,
    direction: str,
    sigma: float | None,
    part: float,
    shape: tuple[int, int],
    spoilt: bool,
) -> None:
    rng = np.random.default_rng(seed)
    pixels = image(rng, dtype, (*shape, bands))
    if spoilt and pixels.dtype.kind == "f":
        for value in (np.nan, np.inf, -np.inf, 3e38):
            pixels[rng.integers(shape[0]), rng.integers(shape[1]), rng.integers(bands)] = value
    bounds = {"low": part, "high": 2 * part} if operator == "canny" else {"threshold": part}
    if operator == "log" and not sigma:
        sigma = None
    segmenter = edges.create(operator, direction, sigma=sigma, **bounds)
    with pytest.MonkeyPatch.context() as monkeypatch:
        got, wanted = both(segmenter, pixels[None], monkeypatch)
    np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
def test_a_line_is_the_gray_bit_for_bit(dtype: str) -> None:
    """Over the whole range of integers, and of floats that cancel out, so that their order tells."""
    rng = np.random.default_rng(0)
    for bands in range(1, 10):
        if dtype == "float32":
            # Of red and green, and of any two, so much that the rest is lost unless it comes last.
            pixels = rng.normal(0, 1, (1, 70, bands)).astype(dtype)
            if bands > 1:
                pixels[0, ::2, :2] = np.ldexp((7154, -2125), 40) if bands == 3 else (1e20, -1e20)
        else:
            info = np.iinfo(dtype)
            pixels = rng.integers(info.min, info.max, (1, 70, bands), dtype, endpoint=True)
        given = _rows.Given.of(pixels)
        line = np.empty(70)
        _rows._gray_line(given.rows[0], given.bands, given.kind, 0, line)
        np.testing.assert_array_equal(line, _gray.comparable(pixels)[0].astype(np.float64))


@pytest.mark.parametrize("operator", ["sobel", "log", "canny"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("bands", range(1, 9))
def test_a_photo_has_the_edges_of_the_definition(
    operator: str, dtype: str, bands: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a photo that has them, through all the ways of a loop: the vectorised one and what is left."""
    from skimage import data

    colors = np.take(data.coffee()[:120, :213].astype(np.float64), np.arange(bands) % 3, axis=2)
    colors += np.random.default_rng(bands).normal(0, 3, colors.shape)
    unit = {"uint8": 1, "uint16": 257, "float32": 1 / 255}[dtype]
    pixels = np.clip(colors * unit, 0, 255 * unit).astype(dtype)
    bounds = {"low": 0.01, "high": 0.05} if operator == "canny" else {"threshold": 0.04}
    segmenter: Any = edges.create(operator, **bounds)
    got, wanted = both(segmenter, pixels[None], monkeypatch)
    assert 0.005 < np.mean(wanted > 0) < 0.6
    np.testing.assert_array_equal(got, wanted)


def test_a_step_equal_to_the_threshold_is_no_edge_of_wide_integers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At the greatest steps of each dtype, whose squares no 32 bits hold."""
    for dtype in ("uint8", "uint16", "int16"):
        for bands in (1, 2, 3, 8):
            for operator in ("sobel", "prewitt", "roberts", "scharr"):
                info = np.iinfo(dtype)
                pixels = np.full((1, 9, 40, bands), info.min, dtype)
                pixels[:, :, 20:] = info.max
                for threshold in ((int(info.max) - info.min) / info.max, 0.9999):
                    segmenter = edges.create(operator, threshold=threshold)
                    got, wanted = both(segmenter, pixels, monkeypatch)
                    np.testing.assert_array_equal(got, wanted)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), height=st.integers(1, 40), width=st.integers(1, 40))
def test_links_are_those_of_scipy_s_pieces(seed: int, height: int, width: int) -> None:
    rng = np.random.default_rng(seed)
    drafted = rng.choice(3, (height, width), p=[0.6, 0.38, 0.02]).astype(np.uint8)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(_rows, "compiled_pays", lambda *_: True)
        got = _canny.keep(drafted)
    pieces, _ = ndimage.label(drafted > 0, np.ones((3, 3)))
    strong = np.unique(pieces[drafted == 2])
    assert got.dtype == np.uint8
    assert np.array_equal(got, np.isin(pieces, strong) & (pieces > 0))


def test_a_long_snake_is_linked_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_rows, "compiled_pays", lambda *_: True)
    drafted = np.ones((301, 302), np.uint8)
    drafted[1::4, 1:] = 0
    drafted[3::4, :-1] = 0
    drafted[1::2, 100] = 0
    drafted[::2, 50] = 0
    drafted[0, 0] = 2
    pieces, _ = ndimage.label(drafted > 0, np.ones((3, 3)))
    assert np.array_equal(_canny.keep(drafted), pieces == pieces[0, 0])


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize("operator", OPERATORS)
def test_tiled_equals_whole(operator: str, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_rows, "compiled_pays", lambda *_: True)
    pixels = image(np.random.default_rng(5), dtype, (1 + 70, 90, 3))[None]
    segmenter: Any = edges.create(operator)
    label = getattr(segmenter, "draft", lambda shown: segmenter.segment(shown).labels)
    whole = label(pixels)
    assert 0 < np.count_nonzero(whole) < whole.size
    halo = segmenter.halo
    for top, bottom in ((0, 1), (1, 24), (24, 71)):
        for left, right in ((0, 41), (41, 83), (83, 90)):
            y, x = max(0, top - halo), max(0, left - halo)
            part = label(pixels[:, y : bottom + halo, x : right + halo])
            got = part[:, top - y : bottom - y, left - x : right - x]
            np.testing.assert_array_equal(got, whole[:, top:bottom, left:right])


def test_pixels_that_may_not_be_written_or_lie_apart_are_taken_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without compiling anything for them."""
    pixels = image(np.random.default_rng(0), "uint16", (60, 80, 4))
    for view in (pixels[::2, 1::3], pixels[..., 1:3], pixels.transpose(1, 0, 2)[::-1]):
        shown = view[None]
        shown.flags.writeable = False
        for operator in ("sobel", "log", "canny"):
            got, wanted = both(edges.create(operator), shown, monkeypatch)
            np.testing.assert_array_equal(got, wanted)
    ready: list[Any] = [_rows.canny.ready(), _rows.crossings.ready(), _rows.exceeds_whole.ready()]
    assert [len(loop.signatures) for loop in ready] == [1, 1, 1]


def test_few_pixels_do_not_load_numba_and_many_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """A photo takes less time than loading does."""
    from segengine.segmenters import _worth

    monkeypatch.setattr(_worth, "_met", 0)
    photo = np.zeros((640, 480, 1), np.uint8)
    assert not any(_rows.taken(photo) for _ in range(20))
    assert _rows.taken(np.zeros((4096, 4096), np.uint8))
    assert _rows.taken(photo)
    assert not _rows.taken(photo[:0])
