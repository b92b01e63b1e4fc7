"""Colour cells: a histogram of pixel values on the finest grid that stays small, exact to merge.

The grid is dyadic. At level `l` a cell is a cube of edge 2**l, and the cells of one level nest in
those of the next, so a finer histogram can always be coarsened to what a coarser one would have
counted. The level of a histogram is the finest at which its pixels occupy at most `LIMIT` cells.
More pixels never lower it; so the level, and with it every number here, is a function of the pixels
alone and not of how they were cut into windows or in which order the windows were merged.

A picture of few colours is thereby counted exactly, colour by colour; a photo in cells some units
wide, each with the exact sum of its colours (8 and 16 bit); floating point data at any scale.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segengine.types import Bool, Pixels

LIMIT = 1 << 16
"""Most cells a histogram holds."""
FINEST = -1100
"""Level below, and -FINEST one above, that of every non-zero float64."""

Ints = NDArray[np.int64]
_BLOCK = 1 << 17  # pixels sorted at a time; small enough for the cache
_CHUNK = 1 << 22  # pixels of one calcHist: 3 * 2**22 is still exact in its float32 bins


@dataclass(frozen=True, slots=True, eq=False)
class Cells:
    """Valid pixels counted in the cells they occupy, in lexicographic order of the cells."""

    dtype: str
    """NumPy name of the pixels' dtype."""
    level: int
    """Binary logarithm of a cell's edge."""
    index: NDArray[np.int32]
    """(cell, band) lower corner, in cell edges."""
    counts: Ints
    """(cell,) pixels."""
    sums: Ints
    """(cell, band) sum of the pixels' values; (0, band) where they are not 8 or 16 bit integers."""
    squares: int
    """Sum of all squared values; 0 where there are no `sums`."""

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Cells):
            return NotImplemented
        return (self.dtype, self.level, self.squares) == (
            other.dtype,
            other.level,
            other.squares,
        ) and all(
            np.array_equal(getattr(self, name), getattr(other, name))
            for name in ("index", "counts", "sums")
        )

    __hash__ = None  # type: ignore[assignment]

    @property
    def bands(self) -> int:
        """Number of bands."""
        return int(self.index.shape[1])

    @property
    def pixels(self) -> int:
        """Number of valid pixels."""
        return int(self.counts.sum())

    def means(self) -> NDArray[np.float64]:
        """(cell, band) mean value of each cell's pixels; its middle where there are no sums."""
        if len(self.sums) == len(self.counts):
            return self.sums / self.counts[:, None]
        if self.level >= _coarsest(self.dtype):
            return np.zeros(self.index.shape)  # beyond float64; the only cell lies around zero
        return np.asarray(np.ldexp(self.index + 0.5, self.level), np.float64)

    def at(self, level: int) -> Cells:
        """The same pixels in the cells of a coarser level."""
        if level == self.level:
            return self
        # A shift by 31 leaves only the signs, 0 and -1; the coarsest level joins them.
        keep = level < _coarsest(self.dtype)
        index = self.index >> min(level - self.level, 31) if keep else self.index * 0
        return _grouped(self.dtype, level, index, self.counts, self.sums, self.squares)

    def within(self, limit: int) -> Cells:
        """The same pixels at the finest level, from this one up, with at most `limit` cells."""
        if len(self.counts) <= limit:
            return self
        low, high = self.level, min(self.level + 32, _coarsest(self.dtype))
        found: Cells | None = None  # at level `high`, unless that is where the search began
        while high - low > 1:
            middle = (low + high) // 2
            cells = self.at(middle)
            if len(cells.counts) <= limit:
                high, found = middle, cells
            else:
                low = middle
        if high == self.level + 32:
            high = _coarsest(self.dtype)
        if high == 1 and self.dtype == "uint8":
            # Too fine for the fast count, and the fit is no better for it.
            return self.at(2)
        return self.at(high) if found is None else found

    def summary(self, limit: int) -> tuple[NDArray[np.float64], Ints]:
        """Mean values (m, band) and pixels (m,) of at most `limit` boxes of cells.

        Boxes are doubled along a third of the bands at a time, so that m is not far below limit.
        """
        # Counted from the lowest: halving never brings -1 and 0 together.
        index = self.index - self.index.min(axis=0, initial=0).astype(np.int64)
        counts = self.counts
        sums = self.means() * counts[:, None]
        if self.bands > 4:  # where a sort is slow and one doubling may bring nothing
            shifts = range(int(index.max(initial=0)).bit_length() + 1)
            first_fit = bisect_left(shifts, -limit, key=lambda s: -len(_sorted(index >> s)[1]))
            index = index >> max(0, first_fit - 1)
        third = 2
        while len(counts) > limit:
            if len(counts) > limit << self.bands:  # still more than the limit after all of them
                index = index >> 1
            else:
                index = index.copy()
                index[:, third::3] >>= 1
                third = (third - 1) % 3
            order, first = _sorted(index)
            index = index[order[first]]
            counts = np.add.reduceat(counts[order], first)
            sums = np.add.reduceat(sums[order], first, axis=0)
        return sums / counts[:, None], counts

    def __add__(self, other: Cells) -> Cells:
        """Both histograms' pixels together; associative and commutative."""
        if self.bands != other.bands or self.dtype != other.dtype:
            raise ValueError(
                f"surveys of {self.bands} band {self.dtype} and {other.bands} band {other.dtype}"
                " pixels cannot be merged; fit them separately"
            )
        level = max(self.level, other.level)
        a, b = self.at(level), other.at(level)
        return _grouped(
            self.dtype,
            level,
            np.concatenate([a.index, b.index]),
            np.concatenate([a.counts, b.counts]),
            np.concatenate([a.sums, b.sums]),
            a.squares + b.squares,
        ).within(LIMIT)


