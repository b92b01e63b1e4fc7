"""How far a network looks: the halo and stride with which a tile's output equals the whole's.

Every layer maps an interval of its output to the interval of its input that it is computed from.
Going back from one output pixel to the input gives the receptive field, exactly (as an interval);
done for each phase, that is for `stride` neighbouring pixels, it gives the halo. Layers that look
at everything (global pooling), that sample depending on the size (aligned corners), or that are not
known have no bound.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import keras
from keras import layers

from segengine.models.layers import ResizeBy, ResizeLike

Interval = tuple[int, int]
"""First and last place along an axis, both included."""


def context(model: keras.Model) -> tuple[int, int] | None:
    """(halo, stride) in pixels of a model's first output, or None where its view has no bound.

    None too where that output is not at input size.

    Windows aligned to `stride`, with `halo` more pixels on each side, give the output of the whole
    image, whose size is a multiple of the stride. The halo is a multiple of the stride too.
    """
    try:
        found = [_axis(model, axis) for axis in (0, 1)]
    except _UnboundedError:
        return None
    stride = math.lcm(*(stride for _, stride in found))
    halo = max(halo for halo, _ in found)
    return -(-halo // stride) * stride, stride


class _UnboundedError(Exception):
    """A layer looks at everything, or is not known."""


@dataclass(frozen=True, slots=True)
class _Strided:
    """Convolution or pooling."""

    kernel: int = 1
    stride: int = 1
    before: int = 0
    """Padding at the start."""

    @property
    def scale(self) -> Fraction:
        return Fraction(self.stride)

    def back(self, low: int, high: int) -> Interval:
        return low * self.stride - self.before, high * self.stride - self.before + self.kernel - 1


@dataclass(frozen=True, slots=True)
class _Spread:
    """Transposed convolution; nearest upsampling is one whose kernel is its stride."""

    kernel: int
    stride: int
    before: int = 0
    """Cropped at the start."""

    @property
    def scale(self) -> Fraction:
        return Fraction(1, self.stride)

    def back(self, low: int, high: int) -> Interval:
        first = -((self.kernel - 1 - self.before - low) // self.stride)
        return first, max(first, (high + self.before) // self.stride)


@dataclass(frozen=True, slots=True)
class _Interpolated:
    """Bilinear between pixel centres."""

    scale: Fraction
    """Width of an output pixel, in input pixels."""

    def back(self, low: int, high: int) -> Interval:
        if self.scale == 1:
            return low, high
        first, last = (
            math.floor((2 * i + 1) * self.scale / 2 - Fraction(1, 2)) for i in (low, high)
        )
        return first, last + 1


_Reach = _Strided | _Spread | _Interpolated
_POINTWISE = (
    layers.Activation,
    layers.Add,
    layers.Average,
    layers.Dropout,
    layers.ELU,
    layers.GaussianNoise,
    layers.LeakyReLU,
    layers.Maximum,
    layers.Minimum,
    layers.Multiply,
    layers.ReLU,
    layers.Rescaling,
    layers.SpatialDropout2D,
    layers.Subtract,
)
_OVER_CHANNELS = (
    layers.BatchNormalization,
    layers.Concatenate,
    layers.LayerNormalization,
    layers.Normalization,
    layers.Softmax,
)


def _axis(model: keras.Model, axis: int) -> tuple[int, int]:
    _nodes(model)  # there must be a graph
    start = [Fraction(1)] * len(model.inputs)
    scales, stride = _scales(model, start, axis)
    outputs: list[Interval | None] = [None] * len(model.outputs)
    if scales[id(model.outputs[0])] != 1:
        raise _UnboundedError
    halo = 0
    for phase in range(stride):
        outputs[0] = phase, phase
        for low, high in filter(None, _back(model, outputs, start, axis)):
            halo = max(halo, phase - low, high - phase)
    return halo, stride


def _scales(
    model: keras.Model, start: list[Fraction], axis: int
) -> tuple[dict[int, Fraction], int]:
    """How many input pixels a step in each tensor is wide, by the tensor's id; and the stride.

    A nested model is walked for each of its calls, and its tensors count for the stride.
    """
    nodes = _nodes(model)
    scales = {id(t): scale for t, scale in zip(model.inputs, start, strict=True)}
    stride = 1
    for node in nodes:
        inputs = [scales[id(t)] for t in node.input_tensors]
        if isinstance(node.operation, keras.Model):
            inner, needed = _scales(node.operation, inputs, axis)
            found = [inner[id(t)] for t in node.operation.outputs]
            stride = math.lcm(stride, needed)
        else:
            found = [inputs[0] * _reach(node.operation, inputs, axis).scale]
        scales |= {id(t): scale for t, scale in zip(node.outputs, found, strict=True)}
    return scales, math.lcm(stride, *(scale.numerator for scale in scales.values()))


def _back(
    model: keras.Model, wanted: list[Interval | None], start: list[Fraction], axis: int
) -> list[Interval | None]:
    """The part of each input that the `wanted` parts of the outputs are computed from."""
    scales, _ = _scales(model, start, axis)
    needs: dict[int, Interval] = {}

    def need(tensor: Any, interval: Interval | None) -> None:
        if interval is not None:
            low, high = needs.get(id(tensor), interval)
            needs[id(tensor)] = min(low, interval[0]), max(high, interval[1])

    for tensor, interval in zip(model.outputs, wanted, strict=True):
        need(tensor, interval)
    for node in reversed(_nodes(model)):
        asked = [needs.get(id(t)) for t in node.outputs]
        inputs = [scales[id(t)] for t in node.input_tensors]
        back: list[Interval | None]
        if isinstance(node.operation, keras.Model):
            back = _back(node.operation, asked, inputs, axis)
        elif asked[0] is None:
            continue
        else:
            back = [_reach(node.operation, inputs, axis).back(*asked[0])] * len(inputs)
            if isinstance(node.operation, ResizeLike):
                back[1] = None  # only its size counts
        for tensor, interval in zip(node.input_tensors, back, strict=True):
            need(tensor, interval)
    return [needs.get(id(t)) for t in model.inputs]


def _nodes(model: keras.Model) -> list[Any]:
    """Calls of layers that the model's outputs need, each after those it takes its inputs from."""
    functional = getattr(model, "_functional", model)  # where a Sequential keeps its graph
    by_depth = getattr(functional, "_nodes_by_depth", None)
    if by_depth is None:  # a class of the user's own: nobody knows what it calls
        raise _UnboundedError
    return [
        node
        for depth in sorted(by_depth, reverse=True)
        for node in by_depth[depth]
        if not node.is_input
    ]


