"""The nearest centre of every pixel, exactly, whatever the window it comes in.

Plain pixels are compared by float64 arithmetic in a fixed order, element by element: no BLAS
product, whose rounding depends on the shape of the block. Ties go to the lowest label.

8-bit colours take a shorter way to the same labels. Their centres are multiples of 1/256, so with
C = 256 c the value `C.C - 512 x.C`, the squared distance less what all centres share, is an integer
that float64 holds exactly. Times 2**16 plus the label it still does (below 2**51), and its minimum
is the nearest centre, lowest on ties. A box of colours lies wholly in one centre's region if all
its corners do, because such regions are convex; so one look-up in a table of 5-6-5 bit boxes labels
most pixels, and only those in boxes that a border crosses are compared themselves. So it is with
many pixels of 16 bits, or of 8 and other than three bands, whose boxes reach as far as the centres:
their values are below 2**52, but there is no room for a label beside them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segengine.segmenters._numbered import color_codes, colors_of, packed
from segengine.types import Labels, Pixels

Centres = tuple[tuple[float, ...], ...]
STEP = 256
"""Centres of integer pixels are multiples of 1 / STEP."""
_BLOCK = 1 << 14  # pixels compared at a time
_BOX_BITS = 18, 15  # of a code of a box of values; finer ones take longer to label
_SCORES = 1 << 17  # scores held at a time; they stay in the cache


def label_dtype(clusters: int) -> np.dtype[Any]:
    """The smallest unsigned dtype that holds the labels and, as its maximum, void."""
    return np.dtype(np.uint8 if clusters < 256 else np.uint16)


def label_pixels(pixels: Pixels, centres: Centres) -> Labels:
    """Label (n, y, x) of pixels (n, y, x, band) among centres of such values; 0 where NaN."""
    bands = pixels.shape[-1]
    if pixels.dtype == np.uint8 and bands == 3 and pixels.size:
        return _label_rgb8(pixels, centres)
    if pixels.dtype in (np.uint8, np.uint16) and bands == 1:
        return _value_table(pixels.dtype.name, centres)[pixels[..., 0]]
    if pixels.dtype in (np.uint8, np.uint16) and bands <= 4 and _boxing(pixels, centres):
        labels = _label_boxed(pixels.reshape(-1, bands), centres)
        return labels.reshape(pixels.shape[:-1])
    return label_points(pixels.reshape(-1, bands).T, centres).reshape(pixels.shape[:-1])


def label_points(axes: NDArray[Any], centres: Centres) -> Labels:
    """Label (m,) of points axes (dimension, m), any real dtype; a point with NaN gets label 0."""
    labels = np.zeros(axes.shape[1], label_dtype(len(centres)))
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, axes.shape[1], _BLOCK):
            part = slice(start, start + _BLOCK)
            block = axes[:, part].astype(np.float64, order="C")
            best = np.full(block.shape[1], np.inf)
            for label, centre in enumerate(centres):
                squared = (block[0] - centre[0]) ** 2
                for axis, c in zip(block[1:], centre[1:], strict=True):
                    squared += (axis - c) ** 2
                closer = squared < best
                np.minimum(best, squared, out=best)
                np.copyto(labels[part], label, where=closer)
    return labels


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


def _label_rgb8(pixels: Pixels, centres: Centres) -> Labels:
    """What `label_points` gives, for pixels (n, y, x, 3) uint8 and centres as described above."""
    import cv2

    n, y, x, bands = pixels.shape
    table, open_ = _box_table(centres)
    affine, size = _affine(centres), max(64, _SCORES // len(centres))
    labels = np.empty((n, y, x), table.dtype)
    for frame, out in zip(np.ascontiguousarray(pixels), labels, strict=True):
        boxes = cv2.cvtColor(frame, cv2.COLOR_BGR2BGR565).view("<u2")[..., 0]
        np.take(table, boxes, out=out, mode="clip")  # "clip" spares a copy; no code is out of range
        undecided = np.flatnonzero(out.reshape(-1) == open_)
        flat, colors = out.reshape(-1), frame.reshape(-1, bands)
        for start in range(0, len(undecided), size):
            block = undecided[start : start + size]
            scores = _scores(colors.take(block, axis=0).T.astype(np.float64, order="C"), affine)
            flat[block] = scores.min(axis=0).astype(np.int64) & 0xFFFF
    return labels


def _boxing(pixels: Pixels, centres: Centres) -> int:
    """Bits of a code of a box for which so many pixels pay; 0 where they pay for none."""
    each = pixels.size // pixels.shape[-1] // len(centres)
    return next((bits for bits in _BOX_BITS if each >> bits), 0)


def _label_boxed(pixels: Pixels, centres: Centres) -> Labels:
    """What `label_points` gives, for pixels (m, band) of 8 or 16 bits and centres as described above."""
    bands = pixels.shape[1]
    bits = _boxing(pixels, centres) // bands
    top = int(max(map(max, centres)) * 1.1)  # what is brighter shares the last boxes
    shift = max(0, top.bit_length() - bits)
    table, open_ = _boxes_of(centres, bits, shift, pixels.dtype.name)
    labels = np.empty(len(pixels), table.dtype)
    last = pixels.dtype.type(min((1 << bits) - 1, np.iinfo(pixels.dtype).max))
    for start in range(0, len(pixels), 4 * _BLOCK):
        block, out = pixels[start : start + 4 * _BLOCK], labels[start : start + 4 * _BLOCK]
        boxes = block >> shift
        np.minimum(boxes, last, out=boxes)
        np.take(table, packed(boxes, bits).astype(np.intp), out=out, mode="clip")
        undecided = np.flatnonzero(out == open_)
        out[undecided] = label_points(block.take(undecided, axis=0).T, centres)
    return labels


@lru_cache(maxsize=8)
def _boxes_of(centres: Centres, bits: int, shift: int, dtype: str) -> tuple[Labels, int]:
    """Label of each box of values, `bits` of each band side by side, as `_box_table` has it.

    A box is 2**shift values wide; the last of a band goes on to the greatest value.
    """
    c = np.rint(np.asarray(centres) * STEP)
    side, bands = 1 << bits, c.shape[1]
    low = np.arange(side) << shift
    high = np.append(low[1:] - 1, max(int(low[-1]), np.iinfo(dtype).max))
    middle, half = (low + high) / 2, (high - low) / 2
    kind = label_dtype(len(c))
    open_ = int(np.iinfo(kind).max)
    table = np.empty(side**bands, kind)
    step = max(64, _SCORES // len(c))
    for start in range(0, len(table), step):
        code = np.arange(start, min(start + step, len(table)))
        places = [code >> bits * band & (side - 1) for band in reversed(range(bands))]
        margin = np.repeat((c**2).sum(axis=1)[:, None], len(code), axis=1)
        for slope, place in zip(c.T, places, strict=True):
            margin -= (2 * STEP * slope)[:, None] * middle[place]
        best, every = margin.argmin(axis=0), np.arange(len(code))
        margin -= margin[best, every]
        for slope, place in zip(c.T, places, strict=True):
            margin -= 2 * STEP * np.abs(slope[:, None] - slope[best]) * half[place]
        margin[best, every] = 1
        table[code] = np.where((margin > 0).all(axis=0), best, open_)
    table.flags.writeable = False
    return table, open_


def _affine(centres: Centres) -> NDArray[np.float64]:
    """(cluster, 4): constant and three slopes of a colour's score, all integers."""
    c = np.rint(np.asarray(centres) * STEP)
    constant = (c**2).sum(axis=1) * 65536 + np.arange(len(c))
    return np.column_stack([constant, c * (-2 * STEP * 65536)])


