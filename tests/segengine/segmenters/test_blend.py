"""Windows along an axis: weights add up to one, and do not depend on how the axis was cut."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from segengine import tiling
from segengine.segmenters import _blend

STEPS = st.integers(1, 24)


def total(places: tuple[_blend.Stretch, ...], length: int) -> np.ndarray:
    found = np.zeros(length)
    for place in places:
        inside = place.weights[: length - place.start - place.low]
        found[place.outside] += inside
    return found


@given(st.integers(1, 300), st.integers(1, 80), st.data())
def test_blended_weights_add_up_to_one(length: int, window: int, data: st.DataObject) -> None:
    step = data.draw(st.integers(1, window))
    side = min(window, length)
    places = _blend.blended(length, side, step)
    assert np.abs(total(places, length) - 1).max() <= 1e-6
    assert all(p.start >= 0 and p.start + side <= length for p in places)
    assert all((p.weights > 0).all() for p in places)


@pytest.mark.parametrize(("length", "window"), [(5, 16), (16, 16)])
def test_one_window_counts_whole(length: int, window: int) -> None:
    (place,) = _blend.blended(length, window, 8)
    assert place.start == 0
    np.testing.assert_array_equal(place.weights, np.ones(length, np.float32))


def test_half_overlap_is_hann() -> None:
    middle = _blend.blended(64, 16, 8)[3]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * (np.arange(16) + 0.5) / 16)
    np.testing.assert_allclose(middle.weights, hann, atol=1e-7)


def seen(start: int, stop: int, size: int, window: int, step: int) -> list[dict[int, np.float32]]:
    """Weight of each window, by its place in the frame, at each pixel [start, stop)."""
    halo = _blend.halo_of(window, step)
    span = tiling.span(start, stop, size, halo, step)
    length = span.stop - span.start + span.pad
    assert length % step == 0
    assert span.start % step == 0
    places = _blend.blended(length, min(window, length), step)
    found: list[dict[int, np.float32]] = []
    for pixel in range(start - span.start, stop - span.start):
        hits = {}
        for place in places:
            if place.outside.start <= pixel < place.outside.stop:
                hits[place.start + span.start] = place.weights[pixel - place.outside.start]
        found.append(hits)
    return found


@given(st.integers(1, 260), st.integers(1, 40), STEPS, st.data())
def test_a_pixel_sees_the_same_windows_however_the_frame_is_cut(
    size: int, window: int, step: int, data: st.DataObject
) -> None:
    assume(step <= window)
    start = data.draw(st.integers(0, size - 1))
    stop = data.draw(st.integers(start + 1, size))
    assert seen(start, stop, size, window, step) == seen(0, size, size, window, step)[start:stop]


@given(st.integers(1, 300), st.integers(2, 60), st.data())
def test_anchored_weights_add_up_to_one(length: int, window: int, data: st.DataObject) -> None:
    step = data.draw(st.integers(1, window))
    before = data.draw(st.integers(0, window - step))
    taper = 1.0 + np.random.default_rng(window).random(window)
    places = _blend.anchored(length, step, before, taper)
    assert np.abs(total(places, length) - 1).max() <= 1e-6
    assert all((p.start + before) % step == 0 for p in places)
    assert all(0 <= p.outside.start < p.outside.stop <= length for p in places)


@given(st.integers(1, 40), st.integers(0, 5), st.integers(1, 6), st.integers(1, 12))
def test_exact_windows_cover_each_pixel_once_with_all_it_sees(
    units: int, halo_units: int, stride: int, extra: int
) -> None:
    length, halo = units * stride, halo_units * stride
    limit = 2 * halo + extra * stride
    side = _blend.exact_window(length, limit, halo, stride)
    assert side <= max(limit, 0)
    assert side % stride == 0
    places = _blend.exact(length, side, halo, stride)
    np.testing.assert_array_equal(total(places, length), np.ones(length))
    for place in places:
        assert place.start % stride == 0
        assert place.start >= 0
        assert place.start + side <= length
        first, last = place.outside.start, place.outside.stop - 1
        assert place.start == 0 or first - halo >= place.start
        assert place.start + side == length or last + halo < place.start + side


def test_exact_windows_waste_little() -> None:
    side = _blend.exact_window(2304, 1280, 128, 16)
    assert len(_blend.exact(2304, side, 128, 16)) == 2
