"""Numbers of rows and the cells counted by them, against sorting."""

from __future__ import annotations

from dataclasses import replace
from functools import reduce
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segengine.segmenters import _cells
from segengine.segmenters._cells import Cells
from segengine.segmenters._numbered import Rows


@pytest.mark.parametrize(
    ("bands", "low", "width"), [(1, 0, 5), (3, -40, 7), (2, -(1 << 31), 32), (9, 3, 11), (40, 0, 0)]
)
def test_equal_rows_have_one_number_and_unlike_ones_two(bands: int, low: int, width: int) -> None:
    rng = np.random.default_rng(width)
    known = rng.integers(low, low + (1 << width), (30_000, bands))
    numbers = Rows(bands, low, width)
    for _ in range(3):
        rows = known[rng.integers(0, len(known), 50_000)]
        found = numbers.numbers(rows.astype(np.float64))
        np.testing.assert_array_equal(numbers.rows()[found], rows)
    assert len(np.unique(numbers.rows(), axis=0)) == len(numbers)


def test_codes_that_want_one_place_get_each_their_own() -> None:
    # More than half as many codes as there are places: most have to move on at least once.
    codes = np.ldexp(np.arange(600_000.0)[:, None], 30)
    numbers = Rows(1, 0, 50)
    found = numbers.numbers(codes)
    np.testing.assert_array_equal(numbers.rows()[found], codes)


@settings(max_examples=6)
@given(
    dtype=st.sampled_from([np.uint8, np.int8, np.uint16, np.int16, np.int32, np.float32]),
    bands=st.integers(1, 9),
    spread=st.sampled_from([2.0, 40.0, 3000.0]),
    seed=st.integers(0, 99),
)
def test_cells_are_those_that_sorting_finds(
    dtype: Any, bands: int, spread: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    pixels = rng.normal(0, spread, (1, 300, 500 if seed % 2 else 1000, bands))
    kind = np.dtype(dtype)
    if kind.kind != "f":
        ends = np.iinfo(kind)
        pixels = np.clip(np.rint(pixels), ends.min, ends.max)
    pixels = pixels.astype(kind)
    valid = rng.random(pixels.shape[:3]) < 0.9
    cells = _cells.count(pixels, valid)
    rows = pixels[valid].astype(np.float64)
    index, place, counts = np.unique(
        np.floor(np.ldexp(rows, -cells.level)), axis=0, return_inverse=True, return_counts=True
    )
    np.testing.assert_array_equal(cells.index, index)
    np.testing.assert_array_equal(cells.counts, counts)
    assert len(counts) <= _cells.LIMIT
    if cells.level > (2 if kind == np.uint8 else 0):
        finer = np.unique(np.floor(np.ldexp(rows, 1 - cells.level)), axis=0)
        assert len(finer) > _cells.LIMIT
    if _cells.exact(kind):
        for band, column in enumerate(rows.T):
            np.testing.assert_array_equal(
                cells.sums[:, band], np.bincount(place.reshape(-1), column)
            )
        assert cells.squares == int((rows.astype(np.int64) ** 2).sum())


@pytest.mark.parametrize("width", [2, 7])
def test_cells_are_merged_without_sorting_as_by_sorting(
    monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    rng = np.random.default_rng(width)
    pixels = rng.integers(0, 1 << width + 3, (2, 200, 700, 3)).astype(np.uint16)
    parts = [_cells.count(half[None], np.ones((1, 200, 700), np.bool_)) for half in pixels]
    placed = parts[0] + parts[1]
    monkeypatch.setattr(_cells, "_DENSE", 0)
    assert placed == parts[0] + parts[1]
    np.testing.assert_array_equal(placed.sums.sum(axis=0), pixels.sum(axis=(0, 1, 2)))


def test_sums_that_float64_does_not_hold_are_merged_exactly() -> None:
    few = _cells.count(np.full((1, 1, 1, 2), 65535, np.uint16), np.ones((1, 1, 1), np.bool_))
    many = replace(few, counts=few.counts << 40, sums=(few.sums << 40) + 1)
    assert (many + few).sums.tolist() == (many.sums + few.sums).tolist()


@pytest.mark.parametrize(("dtype", "level"), [(np.uint8, 2), (np.int8, 1), (np.uint16, 1)])
def test_too_many_cells_are_coarsened_as_a_histogram_is(dtype: Any, level: int) -> None:
    rng = np.random.default_rng(0)
    low = 0 if np.dtype(dtype).kind == "u" else -11
    pixels = rng.integers(low, low + 21, (1, 500, 500, 4)).astype(dtype)
    cells = _cells.count(pixels, np.ones((1, 500, 500), np.bool_))
    assert cells.level == level
    few = [_cells.count(p, np.ones(p.shape[:3], np.bool_)) for p in np.split(pixels, 10, axis=1)]
    assert all(part.level == 0 for part in few)
    assert reduce(Cells.__add__, few) == cells