def _reach(layer: Any, scales: list[Fraction], axis: int) -> _Reach:
    if isinstance(layer, ResizeLike):
        return _Interpolated(scales[1] / scales[0])
    if any(scale != scales[0] for scale in scales):
        raise _UnboundedError
    if getattr(layer, "data_format", None) == "channels_first":
        raise _UnboundedError
    match layer:
        case layers.Conv2DTranspose():
            kernel, stride = layer.kernel_size[axis], layer.strides[axis]
            if layer.dilation_rate[axis] != 1 or layer.output_padding is not None:
                raise _UnboundedError
            crop = max(kernel - stride, 0) // 2 if layer.padding == "same" else 0
            return _Spread(kernel, stride, crop)
        case layers.Conv2D() | layers.DepthwiseConv2D() | layers.SeparableConv2D():
            kernel = (layer.kernel_size[axis] - 1) * layer.dilation_rate[axis] + 1
            return _strided(kernel, layer.strides[axis], layer.padding)
        case layers.MaxPooling2D() | layers.AveragePooling2D():
            return _strided(layer.pool_size[axis], layer.strides[axis], layer.padding)
        case layers.UpSampling2D() if layer.interpolation == "nearest":
            return _Spread(layer.size[axis], layer.size[axis])
        case layers.UpSampling2D() if layer.interpolation == "bilinear":
            return _Interpolated(Fraction(1, layer.size[axis]))
        case ResizeBy():
            return _Interpolated(1 / layer.ratio)
        case layers.ZeroPadding2D():
            return _Strided(before=layer.padding[axis][0])
        case layers.Cropping2D():
            return _Strided(before=-layer.cropping[axis][0])
        case layers.Dense() | layers.Identity():
            return _Strided()
    if isinstance(layer, _POINTWISE):
        return _Strided()
    if isinstance(layer, _OVER_CHANNELS):
        axes = layer.axis if isinstance(layer.axis, (list, tuple)) else [layer.axis]
        if all(a in (-1, 3) for a in axes):
            return _Strided()
    raise _UnboundedError


def _strided(kernel: int, stride: int, padding: str) -> _Strided:
    # TensorFlow's "same", for sizes that are multiples of the stride
    return _Strided(kernel, stride, max(kernel - stride, 0) // 2 if padding == "same" else 0)
