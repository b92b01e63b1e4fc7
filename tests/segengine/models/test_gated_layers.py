"""Layers against OpenCV, NumPy and definitions written out."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import cv2
import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers, ops

from segengine.models.layers.adaptive_pool import AdaptiveAveragePooling
from segengine.models.layers.aligned_resize import AlignedResize
from segengine.models.layers.canny import Canny
from segengine.models.layers.encoding import Encoding
from segengine.models.layers.idle import IdleConvolution
from segengine.models.layers.symmetric_padding import SymmetricPadding

from .named_weights import picture

sizes = st.integers(1, 12)


@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.tuples(st.integers(3, 24), st.integers(3, 24)),
    bands=st.sampled_from([1, 3, 4]),
    coarse=st.integers(1, 6),
    thresholds=st.sampled_from([(10, 100), (50, 200), (0, 0), (100, 100)]),
)
def test_canny_equals_opencv(
    seed: int, size: tuple[int, int], bands: int, coarse: int, thresholds: tuple[int, int]
) -> None:
    rng = np.random.default_rng(seed)
    noise = rng.integers(0, 256, (*size, bands), np.uint8)
    image = np.repeat(np.repeat(noise, coarse, 0), coarse, 1)[: size[0], : size[1]]
    image = cv2.blur(image, (3, 3)).reshape(*size, bands) if seed % 2 else image
    found = Canny(*thresholds)(image[None].astype(np.float32) / 255)
    expected = cv2.Canny(np.ascontiguousarray(image), *thresholds) / 255
    np.testing.assert_array_equal(found[0, ..., 0], expected)


def test_canny_follows_a_weak_edge_however_long() -> None:
    """A straight step of 3 grey levels, strong at its upper end only."""
    image = np.full((300, 8), 100, np.uint8)
    image[:, 4:] = np.maximum(103, 170 - np.arange(300))[:, None]
    expected = cv2.Canny(image, 10, 100) / 255
    assert expected.sum() > 290
    assert cv2.Canny(image, 100, 100).sum() / 255 < 60
    found = Canny()(image[None, ..., None].astype(np.float32) / 255)
    np.testing.assert_array_equal(found[0, ..., 0], expected)


def test_canny_knows_its_white_and_passes_no_gradient() -> None:
    import tensorflow as tf

    image = picture(32, 32, seed=5)[None].astype(np.float32)
    np.testing.assert_array_equal(Canny(white=255.0)(image), Canny()(image / 255))
    x = tf.constant(image)
    with tf.GradientTape() as tape:
        tape.watch(x)
        total = tf.reduce_sum(Canny(white=255.0)(x) * x)
    gradient = tape.gradient(total, x)
    np.testing.assert_array_equal(gradient, np.broadcast_to(Canny(white=255.0)(image), x.shape))


@settings(deadline=None, max_examples=40)
@given(source=st.tuples(sizes, sizes), target=st.tuples(sizes, sizes))
def test_aligned_resize_is_interpolation(source: tuple[int, int], target: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    x = rng.random((2, *source, 3), np.float32)
    found = AlignedResize()([x, np.zeros((2, *target, 1), np.float32)])
    expected = x.astype(np.float64)
    for axis in (0, 1):
        at = np.linspace(0, source[axis] - 1, target[axis]) if target[axis] > 1 else [0.0]
        interpolated = partial(np.interp, at, np.arange(source[axis]))
        expected = np.apply_along_axis(interpolated, axis + 1, expected)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_aligned_resize_is_exact_far_from_the_origin() -> None:
    x = np.arange(4001, dtype=np.float32)[None, None, :, None]
    found = np.asarray(AlignedResize()([x, np.zeros((1, 1, 16001, 1))])).ravel()
    np.testing.assert_allclose(found, np.arange(16001) / 4, rtol=1e-7, atol=0)


@settings(deadline=None, max_examples=40)
@given(size=st.tuples(sizes, sizes), cells=st.integers(1, 8))
def test_adaptive_pooling_is_the_mean_of_its_cells(size: tuple[int, int], cells: int) -> None:
    x = np.random.default_rng(0).random((1, *size, 2), np.float32)
    found = np.asarray(AdaptiveAveragePooling(cells)(x))

    def span(i: int, n: int) -> slice:
        return slice(i * n // cells, -(-(i + 1) * n // cells))

    for i in range(cells):
        for j in range(cells):
            cell = x[0, span(i, size[0]), span(j, size[1])]
            np.testing.assert_allclose(found[0, i, j], cell.mean((0, 1)), rtol=1e-5)


@given(size=st.tuples(st.integers(3, 9), st.integers(3, 9)), width=st.integers(1, 3))
@settings(deadline=None, max_examples=20)
def test_symmetric_padding_is_numpys(size: tuple[int, int], width: int) -> None:
    x = np.random.default_rng(0).random((1, *size, 2), np.float32)
    sides = ((0, 0), (width, width), (width, width), (0, 0))
    np.testing.assert_array_equal(SymmetricPadding(width)(x), np.pad(x, sides, "symmetric"))


def test_encoding_is_its_definition() -> None:
    layer = Encoding(4)
    x = np.random.default_rng(0).normal(size=(2, 3, 5, 6)).astype(np.float32)
    found = np.asarray(layer(x))
    words, scales = np.asarray(layer.words), np.asarray(layer.scales)
    for n in range(2):
        expected = np.zeros((4, 6))
        for pixel in x[n].reshape(-1, 6):
            residual = pixel - words
            share = np.exp(scales * (residual**2).sum(1))
            expected += (share / share.sum())[:, None] * residual
        np.testing.assert_allclose(found[n], expected, rtol=1e-4, atol=1e-5)


def test_an_idle_convolution_changes_nothing() -> None:
    layer = IdleConvolution()
    x = np.random.default_rng(0).normal(size=(1, 3, 3, 64)).astype(np.float32)
    np.testing.assert_array_equal(layer(x), x)
    assert layer.count_params() == 65


@pytest.mark.parametrize(
    "make",
    [
        lambda: Canny(5, 50, white=255.0),
        lambda: AdaptiveAveragePooling(3),
        lambda: SymmetricPadding(2),
        lambda: Encoding(3),
        IdleConvolution,
    ],
)
def test_layers_work_at_unknown_sizes_and_come_back_from_their_config(
    make: Callable[[], layers.Layer],
) -> None:
    image = keras.Input((None, None, 3))
    model = keras.Model(image, make()(image))
    again = keras.models.clone_model(model)
    again.set_weights(model.get_weights())
    x = picture(20, 14, seed=0)[None].astype(np.float32)
    fixed = keras.Input((20, 14, 3))
    shape = model(fixed).shape
    assert tuple(ops.shape(again(x))[1:]) == tuple(shape[1:])
    np.testing.assert_array_equal(again(x), model(x))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Canny(100, 10), "^low: "),
        (lambda: Canny(white=0), "^white: "),
        (lambda: AdaptiveAveragePooling(0), "^cells: "),
        (lambda: SymmetricPadding(0), "^width: "),
    ],
)
def test_layers_refuse(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
