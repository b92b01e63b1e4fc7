"""One number for each pixel: gray as exact integers, or as float32.

Bands become gray by integer weights: three bands are red, green, blue with scikit-image's weights
times 10,000 (2125, 7154, 721; ITU-R BT.709), any other number of bands is averaged (weights 1). The
weighted sum of integers is kept unrounded, `scale` times too great, so that nothing depends on a
rounding or on where an image is cut.

Three grays, each a pure function of the pixel:

    exact     scale x gray, integers in value  integer pixels   what means and gradients compare
    rounded   round(exact / scale)             8 and 16 bit     what histograms count
    single    gray as float32                  all other pixels both
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segengine.compiled import compiled
from segengine.types import Pixels

_RGB = (2125, 7154, 721)
_STRIP = 1 << 16
"""Pixels converted at a time, so that the intermediates stay in the cache (3x faster)."""
_PART = 1 << 14
"""The same where several bands are added."""
_BYTES = 1 << 15
"""The same of three bands of bytes, whose sums take least."""


def weights(bands: int) -> tuple[int, ...]:
    """Integer weight of each band in the exact gray."""
    return _RGB if bands == 3 else (1,) * bands


def scale(bands: int) -> int:
    """How many times too great the exact gray is."""
    return sum(weights(bands))


def is_exact(dtype: np.dtype[Any], bands: int) -> bool:
    """True where the gray of such pixels is exact integers (64-bit ones: only a single band)."""
    return dtype.kind in "bui" and (dtype.itemsize <= 4 or bands == 1)


def is_countable(dtype: np.dtype[Any]) -> bool:
    """True for 8- and 16-bit integers, whose histogram has one bin a value."""
    return dtype.kind in "bui" and dtype.itemsize <= 2


def span(dtype: np.dtype[Any]) -> int:
    """Full range of a dtype in gray: its greatest value for integers, 1 for floats and booleans."""
    return int(np.iinfo(dtype).max) if dtype.kind in "ui" else 1


def exact(pixels: Pixels) -> NDArray[Any]:
    """Gray (...) of integer pixels (..., band), times `scale`: integers in value.

    Returned as the pixels' own dtype (one band), float32 or float64 where these hold every sum
    exactly (8 or 16 bits), else int64.
    """
    pixels = plain(pixels)
    bands = pixels.shape[-1]
    if bands == 1:
        return pixels[..., 0]
    # Partial sums are integers below 2**24 (float32) or 2**53 (float64): exact in any order.
    short = pixels.dtype.itemsize <= 2 and bands <= 256
    wide = bands == 3 and pixels.dtype.itemsize == 2
    dtype = (np.float64 if wide else np.float32) if short else np.int64
    out: NDArray[Any] = np.empty(pixels.shape[:-1], dtype)
    for part, total in _parts(pixels, out):
        if short and bands == 3:
            import cv2

            cv2.transform(part[:, None].astype(dtype), np.array([_RGB], dtype), total[:, None])
            continue
        total[:] = 0
        for band, weight in enumerate(weights(bands)):
            total += part[:, band] if weight == 1 else part[:, band].astype(dtype) * weight
    return out


def rounded(pixels: Pixels) -> NDArray[Any]:
    """Gray (...) of 8- or 16-bit pixels (..., band) in their own dtype, halves to even."""
    pixels = plain(pixels)
    if pixels.shape[-1] == 1:
        return pixels[..., 0]
    out: NDArray[Any] = np.empty(pixels.shape[:-1], pixels.dtype)
    if pixels.shape[-1] == 3 and pixels.dtype == np.uint8:
        _rounded_bytes(pixels, out)
        return out
    for part, gray in _parts(pixels, out):
        mean = _mean(part)
        gray[:] = np.rint(mean, out=mean)
    return out


def _rounded_bytes(pixels: Pixels, out: NDArray[np.uint8]) -> None:
    """`rounded` of red, green and blue of 8 bit.

    float32 holds their sum exactly. Its nearest 1 / 10,000 is less by 2.5e-8 of itself, which is below
    half a step of float32: of a sum that lies halfway the product is rounded to just that half, and
    all others lie farther from one.
    """
    import cv2

    weights, unit = np.array([_RGB], np.float32), np.float32(1 / scale(3))
    flat, gray = pixels.reshape(-1, 1, 3), out.reshape(-1)
    bands = np.empty((_BYTES, 1, 3), np.float32)
    for start in range(0, len(gray), _BYTES):
        part = flat[start : start + _BYTES]
        wide = bands[: len(part)]
        wide[:] = part
        total = np.asarray(cv2.transform(wide, weights)).reshape(-1)
        np.multiply(total, unit, out=total)
        gray[start : start + _BYTES] = np.rint(total, out=total)


def single(pixels: Pixels) -> NDArray[np.float32]:
    """Gray (...) of any pixels (..., band) as float32; summed in float64, band after band."""
    pixels = plain(pixels)
    bands = pixels.shape[-1]
    with np.errstate(over="ignore", invalid="ignore"):
        if bands == 1:
            return pixels[..., 0].astype(np.float32)
        if is_exact(pixels.dtype, bands):
            return _mean(pixels).astype(np.float32)
        out = np.empty(pixels.shape[:-1], np.float32)
        total, weighed = np.empty((2, _PART))
        for part, gray in _parts(pixels, out):
            total, weighed = total[: len(part)], weighed[: len(part)]
            total[:] = 0
            for band, weight in enumerate(weights(bands)):
                total += np.multiply(part[:, band], float(weight), out=weighed, dtype=np.float64)
            gray[:] = np.divide(total, scale(bands), out=total)
        return out


def _mean(pixels: Pixels) -> NDArray[Any]:
    """Gray (...) of integer pixels (..., band) of several bands, not rounded to integers."""
    bands = pixels.shape[-1]
    # Three bands of bytes are divided in float32, which tells all their halves apart.
    dtype = None if bands == 3 else np.float64
    return np.asarray(np.divide(exact(pixels), scale(bands), dtype=dtype))


def _parts(pixels: Pixels, out: NDArray[Any]) -> Iterator[tuple[Pixels, NDArray[Any]]]:
    """Pixels (m, band), some at a time, and where their gray goes."""
    flat, gray = pixels.reshape(-1, pixels.shape[-1]), out.reshape(-1)
    for start in range(0, len(gray), _PART):
        yield flat[start : start + _PART], gray[start : start + _PART]


def comparable(pixels: Pixels) -> NDArray[Any]:
    """`exact` where it exists, else `single`."""
    return exact(pixels) if is_exact(pixels.dtype, pixels.shape[-1]) else single(pixels)


def exact_quickly(pixels: Pixels) -> NDArray[Any]:
    """`exact` as integers: unsigned of 8 or 16 bit, else signed of 32 or 64; of several bands compiled."""
    pixels = plain(pixels)
    bands, dtype = pixels.shape[-1], pixels.dtype
    if bands == 1 and dtype in (np.uint8, np.uint16):
        return pixels[..., 0]
    if dtype.itemsize > 2 or bands > 1 << 15:
        return exact(pixels).astype(np.int64, copy=False)
    if bands == 1:
        return pixels[..., 0].astype(np.int32)
    out = np.empty(pixels.shape[:-1], np.int32)  # 16 bit x 10,000 or 32,768 fit
    # Of few dtypes, for each of which a loop is compiled.
    few = np.int16 if dtype == np.int8 else dtype
    values = np.ascontiguousarray(pixels, few).reshape(-1)
    if bands == 3:
        _weigh(values, *_RGB, out.reshape(-1))
    else:
        _add(values, bands, out.reshape(-1))
    return out


def single_quickly(pixels: Pixels) -> NDArray[np.float32]:
    """`single`; of several bands of float32 compiled."""
    pixels = plain(pixels)
    bands = pixels.shape[-1]
    if bands == 1 or pixels.dtype != np.float32:
        return single(pixels)
    out = np.empty(pixels.shape[:-1], np.float32)
    values = np.ascontiguousarray(pixels).reshape(-1)
    if bands == 3:
        red, green, blue = (float(weight) for weight in _RGB)
        _weigh_floats(values, red, green, blue, float(scale(3)), out.reshape(-1))
    else:
        _average(values, bands, out.reshape(-1))
    return out


@compiled
def _weigh(values: NDArray[Any], red: int, green: int, blue: int, out: NDArray[Any]) -> None:
    for i in range(len(out)):
        at = 3 * i
        out[i] = values[at] * red + values[at + 1] * green + values[at + 2] * blue


@compiled
def _add(values: NDArray[Any], bands: int, out: NDArray[Any]) -> None:
    # Of known length a loop is unrolled, and several pixels are added at a time.
    if bands == 4:
        _added(values, 4, out)
    elif bands == 8:
        _added(values, 8, out)
    else:
        _added(values, bands, out)


@compiled
def _added(values: NDArray[Any], bands: int, out: NDArray[Any]) -> None:
    for i in range(len(out)):
        total = np.int64(0)
        for band in range(bands):
            total += np.int64(values[bands * i + band])
        out[i] = total


@compiled
def _weigh_floats(
    values: NDArray[Any], red: float, green: float, blue: float, whole: float, out: NDArray[Any]
) -> None:
    for i in range(len(out)):
        at = 3 * i
        total = 0.0 + values[at] * red  # of -0 as well
        total += values[at + 1] * green
        total += values[at + 2] * blue
        out[i] = total / whole


@compiled
def _average(values: NDArray[Any], bands: int, out: NDArray[Any]) -> None:
    for i in range(len(out)):
        total = 0.0
        for band in range(bands):
            total += np.float64(values[bands * i + band])
        out[i] = total / bands


def strips(shape: tuple[int, ...], pixels: int = _STRIP) -> Iterator[tuple[int, slice]]:
    """Cut (n, y, x) into (frame, rows) of about so many pixels: each pixel in exactly one."""
    frames, height, width = shape[:3]
    rows = max(1, pixels // max(1, width))
    for frame in range(frames):
        for start in range(0, height, rows):
            yield frame, slice(start, min(start + rows, height))


def plain(pixels: Pixels) -> Pixels:
    """The same pixels with booleans as 0 and 1 and in the byte order of this machine."""
    if pixels.dtype == np.bool_:
        return pixels.view(np.uint8)
    return pixels if pixels.dtype.isnative else pixels.astype(pixels.dtype.newbyteorder("="))
