"""The nearest centre of every pixel, exactly, whatever the window it comes in.

Pixels are compared by float64 arithmetic in a fixed order, each by itself: no BLAS product, whose
rounding depends on the shape of the block. Ties go to the lowest label.

Many pixels of 8 or 16 bits take a shorter way to the same labels. Their centres are multiples of
1/256, so with C = 256 c the value `C.C - 512 x.C`, the squared distance less what all centres share,
is an integer that float64 holds exactly. A box of colours lies wholly in one centre's region if all
its corners do, because such regions are convex; so one look-up in a table of boxes labels most
pixels, and one in a box that a border crosses is compared with the centres of the regions there.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segengine.compiled import compiled
from segengine.segmenters._numbered import color_codes, colors_of
from segengine.segmenters._worth import compiled_pays
from segengine.types import Labels, Pixels

Array = NDArray[Any]
Centres = tuple[tuple[float, ...], ...]
STEP = 256
"""Centres of integer pixels are multiples of 1 / STEP."""
_BLOCK = 1 << 12  # pixels compared at a time
_BOX_BITS = 18, 15  # of a code of a box of values; finer ones take longer to label
_FEW = 1 << 16  # points for which a compiled loop is not worth its loading
_TOGETHER = 1 << 14
"""Boxes whose corners are in memory at a time."""
_NEAR = 16  # most centres listed for a box; where there are more, all are compared


def label_dtype(clusters: int) -> np.dtype[Any]:
    """The smallest unsigned dtype that holds the labels and, as its maximum, void."""
    return np.dtype(np.uint8 if clusters < 256 else np.uint16)


def label_pixels(pixels: Pixels, centres: Centres) -> Labels:
    """Label (n, y, x) of pixels (n, y, x, band) among centres of such values; 0 where NaN."""
    bands = pixels.shape[-1]
    if pixels.dtype in (np.uint8, np.uint16) and bands == 1:
        return _value_table(pixels.dtype.name, centres)[pixels[..., 0]]
    if (
        pixels.dtype in (np.uint8, np.uint16)
        and bands <= 4
        and _boxing(pixels, centres)
        and compiled_pays(pixels[..., 0].size)
    ):
        labels = _label_boxed(pixels.reshape(-1, bands), centres)
        return labels.reshape(pixels.shape[:-1])
    return label_points(pixels.reshape(-1, bands).T, centres).reshape(pixels.shape[:-1])


def label_points(axes: NDArray[Any], centres: Centres) -> Labels:
    """Label (m,) of points axes (dimension, m), any real dtype; a point with NaN gets label 0."""
    labels = np.zeros(axes.shape[1], label_dtype(len(centres)))
    few = axes.shape[1] <= _FEW or not compiled_pays(axes.shape[1])
    places = np.array(centres)
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, axes.shape[1], _BLOCK):
            part = slice(start, start + _BLOCK)
            block = axes[:, part].astype(np.float64, order="C")
            (_compare_few if few else _compare)(block, places, labels[part])
    return labels


def _compare_few(axes: Array, centres: Array, labels: Labels) -> None:
    """Fill labels (m,), 0 before, of points axes (dimension, m)."""
    best = np.full(axes.shape[1], np.inf)
    for label, centre in enumerate(centres):
        squared = (axes[0] - centre[0]) ** 2
        for axis, c in zip(axes[1:], centre[1:], strict=True):
            squared += (axis - c) ** 2
        closer = squared < best
        np.minimum(best, squared, out=best)
        np.copyto(labels, label, where=closer)


def label_colors(pixels: Pixels, label: Callable[[Pixels], Labels]) -> Labels:
    """Labels (n, y, x) of pixels (n, y, x, 3) uint8, where `label` is asked once for each colour."""
    codes = color_codes(pixels.reshape(-1, 1, 3)).reshape(-1)
    present = np.zeros(1 << 24, np.bool_)
    present[codes] = True
    found = np.flatnonzero(present)
    labels = label(colors_of(found).astype(np.uint8))
    table = np.zeros(len(present), labels.dtype)
    table[found] = labels
    return table.take(codes).reshape(pixels.shape[:-1])


@lru_cache(maxsize=8)
def _value_table(dtype: str, centres: Centres) -> Labels:
    """Label of every value of an unsigned dtype."""
    values = np.arange(np.iinfo(dtype).max + 1)
    table = label_points(values[None], centres)
    table.flags.writeable = False
    return table


def _boxing(pixels: Pixels, centres: Centres) -> int:
    """Bits of a code of a box for which so many pixels pay; 0 where they pay for none."""
    each = pixels.size // pixels.shape[-1] // len(centres)
    return next((bits for bits in _BOX_BITS if each >> bits), 0)


def _label_boxed(pixels: Pixels, centres: Centres) -> Labels:
    """What `label_points` gives, for pixels (m, band) of 8 or 16 bits and centres as described above."""
    bits = _boxing(pixels, centres) // pixels.shape[1]
    top = int(max(map(max, centres)) * 1.1)  # what is brighter shares the last boxes
    top = min(top, int(np.iinfo(pixels.dtype).max))
    shift = max(0, top.bit_length() - bits)
    table, near = _boxes_of(centres, bits, shift, pixels.dtype.name)
    labels = np.empty(len(pixels), label_dtype(len(centres)))
    _label_by_boxes(
        np.ascontiguousarray(pixels), bits, shift, table, near, _affine(centres), labels
    )
    return labels


@lru_cache(maxsize=8)
def _boxes_of(
    centres: Centres, bits: int, shift: int, dtype: str
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Label of each box of values, `bits` of each band side by side, and what is near to others.

    A box is 2**shift values wide; the last of a band goes on to the greatest value. One in which a
    border lies has -1 - i, where near[i] centres follow in `near`, in ascending order.
    """
    bands, side = len(centres[0]), 1 << bits
    low = np.arange(side) << shift
    high = np.append(low[1:] - 1, max(int(low[-1]), np.iinfo(dtype).max))
    affine = _affine(centres)
    table = np.empty(side**bands, np.int32)
    every = np.append(len(centres), np.arange(len(centres)))
    near = np.empty(len(every) + len(table) * (_NEAR + 1), np.int32)
    near[: len(every)] = every
    used = len(every)
    for start in range(0, len(table), _TOGETHER):
        part = table[start : start + _TOGETHER]
        boxes = np.arange(start, start + len(part))
        places = np.column_stack(np.unravel_index(boxes, (side,) * bands))
        middle, half = ((low + high) / 2)[places], ((high - low) / 2)[places]
        used = _fill_boxes(middle, half, affine, part, near, used)
    near = near[:used].copy()
    table.flags.writeable = near.flags.writeable = False
    return table, near


