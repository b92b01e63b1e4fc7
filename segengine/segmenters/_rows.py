"""Gradients and ridges in one pass over the rows of an image, which stay in the cache; compiled.

The arithmetic of each pixel is that of `_kernels`, `_gradient`, `_canny` and `_crossings`, operation by
operation, in float64; so are the labels. A row of the image, gray and with reflected borders,
replaces the oldest in a ring of lines; what hangs on it follows at once, line by line. Loops run
along lines that are contiguous and take no turns, so that they are vectorised.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from segengine.compiled import compiled
from segengine.segmenters import _gray
from segengine.segmenters._worth import compiled_pays
from segengine.types import Pixels

Array = NDArray[Any]
_ENOUGH = 1 << 24
"""Pixels that NumPy and OpenCV take as long for as Numba takes to load."""
_MOST = 256
"""Bands whose sum fits int32."""
_KINDS = tuple(map(np.dtype, (np.uint8, np.uint16, np.int16, np.float32, np.float64)))
"""What a row may consist of; the last, of one band: gray of all other dtypes."""
_TAN = 2**0.5 - 1
"""Tangent of 22.5 degrees; its inverse is that of 67.5 degrees."""


def taken(frame: Pixels) -> bool:
    """Whether to take these loops for a frame (y, x, band): few pixels are not worth their loading."""
    return frame.size > 0 and compiled_pays(frame.shape[0] * frame.shape[1], _ENOUGH)


class Given(NamedTuple):
    """A frame (y, x, band) as the loops take it: they are compiled once, not once for each dtype."""

    rows: NDArray[np.uint8]
    """(y, x * band * bytes)"""
    bands: int
    kind: int
    """Place of its dtype in `_KINDS`."""

    @classmethod
    def of(cls, frame: Pixels) -> Given:
        pixels = _gray.plain(frame)
        known = pixels.dtype in _KINDS[:-1] and (
            pixels.dtype.kind == "f" or pixels.shape[-1] <= _MOST
        )
        if not known:
            pixels = _gray.comparable(pixels).astype(np.float64)[..., None]
        # What may not be written would be compiled for anew.
        rows = np.require(pixels, requirements=("C", "W")).reshape(len(pixels), -1).view(np.uint8)
        return cls(rows, pixels.shape[-1], _KINDS.index(pixels.dtype))

    @property
    def span(self) -> float:
        """Between the least and the greatest gray that there may be; infinity of floats."""
        dtype = _KINDS[self.kind]
        if dtype.kind == "f":
            return math.inf
        info = np.iinfo(dtype.name)
        return _gray.scale(self.bands) * (int(info.max) - int(info.min))


@compiled
def canny(
    rows: Array,
    bands: int,
    kind: int,
    weights: Array,
    sides: Array,
    asked: Array,
    low: float,
    high: float,
    out: Array,
) -> None:
    """Fill out (y, x) uint8 as `_canny.draft` says, from what is `Given`.

    `weights` (radius,) of a Gaussian; `sides` (2,) of the kernel: outer and middle, 0 for Roberts';
    `asked` (2,): whether the responses count, across rows and across columns.
    """
    height, width = out.shape
    radius = len(weights)
    margin = radius + 2
    gray = np.empty((2 * radius + 1, width + 2 * margin))
    smoothed = np.empty((3, width + 4))
    down = np.empty(width + 2 * margin)
    power = np.empty((3, width + 2))
    gy, gx = np.empty((2, width + 2)), np.empty((2, width + 2))
    for row in range(height + 2 * margin):
        _gray_line(rows[_folded(row - margin, height)], bands, kind, margin, gray[row % len(gray)])
        at = row - 2 * radius
        if at < 0:
            continue
        _filter_down(gray, at, weights, 0, True, down)
        _filter_right(down, weights, True, smoothed[at % 3])
        at -= 2
        if at < 0:
            continue
        upper, middle, lower = smoothed[at % 3], smoothed[(at + 1) % 3], smoothed[(at + 2) % 3]
        _respond(upper, middle, lower, sides, asked, gy[at % 2], gx[at % 2], power[at % 3])
        power[at % 3, 0] = power[at % 3, width + 1] = 0
        if at == 0 or at == height + 1:
            power[at % 3] = 0
        at -= 2
        if at < 0:
            continue
        upper, middle, lower = power[at % 3], power[(at + 1) % 3], power[(at + 2) % 3]
        _thin(upper, middle, lower, gy[(at + 1) % 2], gx[(at + 1) % 2], low, high, out[at])


@compiled
def exceeds(
    rows: Array,
    bands: int,
    kind: int,
    weights: Array,
    sides: Array,
    asked: Array,
    bound: float,
    out: Array,
) -> None:
    """Fill out (y, x) uint8 with 1 where the squared magnitude is above a bound, else 0."""
    height, width = out.shape
    radius = len(weights)
    margin = radius + 1
    gray = np.empty((2 * radius + 1, width + 2 * margin))
    smoothed = np.empty((3, width + 2))
    down = np.empty(width + 2 * margin)
    for row in range(height + 2 * margin):
        _gray_line(rows[_folded(row - margin, height)], bands, kind, margin, gray[row % len(gray)])
        at = row - 2 * radius
        if at < 0:
            continue
        if radius:
            _filter_down(gray, at, weights, 0, True, down)
            _filter_right(down, weights, True, smoothed[at % 3])
        else:
            _copy(gray[0], smoothed[at % 3])
        at -= 2
        if at < 0:
            continue
        upper, middle, lower = smoothed[at % 3], smoothed[(at + 1) % 3], smoothed[(at + 2) % 3]
        _exceed(upper, middle, lower, sides, asked, bound, out[at])


@compiled
def _exceed(
    upper: Array, middle: Array, lower: Array, sides: Array, asked: Array, bound: float,
    out: Array,
) -> None:  # fmt: skip
    """Fill out (x,) with 1 where the responses to three lines (x + 2,) exceed a bound, else 0."""
    outer, inner, rows, columns = sides[0], sides[1], asked[0], asked[1]
    for x in range(len(out)):
        a, b, c = upper[x], upper[x + 1], upper[x + 2]
        d, e, f = middle[x], middle[x + 1], middle[x + 2]
        g, h, i = lower[x], lower[x + 1], lower[x + 2]
        if inner:
            down = outer * ((g - a) + (i - c)) + inner * (h - b)
            right = outer * ((c - a) + (i - g)) + inner * (f - d)
        else:  # Roberts'
            down, right = (h - e) + (i - f), (i + f) - (h + e)
        down, right = down if rows else 0.0, right if columns else 0.0
        out[x] = down * down + right * right > bound


@compiled
def crossings(
    rows: Array,
    bands: int,
    kind: int,
    mean: Array,
    second: Array,
    asked: Array,
    bound: float,
    out: Array,
) -> None:
    """Fill out (y, x) uint8 with 1 where `_crossings` finds a crossing above a bound, else 0.

    `mean`, `second` (radius,): weights of a Gaussian and of its second derivative. `asked` (2,): whether
    crossings count between rows and between columns.
    """
    height, width = out.shape
    radius = len(mean)
    margin = radius + 1
    gray = np.empty((2 * radius + 1, width + 2 * margin))
    bent, smoothed = np.empty(width + 2 * margin), np.empty(width + 2 * margin)
    along, curved = np.empty(width + 2), np.empty((2, width + 2))
    # Which of two neighbours is marked: those in a row, and those in a column.
    near_x, far_x = np.zeros(width + 1, np.uint8), np.zeros(width + 1, np.uint8)
    near_y, far_y = np.zeros(width, np.uint8), np.zeros((2, width), np.uint8)
    for row in range(height + 2 * margin):
        _gray_line(rows[_folded(row - margin, height)], bands, kind, margin, gray[row % len(gray)])
        at = row - 2 * radius
        if at < 0:
            continue
        _filter_down_twice(gray, at, second, mean, bent, smoothed)
        _filter_right_twice(bent, mean, smoothed, second, along, curved[at % 2])
        at -= 1
        if at < 0:
            continue
        middle, lower = curved[at % 2], curved[(at + 1) % 2]
        if asked[0]:
            _cross(middle[1:], lower[1:], bound, near_y, far_y[at % 2])
        at -= 1
        if at < 0:
            continue
        if asked[1]:
            _cross(middle, middle[1:], bound, near_x, far_x)
        line, far = out[at], far_y[at % 2]
        for x in range(width):
            line[x] = near_y[x] | far[x] | near_x[x + 1] | far_x[x]


@compiled
def _cross(first: Array, second: Array, bound: float, near: Array, far: Array) -> None:
    """Fill near (x,) with 1 where the sign changes steeply between two and the first is nearer to zero.

    And far (x,) where the second is.
    """
    for x in range(len(near)):
        a, b = first[x], second[x]
        changed = ((a >= 0) != (b >= 0)) & (abs(a - b) > bound)
        nearer = abs(a) <= abs(b)
        near[x], far[x] = changed & nearer, changed & ~nearer


@compiled
def exceeds_whole(
    rows: Array,
    bands: int,
    kind: int,
    sides: Array,
    asked: Array,
    bound: float,
    wide: bool,
    out: Array,
) -> None:
    """`exceeds` of integers that are not smoothed, whose responses int32 holds.

    `wide`: it does not hold the squares.
    """
    height, width = out.shape
    gray = np.empty((3, width + 2), np.int32)
    down, total = np.empty(width + 2, np.int32), np.empty(width + 2, np.int32)
    gy, gx = np.empty(width, np.int32), np.empty(width, np.int32)
    for row in range(height + 2):
        _gray_line(rows[_folded(row - 1, height)], bands, kind, 1, gray[row % 3])
        at = row - 2
        if at < 0:
            continue
        upper, middle, lower = gray[at % 3], gray[(at + 1) % 3], gray[(at + 2) % 3]
        _respond_whole(upper, middle, lower, sides, down, total, gy, gx)
        if not asked[0]:
            gy[:] = 0
        if not asked[1]:
            gx[:] = 0
        line = out[at]
        if wide:
            for x in range(width):
                dy, dx = np.float64(gy[x]), np.float64(gx[x])
                line[x] = dy * dy + dx * dx > bound
        else:
            least = np.int32(min(bound, 2.0**31 - 1))
            for x in range(width):
                line[x] = np.int32(gy[x] * gy[x] + gx[x] * gx[x]) > least


@compiled
def _respond_whole(
    upper: Array, middle: Array, lower: Array, sides: Array, down: Array, total: Array,
    gy: Array, gx: Array,
) -> None:  # fmt: skip
    """Fill gy and gx (x,) from three lines (x + 2,), all int32, by way of two others."""
    outer, inner = np.int32(sides[0]), np.int32(sides[1])
    if not inner:  # Roberts'
        for x in range(len(gy)):
            a, b, c, d = middle[x + 1], middle[x + 2], lower[x + 1], lower[x + 2]
            gy[x], gx[x] = (c - a) + (d - b), (d + b) - (c + a)
        return
    for x in range(len(down)):
        down[x] = lower[x] - upper[x]
        total[x] = outer * (lower[x] + upper[x]) + inner * middle[x]
    for x in range(len(gy)):
        gy[x] = outer * (down[x] + down[x + 2]) + inner * down[x + 1]
        gx[x] = total[x + 2] - total[x]


@compiled
def link(around: Array) -> None:
    """Turn strong places, 2, and weak ones, 1, that hang together with one, to 3 in around (y, x) uint8.

    Its border is 0.
    """
    flat, across = around.reshape(-1), around.shape[1]
    drawn = 0
    for place in range(len(flat)):
        drawn += flat[place] > 0
    waiting = np.empty(drawn, np.int64)
    for start in range(across, flat.size - across):
        if flat[start] != 2:
            continue
        flat[start] = 3
        waiting[0], count = start, 1
        while count:
            count -= 1
            place = waiting[count]
            for row in (place - across, place, place + across):
                for beside in range(row - 1, row + 2):
                    if flat[beside] == 1 or flat[beside] == 2:
                        flat[beside] = 3
                        waiting[count] = beside
                        count += 1


@compiled
def _folded(place: int, length: int) -> int:
    """Which pixel stands at a place beyond the borders: c b a | a b c | c b a."""
    place %= 2 * length
    return min(place, 2 * length - 1 - place)


@compiled
def _gray_line(row: Array, bands: int, kind: int, margin: int, line: Array) -> None:
    """Fill a line (margin + x + margin) with the comparable gray of a row of pixels, in bytes."""
    width = len(line) - 2 * margin
    inside = line[margin : margin + width]
    if kind == 0:
        _exact(row, bands, inside)
    elif kind == 1:
        _exact(row.view(np.uint16), bands, inside)
    elif kind == 2:
        _exact(row.view(np.int16), bands, inside)
    elif kind == 3:
        _single(row.view(np.float32), bands, inside)
    else:
        _copy(row.view(np.float64), inside)
    for x in range(margin):
        line[x] = inside[_folded(x - margin, width)]
        line[margin + width + x] = inside[_folded(width + x, width)]


@compiled
def _exact(flat: Array, bands: int, line: Array) -> None:
    """`_gray.exact` (x,) of bands (x * band,) of at most 16 bits.

    A call for each number of them: what lies apart by a number that is known is read together.
    """
    if bands == 1:
        for x in range(len(line)):
            line[x] = flat[x]
    elif bands == 3:
        for x in range(len(line)):
            i = 3 * x
            line[x] = np.int32(2125 * flat[i] + 7154 * flat[i + 1] + 721 * flat[i + 2])
    elif bands == 2:
        _added(flat, 2, line)
    elif bands == 4:
        _added(flat, 4, line)
    elif bands == 5:
        _added(flat, 5, line)
    elif bands == 6:
        _added(flat, 6, line)
    elif bands == 7:
        _added(flat, 7, line)
    elif bands == 8:
        _added(flat, 8, line)
    else:
        _added(flat, bands, line)


@compiled
def _added(flat: Array, bands: int, line: Array) -> None:
    for x in range(len(line)):
        total = 0
        for band in range(bands):
            total += flat[bands * x + band]
        line[x] = np.int32(total)


@compiled
def _single(flat: Array, bands: int, line: Array) -> None:
    """`_gray.single` (x,) of bands (x * band,) of float32."""
    if bands == 1:
        for x in range(len(line)):
            line[x] = flat[x]
    elif bands == 3:
        for x in range(len(line)):
            i = 3 * x
            total = 0.0 + flat[i] * 2125.0 + flat[i + 1] * 7154.0 + flat[i + 2] * 721.0
            line[x] = np.float32(total / 10000)
    elif bands == 2:
        _averaged(flat, 2, line)
    elif bands == 4:
        _averaged(flat, 4, line)
    elif bands == 5:
        _averaged(flat, 5, line)
    elif bands == 6:
        _averaged(flat, 6, line)
    elif bands == 7:
        _averaged(flat, 7, line)
    elif bands == 8:
        _averaged(flat, 8, line)
    else:
        _averaged(flat, bands, line)


@compiled
def _averaged(flat: Array, bands: int, line: Array) -> None:
    for x in range(len(line)):
        total = 0.0
        for band in range(bands):
            total += flat[bands * x + band]
        line[x] = np.float32(total / bands)


@compiled
def _copy(line: Array, out: Array) -> None:
    """Fill out (x,): an assignment of slices would bring in all that its error message is made with."""
    for x in range(len(out)):
        out[x] = line[x]


@compiled
def _filter_down(
    lines: Array, first: int, weights: Array, done: int, mean: bool, out: Array
) -> None:
    """Fill out (x,) with `_kernels.bend`, or `smooth`, along y of a ring of lines (y, x).

    Some pairs are done before.
    """
    n, radius = len(lines), len(weights)
    centre = lines[(first + radius) % n]
    if radius == 0:
        _copy(centre, out)
    while done < radius:
        i, j, w, start = (
            first + radius - done - 1,
            first + radius + done + 1,
            weights[done:],
            done == 0,
        )
        left = radius - done
        if left >= 6:
            done += 6
            _bend_six(
                lines[i % n], lines[j % n], lines[(i - 1) % n], lines[(j + 1) % n],
                lines[(i - 2) % n], lines[(j + 2) % n], lines[(i - 3) % n], lines[(j + 3) % n],
                lines[(i - 4) % n], lines[(j + 4) % n], lines[(i - 5) % n], lines[(j + 5) % n],
                centre, w, start, mean and left == 6, out,
            )  # fmt: skip
        elif left >= 2:
            done += 2
            _bend_two(
                lines[i % n], lines[j % n], lines[(i - 1) % n], lines[(j + 1) % n],
                centre, w, start, mean and left == 2, out,
            )  # fmt: skip
        else:
            done += 1
            _bend_one(lines[i % n], lines[j % n], centre, w, start, mean, out)


@compiled
def _filter_down_twice(
    lines: Array, first: int, second: Array, mean: Array, bent: Array, smoothed: Array
) -> None:
    """Fill bent with the `bend` of weights and smoothed with the `smooth` of others, read only once."""
    n, radius, done = len(lines), len(mean), 0
    while done + 8 <= radius:
        i, j, start = first + radius - done - 1, first + radius + done + 1, done == 0
        _bend_eight_twice(
            lines[i % n], lines[j % n], lines[(i - 1) % n], lines[(j + 1) % n],
            lines[(i - 2) % n], lines[(j + 2) % n], lines[(i - 3) % n], lines[(j + 3) % n],
            lines[(i - 4) % n], lines[(j + 4) % n], lines[(i - 5) % n], lines[(j + 5) % n],
            lines[(i - 6) % n], lines[(j + 6) % n], lines[(i - 7) % n], lines[(j + 7) % n],
            lines[(first + radius) % n], second[done:], mean[done:], start, done + 8 == radius,
            bent, smoothed,
        )  # fmt: skip
        done += 8
    if done < radius:
        _filter_down(lines, first, second, done, False, bent)
        _filter_down(lines, first, mean, done, True, smoothed)


@compiled
def _filter_right(line: Array, weights: Array, mean: bool, out: Array) -> None:
    """The same along x of a line (x + 2 radius,)."""
    radius = len(weights)
    centre = line[radius:]
    if radius == 0:
        _copy(centre, out)
    done = 0
    while done < radius:
        b, w, start = line[radius + done + 1 :], weights[done:], done == 0
        left = radius - done
        if left >= 6:
            a = line[left - 6 :]
            done += 6
            _bend_six(
                a[5:], b, a[4:], b[1:], a[3:], b[2:], a[2:], b[3:], a[1:], b[4:], a, b[5:],
                centre, w, start, mean and left == 6, out,
            )  # fmt: skip
        elif left >= 2:
            a = line[left - 2 :]
            done += 2
            _bend_two(a[1:], b, a, b[1:], centre, w, start, mean and left == 2, out)
        else:
            done += 1
            _bend_one(line, b, centre, w, start, mean, out)


@compiled
def _filter_right_twice(
    bent: Array, mean: Array, smoothed: Array, second: Array, along: Array, out: Array
) -> None:
    """Fill out (x,) with the `smooth` of one line and the `bend` of another (x + 2 radius,), added."""
    if len(mean) == 8:  # of the usual sigma
        _filter_right_eight(bent, mean, smoothed, second, out)
        return
    _filter_right(bent, mean, True, along)
    _filter_right(smoothed, second, False, out)
    for x in range(len(out)):
        out[x] = along[x] + out[x]


@compiled
def _filter_right_eight(
    bent: Array, mean: Array, smoothed: Array, second: Array, out: Array
) -> None:
    """The same of eight pairs each."""
    v, v2, v3, v4 = mean[0], mean[1], mean[2], mean[3]
    v5, v6, v7, v8 = mean[4], mean[5], mean[6], mean[7]
    w, w2, w3, w4 = second[0], second[1], second[2], second[3]
    w5, w6, w7, w8 = second[4], second[5], second[6], second[7]
    for x in range(len(out)):
        twice = 2 * bent[x + 8]
        along_y = 0.0
        along_y += (bent[x + 7] + bent[x + 9] - twice) * v
        along_y += (bent[x + 6] + bent[x + 10] - twice) * v2
        along_y += (bent[x + 5] + bent[x + 11] - twice) * v3
        along_y += (bent[x + 4] + bent[x + 12] - twice) * v4
        along_y += (bent[x + 3] + bent[x + 13] - twice) * v5
        along_y += (bent[x + 2] + bent[x + 14] - twice) * v6
        along_y += (bent[x + 1] + bent[x + 15] - twice) * v7
        along_y += (bent[x] + bent[x + 16] - twice) * v8
        along_y += bent[x + 8]
        twice = 2 * smoothed[x + 8]
        along_x = 0.0
        along_x += (smoothed[x + 7] + smoothed[x + 9] - twice) * w
        along_x += (smoothed[x + 6] + smoothed[x + 10] - twice) * w2
        along_x += (smoothed[x + 5] + smoothed[x + 11] - twice) * w3
        along_x += (smoothed[x + 4] + smoothed[x + 12] - twice) * w4
        along_x += (smoothed[x + 3] + smoothed[x + 13] - twice) * w5
        along_x += (smoothed[x + 2] + smoothed[x + 14] - twice) * w6
        along_x += (smoothed[x + 1] + smoothed[x + 15] - twice) * w7
        along_x += (smoothed[x] + smoothed[x + 16] - twice) * w8
        out[x] = along_y + along_x


@compiled
def _bend_one(
    left: Array, right: Array, centre: Array, weights: Array, first: bool, last: bool, out: Array,
) -> None:  # fmt: skip
    """Add to out (x,) what a weight makes of a pair beside the centre; at last the centre too."""
    w = weights[0]
    for x in range(len(out)):
        twice = 2 * centre[x]
        total = 0.0 if first else out[x]
        total += (left[x] + right[x] - twice) * w
        out[x] = total + centre[x] if last else total


@compiled
def _bend_two(
    left: Array, right: Array, left2: Array, right2: Array, centre: Array, weights: Array,
    first: bool, last: bool, out: Array,
) -> None:  # fmt: skip
    """The same of two pairs, one after the other."""
    w, w2 = weights[0], weights[1]
    for x in range(len(out)):
        twice = 2 * centre[x]
        total = 0.0 if first else out[x]
        total += (left[x] + right[x] - twice) * w
        total += (left2[x] + right2[x] - twice) * w2
        out[x] = total + centre[x] if last else total


@compiled
def _bend_six(
    left: Array, right: Array, left2: Array, right2: Array, left3: Array, right3: Array,
    left4: Array, right4: Array, left5: Array, right5: Array, left6: Array, right6: Array,
    centre: Array, weights: Array, first: bool, last: bool, out: Array,
) -> None:  # fmt: skip
    """The same of six."""
    w, w2, w3, w4, w5, w6 = weights[0], weights[1], weights[2], weights[3], weights[4], weights[5]
    for x in range(len(out)):
        twice = 2 * centre[x]
        total = 0.0 if first else out[x]
        total += (left[x] + right[x] - twice) * w
        total += (left2[x] + right2[x] - twice) * w2
        total += (left3[x] + right3[x] - twice) * w3
        total += (left4[x] + right4[x] - twice) * w4
        total += (left5[x] + right5[x] - twice) * w5
        total += (left6[x] + right6[x] - twice) * w6
        out[x] = total + centre[x] if last else total


@compiled
def _bend_eight_twice(
    left: Array, right: Array, left2: Array, right2: Array, left3: Array, right3: Array,
    left4: Array, right4: Array, left5: Array, right5: Array, left6: Array, right6: Array,
    left7: Array, right7: Array, left8: Array, right8: Array, centre: Array, weights: Array,
    others: Array, first: bool, last: bool, out: Array, other: Array,
) -> None:  # fmt: skip
    """The same with two sets of weights, of which the centre is added to the other only."""
    w, w2, w3, w4 = weights[0], weights[1], weights[2], weights[3]
    w5, w6, w7, w8 = weights[4], weights[5], weights[6], weights[7]
    v, v2, v3, v4 = others[0], others[1], others[2], others[3]
    v5, v6, v7, v8 = others[4], others[5], others[6], others[7]
    for x in range(len(out)):
        twice = 2 * centre[x]
        total, mean = (0.0, 0.0) if first else (out[x], other[x])
        pair = left[x] + right[x] - twice
        total += pair * w
        mean += pair * v
        pair = left2[x] + right2[x] - twice
        total += pair * w2
        mean += pair * v2
        pair = left3[x] + right3[x] - twice
        total += pair * w3
        mean += pair * v3
        pair = left4[x] + right4[x] - twice
        total += pair * w4
        mean += pair * v4
        pair = left5[x] + right5[x] - twice
        total += pair * w5
        mean += pair * v5
        pair = left6[x] + right6[x] - twice
        total += pair * w6
        mean += pair * v6
        pair = left7[x] + right7[x] - twice
        total += pair * w7
        mean += pair * v7
        pair = left8[x] + right8[x] - twice
        total += pair * w8
        mean += pair * v8
        out[x] = total
        other[x] = mean + centre[x] if last else mean


@compiled
def _respond(
    upper: Array, middle: Array, lower: Array, sides: Array, asked: Array, gy: Array, gx: Array,
    power: Array,
) -> None:  # fmt: skip
    """Fill gy, gx and power (x,) from three lines (x + 2,); what is not asked for becomes 0."""
    outer, inner, rows, columns = sides[0], sides[1], asked[0], asked[1]
    for x in range(len(power)):
        a, b, c = upper[x], upper[x + 1], upper[x + 2]
        d, e, f = middle[x], middle[x + 1], middle[x + 2]
        g, h, i = lower[x], lower[x + 1], lower[x + 2]
        if inner:
            down = outer * ((g - a) + (i - c)) + inner * (h - b)
            right = outer * ((c - a) + (i - g)) + inner * (f - d)
        else:  # Roberts'
            down, right = (h - e) + (i - f), (i + f) - (h + e)
        down, right = down if rows else 0.0, right if columns else 0.0
        gy[x], gx[x], power[x] = down, right, down * down + right * right


@compiled
def _thin(
    upper: Array, middle: Array, lower: Array, gy: Array, gx: Array, low: float, high: float,
    out: Array,
) -> None:  # fmt: skip
    """Fill out (x,) with 0, 1 or 2 from the power around it (x + 2,) and the gradient in it."""
    # Truth values alone decide: values that are chosen among would be read one by one.
    for x in range(len(out)):
        dy, dx, power = gy[x + 1], gx[x + 1], middle[x + 1]
        steep_y, steep_x = abs(dy), abs(dx)
        falling = (dy < 0) == (dx < 0)
        down = steep_y * _TAN - steep_x > 0
        right = _TAN * steep_x - steep_y > 0
        across_row = (power > middle[x]) & (power >= middle[x + 2])
        across_column = (power > upper[x + 1]) & (power >= lower[x + 1])
        one_way = (power > upper[x]) & (power > lower[x + 2])
        other_way = (power > upper[x + 2]) & (power > lower[x])
        ridge = (right & across_row) | (down & across_column)
        ridge |= ~(right | down) & ((falling & one_way) | (~falling & other_way))
        ridge &= power > low
        out[x] = np.uint8(ridge) + np.uint8(ridge & (power > high))
