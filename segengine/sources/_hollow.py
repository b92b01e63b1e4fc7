"""Squares of a TIFF without a valid pixel, told without decoding each: for scenes that are mostly nodata.

    blocks that were never written, and blocks of few bytes    -> equal bytes are equal pixels
    one of each kind is decoded, as any window is               -> whether it has a valid pixel
    a square whose blocks have none                             -> has none

Nothing is guessed: bytes are compared, not their digests, and a block at the right or lower edge only
with such as show as much. Where a mask lies in the file, and it alone tells, its blocks are those that
are looked at.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from segengine.errors import CorruptInputError
from segengine.sources import _tiff
from segengine.sources._files import open_input
from segengine.types import Bool

_RATIO, _LEAST, _MOST = 32, 256, 1 << 20
"""Of a block's bytes to those it has compressed, where it is looked at: of one value it has very few."""
TRIED = 64
"""Kinds of blocks that are decoded."""
_FEW = 16
"""Kinds, of which none was empty, after which none is looked for any more."""

IsVoid = Callable[[slice, slice], bool]
"""Whether rows and columns of a scene have no valid pixel, as reading them tells."""


def hollow(path: str, side: int, is_void: IsVoid) -> Bool | None:
    """(y, x) squares of `side` pixels of a local TIFF that surely have no valid pixel; None: not known.

    Raises as `open_input`, and what `is_void` raises.
    """
    if any(os.path.exists(path + suffix) for suffix in (".msk", ".MSK")):
        return None
    with open_input(path) as file:
        try:
            tables = _tiff.tables(file)
        except CorruptInputError:
            return None  # which is for who reads it
        if len(tables) != 1:
            return None
        image, mask = tables[0]
        if mask is not None and (image.voids or os.path.exists(path + ".aux.xml")):
            return None
        return _Look(file, mask or image, is_void).squares(side)


@dataclass(slots=True)
class _Look:
    file: BinaryIO
    table: _tiff.Table
    is_void: IsVoid
    known: dict[tuple[tuple[bytes, ...], int, int], bool] = field(default_factory=dict)

    def squares(self, side: int) -> Bool | None:
        table = self.table
        down, across = -(-table.height // side), -(-table.width // side)
        most = min(max(table.size // _RATIO, _LEAST), _MOST)
        small = table.counts.sum(axis=0) <= most  # (row, column) of blocks
        found = np.zeros((down, across), np.bool_)
        seen = np.zeros(small.shape, np.int8)  # 0 not yet, 1 void, -1 not
        for y in range(down):
            rows = _blocks(y, side, table.rows, table.height)
            for x in range(across):
                cols = _blocks(x, side, table.cols, table.width)
                if small[rows, cols].all():
                    found[y, x] = self._all_void(rows, cols, seen)
                    if len(self.known) >= _FEW and not any(self.known.values()):
                        return None
        return found if found.any() else None

    def _all_void(self, rows: slice, cols: slice, seen: NDArray[np.int8]) -> bool:
        for r in range(rows.start, rows.stop):
            for c in range(cols.start, cols.stop):
                if seen[r, c] == 0:
                    seen[r, c] = 1 if self._is_void(r, c) else -1
                if seen[r, c] < 0:
                    return False
        return True

    def _is_void(self, row: int, col: int) -> bool:
        table = self.table
        top, left = row * table.rows, col * table.cols
        rows = slice(top, min(top + table.rows, table.height))
        cols = slice(left, min(left + table.cols, table.width))
        written = []
        for offset, count in zip(
            table.offsets[:, row, col].tolist(), table.counts[:, row, col].tolist(), strict=True
        ):
            self.file.seek(offset)
            data = self.file.read(count) if count else b""
            if len(data) < count or (count == 0) != (offset == 0):
                return False  # damaged
            written.append(data)
        key = tuple(written), rows.stop - rows.start, cols.stop - cols.start
        if key not in self.known:
            if len(self.known) >= TRIED:
                return False
            self.known[key] = self.is_void(rows, cols)
        return self.known[key]


def _blocks(at: int, side: int, block: int, length: int) -> slice:
    """The blocks that a square meets, along one axis."""
    return slice(at * side // block, -(-min((at + 1) * side, length) // block))
