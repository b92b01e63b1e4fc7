"""What float32 decides, and what is worked out where it does not, are the masks of the fixed arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage import data

from segengine.segmenters import _canny, _gradient, _kernels, _nearly, _rows, edges, threshold
from segengine.segmenters._nearly import Near, blocks, taps, windows

JOBS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "gaussian": (threshold.create, {"method": "local", "window": 15}),
    "dark": (threshold.create, {"method": "local", "window": 9, "offset": 0.01, "object": "dark"}),
    "mean": (threshold.create, {"method": "local", "window": 15, "weighting": "mean"}),
    "log": (edges.create, {"operator": "log", "threshold": 0.03}),
    "log of columns": (edges.create, {"operator": "log", "direction": "vertical", "sigma": 1.0}),
    "canny": (edges.create, {"operator": "canny", "low": 0.01, "high": 0.04}),
    "canny of rows": (edges.create, {"operator": "canny", "direction": "horizontal", "sigma": 0.7}),
    "plain": (edges.create, {"operator": "prewitt", "threshold": 0.03}),
    "plain canny": (edges.create, {"operator": "canny", "sigma": 0, "low": 0.02, "high": 0.05}),
    "sobel": (edges.create, {"operator": "sobel", "sigma": 1.4, "threshold": 0.03}),
    "roberts": (edges.create, {"operator": "roberts", "sigma": 0.5, "threshold": 0.03}),
}
PIXELS = [
    ("uint8", 1), ("uint8", 3), ("uint8", 8), ("uint16", 1), ("uint16", 3), ("int16", 2), ("int32", 1),
    ("float32", 1), ("float32", 3), ("kelvin", 1),
]  # fmt: skip


def image(kind: str, dtype: str, bands: int) -> np.ndarray:
    """(y, x, band): a photo, or patterns with ties, in a dtype."""
    y, x = np.mgrid[:90, :130]
    values = {
        "photo": np.asarray(data.coffee())[:90, :130],
        "ramp": x + y // 3,
        "disc": (np.hypot(y - 40, x - 60) < 30) * 200,
        "rings": np.rint(100 + 100 * np.cos(np.hypot(y - 45, x - 65) / 4)),
        "hole": np.where((y > 40)[..., None], np.asarray(data.coffee())[:90, :130], 0),
        "board": (y // 8 + x // 8) % 2 * 90 + 40,
    }[kind]
    values = np.repeat(values[..., None], 3, 2) if values.ndim == 2 else values
    values = np.take(values, np.arange(bands) % 3, axis=2).astype(np.float64)
    if dtype == "kelvin":  # much greater than what it shows
        return (values / 255 * 20 + 280).astype(np.float32)
    if dtype == "float32":
        return (values / 255).astype(np.float32)
    unit = {"uint8": 1, "uint16": 200, "int16": 100, "int32": 65537 * 120}[dtype]
    return (values * unit).astype(dtype)


@pytest.fixture(autouse=True, scope="module")
def few() -> Iterator[None]:
    """Edges as a process finds them that has met few pixels; `test_rows` has those of many."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_rows, "compiled_pays", lambda *_: False)
        yield


