"""Labels in lab of many 16 bit colours: boxes of colours that lie in one centre's region are not converted.

With the cube roots of X, Y and Z, a centre's squared distance, less what all share, is affine. How fast
the difference of two changes in a box is bounded by the slopes of the roots at its lowest and highest
colour, since those fall as X, Y and Z rise. A box keeps the label of its middle, if no other centre comes
as near anywhere in it, by more than rounding; the colours of all other boxes are converted and compared.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segengine.compiled import compiled
from segengine.segmenters._colorspace import WHITE, XYZ, linear_of, roots
from segengine.segmenters._nearest import Centres, label_dtype
from segengine.types import Labels, Pixels

Array = NDArray[Any]
WORTH = 1 << 19
"""Pixels for which the boxes are worth while."""
_MANY = 1 << 21  # pixels for which smaller ones are
_GUARD = 1e-6  # of scores up to some 1e5, which are rounded at 1e-10


def label_lab16(pixels: Pixels, centres: Centres, label: Callable[[Pixels], Labels]) -> Labels:
    """What `label` gives for pixels (m, 3) uint16, which is asked about some of them only."""
    bits = 6 if len(pixels) >= _MANY else 5
    shift = max(0, int(pixels.max(initial=0)).bit_length() - bits)
    labels = np.empty(len(pixels), label_dtype(len(centres)))
    open_ = np.empty(len(pixels), np.int32)
    table = _boxes_of(centres, bits, shift)
    left = open_[: _label_by_boxes(np.ascontiguousarray(pixels), bits, shift, table, labels, open_)]
    labels[left] = label(pixels[left])
    return labels


@lru_cache(maxsize=4)
def _boxes_of(centres: Centres, bits: int, shift: int) -> NDArray[np.int32]:
    """Label of each box of 2**shift values a side; negative where more than one centre is near."""
    starts = np.arange(1 << bits) << shift
    values = linear_of("uint16")[: 1 << bits + shift]
    # The curve has a step where its parts meet, so an end need not be the least.
    low, high = (bound.reduceat(values, starts) for bound in (np.minimum, np.maximum))
    whole = [
        np.stack(np.meshgrid(edge, edge, edge, indexing="ij")).reshape(3, -1)
        for edge in (low, (low + high) / 2, high)
    ]
    # Below (6/29)**3 a root goes on straight, with the slope that it has there.
    steep, middle, flat = (roots(colors) for colors in whole)
    slow, fast = (1 / (3 * np.maximum(root, 6 / 29) ** 2) for root in (flat, steep))
    light, a, b = np.asarray(centres).T
    # L* = 116 fy - 16, a* = 500 (fx - fy), b* = 200 (fy - fz).
    slopes = (500 * a, 116 * light - 500 * a + 200 * b, -200 * b)
    constant = light**2 + a**2 + b**2 + 32 * light
    affine = np.column_stack([constant, *(-2 * slope for slope in slopes)])
    table = np.empty(middle.shape[1], np.int32)
    _fill_boxes(
        middle.T.copy(), ((fast + slow) / 2).T.copy(), ((fast - slow) / 2).T.copy(),
        ((whole[2] - whole[0]) / 2).T.copy(), np.array(XYZ) / np.array(WHITE)[:, None], affine, table,
    )  # fmt: skip
    table.flags.writeable = False
    return table


@compiled
def _fill_boxes(
    root: Array, slope: Array, spread: Array, half: Array, white: Array, affine: Array, table: Array
) -> None:
    """Fill a table (box,) from what is known of boxes (box, 3): roots at the middle, and within how
    much of which slopes they change; half the sides. `white` (3, 3): linear colours to X, Y, Z.
    """
    scores = np.empty(len(affine))
    for box in range(len(table)):
        best = 0
        for label in range(len(affine)):
            score = affine[label, 0]
            for k in range(3):
                score += affine[label, 1 + k] * root[box, k]
            scores[label] = score
            if score < scores[best]:
                best = label
        table[box] = best
        for label in range(len(affine)):
            if label == best:
                continue
            margin = scores[label] - scores[best]
            for color in range(3):
                change, more = 0.0, 0.0
                for k in range(3):
                    part = (affine[label, 1 + k] - affine[best, 1 + k]) * white[k, color]
                    change += part * slope[box, k]
                    more += abs(part) * spread[box, k]
                margin -= (abs(change) + more) * half[box, color]
            if margin <= _GUARD:
                table[box] = -1
                break


@compiled
def _label_by_boxes(
    pixels: Array, bits: int, shift: int, table: Array, labels: Array, open_: Array
) -> int:
    """Fill labels (m,) of pixels (m, 3) where their box has one; the places of the others, how many."""
    count = 0
    for i in range(len(pixels)):
        red, green = np.int64(pixels[i, 0]) >> shift, np.int64(pixels[i, 1]) >> shift
        label = table[(red << bits | green) << bits | np.int64(pixels[i, 2]) >> shift]
        if label < 0:
            open_[count] = i
            count += 1
        else:
            labels[i] = label
    return count
