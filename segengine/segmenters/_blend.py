"""Windows along an axis and the weight of each pixel in them, so that the weights add up to one.

A network whose field of view is finite is cut hard, where both neighbours see all they need; else
windows overlap and fade into one another:

    exact     |--halo--|=========|--halo--|              weight 1 inside =, nothing outside
                                 |--halo--|====...
    abutting  |-margin-|=========|-margin-|              what the network gives, and nothing else
    blended   |/=======\\|                                rising by sin^2 over the overlap,
                     |/=======\\|                         then divided by the sum over all windows

Blended windows stand on multiples of the step, counted from the array's origin. The engine starts
arrays on multiples of a segmenter's stride; where that is the step and the halo covers the windows
that touch a pixel, the pixel is a sum over the same windows, in the same order, however the
scene was cut. At the array's end one more window is moved inwards where the step leaves a rest.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Stretch:
    """One window along an axis."""

    start: int
    """First pixel, in the array."""
    low: int
    """First pixel that counts, in the window."""
    weights: Floats
    """Weight of that pixel and those after it."""

    @property
    def inside(self) -> slice:
        """The pixels that count, in the window."""
        return slice(self.low, self.low + len(self.weights))

    @property
    def outside(self) -> slice:
        """The same, in the array."""
        first = self.start + self.low
        return slice(first, first + len(self.weights))


def halo_of(window: int, step: int) -> int:
    """Context that makes a blended pixel see every window it would see in the whole frame.

    >>> halo_of(512, 256), halo_of(256, 224)
    (256, 256)
    """
    return window - step if window % step == 0 else window


def exact_window(length: int, limit: int, halo: int, stride: int) -> int:
    """Side of equal windows, at most `limit`, that cover `length` with the fewest pixels.

    >>> exact_window(2304, 1280, 128, 16)
    1280
    """
    if length <= limit:
        return length
    count = math.ceil((length - 2 * halo) / (limit - 2 * halo))
    return min(limit, stride * math.ceil((length + 2 * halo * (count - 1)) / count / stride))


def exact(length: int, window: int, halo: int, stride: int) -> tuple[Stretch, ...]:
    """Windows of a network that sees `halo` pixels; each pixel counts in one of them."""
    step = (window - 2 * halo) // stride * stride
    starts = [0]
    while starts[-1] + window < length:
        starts.append(min(starts[-1] + step, length - window))
    lows = [0, *(start + halo for start in starts[1:])]
    ends = [*lows[1:], length]
    return tuple(
        Stretch(start, low - start, np.ones(end - low, np.float32))
        for start, low, end in zip(starts, lows, ends, strict=True)
    )


def blended(length: int, window: int, step: int) -> tuple[Stretch, ...]:
    """Overlapping windows every `step` pixels; at each pixel their weights add up to 1."""
    starts = list(range(0, max(1, length - window + 1), step))
    if starts[-1] + window < length:
        starts.append(length - window)
    taper = _taper(window, step)
    total = np.zeros(max(length, window))
    for start in starts:
        total[start : start + window] += taper
    return tuple(
        Stretch(start, 0, (taper / total[start : start + window]).astype(np.float32)[:length])
        for start in starts
    )


def anchored(
    length: int, step: int, before: int, taper: NDArray[np.float64]
) -> tuple[Stretch, ...]:
    """Windows of the taper's length every `step` pixels, the first beginning `before` pixels outside.

    What lies outside the array is for the caller to fill. `before` is at most the overlap, so that
    the last `before` pixels need no window of their own; weights are divided by their sum.
    """
    window = len(taper)
    starts = range(-before, length - before, step)
    total = np.zeros(length + 2 * window)
    for start in starts:
        total[start + window : start + 2 * window] += taper
    places = []
    for start in starts:
        low, high = max(0, -start), min(window, length - start)
        weights = taper[low:high] / total[start + window + low : start + window + high]
        places.append(Stretch(start, low, weights.astype(np.float32)))
    return tuple(places)


def abutting(length: int, step: int, margin: int) -> tuple[Stretch, ...]:
    """Windows of which `step` pixels inside count, the first beginning `margin` pixels outside.

    >>> [(place.start, place.inside) for place in abutting(5, 3, 2)]
    [(-2, slice(2, 5, None)), (1, slice(2, 4, None))]
    """
    return tuple(
        Stretch(first - margin, margin, np.ones(min(step, length - first), np.float32))
        for first in range(0, length, step)
    )


def _taper(window: int, step: int) -> NDArray[np.float64]:
    """A flat top with sin^2 flanks as long as the overlap, at most half the window (Hann)."""
    flank = max(0, min(window - step, window // 2))
    weights = np.ones(window)
    rise = np.sin(np.pi / 2 * (np.arange(flank) + 0.5) / max(flank, 1)) ** 2
    weights[:flank], weights[window - flank :] = rise, rise[::-1]
    return weights
