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
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segengine.segmenters._counting import MOST, Table
from segengine.segmenters._numbered import packed
from segengine.segmenters._worth import compiled_pays
from segengine.types import Bool, Pixels

LIMIT = MOST
"""Most cells a histogram holds."""
FINEST = -1100
"""Level below, and -FINEST one above, that of every non-zero float64."""

Ints = NDArray[np.int64]
_SAMPLE = 2 * LIMIT  # pixels that show when cells are too many
_BLOCK = 1 << 20  # pixels brought to another dtype at a time
_DENSE = 22  # bits of a code up to which cells are put in their order without sorting them


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
    flat, keep = pixels.reshape(-1, bands), np.ascontiguousarray(valid).reshape(-1)
    cells = empty(pixels.dtype, bands)
    if len(flat) <= LIMIT or not compiled_pays(len(flat)):
        for start in range(0, len(flat), LIMIT):  # no more cells than pixels
            part = slice(start, start + LIMIT)
            cells = _count_few(flat[part], keep[part], cells)
        return cells
    # A part has no finer level than the whole: from that of a sample on, few are left again.
    every = -(-len(flat) // _SAMPLE)
    sample = _kept(flat[::every], keep[::every])
    low, high = _span(sample)
    cells = cells.at(_finest(sample, low, high, pixels.dtype))
    table: Table | None = None
    for start in range(0, len(flat), _BLOCK):
        block, there = _plain(flat[start : start + _BLOCK]), keep[start : start + _BLOCK]
        done = 0
        while done < len(block):
            if table is None and not _tabled(cells):
                part = slice(done, done + LIMIT)
                cells = _count_few(block[part], there[part], cells)
                done = part.stop
                continue
            if table is None:
                table = _table(bands, cells.level, low, high, block.dtype, sums=True)
            done += table.add(block[done:], there[done:])
            if done < len(block):
                low, high = min(low, float(block[done].min())), max(high, float(block[done].max()))
                other = _roomier(table, low, high, pixels.dtype, block.dtype)
                if other is None:
                    part = slice(done, done + 1)
                    cells = _count_few(block[part], there[part], _counted(table, cells))
                    done += 1
                table = other
    return cells if table is None else _counted(table, cells)


def _roomier(
    table: Table, low: float, high: float, dtype: np.dtype[Any], kind: np.dtype[Any]
) -> Table | None:
    """One with what this one, which is full or too narrow, counts; None where there is no such."""
    level = table.level
    if kind.kind == "f":
        level = max(level, _reach(low, high))
        ends = [math.ldexp(end, table.level) for end in table.ends()]
        low, high = min(low, *ends), max(high, *ends)
    if table.full:
        level = max(level, table.level + 1)
    while level < _coarsest(dtype.name) and abs(level) <= 1000:
        level += level == 1 and dtype == np.uint8  # see `Cells.within`
        other = _table(table.bands, level, low, high, kind, sums=True)
        if table.moved_to(other):
            return other
        level += 1
    return None


def _counted(table: Table, cells: Cells) -> Cells:
    """Both together."""
    index, counts, sums = table.cells()
    whole = exact(np.dtype(cells.dtype))
    sums = sums + (index << table.level) * counts[:, None] if whole else sums[:0]
    new = Cells(
        dtype=cells.dtype,
        level=table.level,
        index=index.astype(np.int32),
        counts=counts,
        sums=sums,
        squares=table.squares,
    )
    return cells + new if len(cells.counts) else new


def _count_few(pixels: NDArray[Any], keep: Bool, cells: Cells) -> Cells:
    """`cells` and at most LIMIT pixels (m, band) together."""
    rows = _kept(pixels, keep)
    low, high = _span(rows)
    level = cells.level if exact(np.dtype(cells.dtype)) else max(cells.level, _reach(low, high))
    whole = exact(np.dtype(cells.dtype))
    if level >= _coarsest(cells.dtype):
        index = np.zeros(rows.shape, np.int64)
    elif whole:
        index = rows.astype(np.int64) >> level
    else:
        index = np.floor(np.ldexp(rows, -level)).astype(np.int64)
    sums = rows.astype(np.int64) if whole else index[:0]
    squares = int((sums**2).sum()) if whole else 0
    new = _grouped(cells.dtype, level, index, np.ones(len(rows), np.int64), sums, squares)
    return cells + new if len(cells.counts) else new


def _plain(pixels: NDArray[Any]) -> NDArray[Any]:
    """The same values in a dtype that there is a count for, contiguous."""
    kind = pixels.dtype
    if kind == np.int8:
        kind = np.dtype(np.int16)
    elif kind == np.bool_:
        kind = np.dtype(np.uint8)
    elif (
        (kind.kind != "f" and kind.itemsize > 2) or kind.itemsize not in (1, 2, 4, 8) or kind == "e"
    ):
        kind = np.dtype(np.float64)
    return np.ascontiguousarray(pixels, kind.newbyteorder("="))


def _kept(pixels: NDArray[Any], keep: Bool) -> NDArray[Any]:
    """Those of pixels (m, band) that are to be kept and are finite: integers, or float64."""
    rows = _plain(pixels[keep])
    if rows.dtype.kind != "f":
        return rows
    rows = rows.astype(np.float64)
    finite = np.isfinite(rows).all(axis=1)
    return rows if finite.all() else rows[finite]


def _span(rows: NDArray[Any]) -> tuple[float, float]:
    """Least and greatest value; 0 where there is none."""
    return (float(rows.min()), float(rows.max())) if rows.size else (0.0, 0.0)


def _reach(low: float, high: float) -> int:
    """The least level at which the index of such floats fits 32 bits."""
    top = max(-low, high)  # below 2**exponent
    return math.frexp(top)[1] - 31 if top else FINEST


def _tabled(cells: Cells) -> bool:
    """Whether a table does: not where one cell holds all, or a cell's edge is hardly a float64."""
    return cells.level < _coarsest(cells.dtype) and abs(cells.level) <= 1000


def _table(
    bands: int, level: int, low: float, high: float, dtype: np.dtype[Any], *, sums: bool
) -> Table:
    """For pixels of a dtype that there is a count for, of floats those from `low` to `high`."""
    if dtype.kind == "f":
        ends = (math.floor(math.ldexp(low, -level)), math.floor(math.ldexp(high, -level)))
    else:
        ends = (int(np.iinfo(dtype).min) >> level, int(np.iinfo(dtype).max) >> level)
    return Table(bands, level, *ends, sums=sums and dtype.kind != "f")


def _finest(rows: NDArray[Any], low: float, high: float, dtype: np.dtype[Any]) -> int:
    """The finest level at which pixels (m, band) from `low` to `high` have few cells."""
    least = 0 if exact(dtype) else _reach(low, high)
    if abs(least) > 1000 or len(rows) <= LIMIT:
        return least
    keep = np.ones(len(rows), np.bool_)

    def few(level: int) -> bool:
        if level > 1000 or level >= _coarsest(dtype.name):  # not looked at: no table does
            return True
        table = _table(rows.shape[1], level, low, high, rows.dtype, sums=False)
        return table.add(rows, keep) == len(rows)

    # Where as many cells as the limit would fill the span; from there on in growing steps.
    guess = max(least, math.frexp(high - low)[1] - 1 - (LIMIT.bit_length() - 1) // rows.shape[1])
    step = 1
    if few(guess):
        top, bottom = guess, least - 1
        while top > least and few(max(least, top - step)):
            top, step = max(least, top - step), 2 * step
        bottom = max(least - 1, top - step)
    else:
        bottom = guess
        while not few(bottom + step):
            bottom, step = bottom + step, 2 * step
        top = bottom + step
    while top - bottom > 1:
        middle = (top + bottom) // 2
        top, bottom = (middle, bottom) if few(middle) else (top, middle)
    top = min(top, _coarsest(dtype.name))
    return 2 if top == 1 and dtype == np.uint8 else top  # see `Cells.within`


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
