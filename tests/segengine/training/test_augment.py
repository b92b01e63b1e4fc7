"""Image and mask move together, and masks are never interpolated."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from segengine.training.augment import augment, warp
from segengine.training.job import AugmentSpec

VOID = 255
SPECS = st.builds(
    AugmentSpec,
    flip=st.sampled_from(["none", "horizontal", "vertical", "both"]),
    rotate=st.floats(0, 180),
    crop=st.floats(0.4, 1),
    scale=st.floats(1, 2),
    color=st.floats(0, 0.5),
    noise=st.floats(0, 0.5),
)


def _sample(seed: int, height: int = 12, width: int = 17, bands: int = 3) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    labels = rng.choice([0, 1, 2, VOID], (height, width)).astype(np.uint16)
    return rng.normal(100, 20, (height, width, bands)).astype(np.float32), labels


@given(SPECS, st.integers(0, 99), st.integers(1, 6))
@settings(max_examples=40)
def test_a_generator_decides_alone_and_no_label_is_invented(
    spec: AugmentSpec, seed: int, bands: int
) -> None:
    pixels, labels = _sample(seed, bands=bands)
    before = pixels.copy(), labels.copy()
    a = augment(pixels, labels, spec, np.random.default_rng(seed), VOID)
    b = augment(pixels, labels, spec, np.random.default_rng(seed), VOID)
    assert a[0].tobytes() == b[0].tobytes()
    assert a[1].tobytes() == b[1].tobytes()
    assert a[0].shape == pixels.shape
    assert a[0].dtype == np.float32
    assert np.isfinite(a[0]).all()
    assert a[1].dtype == labels.dtype
    assert set(np.unique(a[1])) <= {0, 1, 2, VOID}
    np.testing.assert_array_equal(pixels, before[0])
    np.testing.assert_array_equal(labels, before[1])


@given(st.integers(0, 99), st.floats(0, 180), st.floats(1, 1.5))
@settings(max_examples=40)
def test_image_and_mask_move_together(seed: int, angle: float, zoom: float) -> None:
    """An image that holds its own mask: after any map, its nearest values are the mask's."""
    blocks = np.random.default_rng(seed).integers(0, 2, (4, 4))
    labels = np.kron(blocks, np.ones((16, 16), int)).astype(np.uint16)
    pixels = labels[..., None].astype(np.float32)
    spec = AugmentSpec(rotate=angle, scale=zoom, crop=0.7, flip="both")
    moved, mask = augment(pixels, labels, spec, np.random.default_rng(seed), VOID)
    inside = mask != VOID
    sure = np.abs(moved[..., 0] - 0.5) > 0.49  # not on the border of two blocks
    assert (inside & sure).mean() > 0.3
    np.testing.assert_array_equal(np.rint(moved[..., 0])[inside & sure], mask[inside & sure])


def test_flips_are_exact_and_happen_half_of_the_time() -> None:
    pixels, labels = _sample(0)
    spec = AugmentSpec(flip="horizontal")
    flipped = 0
    for seed in range(200):
        image, mask = augment(pixels, labels, spec, np.random.default_rng(seed), VOID)
        if np.array_equal(image, pixels):
            np.testing.assert_array_equal(mask, labels)
        else:
            np.testing.assert_array_equal(image, pixels[:, ::-1])
            np.testing.assert_array_equal(mask, labels[:, ::-1])
            flipped += 1
    assert 70 < flipped < 130


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_quarter_turn_is_numpys(turns: int) -> None:
    pixels, labels = _sample(1, 9, 9)
    c, s = [(0, 1), (-1, 0), (0, -1)][turns - 1]
    affine = np.array([[c, -s, 4 - 4 * c + 4 * s], [s, c, 4 - 4 * s - 4 * c]], float)
    image, mask = warp(pixels, labels, affine, VOID)
    np.testing.assert_allclose(image, np.rot90(pixels, turns), atol=1e-4)
    np.testing.assert_array_equal(mask, np.rot90(labels, turns))


@given(st.integers(-5, 5), st.integers(-5, 5))
def test_what_comes_from_outside_is_void(dx: int, dy: int) -> None:
    pixels, labels = _sample(2)
    affine = np.array([[1, 0, dx], [0, 1, dy]], float)
    _, mask = warp(pixels, labels, affine, VOID)
    wanted: NDArray[Any] = np.full((30, 40), VOID)
    wanted[9:21, 11:28] = labels
    np.testing.assert_array_equal(mask, wanted[9 + dy : 21 + dy, 11 + dx : 28 + dx])


def test_colours_and_noise_leave_the_mask_and_follow_the_samples_spread() -> None:
    pixels, labels = _sample(3, 64, 64)
    for factor in (1.0, 100.0):
        noisy, mask = augment(
            pixels * np.float32(factor),
            labels,
            AugmentSpec(noise=0.1),
            np.random.default_rng(0),
            VOID,
        )
        added = noisy - pixels * np.float32(factor)
        assert added.std() == pytest.approx(0.1 * factor * pixels.std(), rel=0.03)
        np.testing.assert_array_equal(mask, labels)
    colored, _ = augment(pixels, labels, AugmentSpec(color=0.3), np.random.default_rng(0), VOID)
    slopes = [np.polyfit(pixels[..., b].ravel(), colored[..., b].ravel(), 1)[0] for b in range(3)]
    assert slopes == pytest.approx([slopes[0]] * 3, rel=1e-3)
    assert 0.7 <= slopes[0] <= 1.3
    assert slopes[0] != pytest.approx(1)
