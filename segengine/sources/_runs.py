"""How many bytes an LZW or PackBits strip stands for (TIFF 6.0, sections 13 and 9), without writing them.

libtiff stops at the last pixel, and does not mind what was to come: a code that damage made shorter or
longer moves all behind it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from segengine.compiled import compiled

_ROOM = 4096
_OLD_BITS = (0, 1)
"""How a strip of libtiff before 1992 begins: its bits lie the other way round."""


def lzw_fits(strip: bytes, least: int, most: int) -> bool:
    """Whether a strip is of at least and at most so many bytes, and nothing follows them."""
    codes = np.frombuffer(strip, np.uint8)
    if tuple(strip[:2]) == _OLD_BITS:
        return True
    found = np.zeros(2, np.int64)
    _codes(codes, most, np.zeros(_ROOM + 1, np.int32), found)
    return bool(least <= found[0] <= most and found[1])


def packbits_fit(strip: bytes, least: int, most: int) -> bool:
    """The same of one that is packed in runs; a few bytes may pad it."""
    found = np.zeros(1, np.int64)
    _packbits(np.frombuffer(strip, np.uint8), most, found)
    return bool(least <= found[0] <= most)


@compiled
def _packbits(data: NDArray[np.uint8], most: int, found: NDArray[np.int64]) -> None:
    """found: the bytes that runs stand for; -1: the last is cut short."""
    size, place, total = data.shape[0], 0, 0
    while place < size and not (total == most and size - place < 4):
        run = int(data[place])
        if run < 128:
            place += run + 2
            total += run + 1
        elif run > 128:
            place += 2
            total += 257 - run
        else:
            place += 1
    found[0] = total if place <= size else -1


@compiled
def _codes(
    codes: NDArray[np.uint8], most: int, lengths: NDArray[np.int32], found: NDArray[np.int64]
) -> None:
    """found: the bytes, as far as they are not more than `most`, and whether they end there."""
    for code in range(256):
        lengths[code] = 1
    size, place, held, bits = codes.shape[0], 0, 0, 0
    width, following, before, total = 9, 258, -1, 0
    while total <= most:
        while bits < width and place < size:
            held = ((held & 0xFFFF) << 8) | codes[place]
            place += 1
            bits += 8
        if bits < width or (total == most and bits + 8 * (size - place) < 32):
            break  # with no end code, of which some bits may be left
        bits -= width
        code = (held >> bits) & ((1 << width) - 1)
        if code == 257:
            break
        if code == 256:
            width, following, before = 9, 258, -1
            continue
        if before < 0:
            if code > 255:
                total = -1
                break
            total += 1
            before = code
            continue
        if code > following:
            total = -1
            break
        if following < 4096:
            lengths[following] = lengths[before] + 1
            following += 1
        total += lengths[code]
        before = code
        if following > (1 << width) - 2 and width < 12:
            width += 1
    found[0] = total
    found[1] = 1 if total <= most else 0
