"""Pixels counted in the cells they occupy: one pass over them, with a hash table, compiled.

What a cell's corner is above `low` takes `width` bits a band, side by side in a key of as many words
as it takes. A key is looked for from the place that its hash gives, one place after the other, until
it or a free place is found.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from segengine.compiled import compiled

Array = NDArray[Any]
Ints = NDArray[np.int64]
MOST = 1 << 16
"""Most cells of a table."""
_PLACES = 17
"""Binary logarithm of the places of a table, twice its cells."""
_WORD = 63  # bits of a word for bands: with 1 added, the first word is never that of a free place
_ODD = 0x9E3779B97F4A7C15  # 2**64 by the golden ratio: a factor that spreads neighbours
_FAR = 2.0**31  # cell edges; what is no nearer to 0 needs a coarser level


class Table:
    """Cells of one level, and how many pixels and what sums of their values are in each."""

    def __init__(self, bands: int, level: int, low: int, high: int, *, sums: bool) -> None:
        """For cells whose corners are from `low` to `high`, in cell edges, at the least."""
        each = max(1, min(bands, _WORD // max(1, (high - low).bit_length())))
        words = -(-bands // each)
        self.level, self.squares = level, 0
        self.bands, self._each = bands, -(-bands // words)  # bands a word
        # As many bits as there is room for: floats that come later go farther.
        self._width = min(32, _WORD // self._each)
        spare = (1 << self._width) - (high - low + 1)
        self._low = max(-(1 << 31), low - spare // 2)
        self._size = 0
        self._first = np.zeros(1 << _PLACES, np.uint64)
        self._more = np.zeros((1 << _PLACES, words - 1), np.uint64)
        columns = 1 + bands if sums and level else 1
        self._recent = np.zeros((1 << _PLACES, columns), np.uint32)
        self._settled: Ints | None = None
        """Those that 32 bits had no more room for."""
        self._sums = sums
        self._room = self._most = 1 << 32 - (level if columns > 1 else 1)

    def add(self, pixels: Array, keep: NDArray[np.bool_]) -> int:
        """Count those of pixels (m, band) that are to be kept and finite; how many were looked at.

        Fewer than m where the next is in a cell too many, or outside of what the table is for.
        """
        whole = pixels.dtype.kind in "iu"
        count: Any = _integers if whole else _floats
        unit = self.level if whole else 2.0**-self.level
        done = 0
        while done < len(pixels):
            if not self._room:
                if self._settled is None:
                    self._settled = np.zeros(self._recent.shape, np.int64)
                self._settled += self._recent
                self._recent[:] = 0
                self._room = self._most
            part = slice(done, min(done + self._room, len(pixels)))
            looked, self._size, squares = count(
                pixels[part], keep[part], unit, self._low, self._width, self._each,
                self._first, self._more, self._recent, self._size,
            )  # fmt: skip
            self._room -= looked
            self.squares += int(squares)
            done += looked
            if done < part.stop:
                break
        return done

    def cells(self) -> tuple[Ints, Ints, Ints]:
        """Corners (cell, band) in lexicographic order, counts (cell,), sums above the corners."""
        places = np.flatnonzero(self._first)
        keys = [self._first[places], *self._more[places].T]
        places = places[np.lexsort(keys[::-1]) if len(keys) > 1 else np.argsort(keys[0])]
        return self._at(places)

    @property
    def full(self) -> bool:
        """Whether there is no room for another cell."""
        return self._size >= MOST

    def ends(self) -> tuple[int, int]:
        """Least and greatest corner, in cell edges, of the cells; of the table where there is none."""
        index, _, _ = self._at(np.flatnonzero(self._first))
        return (int(index.min()), int(index.max())) if self._size else (self._low, self._low)

    def moved_to(self, other: Table) -> bool:
        """Put everything into another, empty one, of this level or coarser; False: too many cells."""
        index, counts, rests = self._at(np.flatnonzero(self._first))
        up = other.level - self.level
        if other._sums:
            rests += ((index & ((1 << up) - 1)) << self.level) * counts[:, None]
        values = np.column_stack([counts, rests]) if other._recent.shape[1] > 1 else counts[:, None]
        other._settled = np.zeros(other._recent.shape, np.int64)
        other._size = _put(
            index >> up, values, other._low, other._width, other._each,
            other._first, other._more, other._settled,
        )  # fmt: skip
        other.squares = self.squares
        return other._size <= MOST

    def _at(self, places: NDArray[np.intp]) -> tuple[Ints, Ints, Ints]:
        """What `cells` gives, of these places of the table."""
        keys = [self._first[places] - np.uint64(1), *self._more[places].T]
        index = np.empty((len(places), self.bands), np.int64)
        mask = np.uint64((1 << self._width) - 1)
        for band in range(self.bands):
            word, place = divmod(band, self._each)
            after = min(self.bands - word * self._each, self._each) - place - 1
            code = keys[word] >> np.uint64(after * self._width) & mask
            index[:, band] = code.astype(np.int64) + self._low
        sums = self._recent[places].astype(np.int64)
        if self._settled is not None:
            sums += self._settled[places]
        rests = sums[:, 1:] if sums.shape[1] > 1 else np.zeros(index.shape, np.int64)
        return index, sums[:, 0].copy(), rests


# Each looks a key up by itself: arrays handed to a function in the loop take as long as all else.


@compiled
def _integers(
    pixels: Array, keep: Array, level: int, low: int, width: int, each: int,
    first: Array, more: Array, recent: Array, size: int,
) -> tuple[int, int, Any]:  # fmt: skip
    """Pixels looked at, cells of the table after them, and the sum of the squares of their values."""
    bands, words = pixels.shape[1], more.shape[1]
    others = np.zeros(words, np.uint64)
    last, shift = np.uint64(len(first) - 1), np.uint64(width)
    rest = (1 << level) - 1
    squares = np.uint64(0)
    for i in range(len(pixels)):
        if not keep[i]:
            continue
        code, square = np.uint64(0), np.uint64(0)
        for band in range(each):
            value = np.int64(pixels[i, band])
            square += np.uint64(value * value)
            code = (code << shift) | np.uint64((value >> level) - low)
        code += np.uint64(1)
        mixed = code * np.uint64(_ODD)
        for word in range(words):
            other = np.uint64(0)
            for band in range((word + 1) * each, min(bands, (word + 2) * each)):
                value = np.int64(pixels[i, band])
                square += np.uint64(value * value)
                other = (other << shift) | np.uint64((value >> level) - low)
            others[word] = other
            mixed = ((mixed >> np.uint64(32)) ^ mixed ^ other) * np.uint64(_ODD)
        place = mixed >> np.uint64(64 - _PLACES)
        while True:
            there = first[place]
            if there == code:
                same = True
                for word in range(words):
                    same &= more[place, np.uint64(word)] == others[word]
                if same:
                    break
            if there == np.uint64(0):
                if size == MOST:
                    return i, size, squares
                size += 1
                first[place] = code
                for word in range(words):
                    more[place, np.uint64(word)] = others[word]
                break
            place = (place + np.uint64(1)) & last
        squares += square
        recent[place, np.uint64(0)] += np.uint32(1)
        for band in range(recent.shape[1] - 1):
            recent[place, np.uint64(band + 1)] += np.uint32(np.int64(pixels[i, band]) & rest)
    return len(pixels), size, squares


@compiled
def _floats(
    pixels: Array, keep: Array, scale: float, low: int, width: int, each: int,
    first: Array, more: Array, recent: Array, size: int,
) -> tuple[int, int, Any]:  # fmt: skip
    """The same of floats, without squares."""
    bands, words = pixels.shape[1], more.shape[1]
    others = np.zeros(words, np.uint64)
    last, shift = np.uint64(len(first) - 1), np.uint64(width)
    base, span = float(low), float(1 << width)
    for i in range(len(pixels)):
        if not keep[i]:
            continue
        code, mixed, inside = np.uint64(0), np.uint64(0), 1
        for word in range(words + 1):
            other = np.uint64(0)
            for band in range(word * each, min(bands, (word + 1) * each)):
                scaled = np.float64(pixels[i, band]) * scale
                above = np.floor(scaled) - base
                near = above >= 0.0 and above < span and abs(scaled) < _FAR  # not a NaN
                inside &= int(near)
                other = (other << shift) | np.uint64(above if near else 0.0)
            if word == 0:
                code = other + np.uint64(1)
                mixed = code * np.uint64(_ODD)
            else:
                others[word - 1] = other
                mixed = ((mixed >> np.uint64(32)) ^ mixed ^ other) * np.uint64(_ODD)
        if not inside:
            finite = 1
            for band in range(bands):
                finite &= int(np.isfinite(pixels[i, band]))
            if finite:
                return i, size, 0
            continue
        place = mixed >> np.uint64(64 - _PLACES)
        while True:
            there = first[place]
            if there == code:
                same = True
                for word in range(words):
                    same &= more[place, np.uint64(word)] == others[word]
                if same:
                    break
            if there == np.uint64(0):
                if size == MOST:
                    return i, size, 0
                size += 1
                first[place] = code
                for word in range(words):
                    more[place, np.uint64(word)] = others[word]
                break
            place = (place + np.uint64(1)) & last
        recent[place, np.uint64(0)] += np.uint32(1)
    return len(pixels), size, 0


@compiled
def _put(
    index: Array, values: Array, low: int, width: int, each: int,
    first: Array, more: Array, total: Array,
) -> int:  # fmt: skip
    """Add the values (m, column) of cells (m, band) up; cells of the table after it."""
    bands, words, size = index.shape[1], more.shape[1], 0
    others = np.zeros(words, np.uint64)
    last, shift = np.uint64(len(first) - 1), np.uint64(width)
    for i in range(len(index)):
        code, mixed = np.uint64(0), np.uint64(0)
        for word in range(words + 1):
            other = np.uint64(0)
            for band in range(word * each, min(bands, (word + 1) * each)):
                other = (other << shift) | np.uint64(index[i, band] - low)
            if word == 0:
                code = other + np.uint64(1)
                mixed = code * np.uint64(_ODD)
            else:
                others[word - 1] = other
                mixed = ((mixed >> np.uint64(32)) ^ mixed ^ other) * np.uint64(_ODD)
        place = mixed >> np.uint64(64 - _PLACES)
        while True:
            there = first[place]
            if there == code:
                same = True
                for word in range(words):
                    same &= more[place, np.uint64(word)] == others[word]
                if same:
                    break
            if there == np.uint64(0):
                if size == MOST:
                    return MOST + 1
                size += 1
                first[place] = code
                for word in range(words):
                    more[place, np.uint64(word)] = others[word]
                break
            place = (place + np.uint64(1)) & last
        for column in range(values.shape[1]):
            total[place, np.uint64(column)] += values[i, column]
    return size
