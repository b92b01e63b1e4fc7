"""COCO's run lengths: masks to runs of 0s and 1s in turn, column by column, and to compressed text.

Source: cocodataset/cocoapi, `common/maskApi.h`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from segengine.compiled import compiled
from segengine.instances.downward import runs_down

Runs = NDArray[np.int64]
RUNS = 1 << 20
"""Runs from which loading Numba to write them is worth it."""
Array = NDArray[Any]


def compress_runs(runs: Runs) -> str:
    """COCO's compressed counts of alternating run lengths, zeros first.

    From the third run on the difference to the run two before is written, in groups of five bits,
    lowest first, with a continuation bit; each group is a character from code 48 on (the format of
    cocodataset/cocoapi, `rleToString`).
    """
    return _compressed(runs, np.array([len(runs)]))[0]


def _compressed(runs: NDArray[np.int64], lengths: NDArray[np.int64]) -> list[str]:
    """The counts of several masks, whose runs lie one after the other, `lengths` of them each."""
    stops = np.cumsum(lengths)
    values = runs.astype(np.int64)
    values[2:] -= runs[:-2]
    for place in range(3):  # what is written as it is
        own = (stops - lengths + place)[lengths > place]
        values[own] = runs[own]
    # the last group's highest bit is the sign: n groups hold -2^(5n - 1) .. 2^(5n - 1) - 1
    magnitude = values ^ (values >> 63)
    groups = np.ones(len(values), np.int64)
    more = np.flatnonzero(magnitude >= 1 << 4)
    least, longer = 1 << 9, [more]
    while len(more):
        groups[more] += 1
        more = more[magnitude[more] >= least]
        longer.append(more)
        least <<= 5
    ends = np.cumsum(groups)
    starts = ends - groups
    out = np.empty(int(ends[-1]) if len(ends) else 0, np.uint8)
    out[starts] = (values & 0x1F) + 48
    for group, some in enumerate(longer, 1):  # most numbers have one
        out[starts[some] + (group - 1)] += 0x20
        if len(some):
            out[starts[some] + group] = (values[some] >> 5 * group & 0x1F) + 48
    text = out.tobytes().decode("ascii")
    bounds = np.concatenate([[0], ends])[stops].tolist()
    return [text[start:stop] for start, stop in zip([0, *bounds], bounds, strict=False)]


class Stretches(NamedTuple):
    """Runs down the columns of a map of objects, by object and column; each ends with its column."""

    owner: NDArray[np.int64]
    column: NDArray[np.int64]
    top: NDArray[np.int64]
    length: NDArray[np.int64]


def stretches_in(ids: NDArray[Any]) -> Stretches:
    """Those of a map (y, x)."""
    return Stretches(*runs_down(ids))


def encode_stretches(
    found: Stretches,
    each: NDArray[np.int64],
    tall: int,
    origin: tuple[int, int],
    size: tuple[int, int],
) -> list[str]:
    """Compressed counts of objects of which each has so many runs, in a map so `tall`.

    The map lies at `origin` of a frame of `size`. All at once.
    """
    height = size[0]
    begin = (found.column + origin[1]) * height + found.top + origin[0]
    end = begin + found.length
    if len(begin) >= RUNS:
        return texts_of(begin, end, each, size[0] * size[1])
    object_of = np.repeat(np.arange(len(each)), each)
    if tall == height:  # a run may go on in the next column
        apart = np.ones(len(begin) + 1, np.bool_)
        apart[1:-1] = (begin[1:] != end[:-1]) | (object_of[1:] != object_of[:-1])
        begin, end, object_of = begin[apart[:-1]], end[apart[1:]], object_of[apart[:-1]]
    return _texts(begin, end, object_of, len(each), size[0] * size[1])


def _texts(
    begin: NDArray[np.int64],
    end: NDArray[np.int64],
    object_of: NDArray[np.int64],
    count: int,
    total: int,
) -> list[str]:
    """Compressed counts of so many objects, whose runs are apart, in a frame of `total` pixels."""
    each = 2 * np.bincount(object_of, minlength=count) + 1
    ends = np.cumsum(each)
    first, last = ends - each, ends - 1
    # after its last run each object has what is left of the frame
    edges = np.empty(2 * len(begin) + count, np.int64)
    place = 2 * np.arange(len(begin)) + object_of
    edges[place], edges[place + 1], edges[last] = begin, end, total
    runs = np.diff(edges, prepend=0)
    runs[first] = edges[first]
    full = (runs[last] == 0) & (each > 1)
    if full.any():
        runs = np.delete(runs, last[full])
    return _compressed(runs, each - full)


def texts_of(
    begin: NDArray[np.int64], end: NDArray[np.int64], each: NDArray[np.int64], total: int
) -> list[str]:
    """Compressed counts of objects of which each has so many runs, in a frame of `total` pixels."""
    widest = total.bit_length() // 5 + 1  # groups of a difference of two runs
    out = np.empty((2 * len(begin) + len(each)) * widest, np.uint8)
    ends = np.zeros(len(each) + 1, np.int64)
    _write(begin, end, each, total, out, ends)
    text, places = out[: ends[-1]].tobytes().decode("ascii"), ends.tolist()
    return [text[start:stop] for start, stop in pairwise(places)]


@compiled
def _write(begin: Array, end: Array, each: Array, total: int, out: Array, ends: Array) -> None:
    """Fill out with the texts, and ends with where each begins and the last ends."""
    run, at = 0, 0
    for i in range(len(each)):
        stop, place, zeros, ones, first = run + each[i], 0, 0, 0, True
        while run < stop:
            start, last = begin[run], end[run]
            run += 1
            while run < stop and begin[run] == last:  # it goes on in the next column
                last = end[run]
                run += 1
            # of the first two runs of zeros none has one before it that counts
            at = _group(start - place - zeros, out, at)
            at = _group(last - start - ones, out, at)
            zeros, ones = 0 if first else start - place, last - start
            place, first = last, False
        if place < total or each[i] == 0:
            at = _group(total - place - zeros, out, at)
        ends[i + 1] = at


@compiled
def _group(value: int, out: Array, at: int) -> int:
    """Write a number in groups of five bits, the last of which has its sign; where the next one goes."""
    more = True
    while more:
        low = value & 0x1F
        value >>= 5
        more = value != (-1 if low & 0x10 else 0)
        out[at] = low + (0x20 if more else 0) + 48
        at += 1
    return at


def encode_rle(mask: NDArray[Any], origin: tuple[int, int], size: tuple[int, int]) -> str:
    """Compressed counts, column by column, of a mask (y, x) whose corner lies at `origin` of `size`."""
    found = stretches_in(mask != 0)
    return encode_stretches(found, np.array([len(found.owner)]), len(mask), origin, size)[0]


def decompress_runs(text: str) -> Runs:
    """The alternating run lengths, zeros first, behind COCO's compressed counts.

    Raises ValueError for what is none.
    """
    runs = _written(text)[0]
    # From the fourth run on, what is written is the difference to the run two before.
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    return runs


def _written(text: str) -> tuple[Runs, Runs]:
    """The numbers behind compressed counts of one mask or of several, and where each one's text ends."""
    codes = np.frombuffer(text.encode("utf-8"), np.uint8) - np.uint8(48)  # what is below wraps
    ends = np.flatnonzero(codes < 0x20)
    if codes.size == 0:
        return codes.astype(np.int64), ends
    if codes.max() > 63 or ends.size == 0 or ends[-1] != codes.size - 1:
        raise ValueError("has compressed run lengths that are damaged")
    lengths = np.diff(ends, prepend=-1)
    starts, longest = ends - lengths + 1, int(lengths.max())
    if longest > 8:
        raise ValueError("has compressed run lengths that are damaged")
    runs = (codes[starts] & 0x1F).astype(np.int64)
    more = np.arange(0)
    for group in range(1, longest):  # most numbers have one
        more = np.flatnonzero(lengths > 1) if group == 1 else more[lengths[more] > group]
        runs[more] += (codes[starts[more] + group] & 0x1F).astype(np.int64) << 5 * group
    below = np.flatnonzero(codes[ends] & 0x10)
    runs[below] -= 1 << 5 * lengths[below]
    return runs, ends + 1


