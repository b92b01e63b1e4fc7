"""Numbers for distinct rows of integers: 0, 1, 2, ... as they are met, without sorting them.

A row becomes one number, its bands side by side in as many bits each as the greatest difference
takes. A narrow code is looked up in a table; a wide one is hashed into one that keeps the codes, so
that two rows never share a number. Where the bands of a row do not fit one code, the number of the
first ones is the beginning of the next code.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
_EXACT = 53
"""Bits of a code: float64 adds such integers exactly, in any order."""
_DIRECT = 22
"""Bits of a code up to which the table has a place for each."""
_SLOTS = 20
"""Binary logarithm of the places of a hashed table: several times what is numbered."""
ODD = 0x9E3779B97F4A7C15
"""2**64 by the golden ratio: a factor that spreads neighbours."""


class Rows:
    """Distinct rows (band,) whose values are in base .. base + 2**width - 1."""

    def __init__(self, bands: int, base: int, width: int) -> None:
        self.base, self.width, self.bands = base, width, bands
        most = bands
        if bands * width > _EXACT:
            most = max(1, (_EXACT - _SLOTS) // width)
        self._groups = [slice(b, min(b + most, bands)) for b in range(0, bands, most)]
        self._codes: list[_Codes] = []
        for group in self._groups:
            bits = width * (group.stop - group.start) + (_SLOTS if group.start else 0)
            self._codes.append(_Codes(bits))

    def __len__(self) -> int:
        return len(self._codes[-1])

    def holds(self, low: int, high: int) -> bool:
        """Whether values from low to high can be numbered."""
        return self.base <= low and high < self.base + (1 << self.width)

    def numbers(self, rows: NDArray[Any]) -> NDArray[np.intp]:
        """(m,) number of each of rows (m, band), integers."""
        found: NDArray[np.intp] | None = None
        for group, codes in zip(self._groups, self._codes, strict=True):
            bands = group.stop - group.start
            code = packed(rows[:, group], self.width, self.base).astype(np.int64)
            if found is not None:
                code += found << self.width * bands
            found = codes.numbers(code)
        assert found is not None
        return found

    def rows(self) -> Ints:
        """(number, band) the rows numbered so far."""
        out = np.empty((len(self), self.bands), np.int64)
        code = self._codes[-1].codes()
        for place in range(len(self._groups) - 1, -1, -1):
            group = self._groups[place]
            for band in range(group.stop - 1, group.start - 1, -1):
                out[:, band] = (code & ((1 << self.width) - 1)) + self.base
                code = code >> self.width
            if place:
                code = self._codes[place - 1].codes()[code]
        return out


def packed(rows: NDArray[Any], width: int, base: int = 0) -> NDArray[Any]:
    """(m,) the values less base of rows (m, band), side by side in `width` bits; 53 in all."""
    import cv2

    weights = np.ldexp(1.0, width * np.arange(rows.shape[1])[::-1])
    # Integers of so many bits are exact in whatever order they are added.
    narrow = ((1 << width) + 2 * abs(base)) * weights.sum() < 1 << 24
    floats: NDArray[np.floating[Any]]
    floats = np.ascontiguousarray(rows, np.float32 if narrow else np.float64)
    matrix = np.append(weights, -base * weights.sum())[None].astype(floats.dtype)
    codes: NDArray[Any] = cv2.transform(floats[:, None], matrix)
    return codes.reshape(-1)


def color_codes(pixels: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """r << 16 | g << 8 | b of colours (y, x, 3)."""
    import cv2

    bgra = cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_RGB2BGRA)
    code: NDArray[np.uint32] = bgra.view("<u4")[..., 0] & np.uint32(0xFFFFFF)
    return code


def colors_of(codes: NDArray[np.intp]) -> NDArray[np.intp]:
    """(m, 3) colours of such codes (m,)."""
    return np.stack([codes >> 16, codes >> 8 & 255, codes & 255], axis=1)


class _Codes:
    """Distinct non-negative integers of so many bits."""

    def __init__(self, bits: int) -> None:
        hashed = bits > _DIRECT
        # Zeros, which cost nothing where they are not touched: a number and a code are kept plus 1.
        self._number = np.zeros(1 << (_SLOTS if hashed else bits), np.int32)
        self._kept = np.zeros(len(self._number), np.int64) if hashed else None
        self._met: list[Ints] = []
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def codes(self) -> Ints:
        """The integers by number."""
        return np.concatenate(self._met) if self._met else np.zeros(0, np.int64)

    def numbers(self, codes: Ints) -> NDArray[np.intp]:
        """(m,) number of each."""
        places: NDArray[Any] = codes if self._kept is None else _places(codes + 1, self._kept)
        found = self._number.take(places)
        if not found.all():
            self._meet(places[found == 0])
            found = self._number.take(places)
        return found - np.intp(1)

    def _meet(self, places: NDArray[Any]) -> None:
        """Number the codes of places that have no number."""
        order = np.arange(1, len(places) + 1, dtype=np.int32)
        self._number[places] = order
        new = places[self._number.take(places) == order]  # of equal ones the last
        self._number[new] = np.arange(self._count + 1, self._count + 1 + len(new))
        self._met.append(new if self._kept is None else self._kept[new] - 1)
        self._count += len(new)


def _places(codes: Ints, kept: Ints) -> NDArray[np.intp]:
    """Where in `kept` each positive code lies; those that are not there yet are put there."""
    places = ((codes.view(np.uint64) * np.uint64(ODD)) >> np.uint64(64 - _SLOTS)).view(np.intp)
    away = np.flatnonzero(kept.take(places) != codes)
    code, place = codes[away], places[away]
    while len(away):
        free = kept[place] == 0
        kept[place[free]] = code[free]  # of several that want a place the last one has it
        moves = kept[place] != code
        places[away[~moves]] = place[~moves]
        away, code = away[moves], code[moves]
        place = place[moves] + 1 & len(kept) - 1
    return places
