"""Window arithmetic against plain set and slice statements."""

from __future__ import annotations

from itertools import product

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from segengine import tiling
from segengine.types import Window

sizes = st.integers(1, 200)


@st.composite
def spans(draw: st.DrawFn) -> tuple[int, int, int, int | None, int]:
    size = draw(sizes)
    start = draw(st.integers(0, size - 1))
    stop = draw(st.integers(start + 1, size))
    return start, stop, size, draw(st.none() | st.integers(0, 60)), draw(st.integers(1, 40))


@given(spans())
def test_a_span_holds_what_is_asked_and_lies_on_the_grid(
    case: tuple[int, int, int, int | None, int],
) -> None:
    start, stop, size, halo, stride = case
    found = tiling.span(start, stop, size, halo, stride)
    context = size if halo is None else halo
    assert 0 <= found.start <= max(0, start - context)
    assert min(size, stop + context) <= found.stop <= size
    assert found.start % stride == 0
    assert (found.stop + found.pad) % stride == 0
    assert found.pad == 0 or found.stop == size
    assert 0 <= found.pad < stride
    inside = found.inside(start, stop)
    np.testing.assert_array_equal(
        np.arange(size)[found.start : found.stop][inside], np.arange(start, stop)
    )


@given(spans())
@example((16, 17, 17, 0, 4))
@example((17, 18, 18, 0, 4))
def test_padding_reflects_the_same_pixels_as_the_whole_axis(
    case: tuple[int, int, int, int | None, int],
) -> None:
    start, stop, size, halo, stride = case
    found = tiling.span(start, stop, size, halo, stride)
    whole = np.pad(np.arange(size), (0, -size % stride), mode="reflect")
    part = np.pad(np.arange(size)[found.start : found.stop], (0, found.pad), mode="reflect")
    np.testing.assert_array_equal(part, whole[found.start :][: len(part)])


@given(st.integers(1, 40), st.integers(2, 40))
def test_no_more_is_read_than_what_is_reflected(size: int, stride: int) -> None:
    """The last pixel, padded: from the last multiple of the stride with as many pixels before it."""
    found = tiling.span(size - 1, size, size, 0, stride)
    pad = -size % stride
    fits = [
        start
        for start in range(0, size, stride)
        if start == 0 or pad == 0 or size - start > pad  # np.pad reflects around the last pixel
    ]
    assert (found.start, found.stop, found.pad) == (max(fits), size, pad)


@given(st.tuples(*[st.integers(1, 30)] * 3), st.tuples(*[st.integers(1, 12)] * 3))
def test_every_pixel_lies_in_exactly_one_shard(
    shape: tuple[int, int, int], shard: tuple[int, int, int]
) -> None:
    seen = np.zeros(shape, int)
    grid = tiling.shard_grid(shape, shard)
    places = list(tiling.shard_indices(grid))
    assert places == list(product(*map(range, grid)))
    for place in places:
        window = tiling.shard_window(place, shape, shard)
        assert all(n >= 1 for n in window.shape)
        seen[window.slices] += 1
    assert (seen == 1).all()


@given(st.integers(1, 5000), st.integers(1, 5000))
def test_a_bucket_is_the_next_multiple(height: int, width: int) -> None:
    rows, columns = tiling.bucket(height, width)
    assert rows % 256 == columns % 256 == 0
    assert height <= rows < height + 256
    assert width <= columns < width + 256


@given(st.integers(1, 4096), sizes, sizes)
@example(100, 10, 150)
@example(100, 150, 10)
def test_frames_fill_a_shard(shard: int, height: int, width: int) -> None:
    frames = tiling.frames_per_shard(shard, height, width)
    if height <= shard and width <= shard:
        assert frames * height * width <= shard * shard < (frames + 1) * height * width
    else:
        assert frames == 1


@given(
    st.integers(1, 50), st.integers(1, 300), st.integers(1, 10), st.integers(1, 1 << 24)
)  # fmt: skip
def test_a_video_shard_spans_key_frames_and_fits_memory(
    base: int, gop: int, every: int, size: int
) -> None:
    frames = tiling.video_frames_per_shard(base, gop, every, size)
    assert frames >= 1
    assert frames * size <= 256 << 20
    if frames * size * 2 <= 256 << 20 and frames >= base:
        assert frames % max(1, gop // every) == 0


def test_windows_as_slices() -> None:
    scene = np.arange(4 * 6 * 8).reshape(4, 6, 8)
    outer, inner = Window((1, 1, 2), (4, 6, 8)), Window((2, 3, 4), (3, 5, 8))
    np.testing.assert_array_equal(scene[outer.slices][inner.slices_in(outer)], scene[2:3, 3:5, 4:8])
    assert inner.shape == (1, 2, 4)
