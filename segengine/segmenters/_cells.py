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

import math
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from segengine.segmenters._numbered import ODD, Rows, color_codes, colors_of, packed
from segengine.types import Bool, Pixels

LIMIT = 1 << 16
"""Most cells a histogram holds."""
FINEST = -1100
"""Level below, and -FINEST one above, that of every non-zero float64."""

Ints = NDArray[np.int64]
_BLOCK = 2 * LIMIT  # pixels counted at a time; a sample of as many shows when cells are too many
_DENSE = 22  # bits of a code up to which cells are put in their order without sorting them
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
        step = 1  # mostly the next level will do
        while high - low > 1:
            middle = min(low + step, (low + high) // 2)
            step *= 2
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
    bands = pixels.shape[-1]
    if exact(pixels.dtype) and bands == 1:
        return _count_values(pixels, valid)
    if pixels.dtype == np.uint8 and bands == 3 and pixels.size > 3 * LIMIT:
        return _count_rgb8(pixels, valid)
    flat, keep = pixels.reshape(-1, bands), valid.reshape(-1)
    tally = _Tally(pixels.dtype, bands)
    if len(flat) > 2 * _BLOCK:
        # A part has no finer level than the whole: from that of a sample on, few are left again.
        spread = slice(None, None, -(-len(flat) // _BLOCK))
        tally.begin(_Block.of(flat[spread], keep[spread]))
    for start in range(0, len(flat), _BLOCK):
        part = slice(start, start + _BLOCK)
        tally.add(_Block.of(flat[part], keep[part]))
    return tally.cells()


class _Block(NamedTuple):
    """Some of the pixels that count."""

    rows: NDArray[Any]
    """(m, band) integers of 8 or 16 bits, or float64."""
    low: float
    """Least value; 0 where there is no pixel."""
    high: float

    @classmethod
    def of(cls, pixels: NDArray[Any], keep: Bool) -> _Block:
        """Those of pixels (m, band) that are to be kept and are finite."""
        rows = pixels if keep.all() else pixels[keep]
        if rows.dtype == np.bool_:
            rows = rows.view(np.uint8)
        elif not exact(rows.dtype):
            rows = rows.astype(np.float64)
        if not rows.size:
            return cls(rows, 0, 0)
        low, high = float(rows.min()), float(rows.max())
        if not (math.isfinite(low) and math.isfinite(high)):  # a NaN is both
            finite: Bool = np.all(np.isfinite(rows), axis=1)
            return cls.of(rows, finite)
        return cls(rows, low, high)

    def corners(self, level: int) -> NDArray[Any]:
        """(m, band) lower corners of the pixels' cells, in cell edges."""
        if not exact(self.rows.dtype):
            return _corners(self.rows, level)
        return self.rows >> level if level else self.rows

    def ends(self, level: int) -> tuple[int, int]:
        """Least and greatest of `corners`."""
        low, high = _corners(np.array([self.low, self.high]), level).tolist()
        return int(low), int(high)

    def reach(self) -> int:
        """The least level at which an index fits 32 bits."""
        top = max(-self.low, self.high)  # below 2**exponent
        return math.frexp(top)[1] - 31 if top else FINEST


def _corners(values: NDArray[np.float64], level: int) -> NDArray[np.float64]:
    """The values in units of 2**level, rounded down."""
    if abs(level) > 1000:  # a power of two that is no float64
        return np.floor(np.ldexp(values, -level))
    scaled = values * 2.0**-level
    return np.floor(scaled, out=scaled)


class _Tally:
    """Pixels counted block by block, at the finest level at which the cells so far are few."""

    _level: int
    _numbers: Rows
    _counts: Ints
    _rests: Ints
    """Sums of what the values are above the lower corners of their cells."""

    def __init__(self, dtype: np.dtype[Any], bands: int) -> None:
        self._load(empty(dtype, bands))

    def begin(self, block: _Block) -> None:
        """Go to the finest level at which a sample has few cells, without counting it."""
        self._reach(block)
        level = _finest(block, self._level, _coarsest(self._none.dtype))
        self._load(self._none.at(level), block)
        if self._is_skipped():
            self._load(self._none.at(2), block)

    def add(self, block: _Block) -> None:
        """Count a block."""
        if not block.rows.size:
            return
        self._reach(block)
        if not self._numbers.holds(*block.ends(self._level)):
            self._load(self.cells(), block)
        found = self._numbers.numbers(block.corners(self._level))
        size = len(self._numbers)
        counts = np.bincount(found, minlength=size)
        self._counts[:size] += counts
        if len(self._rests):
            if self._level:
                rests = block.rows & ((1 << self._level) - 1)
                self._rests[:size] += _added(found, rests, int(counts.max()) << self._level, size)
            self._squares += _squared(block.rows)
        while len(self._rests) and (len(self._numbers) > LIMIT or self._is_skipped()):
            self._coarsen()
        if len(self._numbers) > LIMIT:
            self._load(self.cells().within(LIMIT), block)

    def _is_skipped(self) -> bool:
        return self._level == 1 and self._none.dtype == "uint8"  # see `Cells.within`

    def _coarsen(self) -> None:
        """Go to the next level, of integers, as `Cells.within` would; order is of no matter yet."""
        size, bands = len(self._numbers), self._none.bands
        rows, counts, rests = self._numbers.rows(), self._counts[:size].copy(), self._rests[:size]
        if self._level + 1 == _coarsest(self._none.dtype):
            self._load(self.cells().within(LIMIT))
            return
        rests = rests + ((rows & 1) << self._level) * counts[:, None]
        base = self._numbers.base >> 1
        self._numbers = Rows(bands, base, max(0, self._numbers.width - 1) + (base < 0))
        self._level += 1
        found = self._numbers.numbers((rows >> 1).astype(np.float64))
        self._counts[:size] = 0
        self._rests[:size] = 0
        size = len(self._numbers)
        # Below 2**53: exact.
        self._counts[:size] = np.bincount(found, counts, size)
        for band in range(bands):
            self._rests[:size, band] = np.bincount(found, rests[:, band], size)

    def cells(self) -> Cells:
        """What has been counted."""
        size = len(self._numbers)
        rows, counts, sums = self._numbers.rows(), self._counts[:size], self._rests[:size]
        if len(sums):
            sums = sums + (rows << self._level) * counts[:, None]
        return _grouped(self._none.dtype, self._level, rows, counts, sums, self._squares)

    def _reach(self, block: _Block) -> None:
        if block.reach() > self._level:
            self._load(self.cells().at(block.reach()))

    def _load(self, cells: Cells, block: _Block | None = None) -> None:
        """Begin with what `cells` counts; leave room for indices like those of a block."""
        self._level, self._squares = cells.level, cells.squares
        dtype = np.dtype(cells.dtype)
        self._none = empty(dtype, cells.bands).at(cells.level)
        ends = [int(cells.index.min(initial=0)), int(cells.index.max(initial=0))]
        if block is not None:
            low, high = block.ends(cells.level)
            # Of integers the power of two above them leaves room, and few bits need no hashing.
            room = 0 if exact(dtype) else (high - low) // 4
            ends += [low - room, high + room]
        if exact(dtype):
            ends.append(0)
        self._numbers = Rows(cells.bands, min(ends), (max(ends) - min(ends)).bit_length())
        self._counts = np.zeros(LIMIT + _BLOCK, np.int64)
        self._rests = np.zeros((len(self._counts) if exact(dtype) else 0, cells.bands), np.int64)
        if len(cells.counts):
            found = self._numbers.numbers(cells.index.astype(np.float64))
            self._counts[found] = cells.counts
            if len(self._rests):
                corners = cells.index.astype(np.int64) << cells.level
                self._rests[found] = cells.sums - corners * cells.counts[:, None]


def _added(found: NDArray[np.intp], rests: NDArray[Any], most: int, size: int) -> Ints:
    """(size, band) sums of the rests (m, band) of each number found (m,), all of them below `most`."""
    bits = most.bit_length()
    bands = max(1, 53 // bits)  # whose sums share a float64: exact in any order
    sums = np.empty((size, rests.shape[1]), np.int64)
    for start in range(0, rests.shape[1], bands):
        part = rests[:, start : start + bands]
        total = np.bincount(found, packed(part, bits), size).astype(np.int64)
        for band in range(start + part.shape[1] - 1, start - 1, -1):
            sums[:, band] = total & ((1 << bits) - 1)
            total >>= bits
    return sums


def _squared(rows: NDArray[Any]) -> int:
    """Sum of the squares of 8 or 16 bit integers."""
    flat, total = rows.reshape(-1), 0
    for start in range(0, len(flat), 1 << 21):
        part = flat[start : start + (1 << 21)].astype(np.float64)
        total += int(np.einsum("i,i", part, part))  # at most 2**53: exact in any order
    return total


def _finest(block: _Block, low: int, high: int) -> int:
    """A level from `low` up to `high`, hardly ever finer than the finest with few cells."""

    def few(level: int) -> bool:
        return level >= high or _distinct(block.corners(level)) <= LIMIT

    step = 1
    if few(low):
        return low
    while not few(low + step):
        low, step = low + step, 2 * step
    high = min(low + step, high)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if few(middle) else (middle, high)
    return high


def _distinct(rows: NDArray[Any]) -> int:
    """How many distinct rows (m, band) of integers there are, at the least."""
    if not rows.size:
        return 0
    # Bands weighed by powers of it: unequal sums are of unequal rows; the contrary is all but certain.
    total = np.zeros(len(rows), np.int64)
    for band, column in enumerate(rows.T):
        total += column.astype(np.int64) * np.int64(pow(ODD, band + 1, 1 << 62))
    total.sort()
    return 1 + int(np.count_nonzero(np.diff(total)))


def _count_values(pixels: Pixels, valid: Bool) -> Cells:
    """What `count` gives for one band of 8 or 16 bit integers: a cell a value."""
    from segengine.segmenters._histogram import Histogram

    histogram = Histogram.of(pixels, valid)
    values = np.flatnonzero(histogram.counts)
    counts = histogram.counts[values]
    values += histogram.base or 0
    sums = counts * values
    return Cells(
        dtype=pixels.dtype.name,
        level=0,
        index=values[:, None].astype(np.int32),
        counts=counts,
        sums=sums[:, None],
        squares=int(sums @ values),
    )


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
    wide = index.astype(np.int64)
    if len(sums) and not int(counts.sum()) >> 53 - 16:
        width = int(wide.max()).bit_length()
        if not int(wide.min()) < 0 and width * wide.shape[1] <= _DENSE:
            return _placed(dtype, level, packed(wide, width), width, counts, sums, squares)
    order, first = _sorted(wide)
    return Cells(
        dtype=dtype,
        level=level,
        index=index[order[first]].astype(np.int32),
        counts=np.add.reduceat(counts[order], first),
        sums=np.add.reduceat(sums[order], first, axis=0) if len(sums) else sums,
        squares=squares,
    )


def _placed(
    dtype: str,
    level: int,
    codes: NDArray[np.float64],
    width: int,
    counts: Ints,
    sums: Ints,
    squares: int,
) -> Cells:
    """What `_grouped` gives, for rows whose bands are side by side in codes of `width` bits each."""
    place = codes.astype(np.intp)
    bands = sums.shape[1]
    number = np.zeros(1 << width * bands, np.int32)
    number[place] = 1
    there = np.flatnonzero(number)
    number[there] = np.arange(len(there))
    found = number.take(place)

    def added(column: Ints) -> Ints:
        return np.bincount(found, column, len(there)).astype(np.int64)  # below 2**53: exact

    shifts = width * np.arange(bands)[::-1]
    return Cells(
        dtype=dtype,
        level=level,
        index=(there[:, None] >> shifts & ((1 << width) - 1)).astype(np.int32),
        counts=added(counts),
        sums=np.stack([added(column) for column in sums.T], axis=1),
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
    groups = max(1, rows.shape[0] * rows.shape[1] >> 18)
    for group in range(min(groups, len(rows))):
        code = color_codes(rows[group::groups])
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
    index = colors_of(colors)
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