def _scores(axes: NDArray[np.float64], affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """(cluster, m) score << 16 | label of colours axes (3, m)."""
    constant, *slopes = affine.T[:, :, None]
    scores: NDArray[np.float64] = slopes[0] * axes[0]
    scores += constant
    product = np.empty_like(scores)
    for slope, axis in zip(slopes[1:], axes[1:], strict=True):
        scores += np.multiply(slope, axis, out=product)
    return scores


@lru_cache(maxsize=8)
def _box_table(centres: Centres) -> tuple[Labels, int]:
    """(65536,) label of each 5-6-5 bit box of colours; the second value where a border crosses.

    A box b << 11 | g << 5 | r (as OpenCV packs the channels it calls r, g, b) keeps the label of
    its middle if, against every other centre, even the corner that favours that one most does.
    """
    code = np.arange(65536)
    low = np.stack([(code & 31) << 3, (code >> 5 & 63) << 2, code >> 11 << 3]).astype(np.float64)
    half = np.array([3.5, 1.5, 3.5])  # of the highest less the lowest colour in a box
    dtype = label_dtype(len(centres))
    open_ = int(np.iinfo(dtype).max)
    table = np.empty(65536, dtype)
    affine = _affine(centres)
    step = max(64, _SCORES // len(centres))
    for start in range(0, 65536, step):
        part = slice(start, start + step)
        margin = _scores(low[:, part] + half[:, None], affine)
        middle = margin.argmin(axis=0)
        every = np.arange(len(middle))
        margin -= margin[middle, every]
        for slope, reach in zip(affine.T[1:], half, strict=True):
            margin -= np.abs(slope[:, None] - slope[middle]) * reach
        margin[middle, every] = 1
        table[part] = np.where((margin > 0).all(axis=0), middle, open_)
    table.flags.writeable = False
    return table, open_
