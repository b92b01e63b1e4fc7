"""Halo and stride of any network of known layers, against lighting up single pixels."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers

from segengine.models._context import context
from segengine.models.layers import ResizeBy, ResizeLike

LAYERS = st.one_of(
    st.tuples(st.just("conv"), st.sampled_from([1, 2, 3, 5]), st.integers(1, 3)),
    st.tuples(st.just("separable"), st.sampled_from([1, 3]), st.integers(1, 2)),
    st.tuples(st.just("stride"), st.sampled_from([1, 2, 3, 5, 7]), st.integers(2, 3)),
    st.tuples(st.just("padded"), st.sampled_from([3, 7]), st.just(2)),
    st.tuples(st.just("pool"), st.sampled_from([2, 3]), st.just(2)),
    st.tuples(st.just("average"), st.just(3), st.just(1)),
)
UPS = st.sampled_from(["transposed", "nearest", "bilinear", "like"])


def _down(x: Any, kind: str, kernel: int, number: int) -> tuple[Any, int]:
    """The layer's output, and by how much it is smaller."""
    wide = (1, kernel)
    match kind:
        case "conv":
            return layers.Conv2D(1, wide, padding="same", dilation_rate=(1, number))(x), 1
        case "separable":
            return layers.SeparableConv2D(1, wide, padding="same", dilation_rate=(1, number))(x), 1
        case "stride":
            return layers.Conv2D(1, wide, (1, number), "same")(x), number
        case "padded":
            x = layers.ZeroPadding2D((0, kernel // 2))(x)
            return layers.Conv2D(1, wide, (1, number))(x), number
        case "pool":
            return layers.MaxPooling2D(wide, (1, number), "same")(x), number
    return layers.AveragePooling2D(wide, (1, number), "same")(x), 1


def _up(x: Any, like: Any, kind: str, kernel: int, factor: int) -> Any:
    match kind:
        case "transposed":
            return layers.Conv2DTranspose(1, (1, kernel), (1, factor), "same")(x)
        case "nearest":
            return layers.UpSampling2D((1, factor))(x)
        case "bilinear":
            return layers.UpSampling2D((1, factor), interpolation="bilinear")(x)
    return ResizeLike()([x, like])


def _reach(model: keras.Model, stride: int, halo: int, height: int) -> int:
    """How far a lit column is seen to the sides, over all phases of a strip."""
    for variable in model.weights:
        variable.assign(np.ones(variable.shape, np.float32))
        if "bias" in variable.name:
            variable.assign(np.zeros(variable.shape, np.float32))
    width = 2 * halo + 3 * stride
    places = halo + stride + np.arange(stride)
    lit = np.zeros((stride, height, width, 1), np.float32)
    lit[np.arange(stride), :, places] = 1
    seen = np.asarray(model(lit, training=False))[..., 0].max(axis=1) > 0
    far = [np.abs(np.flatnonzero(row) - place) for row, place in zip(seen, places, strict=True)]
    return int(max(distances.max() for distances in far if distances.size))


@settings(max_examples=25, deadline=None)
@given(st.lists(LAYERS, min_size=1, max_size=4), UPS, st.sampled_from([2, 3, 4]), st.booleans())
def test_halo_is_what_a_lit_pixel_reaches(
    chain: list[tuple[str, int, int]], up: str, kernel: int, nested: bool
) -> None:
    inputs = keras.Input((None, None, 1))
    x, steps = inputs, []
    for kind, size, number in chain:
        before = x
        x, factor = _down(x, kind, size, number)
        if factor > 1:
            steps.append((before, factor))
    for before, factor in reversed(steps):
        x = layers.Add()([_up(x, before, up, kernel, factor), before])
    model = keras.Model(inputs, x)
    if nested:
        outer = keras.Input((None, None, 1))
        model = keras.Model(outer, layers.ReLU()(model(outer)))
    found = context(model)
    assert found is not None
    halo, stride = found
    assert stride == np.prod([factor for _, factor in steps], dtype=int)
    reach = _reach(model, stride, halo, 1)
    # the bound is of the hull: a kernel smaller than its stride has gaps, a sum may miss its ends
    assert reach <= halo
    gapless = all(kind != "stride" or size >= number for kind, size, number in chain)
    if gapless and up in ("nearest", "like", "bilinear"):
        # where an interpolated pixel lies on another's centre, its neighbour counts for nothing
        assert halo - reach < (stride if up == "nearest" else 2 * stride)


def test_a_network_shared_by_two_scales() -> None:
    single = keras.Input((None, None, 1))
    shared = keras.Model(single, layers.Conv2D(1, 3, 2, "same")(single))
    inputs = keras.Input((None, None, 1))
    half = shared(ResizeBy(0.5)(inputs))
    full = shared(inputs)
    both = layers.Maximum()([ResizeLike()([half, full]), full])
    model = keras.Model(inputs, ResizeLike()([both, inputs]))
    found = context(model)
    assert found is not None
    halo, stride = found
    assert stride == 4
    assert halo - 4 < _reach(model, stride, halo, 2 * halo) <= halo


def test_what_has_no_bound() -> None:
    inputs = keras.Input((None, None, 2))

    def of(x: Any) -> tuple[int, int] | None:
        return context(keras.Model(inputs, x))

    pooled = layers.GlobalAveragePooling2D(keepdims=True)(inputs)
    assert of(layers.Multiply()([inputs, pooled])) is None
    assert of(layers.GroupNormalization(1)(inputs)) is None
    assert of(layers.MaxPooling2D()(inputs)) is None, "not at input size"
    assert of(layers.LayerNormalization()(inputs)) == (0, 1)
    fixed = keras.Input((8, 8, 2))
    whole = layers.LayerNormalization(axis=(1, 2, 3))(fixed)
    assert context(keras.Model(fixed, whole)) is None
    assert of(layers.Cropping2D(1)(layers.ZeroPadding2D(1)(inputs))) == (0, 1)


def test_models_of_other_kinds() -> None:
    chain = keras.Sequential([keras.Input((None, None, 1)), layers.Conv2D(1, 5, padding="same")])
    assert context(chain) == (2, 1)

    class Own(keras.Model):  # type: ignore[misc]
        def call(self, x: Any) -> Any:
            return x

    model = Own()
    model(np.zeros((1, 8, 8, 1), np.float32))
    assert context(model) is None
    nested = keras.Input((8, 8, 1))
    assert context(keras.Model(nested, model(nested))) is None


def test_scales_are_exact() -> None:
    inputs = keras.Input((None, None, 1))
    x = ResizeLike()([ResizeBy(0.75)(inputs), inputs])
    found = context(keras.Model(inputs, x))
    assert found is not None
    assert found[1] == 4  # a step of 4/3 pixels is whole after 4
