"""How many bytes an LZW or PackBits strip stands for (TIFF 6.0, sections 13 and 9), without writing them,
and how many pixels the codes of a GIF (GIF 89a, appendix F).

libtiff stops at the last pixel, and does not mind what was to come: a code that damage made shorter or
longer moves all behind it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from segengine.compiled import compiled

_ROOM = 4096
_MOST_BITS = 11
"""Of a pixel of a GIF, whose codes have one more, and 12 at most."""
_OLD_BITS = (0, 1)
"""How a strip of libtiff before 1992 begins: its bits lie the other way round."""


def lzw_fits(strip: bytes, least: int, most: int) -> bool:
    """Whether a strip is of at least and at most so many bytes, and nothing follows them."""
    if tuple(strip[:2]) == _OLD_BITS:
        return True
    found = np.zeros(1, np.int64)
    _codes(np.frombuffer(strip + b"\0\0", np.uint8), most, np.ones(_ROOM, np.int32), found)
    return bool(least <= found[0] <= most)


def packbits_fit(strip: bytes, least: int, most: int) -> bool:
    """The same of one that is packed in runs; a byte may pad it."""
    found = np.zeros(1, np.int64)
    _packbits(np.frombuffer(strip, np.uint8), most, found)
    return bool(least <= found[0] <= most)


def gif_fits(codes: bytes, bits: int, pixels: int) -> bool:
    """Whether codes stand for so many pixels, of so many bits each, and nothing follows them."""
    if not 1 <= bits <= _MOST_BITS:
        return False
    found = np.zeros(1, np.int64)
    data = np.frombuffer(codes + b"\0\0", np.uint8)
    _gif_codes(data, bits, pixels, np.ones(_ROOM, np.int32), found)
    return bool(found[0] == pixels)


@compiled
def _packbits(data: NDArray[np.uint8], most: int, found: NDArray[np.int64]) -> None:
    """found: the bytes that runs stand for; -1: the last is cut short."""
    size, place, total = data.shape[0], 0, 0
    while place < size and not (total == most and size - place < 2):
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
    data: NDArray[np.uint8], most: int, lengths: NDArray[np.int32], found: NDArray[np.int64]
) -> None:
    """found: the bytes that codes stand for, as far as they are not more than `most`; -1: what is no code.

    `data`: with two bytes behind it, which are not read as codes; `lengths`: of codes, 1 of each byte.
    """
    end, place, total = 8 * (data.shape[0] - 2), 0, 0
    width, following, before = 9, 258, 0  # before: the length of the code before; 0: there is none
    while total <= most and place + width <= end:
        if total == most and end - place < 16:
            break  # with no end code; these bits are left
        at = np.uintp(place >> 3)  # unsigned: no index counts from the end
        one = np.uintp(1)
        held = (
            (np.uint32(data[at]) << 16)
            | (np.uint32(data[at + one]) << 8)
            | np.uint32(data[at + one + one])
        )
        code = int((held >> (24 - width - (place & 7))) & ((1 << width) - 1))
        place += width
        if code == 256:
            width, following, before = 9, 258, 0
            continue
        if code == 257:
            break
        if code > (following if before else 255):
            total = -1
            break
        if before and following < 4096:
            lengths[np.uintp(following)] = before + 1
            following += 1
            if following > (1 << width) - 2 and width < 12:
                width += 1
        before = int(lengths[np.uintp(code)])
        total += before
    found[0] = total


@compiled
def _gif_codes(
    data: NDArray[np.uint8],
    bits: int,
    most: int,
    lengths: NDArray[np.int32],
    found: NDArray[np.int64],
) -> None:
    """As `_codes`: the lowest bit is first, and a code is longer one code later."""
    end, place, total = 8 * (data.shape[0] - 2), 0, 0
    clear = 1 << bits
    width, following, before = bits + 1, clear + 2, 0
    while total <= most and place + width <= end:
        if total == most and end - place < 16:
            break  # with no end code; these bits are left
        at = np.uintp(place >> 3)
        one = np.uintp(1)
        held = (
            np.uint32(data[at])
            | (np.uint32(data[at + one]) << 8)
            | (np.uint32(data[at + one + one]) << 16)
        )
        code = int((held >> (place & 7)) & ((1 << width) - 1))
        place += width
        if code == clear:
            width, following, before = bits + 1, clear + 2, 0
            continue
        if code == clear + 1:
            break
        if code > (following if before else clear - 1):
            total = -1
            break
        if before and following < 4096:
            lengths[np.uintp(following)] = before + 1
            following += 1
            if following == 1 << width and width < 12:
                width += 1
        before = int(lengths[np.uintp(code)])
        total += before
    found[0] = total
