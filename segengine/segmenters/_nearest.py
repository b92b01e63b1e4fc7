"""The nearest centre of every pixel, exactly, whatever the window it comes in.

Plain pixels are compared by float64 arithmetic in a fixed order, element by element: no BLAS
product, whose rounding depends on the shape of the block. Ties go to the lowest label.

8-bit colours take a shorter way to the same labels. Their centres are multiples of 1/256, so with
C = 256 c the value `C.C - 512 x.C`, the squared distance less what all centres share, is an integer
that float64 holds exactly. Times 2**16 plus the label it still does (below 2**51), and its minimum
is the nearest centre, lowest on ties. A box of colours lies wholly in one centre's region if all
its corners do, because such regions are convex; so one look-up in a table of 5-6-5 bit boxes labels
most pixels, and only those in boxes that a border crosses are compared themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segengine.segmenters._numbered import color_codes, colors_of
from segengine.types import Labels, Pixels

Centres = tuple[tuple[float, ...], ...]
STEP = 256
"""Centres of integer pixels are multiples of 1 / STEP."""
_BLOCK = 1 << 14  # pixels compared at a time
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