@pytest.fixture
def worked_out(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many windows were worked out, each time that some were in doubt."""
    counts: list[int] = []

    def counted(*arguments: Any) -> Any:
        counts.append(len(arguments[1]))
        return windows(*arguments)

    monkeypatch.setattr(_nearly, "windows", counted)
    return counts


def result(segmenter: Any, pixels: np.ndarray) -> np.ndarray:
    """The draft of a linker, so that no weak edge is lost; else the labels."""
    found = segmenter.draft(pixels) if hasattr(segmenter, "draft") else None
    return segmenter.segment(pixels).labels if found is None else found


def fixed(segmenter: Any, pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """The same by the fixed arithmetic alone, in which nothing is known of float32."""
    with monkeypatch.context() as patch:
        patch.setattr(Near, "of", lambda *_: None)
        patch.setattr(_kernels, "box_sum", boxes)
        return result(segmenter, pixels)


def boxes(padded: np.ndarray, size: int, dtype: Any) -> np.ndarray:
    """Sums of boxes as they are where nothing runs along: in float64, in a fixed order."""
    down = _kernels.run_sum(padded.astype(np.float64), size, 0)
    return _kernels.run_sum(down, size, 1).astype(dtype)


@pytest.mark.parametrize(("dtype", "bands"), PIXELS)
@pytest.mark.parametrize("job", JOBS)
def test_masks_are_those_of_the_fixed_arithmetic(
    job: str, dtype: str, bands: int, monkeypatch: pytest.MonkeyPatch, worked_out: list[int]
) -> None:
    create, options = JOBS[job]
    segmenter = create(**options)
    differing = 0
    for kind in ("photo", "ramp", "disc", "rings", "hole", "board"):
        pixels = image(kind, dtype, bands)[None]
        got, wanted = result(segmenter, pixels), fixed(segmenter, pixels, monkeypatch)
        np.testing.assert_array_equal(got, wanted, kind)
        differing += 0 < np.count_nonzero(wanted) < wanted.size
    assert differing >= 2


@pytest.mark.parametrize("job", ["gaussian", "log", "canny", "sobel"])
def test_what_is_in_doubt_would_be_wrong(job: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the ties of a pattern float32 gets some wrong: without the second look the mask is another."""
    create, options = JOBS[job]
    segmenter = create(**options)
    pixels = np.concatenate([image(k, "kelvin", 1) for k in ("photo", "ramp", "rings", "board")])[
        None
    ]
    if job == "sobel":  # steps as high as the threshold
        pixels = (np.mgrid[:50, :60][1] * 0.015).astype(np.float32)[None, ..., None]
    wanted = result(segmenter, pixels)
    filtered = Near.filtered

    def sure(near: Near, down: Any, right: Any) -> Any:
        return filtered(near, down, right)[0], 0.0

    monkeypatch.setattr(Near, "filtered", sure)
    monkeypatch.setattr(Near, "rounding", 0.0)
    for module in (_gradient, _canny):
        monkeypatch.setattr(module, "slack", lambda power, _: 0 * power)
    assert not np.array_equal(result(segmenter, pixels), wanted)


@pytest.mark.parametrize("side", ["dark", "bright"])
def test_running_sums_bear_no_trace_of_what_they_have_passed(
    side: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bright spot rounds all sums that ran over it, which its own window alone may tell."""
    pixels = (np.mgrid[:60, :90][1] * 0.1).astype(np.float32)
    pixels[5:9, 2:6] = 1e12
    pixels[20:24, 40:43] = 3e10
    segmenter = threshold.create("local", window=9, weighting="mean", object=side)
    shown = pixels[None, ..., None]
    got = result(segmenter, shown)
    assert 0 < got[0, 30:, 50:-9].sum() < got[0, 30:, 50:-9].size
    np.testing.assert_array_equal(got, fixed(segmenter, shown, monkeypatch))


@pytest.mark.parametrize("job", ["gaussian", "mean", "log", "canny", "sobel"])
def test_few_pixels_of_a_photo_are_in_doubt(job: str, worked_out: list[int]) -> None:
    create, options = JOBS[job]
    noise = np.random.default_rng(0).normal(0, 3, (200, 300))
    photo = np.asarray(data.camera()[:200, :300] + noise)
    pixels = (photo / 255).astype(np.float32)[None, ..., None]
    result(create(**options), pixels)
    assert sum(worked_out) < pixels.size / 200
    if job != "mean":
        assert sum(worked_out) > 0


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    size=st.sampled_from([3, 5, 17, 33]),
    exponent=st.integers(-18, 24),
    offset=st.sampled_from([0, 1, 1e3, 1e6]),
    dtype=st.sampled_from([np.float32, np.float64]),
)
def test_an_error_is_no_greater_than_told(
    seed: int, size: int, exponent: int, offset: float, dtype: Any
) -> None:
    rng = np.random.default_rng(seed)
    unit = 10.0**exponent
    pixels = ((rng.normal(0, 1, (50, 60)) + offset) * unit).astype(np.float32)
    near = Near.of(pixels, dtype)
    assert near is not None
    assert near.image.dtype == dtype
    down, right = rng.normal(0, 1, (2, size))
    got, error = near.filtered(down, right)
    low, high = float(pixels.min()), float(pixels.max())
    taken = np.longdouble(dtype(low + (high - low) / 2))
    columns = np.lib.stride_tricks.sliding_window_view(pixels - taken, size, axis=0)
    rows = np.lib.stride_tricks.sliding_window_view(
        (columns * down.astype(np.longdouble)).sum(-1), size, axis=1
    )
    true = (rows * right.astype(np.longdouble)).sum(-1)
    assert got.shape == true.shape
    assert np.abs(got - true).max() <= error
    gain = np.abs(down).sum() * np.abs(right).sum()
    own = near.top * (size + 5) + near.greatest
    fixed_too = 0 if dtype is np.float32 else 20 * (size + 5) * near.greatest
    assert error <= gain * np.finfo(dtype).eps * (own + fixed_too)


def test_nothing_is_known_of_what_is_not_finite_or_all_the_same() -> None:
    assert Near.of(np.ones((3, 4), np.float32)) is None
    for value in (np.nan, np.inf, 1e35):
        holed = np.ones((3, 4), np.float32)
        holed[1, 2] = value
        assert Near.of(holed) is None


@pytest.mark.parametrize("dtype", ["uint8", "float32", "int64"])
def test_flat_windows_are_found(dtype: str) -> None:
    rng = np.random.default_rng(0)
    coarse = np.repeat(np.repeat(rng.integers(0, 2, (6, 7)), 9, 0), 8, 1).astype(dtype)
    for size in (3, 5, 9):
        across = np.lib.stride_tricks.sliding_window_view(coarse, (size, size))
        wanted = across.min((2, 3)) == across.max((2, 3))
        assert 0 < wanted.sum() < wanted.size
        assert np.array_equal(_nearly.flat(coarse, size), wanted)
    coarse = coarse.astype(np.float32)
    coarse[:30] = np.nan
    assert not _nearly.flat(coarse, 3)[:28].any()
    assert not _nearly.is_flat(coarse[:20])
    assert not _nearly.is_flat(np.full((3, 3), np.inf))
    assert _nearly.is_flat(np.full((3, 3), -7))


def test_windows_lie_side_by_side() -> None:
    pixels = np.arange(99).reshape(9, 11)
    rows, columns = np.array([0, 4, 6]), np.array([8, 3, 0])
    got = windows(pixels, rows, columns, 3).reshape(3, 3, 3)
    for i, (y, x) in enumerate(zip(rows, columns, strict=True)):
        assert np.array_equal(got[:, i], pixels[y : y + 3, x : x + 3])
    places = np.arange(10**5)
    parts = blocks(places, 33)
    assert len(parts) > 1
    assert np.array_equal(np.concatenate(parts), places)


def test_taps_sum_to_what_they_should() -> None:
    assert taps((0.25, 0.125), 1).tolist() == [0.125, 0.25, 0.25, 0.25, 0.125]
    assert taps((1.0,), 0).tolist() == [1.0, -2.0, 1.0]