def _affine(centres: Centres) -> NDArray[np.float64]:
    """(cluster, 1 + band): constant and slopes of a colour's score, all integers."""
    c = np.rint(np.asarray(centres) * STEP)
    return np.column_stack([(c**2).sum(axis=1), c * (-2 * STEP)])


@compiled
def _fill_boxes(
    middle: Array, half: Array, affine: Array, table: Array, near: Array, used: int
) -> int:
    """Fill a table (box,) of boxes whose points are within `half` of `middle`, (box, band) each.

    A box keeps the label of its middle if, against every other centre, even the corner that favours
    that one most does; the scores are `affine` (cluster, 1 + band). Else it has -1 - i, where near[i]
    centres follow, of which the nearest is one; i is 0 where they are more than `_NEAR`. `near` is
    filled from `used` on; how much of it is used then.
    """
    bands = affine.shape[1] - 1
    scores = np.empty(len(affine))
    for box in range(len(table)):
        best = 0
        for label in range(len(affine)):
            score = affine[label, 0]
            for band in range(bands):
                score += affine[label, 1 + band] * middle[box, band]
            scores[label] = score
            if score < scores[best]:
                best = label
        count = 0
        for label in range(len(affine)):
            margin = scores[label] - scores[best]
            for band in range(bands):
                slope = affine[label, 1 + band] - affine[best, 1 + band]
                margin -= abs(slope) * half[box, band]
            if margin <= 0 or label == best:
                count += 1
                if count <= _NEAR:
                    near[used + count] = label
        if count == 1:
            table[box] = best
        elif count > _NEAR:
            table[box] = -1
        else:
            table[box] = -1 - used
            near[used] = count
            used += count + 1
    return used


@compiled
def _label_by_boxes(
    pixels: Array, bits: int, shift: int, table: Array, near: Array, affine: Array, labels: Array
) -> None:
    """Fill labels (m,) of pixels (m, band)."""
    bands = pixels.shape[1]
    last = np.int64((1 << bits) - 1)
    for i in range(len(pixels)):
        box = np.int64(0)
        for band in range(bands):
            box = box << bits | min(np.int64(pixels[i, band]) >> shift, last)
        label = np.int64(table[box])
        if label < 0:
            start = -1 - label
            least = np.inf
            for at in range(start + 1, start + 1 + near[start]):
                other = np.int64(near[at])
                score = affine[other, 0]
                for band in range(bands):
                    score += affine[other, 1 + band] * np.float64(pixels[i, band])
                if score < least:
                    least, label = score, other
        labels[i] = label


@compiled
def _compare(axes: Array, centres: Array, labels: Array) -> None:
    """What `_compare_few` does."""
    size = axes.shape[1]
    squared, best = np.empty(size), np.full(size, np.inf)
    nearest = np.zeros(size, np.int64)
    for label in range(len(centres)):
        for i in range(size):
            away = axes[0, i] - centres[label, 0]
            squared[i] = away * away
        for axis in range(1, len(axes)):
            for i in range(size):
                away = axes[axis, i] - centres[label, axis]
                squared[i] += away * away
        for i in range(size):
            closer = squared[i] < best[i]
            best[i] = squared[i] if closer else best[i]
            nearest[i] = label if closer else nearest[i]
    for i in range(size):
        labels[i] = nearest[i]