def count(pixels: Pixels, valid: Bool) -> Cells:
    """Cells of the pixels (n, y, x, band) that are valid (n, y, x) and finite."""
    if pixels.dtype == np.uint8 and pixels.shape[-1] == 3 and pixels.size > 3 * LIMIT:
        return _count_rgb8(pixels, valid)
    bands = pixels.shape[-1]
    cells = empty(pixels.dtype, bands)
    flat, keep = pixels.reshape(-1, bands), valid.reshape(-1)
    for start in range(0, len(flat), _BLOCK):
        block = flat[start : start + _BLOCK][keep[start : start + _BLOCK]]
        if not exact(pixels.dtype):
            block = block.astype(np.float64)
            block = block[np.isfinite(block).all(axis=1)]
        if len(block):
            # The merge would coarsen a block to the level of the pixels so far; begin there.
            cells = cells + _count_block(block, pixels.dtype, cells.level)
    return cells


def empty(dtype: np.dtype[Any], bands: int) -> Cells:
    """The histogram of no pixels."""
    none = np.zeros((0, bands), np.int64)
    level = 0 if exact(dtype) else FINEST
    return Cells(
        dtype=dtype.name,
        level=level,
        index=none.astype(np.int32),
        counts=none[:, :0].sum(axis=1),
        sums=none,
        squares=0,
    )


def exact(dtype: np.dtype[Any]) -> bool:
    """Whether sums of such values, and of their squares, are kept: 8 and 16 bit integers."""
    return dtype.kind in "bui" and dtype.itemsize <= 2


def _coarsest(dtype: str) -> int:
    """The level from which on one cell holds everything."""
    return 17 if exact(np.dtype(dtype)) else -FINEST


def _count_block(block: NDArray[Any], dtype: np.dtype[Any], level: int) -> Cells:
    """Cells of (pixel, band) values at the given level or the finest above that can index them."""
    if exact(dtype):
        values = block.astype(np.int64)
        squares, sums, index = int((values**2).sum()), values, values >> level
    else:
        # |value| < 2**exponent, so that at this level the index fits 32 bits.
        exponent = int(np.frexp(np.abs(block).max())[1]) if block.any() else FINEST + 31
        level = max(level, exponent - 31)
        index = np.floor(np.ldexp(block, -level)).astype(np.int64)
        squares, sums = 0, np.zeros((0, block.shape[1]), np.int64)
    ones = np.ones(len(block), np.int64)
    return _grouped(dtype.name, level, index, ones, sums, squares).within(LIMIT)


def _grouped(
    dtype: str, level: int, index: NDArray[Any], counts: Ints, sums: Ints, squares: int
) -> Cells:
    """Rows of equal index added up, in lexicographic order."""
    if not len(index):
        return Cells(
            dtype=dtype,
            level=level,
            index=index.astype(np.int32),
            counts=counts,
            sums=sums,
            squares=squares,
        )
    order, first = _sorted(index.astype(np.int64))
    return Cells(
        dtype=dtype,
        level=level,
        index=index[order[first]].astype(np.int32),
        counts=np.add.reduceat(counts[order], first),
        sums=np.add.reduceat(sums[order], first, axis=0) if len(sums) else sums,
        squares=squares,
    )


