"""Pixels counted in cells, against sorting."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import reduce
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segengine.segmenters import _cells, _counting, _worth
from segengine.segmenters._cells import Cells
from segengine.segmenters._counting import Table


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


@pytest.fixture(autouse=True, scope="module", params=[0, 1 << 60], ids=["compiled", "few pixels"])
def enough(request: pytest.FixtureRequest) -> Iterator[None]:
    """Compiled loops, or none, whatever this process has met."""
    before, _worth.ENOUGH = _worth.ENOUGH, request.param
    yield
    _worth.ENOUGH = before


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


@pytest.mark.parametrize("level", [0, 3])
@pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.float32])
def test_a_table_counts_as_its_loop_run_by_python_does(
    monkeypatch: pytest.MonkeyPatch, dtype: Any, level: int
) -> None:
    rng = np.random.default_rng(level)
    pixels = rng.integers(0, 40, (900, 5)).astype(dtype)
    keep = rng.random(900) < 0.8
    found = []
    for plain in (False, True):
        if plain:
            for name in ("_integers", "_floats", "_put"):
                monkeypatch.setattr(_counting, name, getattr(_counting, name).plain)
        table = Table(5, level, 0, 1 << 16, sums=np.dtype(dtype).kind != "f")
        with np.errstate(over="ignore"):  # a hash keeps the lower bits
            assert table.add(pixels, keep) == len(pixels)
            other = Table(5, level + 1, 0, 1 << 16, sums=np.dtype(dtype).kind != "f")
            assert table.moved_to(other)
        found += [[*t.cells(), np.array(t.squares)] for t in (table, other)]
    for compiled, python in zip(found[:2], found[2:], strict=True):
        for a, b in zip(compiled, python, strict=True):
            np.testing.assert_array_equal(a, b)


def test_floats_far_from_the_sample_and_hidden_nans_are_counted_as_by_sorting() -> None:
    rng = np.random.default_rng(0)
    pixels = rng.normal(0, 1, (1, 300, 600, 8)).astype(np.float32)
    for power in range(16):  # first into what room there is, then out of it, on both sides
        pixels[0, 0, 2 * power + 1, power % 8] = (-2.0) ** power
    pixels[0, 1, 7, 3] = 1e9  # farther than the sample, which takes each second pixel
    pixels[0, 2, 9, 2] = -1e6
    pixels[0, 3, 9, 1], pixels[0, 3, 9, 5] = np.nan, 1e30
    valid = rng.random(pixels.shape[:3]) < 0.99
    cells = _cells.count(pixels, valid)
    rows = pixels[valid & np.isfinite(pixels).all(axis=3)].astype(np.float64)
    index, counts = np.unique(np.floor(np.ldexp(rows, -cells.level)), axis=0, return_counts=True)
    np.testing.assert_array_equal(cells.index, index)
    np.testing.assert_array_equal(cells.counts, counts)
    assert len(np.unique(np.floor(np.ldexp(rows, 1 - cells.level)), axis=0)) > _cells.LIMIT


def test_sums_that_32_bits_have_no_room_for_are_exact() -> None:
    pixels = np.random.default_rng(0).integers(0, 1 << 16, (200_000, 2)).astype(np.uint16)
    table = Table(2, 15, 0, 1, sums=True)
    assert table.add(pixels, np.ones(len(pixels), np.bool_)) == len(pixels)
    index, counts, sums = table.cells()
    total = (sums + (index << 15) * counts[:, None]).sum(axis=0)
    np.testing.assert_array_equal(total, pixels.sum(axis=0, dtype=np.int64))
    assert table.squares == int((pixels.astype(np.int64) ** 2).sum())
