"""On which side of the mean around it a pixel is: running sums, one pass over the image, compiled.

    down     sums of the columns of a window: the row that comes is added, the one that leaves taken off
    along    of integers: sums of those from the first on; the difference of two is that of a window
    step     of floats, whose digits that would cost: what comes less what leaves, from one to the next

Each step is a loop of its own over a line that stays in the cache, and all but the running sums are the
same at each place of it, so that processors do many at a time. Views begin where a loop does: it then
need not look at the sign of its places.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from segengine.compiled import compiled

Array = NDArray[Any]


def exceeds(
    gray: Array, size: int, shift: int, sums: np.dtype[Any], out: NDArray[np.bool_]
) -> None:
    """Whether gray x size² exceeds the sum of the size x size window and the shift; borders reflected.

    gray (y, x) integers in value, of any size; every excess fits `sums`, int32 or int64.
    """
    limits = np.iinfo(sums)
    least = np.array([min(max(shift, limits.min), limits.max)], sums)
    lines = np.zeros((3, gray.shape[1] + size), sums)
    _exceeds(np.ascontiguousarray(gray), size // 2, least, lines, out)


def sides(
    padded: Array, size: int, high: float, low: float
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Whether float32 gray x size² less the sum of the size x size window exceeds `high`, and whether
    that differs for `low`: two of (y, x) from (y + size - 1, x + size - 1).

    Running sums in float64: each pixel on the way along x and along y rounds twice.
    """
    height, width = padded.shape[0] - size + 1, padded.shape[1] - size + 1
    found, differs = np.empty((2, height, width), np.bool_)
    _sides(
        np.ascontiguousarray(padded), size, high, low, np.zeros((3, width + size)), found, differs
    )
    return found, differs


@compiled
def _mirrored(place: int, length: int) -> int:
    """Where the image is that is seen so far before or behind its border."""
    place %= 2 * length
    return place if place < length else 2 * length - 1 - place


@compiled
def _exceeds(gray: Array, radius: int, least: Array, lines: Array, out: Array) -> None:
    height, width = gray.shape
    size = 2 * radius + 1
    down, along, excess = lines[0], lines[1], lines[2]
    inner = down[radius : radius + width]
    ends = along[1:]
    first, last = along[:width], along[size : size + width]
    bound = least[0]
    for place in range(-radius - 1, radius):
        row = gray[_mirrored(place, height)]
        for x in range(width):
            inner[x] += np.int64(row[x])
    for y in range(height):
        comes = gray[_mirrored(y + radius, height)]
        leaves = gray[_mirrored(y - radius - 1, height)]
        for x in range(width):
            inner[x] += np.int64(comes[x]) - np.int64(leaves[x])
        for x in range(radius):
            down[radius - 1 - x] = inner[_mirrored(x, width)]
            down[radius + width + x] = inner[_mirrored(width + x, width)]
        # Of int32 it may go over the top: what counts is a difference, which does not.
        total = np.int64(0)
        for x in range(width + 2 * radius):
            total += down[x]
            ends[x] = total
        here, above = gray[y], out[y]
        for x in range(width):
            excess[x] = np.int64(here[x]) * (size * size) - (last[x] - first[x])
        for x in range(width):
            above[x] = excess[x] > bound


@compiled
def _sides(
    padded: Array, size: int, high: float, low: float, lines: Array, found: Array, differs: Array
) -> None:
    height, width = found.shape
    radius, area = size // 2, float(size * size)
    down, step, sums = lines[0][: width + size - 1], lines[1], lines[2]
    first, last = down[:width], down[size:]
    then = sums[1:]
    for y in range(size - 1):
        row = padded[y]
        for x in range(len(down)):
            down[x] += row[x]
    for y in range(height):
        comes, leaves = padded[y + size - 1], padded[y - 1]
        if y:
            for x in range(len(down)):
                down[x] += np.float64(comes[x]) - np.float64(leaves[x])
        else:
            for x in range(len(down)):
                down[x] += comes[x]
        for x in range(width - 1):
            step[x] = last[x] - first[x]
        total = 0.0
        for x in range(size):
            total += down[x]
        sums[0] = total
        for x in range(width - 1):
            total += step[x]
            then[x] = total
        here = padded[y + radius][radius : radius + width]
        above, open_ = found[y], differs[y]
        for x in range(width):
            excess = np.float64(here[x]) * area - sums[x]
            above[x] = excess > high
            open_[x] = (excess > high) != (excess > low)
