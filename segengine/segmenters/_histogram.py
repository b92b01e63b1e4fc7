"""Statistics of gray that merge exactly: integers, whose sum does not know where an image was cut.

`Sums` is all that the mean of integer pixels needs. `Histogram` has one bin a value for 8- and
16-bit pixels; other pixels fall, as float32, into 65,536 bins by the order-preserving top 16 bits
of their pattern (128 bins an octave), and the lower 16 bits are summed beside, so that even the sum
of the float32 values is exact:

    float32   s eeeeeeee mmmmmmm | mmmmmmmmmmmmmmmm      negative: all bits inverted
              bin (16 bits)      | rest (16 bits)        others: sign bit set
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segengine.segmenters import _gray
from segengine.types import Bool, Pixels

_COUNTED = 1 << 20
"""Pixels counted at a time: OpenCV counts in float32, exact up to 2**24 in a bin."""
_TOP = np.uint32(1 << 31)


@dataclass(frozen=True, slots=True)
class Sums:
    """Exact sums of integer pixels, band by band."""

    totals: tuple[int, ...]
    """Sum of each band over the valid pixels."""
    count: int
    """Number of valid pixels."""

    @classmethod
    def of(cls, pixels: Pixels, valid: Bool) -> Sums:
        """Sums of integer pixels (n, y, x, band) where valid (n, y, x)."""
        count = int(np.count_nonzero(valid))
        masked = count < valid.size
        totals = [0] * pixels.shape[-1]
        pixels = _gray.plain(pixels)
        for frame, rows in _gray.strips(pixels.shape, _COUNTED):
            part = pixels[frame, rows]
            if masked:
                part = part * valid[frame, rows][..., None]
            totals = [a + b for a, b in zip(totals, _totals(part), strict=True)]
        return cls(tuple(totals), count)

    def __add__(self, other: Sums) -> Sums:
        totals = tuple(a + b for a, b in zip(self.totals, other.totals, strict=True))
        return Sums(totals, self.count + other.count)

    def mean(self) -> Fraction:
        """Exact mean of `_gray.exact`; 0 where there is no valid pixel."""
        weights = _gray.weights(len(self.totals))
        total = sum(w * t for w, t in zip(weights, self.totals, strict=True))
        return Fraction(total, self.count) if self.count else Fraction(0)


@dataclass(frozen=True, slots=True, eq=False)
class Bins:
    """Bins that hold a pixel, in ascending order."""

    counts: NDArray[np.int64]
    """(bin,) pixels, 1 or more."""
    lows: NDArray[np.float64]
    """(bin,) least gray that falls into it."""
    means: NDArray[np.float64]
    """(bin,) mean gray in it."""
    tops: NDArray[np.float64]
    """(bin,) greatest gray that falls into it."""


@dataclass(frozen=True, slots=True, eq=False)
class Histogram:
    """Counts of gray; two of the same dtype and band count add up."""

    scale: int
    """How many times too great the exact gray is that the counts belong to."""
    base: int | None
    """Gray of the first bin, the next being one more; None: the bins are tops of float32."""
    counts: NDArray[np.int64]
    """(256,) or (65536,) valid pixels in each bin."""
    rests: NDArray[np.int64]
    """(65536,) sum of the lower 16 bits in each bin of float32; (0,) for 8 and 16 bit."""
    whole: bool = False
    """The bins of float32 hold whole numbers only: pixels of one band of wide integers."""

    @classmethod
    def of(cls, pixels: Pixels, valid: Bool) -> Histogram:
        """Histogram of pixels (n, y, x, band), any dtype, where valid (n, y, x) and finite."""
        bands = pixels.shape[-1]
        if _gray.is_countable(pixels.dtype):
            found = cls.none(pixels.dtype, bands)
            for frame, rows in _gray.strips(pixels.shape, _COUNTED):
                found.counts[:] += _count(_gray.rounded(pixels[frame, rows]), valid[frame, rows])
            return found
        counts, rests = np.zeros(1 << 16, np.int64), np.zeros(1 << 16, np.int64)
        for frame, rows in _gray.strips(pixels.shape, _COUNTED):
            gray = _gray.single(pixels[frame, rows])
            gray = gray[valid[frame, rows] & np.isfinite(gray)] + np.float32(0)  # -0 becomes 0
            bits = gray.view(np.uint32)
            keys = np.where(bits >= _TOP, ~bits, bits | _TOP)
            bins = keys >> np.uint32(16)
            low = (keys & np.uint32(0xFFFF)).astype(np.float64)
            counts += np.bincount(bins, minlength=1 << 16)
            rests += np.bincount(bins, low, minlength=1 << 16).astype(
                np.int64
            )  # below 2**53: exact
        whole = pixels.dtype.kind in "iu" and bands == 1
        return cls(_gray.scale(bands), None, counts, rests, whole)

    @classmethod
    def none(cls, dtype: np.dtype[Any], bands: int) -> Histogram:
        """That of no pixel of 8 or 16 bit."""
        lowest = int(np.iinfo(dtype).min) if dtype.kind == "i" else 0
        counts = np.zeros(1 << 8 * dtype.itemsize, np.int64)
        return cls(_gray.scale(bands), lowest, counts, np.zeros(0, np.int64))

    @classmethod
    def of_rounded(cls, gray: NDArray[Any], valid: Bool, bands: int) -> Histogram:
        """That of `_gray.rounded` (n, y, x) of pixels of so many bands, where valid."""
        found = cls.none(gray.dtype, bands)
        for frame, rows in _gray.strips(gray.shape, _COUNTED):
            found.counts[:] += _count(gray[frame, rows], valid[frame, rows])
        return found

    def __add__(self, other: Histogram) -> Histogram:
        counts, rests = self.counts + other.counts, self.rests + other.rests
        return Histogram(self.scale, self.base, counts, rests, self.whole and other.whole)

    def total(self) -> int:
        """Number of pixels counted."""
        return int(self.counts.sum())

    def occupied(self) -> Bins:
        """The bins that hold a pixel."""
        bins = np.flatnonzero(self.counts)
        counts = self.counts[bins]
        if self.base is not None:
            values = (bins + self.base).astype(np.float64)
            return Bins(counts, values, values, values)
        # The exponent is constant in a bin, so a value is its first one plus a multiple of a step.
        first = _value(bins << 16).astype(np.float64)
        last = _value(bins << 16 | 0xFFFF).astype(np.float64)
        means = first + (last - first) * (self.rests[bins] / counts / 0xFFFF)
        return Bins(counts, first, means, last)

    def mean(self) -> Fraction:
        """Exact mean of the gray counted; 0 where there is none."""
        bins = np.flatnonzero(self.counts)
        if not len(bins):
            return Fraction(0)
        if self.base is not None:
            return Fraction(int(self.counts[bins] @ (bins + self.base)), self.total())
        total = 0
        for index in bins.tolist():
            count, rest = int(self.counts[index]), int(self.rests[index])
            if negative := index < 1 << 15:
                index, rest = 0x7FFF - index, count * 0xFFFF - rest
            else:
                index -= 1 << 15
            exponent, mantissa = index >> 7, (index & 127) << 16
            if exponent:
                mantissa |= 1 << 23
            # Multiples of 2**-149, the least step of float32.
            units = (count * mantissa + rest) << max(exponent - 1, 0)
            total += -units if negative else units
        return Fraction(total, self.total()) / 2**149


def _totals(pixels: Pixels) -> list[int]:
    """Exact sum of each band of integer pixels (y, x, band) of any width."""
    bands = pixels.shape[-1]
    if _gray.is_countable(pixels.dtype) and bands <= 4:
        import cv2

        # OpenCV adds small integers as integers, then in float64: exact, and 100x faster here.
        return [int(total) for total in cv2.sumElems(np.ascontiguousarray(pixels))[:bands]]
    if pixels.dtype.itemsize <= 4:
        return [int(total) for total in pixels.sum(axis=(0, 1), dtype=np.int64)]
    half = pixels.dtype.type(32)
    high = (pixels >> half).sum(axis=(0, 1))
    low = (pixels & pixels.dtype.type(0xFFFFFFFF)).sum(axis=(0, 1))
    return [(int(h) << 32) + int(r) for h, r in zip(high, low, strict=True)]


def _count(values: NDArray[Any], valid: Bool) -> NDArray[np.int64]:
    """Counts of each value of an 8- or 16-bit dtype, (256,) or (65536,), from its least one on."""
    import cv2

    unsigned = np.ascontiguousarray(values).view(f"u{values.dtype.itemsize}")
    if values.dtype.kind == "i":
        unsigned = unsigned ^ unsigned.dtype.type(1 << (8 * unsigned.dtype.itemsize - 1))
    size = 1 << 8 * unsigned.dtype.itemsize
    mask = None if valid.all() else np.ascontiguousarray(valid).view(np.uint8)
    return cv2.calcHist([unsigned], [0], mask, [size], [0, size]).ravel().astype(np.int64)


def _value(keys: NDArray[np.int64]) -> NDArray[np.float32]:
    """The float32 whose order-preserving key is given."""
    bits = keys.astype(np.uint32)
    return np.where(bits >= _TOP, bits ^ _TOP, ~bits).view(np.float32)
