"""The header of an ASCII grid, checked against the length of its file before GDAL looks for its rows.

ncols 4
nrows 3
...             then a number and white space for each pixel
"""

from __future__ import annotations

from itertools import pairwise
from typing import BinaryIO

from segengine.errors import CorruptInputError


def require_sound(file: BinaryIO, head: bytes) -> None:
    """Raise CorruptInputError where a file has no room for the pixels that its header claims."""
    words = head.lower().split()
    cols, rows = _number(words, b"ncols"), _number(words, b"nrows")
    end = file.seek(0, 2)
    if 2 * rows * cols - 1 > end:
        raise CorruptInputError(
            f"damaged grid header: claims {cols:,} x {rows:,} pixels, more than {end:,} bytes hold"
        )


def _number(words: list[bytes], name: bytes) -> int:
    for word, value in pairwise(words):
        if word == name and value.isdigit() and 0 < int(value) < 1 << 31:
            return int(value)
        if word == name:
            break
    raise CorruptInputError(f"damaged grid header: no {name.decode()} in it")
