"""Neighbourhood arithmetic that is fixed for each pixel, so that it cannot tell where a cut is.

Sums of shifted copies in a fixed order: no running sums, no library filter whose vectorised and
scalar parts round differently; `_nearly` asks one first, and these only of what it leaves open.
Where the inputs are integers and the sums fit the dtype the result is exact as well. All work on
(y, x), "valid" size: a radius r shrinks an axis by 2 r. `pad` goes before, with reflected borders
(SciPy's `reflect`, OpenCV's `BORDER_REFLECT`: b a | a b c | c b); a frame's real border is then
honoured, and a cut's false one lies in the halo.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
_STRIP = 1 << 16
"""Pixels worked on at a time, so that the intermediates stay in the cache."""
_FEW = 1 << 14
"""The same where several passes are made over each intermediate."""


def pad(image: Array, radius: int) -> Array:
    """(y, x) with `radius` reflected pixels on each side; any size, down to one pixel."""
    return np.pad(image, radius, mode="symmetric") if radius else image


def by_strips(
    padded: Array,
    radius: int,
    work: Callable[[Array], Array],
    out: Array,
    pixels: int = _STRIP,
) -> None:
    """Fill out (y, ...) with work on strips of rows of padded (y + 2 radius, x + 2 radius).

    `work` maps (rows + 2 radius, x + 2 radius) to (rows, ...).
    """
    for rows in strips(out.shape[0], padded.shape[1], radius, pixels):
        out[rows] = work(padded[rows.start : rows.stop + 2 * radius])


def by_rows(padded: Array, radius: int, work: Callable[[Array], Array], out: Array) -> None:
    """`by_strips` for work whose first step goes along y, so that thin strips cost nothing."""
    rows = max(1, _FEW // max(1, padded.shape[1]))
    for start in range(0, len(out), rows):
        stop = min(start + rows, len(out))
        out[start:stop] = work(padded[start : stop + 2 * radius])


def strips(height: int, width: int, radius: int, pixels: int = _STRIP) -> Iterator[slice]:
    """Cut rows so that a strip fits the cache and most of it is not its own margin."""
    rows = max(4 * radius, pixels // max(1, width), 1)
    for start in range(0, height, rows):
        yield slice(start, min(start + rows, height))


def box_sum(image: Array, size: int, dtype: np.dtype[Any]) -> Array:
    """Sum over each size x size box, in float32, int32 or float64: as running sums, by OpenCV.

    Exact, where the dtype holds every sum exactly.
    """
    import cv2

    depth = {"float32": cv2.CV_32F, "int32": cv2.CV_32S, "float64": cv2.CV_64F}[dtype.name]
    around = cv2.boxFilter(image, depth, (size, size), normalize=False)
    radius = size // 2
    return around[radius:-radius, radius:-radius]


def adds_exactly(image: Array, terms: int) -> bool:
    """Whether sums of so many values are exact in any order: multiples of what 53 bits resolve."""
    top = max(float(image.max()), -float(image.min()))
    if not 1e-200 < top < 1e200:  # a NaN as well
        return top == 0
    unit = 2.0 ** (math.frexp(top)[1] + terms.bit_length() - 53)
    steps = image / unit
    return np.array_equal(steps, np.rint(steps))


def run_sum(image: Array, size: int, axis: int) -> Array:
    """Sums of `size` neighbours on an axis: runs of 1, 2, 4, ... together as the bits of `size` say."""
    length = image.shape[axis] - size + 1
    run, width, start = image, 1, 0
    total: Array | None = None
    while True:
        if size & width:
            part = _cut(run, start, length, axis)
            total = part if total is None else total + part
            start += width
        if 2 * width > size:
            break
        span = run.shape[axis] - width
        run = _cut(run, 0, span, axis) + _cut(run, width, span, axis)
        width *= 2
    assert total is not None
    return total


def gaussian(sigma: float) -> tuple[float, ...]:
    """SciPy's weights of a Gaussian at distance 1, 2, ... up to 4 sigma.

    Both sides and the centre sum to 1.
    """
    radius = gaussian_radius(sigma)
    weights = [math.exp(-(i * i) / (2 * sigma * sigma)) for i in range(1, radius + 1)]
    total = 1 + 2 * math.fsum(weights)
    return tuple(w / total for w in weights)


def gaussian_radius(sigma: float) -> int:
    """Pixels on each side that a Gaussian needs: 4 sigma, rounded."""
    return int(4 * sigma + 0.5)


def curvature(sigma: float) -> tuple[float, ...]:
    """Weights at distance 1, 2, ... of the second derivative of a Gaussian, to use with `bend`."""
    radius = gaussian_radius(sigma)
    weights = gaussian(sigma)
    return tuple(
        (i * i / sigma**2 - 1) / sigma**2 * w
        for i, w in zip(range(1, radius + 1), weights, strict=True)
    )


def bend(image: Array, weights: tuple[float, ...], axis: int) -> Array:
    """Sum over i of weights[i-1] (left_i + right_i - 2 centre), float64: exactly 0 where flat."""
    radius = len(weights)
    length = image.shape[axis] - 2 * radius
    twice = 2 * _cut(image, radius, length, axis).astype(np.float64)
    total = np.zeros_like(twice)
    pair = np.empty_like(twice)  # one buffer: an allocation would cost more than the sum
    for i, weight in enumerate(weights, 1):
        left, right = (_cut(image, place, length, axis) for place in (radius - i, radius + i))
        np.add(left, right, out=pair, dtype=np.float64)
        pair -= twice
        pair *= weight
        total += pair
    return total


def smooth(image: Array, weights: tuple[float, ...], axis: int) -> Array:
    """Symmetric mean along an axis, centre + `bend`, float64: a flat area keeps its value."""
    radius = len(weights)
    return bend(image, weights, axis) + _cut(image, radius, image.shape[axis] - 2 * radius, axis)


def blurred(padded: Array, weights: tuple[float, ...]) -> Array:
    """Symmetric mean along both axes, float64: (y, x) of (y + 2 radius, x + 2 radius)."""
    radius = len(weights)
    out = np.empty([length - 2 * radius for length in padded.shape])
    by_rows(padded, radius, lambda rows: smooth(smooth(rows, weights, 0), weights, 1), out)
    return out


def _cut(image: Array, start: int, length: int, axis: int) -> Array:
    """A view of `length` pixels from `start` along an axis of (y, x)."""
    return image[start : start + length] if axis == 0 else image[:, start : start + length]
