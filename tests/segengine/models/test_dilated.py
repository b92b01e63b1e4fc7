"""Dilated convolutions against sums over shifted images, and how they are computed."""

import itertools
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray

from segengine import models
from segengine.models.layers import DilatedConvolution


def by_shifts(pixels: NDArray[Any], kernel: NDArray[Any], rate: int) -> NDArray[Any]:
    """A padded dilated convolution: one product a tap of the kernel."""
    _, height, width, _ = pixels.shape
    padded = np.pad(pixels, ((0, 0), (rate, rate), (rate, rate), (0, 0)))
    taps = (
        padded[:, dy * rate :, dx * rate :][:, :height, :width] @ kernel[dy, dx]
        for dy, dx in itertools.product(range(3), repeat=2)
    )
    return np.sum(list(taps), axis=0)


@pytest.mark.parametrize("rate", [2, 5, 12])
def test_equals_a_sum_over_shifted_images(rate: int) -> None:
    rng = np.random.default_rng(rate)
    pixels = rng.normal(size=(2, 9, 14, 4)).astype(np.float32)
    layer = DilatedConvolution(6, 3, padding="same", dilation_rate=rate, use_bias=False)
    found = np.asarray(layer(pixels))
    assert found == pytest.approx(by_shifts(pixels, np.asarray(layer.kernel), rate), abs=1e-4)


def test_learns_what_a_plain_layer_learns() -> None:
    """The fallback, for processors whose kernels have no gradient, is Keras' own way."""
    rng = np.random.default_rng(0)
    pixels = tf.constant(rng.normal(size=(2, 8, 8, 3)), tf.float32)
    ours = DilatedConvolution(4, 3, padding="same", dilation_rate=6)
    plain = keras.layers.Conv2D(4, 3, padding="same", dilation_rate=6)
    for layer in (ours, plain):
        layer.build(pixels.shape)
    plain.set_weights(ours.get_weights())
    slopes = []
    for layer in (ours, plain):
        with tf.GradientTape() as tape:
            tape.watch(pixels)
            total = tf.reduce_sum(layer(pixels) ** 2)
        slopes.append(tape.gradient(total, [pixels, layer.kernel.value]))
    for one, other in zip(*slopes, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "options"),
    [("deeplab", {"backbone": "mobilenetv2"}), ("gscnn", {})],
)
def test_no_network_cuts_its_maps_to_pieces_for_a_pyramid(
    name: str, options: dict[str, str]
) -> None:
    """Of rate 36 on a map of 8 x 8 that was several hundred times the work."""
    network = models.build(name, bands=3, classes=2, size=(64, 64), **options)
    call = tf.function(lambda pixels: network(pixels, training=False))
    graph = call.get_concrete_function(tf.TensorSpec((1, 64, 64, 3))).graph
    cut = [o.name for o in graph.get_operations() if o.type == "SpaceToBatchND"]
    assert not [place for place in cut if "aspp" in place]