def _all_intervals(texts: Sequence[str]) -> tuple[NDArray[np.int64], ...]:
    """Start and stop of each run of ones of several masks, down the columns, and which mask's it is."""
    stops = np.cumsum(np.fromiter(map(len, texts), np.int64, len(texts)))
    runs, ends = _written("".join(texts))
    until = np.searchsorted(ends, stops, side="right")
    count = np.diff(until, prepend=0)
    if not np.array_equal(np.append(0, ends)[until], stops):
        raise ValueError("has compressed run lengths that are damaged")
    if not len(runs):
        return runs, runs, runs
    owner = np.repeat(np.arange(len(texts)), count)
    first = np.cumsum(count) - count
    # as in `decompress_runs`: the odd ones of each add up, and its even ones from the third on
    sums = np.empty_like(runs)
    for place in range(2):
        np.cumsum(runs[place::2], out=sums[place::2])
    some = np.flatnonzero(count)
    begins, each = first[some], count[some]
    odd = (np.arange(len(runs)) - np.repeat(begins, each)) & 1
    # what had been added up when the odd ones began, and the even ones behind the first
    before = np.stack([sums[begins], np.where(begins > 0, sums[begins - 1], 0)])
    values = sums - np.where(odd, np.repeat(before[1], each), np.repeat(before[0], each))
    values[begins] = runs[begins]
    total = np.cumsum(values)
    ones = np.flatnonzero(odd)
    start = np.repeat((total - values)[begins], each)
    until = (total - start)[ones]
    return until - values[ones], until, owner[ones]


def decode_rle(text: str, size: tuple[int, int]) -> NDArray[np.bool_]:
    """The mask (y, x) behind compressed counts. Raises ValueError where they are of another size."""
    runs = decompress_runs(text)
    if runs.sum() != size[0] * size[1]:
        raise ValueError(f"rle: is of {runs.sum()} pixels, not of {size[0]} x {size[1]}")
    return runs_mask(runs, *size)