def _sorted(index: Ints) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Lexicographic order of rows (m > 0, band), and where in it each distinct row begins."""
    low = index.min(axis=0)
    widths = [int(span).bit_length() for span in index.max(axis=0) - low]
    # As many bands as fit share a 63-bit key: one key sorts several times faster than one a band.
    keys, used = [np.zeros(len(index), np.int64)], 0
    for band, width in enumerate(widths):
        if used + width > 63:
            keys.append(np.zeros(len(index), np.int64))
            used = 0
        keys[-1] <<= width
        keys[-1] |= index[:, band] - low[band]
        used += width
    order = np.argsort(keys[0]) if len(keys) == 1 else np.lexsort(keys[::-1])
    changed = np.zeros(len(index), np.bool_)
    changed[0] = True
    for key in keys:
        changed[1:] |= np.diff(key[order]) != 0
    return order, np.flatnonzero(changed)


def _count_rgb8(pixels: Pixels, valid: Bool) -> Cells:
    """What `count` gives for (n, y, x, 3) uint8, without sorting pixels."""
    x = pixels.shape[2]
    rows = np.ascontiguousarray(pixels).reshape(-1, x, 3)
    keep = None if valid.all() else valid.reshape(-1, x)
    colors = _few_colors(rows, keep)
    if colors is not None:
        return _count_colors(rows, keep, colors)
    cells = empty(pixels.dtype, 3).at(2)
    step = max(1, _CHUNK // x)
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        cells = cells + _count_cells(rows[part], None if keep is None else keep[part])
    return cells


def _packed(rows: NDArray[np.uint8], keep: Bool | None) -> Iterator[NDArray[np.uint32]]:
    """The valid pixels as r << 16 | g << 8 | b, some rows at a time, spread over the picture."""
    import cv2

    groups = max(1, rows.shape[0] * rows.shape[1] >> 18)
    for group in range(min(groups, len(rows))):
        bgra = cv2.cvtColor(np.ascontiguousarray(rows[group::groups]), cv2.COLOR_RGB2BGRA)
        code: NDArray[np.uint32] = bgra.view("<u4")[..., 0] & np.uint32(0xFFFFFF)
        yield code.ravel() if keep is None else code[keep[group::groups]]


def _few_colors(rows: NDArray[np.uint8], keep: Bool | None) -> NDArray[np.intp] | None:
    """The distinct packed colours, ascending; None as soon as they are more than LIMIT."""
    present = np.zeros(1 << 24, np.bool_)
    for code in _packed(rows, keep):
        present[code] = True
        if np.count_nonzero(present) > LIMIT:
            return None
    return np.flatnonzero(present)


def _count_colors(rows: NDArray[np.uint8], keep: Bool | None, colors: NDArray[np.intp]) -> Cells:
    """One cell a colour."""
    place = np.zeros(1 << 24, np.uint16)
    place[colors] = np.arange(len(colors))
    counts = np.zeros(len(colors), np.int64)
    for code in _packed(rows, keep):
        counts += np.bincount(place[code], minlength=len(colors))
    index = np.stack([colors >> 16, colors >> 8 & 255, colors & 255], axis=1)
    sums = index * counts[:, None]
    return Cells(
        dtype="uint8",
        level=0,
        index=index.astype(np.int32),
        counts=counts,
        sums=sums,
        squares=int((sums * index).sum()),
    )


def _count_cells(rows: NDArray[np.uint8], keep: Bool | None) -> Cells:
    """Cells of level 2 of at most _CHUNK pixels.

    Three histograms of 6 bits in two channels and 8 in the third: each gives the counts of the
    6-bit cells and, from the two bits more, the sum of one channel.
    """
    import cv2

    mask = None if keep is None else keep.astype(np.uint8)
    counts, sums, squares = np.zeros(0), [], 0
    for channel in range(3):
        bins = [64, 64, 64]
        bins[channel] = 256
        h = cv2.calcHist([rows], [0, 1, 2], mask, bins, [0, 256] * 3)
        shape = [64, 64, 64]
        shape.insert(channel + 1, 4)
        low = np.moveaxis(h.reshape(shape), channel + 1, 0)  # (4, 64, 64, 64)
        counts = (low[0] + low[1] + low[2] + low[3]).reshape(-1)
        sums.append((low[1] + 2 * low[2] + 3 * low[3]).reshape(-1))
        others = tuple(axis for axis in range(3) if axis != channel)
        marginal = h.sum(axis=others, dtype=np.float64)
        squares += int(marginal @ np.arange(256.0) ** 2)
    occupied = np.flatnonzero(counts)
    index = np.stack([occupied >> 12, occupied >> 6 & 63, occupied & 63], axis=1)
    n = counts[occupied].astype(np.int64)
    rest = np.stack([s[occupied] for s in sums], axis=1).astype(np.int64)
    sums_ = 4 * index * n[:, None] + rest
    return Cells(
        dtype="uint8", level=2, index=index.astype(np.int32), counts=n, sums=sums_, squares=squares
    ).within(LIMIT)
