"""Masks by the nearest pixel, images bilinearly, values as the model segmenter scales them."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segengine.networks.scale import Scale
from segengine.training._scaling import nearest, neutral, resized, scaled
from segengine.training.job import ScaleSpec

SIDES = st.integers(1, 40)


@given(SIDES, SIDES, SIDES, SIDES, st.integers(0, 9))
def test_a_new_pixel_has_the_label_at_its_centre(h: int, w: int, a: int, b: int, seed: int) -> None:
    labels = np.random.default_rng(seed).integers(0, 255, (h, w))
    small = nearest(labels, (a, b))
    for i in {0, a // 2, a - 1}:
        for j in {0, b // 2, b - 1}:
            # the centre of the new pixel in the old ones' coordinates; exact in rationals
            assert small[i, j] == labels[(2 * i + 1) * h // (2 * a), (2 * j + 1) * w // (2 * b)]
    assert set(np.unique(small)) <= set(np.unique(labels))


def test_the_tutorials_bilinear_masks_would_invent_background() -> None:
    trimap = np.array([[1, 1, 3, 3]] * 4)
    assert set(np.unique(nearest(trimap, (4, 3)))) == {1, 3}
    mixed = resized(trimap[..., None].astype(np.float32), (4, 3))
    assert 2 in np.rint(mixed)


@given(st.integers(2, 30), st.integers(2, 30), st.integers(2, 30), st.integers(2, 30))
@settings(max_examples=30, deadline=None)  # TensorFlow's first call is slow
def test_images_are_resized_as_tensorflow_does(h: int, w: int, a: int, b: int) -> None:
    import tensorflow as tf

    pixels = np.random.default_rng(h * w).normal(100, 50, (h, w, 5)).astype(np.float32)
    wanted = tf.image.resize(pixels, (a, b), method="bilinear").numpy()
    np.testing.assert_allclose(resized(pixels, (a, b)), wanted, atol=1e-2)


SPECS: list[dict[str, Any]] = [
    {"divide": 255},
    {"mean": [127.5], "std": [127.5]},
    {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4], "divide": 255},
    {"range": [10, 3000]},
]


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_training_scales_as_the_model_segmenter_does(spec: dict[str, Any], dtype: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 200, (4, 5, 3)).astype(dtype)
    ours = scaled(pixels, ScaleSpec(**spec))
    np.testing.assert_allclose(ours, Scale.of(spec).apply(pixels), rtol=1e-5, atol=1e-6)
    lost = np.zeros((1, 1, 3), np.float32) + neutral(ScaleSpec(**spec))
    np.testing.assert_allclose(scaled(lost, ScaleSpec(**spec)), 0, atol=1e-6)


def test_a_value_too_few() -> None:
    with pytest.raises(ValueError, match=r"^mean: has 2 values for 3 bands"):
        scaled(np.zeros((1, 1, 3)), ScaleSpec(mean=[1, 2], std=[1, 2]))