def runs_mask(runs: Runs, height: int, width: int) -> NDArray[np.bool_]:
    """The mask (y, x)."""
    inside = np.arange(len(runs)) % 2 == 1
    return np.repeat(inside, runs).reshape(width, height).T


def runs_box(runs: Runs, height: int) -> tuple[int, int, int, int]:
    """x, y, width, height of the pixels inside; zeros where there are none."""
    edges = np.cumsum(runs)
    starts, stops = edges[0::2][: len(runs) // 2], edges[1::2]
    filled = stops > starts
    starts, stops = starts[filled], stops[filled] - 1
    if starts.size == 0:
        return 0, 0, 0, 0
    left, right = int(starts[0] // height), int(stops[-1] // height)
    top, bottom = int((starts % height).min()), int((stops % height).max())
    if (starts // height != stops // height).any():
        top, bottom = 0, height - 1
    return left, top, right - left + 1, bottom - top + 1


def _intervals(text: str) -> NDArray[np.int64]:
    """(n, 2) start and stop of the runs of ones, down the columns."""
    ends = np.cumsum(decompress_runs(text))
    return np.stack([ends[0:-1:2], ends[1::2]], axis=1) if len(ends) > 1 else np.zeros((0, 2), int)


def stretches(text: str, height: int) -> tuple[NDArray[np.int64], ...]:
    """Column, first row and last row + 1 of each run of ones; one that goes on below is several."""
    intervals = _intervals(text)
    starts, stops = intervals[intervals[:, 1] > intervals[:, 0]].T
    return _stretches(starts, stops, height)[:3]


def _stretches(
    starts: NDArray[np.int64], stops: NDArray[np.int64], height: int
) -> tuple[NDArray[np.int64], ...]:
    """Column, first row and last row + 1 of runs that are not empty, and how many each is."""
    first = starts // height
    count = (stops - 1) // height - first + 1
    column = np.repeat(first - np.cumsum(count) + count, count) + np.arange(count.sum())
    top = np.maximum(np.repeat(starts, count) - column * height, 0)
    bottom = np.minimum(np.repeat(stops, count) - column * height, height)
    return column, top, bottom, count


def decode_crop(text: str, height: int) -> tuple[NDArray[np.bool_], tuple[int, int]]:
    """The mask (y, x) within its box, and the box's first pixel; its frame is `height` tall.

    Takes memory for the box only, whatever the frame's size.
    """
    column, top, bottom = stretches(text, height)
    if not len(column):
        return np.zeros((0, 0), np.bool_), (0, 0)
    y, x = int(top.min()), int(column[0])
    steps = np.zeros((int(column[-1]) - x + 1, int(bottom.max()) - y + 1), np.int8)
    # two runs of a column never meet, so each place is written once
    steps[column - x, top - y] = 1
    steps[column - x, bottom - y] = -1
    mask: NDArray[np.bool_] = np.cumsum(steps, axis=1, dtype=np.int8)[:, :-1].T.astype(np.bool_)
    return mask, (y, x)


def centroids(texts: Sequence[str], height: int) -> NDArray[np.float64]:
    """(mask, 2) x, y: mean of the pixels' centres, in pixels from the frame's corner; NaN of an empty one.

    Several hundred at once cost little more than one. Raises ValueError for what are no run lengths.
    """
    found = np.full((len(texts), 2), np.nan)
    starts, stops, owner = _all_intervals(texts)
    some = stops > starts
    if not some.any():
        return found
    column, top, bottom, count = _stretches(starts[some], stops[some], height)
    owner = np.repeat(owner[some], count)
    pixels = bottom - top
    begins = np.flatnonzero(np.diff(owner, prepend=-1))
    sums = (
        np.add.reduceat(value, begins).tolist()
        for value in (column * pixels, (top + bottom) * pixels, pixels)
    )
    # Python divides integers of any size to the nearest number
    found[owner[begins]] = [(x / n + 0.5, y / (2 * n)) for x, y, n in zip(*sums, strict=True)]
    return found


def union_rles(texts: Sequence[str], groups: NDArray[np.int64], size: tuple[int, int]) -> list[str]:
    """Compressed counts of masks that share no pixel, those of one group as one; groups: 0 .. n of each.

    Several hundred at once cost little more than one.
    """
    starts, stops, owner = _all_intervals(texts)
    group = groups[owner]
    some = np.flatnonzero(stops > starts)
    some = some[np.lexsort((starts[some], group[some]))]
    starts, stops, group = starts[some], stops[some], group[some]
    apart = np.ones(len(starts) + 1, np.bool_)
    apart[1:-1] = (starts[1:] != stops[:-1]) | (group[1:] != group[:-1])
    starts, stops, group = starts[apart[:-1]], stops[apart[1:]], group[apart[:-1]]
    return _texts(starts, stops, group, int(groups.max(initial=-1)) + 1, size[0] * size[1])
