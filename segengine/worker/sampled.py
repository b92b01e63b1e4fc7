"""What a sample of a shard's pixels adds up to: by it a run is known whose inputs are not as they were.

Every 16th pixel of every 16th row counts, from the frame's corner, where it is valid. Values are taken
as multiples of 2^-16, and what they add up to is exact: it does not depend on order or cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from segengine.types import Bool

STEP = 16
BANDS = 16
"""Bands that are looked at, the first ones."""
MOST = 4096
"""Shards of a scene that are sampled: of more every second, third ..."""
_BITS = 16
_LIMIT = float(1 << 24)
_HALF = 20
"""Bits of the lower part of a number that is squared."""
_PART = 1 << 12
"""Numbers of up to 40 bits, or products of 20 by 20, whose sum a double holds exactly."""

Sampled = tuple[int, ...]
"""How many pixels, then of each band their sum and that of their squares, in the units; empty: none."""


class Moments(NamedTuple):
    """Of a band."""

    mean: float
    std: float


def is_sampled(shard: int, shards: int) -> bool:
    """Whether a shard of a scene is, by its number of all there are."""
    return shard % -(-shards // MOST) == 0


def sample(pixels: NDArray[Any], valid: Bool | None, corner: tuple[int, int]) -> Sampled:
    """Of pixels (y, x, band) whose first one lies at `corner` of the frame."""
    rows, cols = (slice(-first % STEP, None, STEP) for first in corner)
    part = pixels[rows, cols, :BANDS]
    known = None if valid is None else valid[rows, cols]
    if part.dtype.kind == "f":
        finite = np.isfinite(part).all(axis=-1)
        known = finite if known is None else known & finite
    bands = part.reshape(-1, part.shape[-1]) if known is None else part[known]
    if not len(bands):
        return ()
    count = _of_whole if part.dtype.kind in "biu" and part.dtype.itemsize <= 2 else _of_any
    sums = [count(bands[:, i].astype(np.float64)) for i in range(bands.shape[1])]
    return len(bands), *(number for pair in sums for number in pair)


def _of_whole(values: NDArray[np.float64]) -> tuple[int, int]:
    """Sum and sum of squares, in the units, of whole numbers of 16 bits: exact in double precision."""
    total = square = 0
    for part in np.split(values, range(_PART, len(values), _PART)):
        total += int(part.sum())
        square += int(part @ part)
    return total << _BITS, square << (2 * _BITS)


def _of_any(values: NDArray[np.float64]) -> tuple[int, int]:
    """The same of any numbers, each rounded to the unit, and squared in two halves."""
    whole = np.rint(np.clip(values, -_LIMIT, _LIMIT) * (1 << _BITS))
    high = np.floor(whole / (1 << _HALF))
    low = whole - high * (1 << _HALF)
    total = square = 0
    for part, a, b in zip(*(np.split(x, range(_PART, len(x), _PART)) for x in (whole, high, low)),
                          strict=True):  # fmt: skip
        total += int(part.sum())
        square += (int(a @ a) << (2 * _HALF)) + (int(a @ b) << (_HALF + 1)) + int(b @ b)
    return total, square


def added(a: Sampled, b: Sampled) -> Sampled:
    """Both together; of unlike numbers of bands, those that both have."""
    return tuple(x + y for x, y in zip(a, b, strict=False)) if a and b else a or b


def moments(sampled: Sampled) -> Sequence[Moments]:
    """Mean and standard deviation of each band."""
    if not sampled:
        return ()
    count = sampled[0]
    return [
        Moments(
            total / count / (1 << _BITS),
            max(0, square * count - total * total) ** 0.5 / count / (1 << _BITS),
        )
        for total, square in zip(sampled[1::2], sampled[2::2], strict=True)
    ]
