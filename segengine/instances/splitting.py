"""Objects that touch, taken apart: seeds where they are widest, and what belongs to each.

Each component is split as if it were alone: its distance map is that to the nearest pixel that is not
its own (squares of it are integers, so nothing is rounded), and what lies beyond the frame is no
background, as in scikit-image. So the result depends on the component's pixels only, never on the
window that shows them.

    watershed   seeds: greatest distance within `min_distance` (a square), the higher first, then raster
                order, none nearer than that to another (`skimage.feature.peak_local_max`);
                basins: the distance map flooded from its heights (`skimage.segmentation.watershed`)
    distance    the same seeds; each pixel is of the nearest, of the first in raster order among equals
    hmaxima     seeds: maxima that rise by more than `height` above the way to a higher one
                (Soille, 2003, "Morphological Image Analysis", 6.3.4); basins as of watershed

Distance in linear time: Meijster, Roerdink and Hesselink (2000), "A general algorithm for computing
distance transforms in linear time", row by row inside a component's runs. Flooding by queues, one a
distance: Beucher and Meyer (1993), "The morphological approach to segmentation".
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from segengine.compiled import compiled

LARGEST = 1 << 24
"""Pixels of a component's bounding box above which it stays whole: what a worker has memory for."""
FARTHEST = 1 << 22
"""Greatest squared distance: half the side of a square of `LARGEST`, squared."""
CELL = 16
"""Side of a square of which the greatest distance is known."""
Array = NDArray[Any]


class Split(NamedTuple):
    """Components taken apart."""

    ids: NDArray[np.int32]
    """(y, x) objects 1 .. n, in order of the components and then of the seeds; 0: none."""
    owner: NDArray[np.int32]
    """(n + 1,) the component that each was a part of; 0 of 0."""


def split(
    ids: NDArray[np.int32],
    count: int,
    how: str,
    *,
    min_distance: int,
    height: float,
    connectivity: int,
    whole: NDArray[np.bool_] | None = None,
) -> Split:
    """Take the components 1 .. `count` of a map (y, x) apart.

    `how`: watershed, distance or hmaxima. `whole` (count + 1,): those that stay as they are. A
    component must lie in the map with all its surroundings: what the map ends at is the frame's border.
    """
    far = np.empty(ids.shape, np.int32)
    distances(ids, far)
    whole = np.zeros(count + 1, np.bool_) if whole is None else whole
    flat, heights = ids.reshape(-1), far.reshape(-1)
    if how == "hmaxima":
        seeds = _by_height(ids, far, height, connectivity)
    else:
        seeds = _peaks(ids, far, count, min_distance)
    seeds = seeds[~whole[flat[seeds]]]
    kept = np.flatnonzero(whole)
    if len(kept):  # any pixel stands for it
        first = np.full(count + 1, -1, np.int64)
        first[flat[::-1]] = np.arange(flat.size - 1, -1, -1)
        seeds = np.concatenate([seeds, first[kept[first[kept] >= 0]]])
    seeds = seeds[np.lexsort((seeds, flat[seeds]))]
    owner = np.concatenate([[0], flat[seeds]]).astype(np.int32)
    starts = np.searchsorted(owner[1:], np.arange(count + 2)).astype(np.int64)
    out = np.zeros(ids.shape, np.int32)
    if how == "distance":
        _nearest(ids, seeds, starts, out)
    else:
        top = int(heights[seeds].max(initial=0))
        _flood(flat, heights, seeds, starts, ids.shape[1], connectivity, top, out.reshape(-1))
    return Split(out, owner)


@compiled
def distances(ids: Array, out: Array) -> None:
    """Fill out (y, x) int32 with squared distances to the nearest pixel of another id; 0 where id is 0.

    A map of one id throughout has 1 everywhere.
    """
    rows, cols = ids.shape
    none = 1 << 30
    for y in range(rows):  # along columns, from above
        for x in range(cols):
            if ids[y, x] == 0:
                out[y, x] = 0
            elif y == 0:
                out[y, x] = none
            elif ids[y - 1, x] == ids[y, x]:
                out[y, x] = min(none, out[y - 1, x] + 1)
            else:
                out[y, x] = 1
    for y in range(rows - 2, -1, -1):  # and from below
        for x in range(cols):
            if ids[y, x] != 0:
                below = out[y + 1, x] + 1 if ids[y + 1, x] == ids[y, x] else 1
                if below < out[y, x]:
                    out[y, x] = below
    place = np.empty(cols + 2, np.int64)  # parabolas of the lower envelope: where, how high,
    base = np.empty(cols + 2, np.int64)
    since = np.empty(cols + 2, np.int64)  # and from where on each is lowest
    for y in range(rows):
        start = 0
        while start < cols:
            end = start + 1
            number = ids[y, start]
            while end < cols and ids[y, end] == number:
                end += 1
            if number != 0:
                held = 0
                for u in range(start - 1, end + 1):
                    if u < 0 or u >= cols:
                        continue  # beyond the frame is no background
                    own = 0
                    if start <= u < end:
                        if out[y, u] == none:
                            continue
                        own = out[y, u] * np.int64(out[y, u])
                    first = np.int64(start)
                    while held > 0:
                        i = place[held - 1]
                        # the first column at which u is as near as i, and strictly nearer after it
                        first = (u * u - i * i + own - base[held - 1]) // (2 * (u - i)) + 1
                        if first <= since[held - 1]:
                            held -= 1
                        else:
                            break
                    if held == 0:
                        first = np.int64(start)
                    if first < end:
                        place[held], base[held], since[held] = u, own, first
                        held += 1
                at = held - 1
                for x in range(end - 1, start - 1, -1):
                    while at > 0 and since[at] > x:
                        at -= 1
                    found = np.int64(1)
                    if held > 0:
                        found = (x - place[at]) * (x - place[at]) + base[at]
                    out[y, x] = min(found, 4194304)  # FARTHEST
            start = end


def _peaks(
    ids: NDArray[np.int32], far: NDArray[np.int32], count: int, near: int
) -> NDArray[np.int64]:
    """Seeds as raster indices: at least one a component."""
    rows, cols = ids.shape
    tops = np.zeros((-(-rows // CELL), -(-cols // CELL)), np.int32)
    _cell_tops(far, tops)
    found = np.empty(ids.size // 4 + 4, np.int64)
    number = _candidates(ids, far, tops, near, found)
    if number > len(found):  # of plateaus everywhere
        found = np.empty(number, np.int64)
        number = _candidates(ids, far, tops, near, found)
    found = found[:number]
    flat, heights = ids.reshape(-1), far.reshape(-1)
    # the higher first, then raster order: what stands first keeps others away
    found = found[np.lexsort((found, -heights[found], flat[found]))]
    if near <= 1:
        return found
    shape = (rows // near + 1, cols // near + 1)
    of, seed = np.zeros(shape, np.int32), np.zeros(shape, np.int64)
    kept = np.zeros(len(found), np.bool_)
    _spaced(found, flat, cols, near, of, seed, kept)
    return found[kept]


@compiled
def _cell_tops(far: Array, tops: Array) -> None:
    """Fill tops with the greatest distance in each cell of 16 x 16 pixels."""
    for y in range(far.shape[0]):
        for x in range(far.shape[1]):
            if far[y, x] > tops[y // 16, x // 16]:
                tops[y // 16, x // 16] = far[y, x]


@compiled
def _candidates(ids: Array, far: Array, tops: Array, near: int, found: Array) -> int:
    """Fill found with pixels none of whose component is higher in the square around; how many."""
    rows, cols = ids.shape
    number = 0
    for y in range(rows):
        for x in range(cols):
            own, level = ids[y, x], far[y, x]
            if own == 0:
                continue
            # most are lower than a neighbour: seen without looking at all of the square
            top, bottom = max(0, y - 1), min(rows, y + 2)
            left, right = max(0, x - 1), min(cols, x + 2)
            highest = True
            for v in range(top, bottom):
                for u in range(left, right):
                    if far[v, u] > level and ids[v, u] == own:
                        highest = False
            if highest and near > 1:
                top, bottom = max(0, y - near), min(rows, y + near + 1)
                left, right = max(0, x - near), min(cols, x + near + 1)
                for i in range(top // 16, (bottom - 1) // 16 + 1):
                    for j in range(left // 16, (right - 1) // 16 + 1):
                        if not highest or tops[i, j] <= level:
                            continue
                        for v in range(max(top, 16 * i), min(bottom, 16 * i + 16)):
                            for u in range(max(left, 16 * j), min(right, 16 * j + 16)):
                                if far[v, u] > level and ids[v, u] == own:
                                    highest = False
            if highest:
                if number < len(found):
                    found[number] = y * cols + x
                number += 1
    return number


@compiled
def _spaced(
    found: Array, flat: Array, cols: int, near: int, of: Array, seed: Array, kept: Array
) -> None:
    """Mark those with no earlier one of their component nearer than `near`, in either direction.

    Squares with that side hold one of a component at most: of, seed (y, x): of which, and where.
    """
    rows = of.shape[0]
    for k in range(len(found)):
        place = found[k]
        own, y, x = flat[place], place // cols, place % cols
        row, col = y // near, x // near
        free = True
        for i in range(max(0, row - 1), min(rows, row + 2)):
            for j in range(max(0, col - 1), min(of.shape[1], col + 2)):
                if of[i, j] == own:
                    down = abs(seed[i, j] // cols - y)
                    along = abs(seed[i, j] % cols - x)
                    if down < near and along < near:
                        free = False
        if free:
            of[row, col], seed[row, col], kept[k] = own, place, True


def _by_height(
    ids: NDArray[np.int32], far: NDArray[np.int32], height: float, connectivity: int
) -> NDArray[np.int64]:
    """Maxima that stand out by more than `height` pixels, and the highest of each component."""
    flat, heights = ids.reshape(-1), far.reshape(-1)
    inside = np.flatnonzero(flat)
    order = inside[np.argsort(-heights[inside], kind="stable")]
    parent = np.full(flat.size, -1, np.int64)
    seed = np.zeros(flat.size, np.bool_)
    _persist(flat, heights, order, ids.shape[1], connectivity, height, parent, seed)
    return np.flatnonzero(seed)


@compiled
def _persist(
    flat: Array,
    heights: Array,
    order: Array,
    cols: int,
    connectivity: int,
    height: float,
    parent: Array,
    seed: Array,
) -> None:
    """Mark seeds. Pixels rise from the water one after the other, the highest first; where two islands
    meet, the one with the lower peak ends, and was one of its own if it had risen enough."""
    steps = 4 if connectivity == 1 else 8
    for k in range(len(order)):
        p = order[k]
        parent[p] = p
        y, x = p // cols, p % cols
        for step in range(steps):
            v, u = _step(y, x, step)
            if v < 0 or u < 0 or u >= cols or v * cols + u >= len(flat):
                continue
            q = v * cols + u
            if flat[q] != flat[p] or parent[q] < 0:
                continue
            a, b = p, q
            while parent[a] != a:
                parent[a] = parent[parent[a]]
                a = parent[a]
            while parent[b] != b:
                parent[b] = parent[parent[b]]
                b = parent[b]
            if a == b:
                continue
            # an island is called by its peak
            if heights[a] > heights[b] or (heights[a] == heights[b] and a < b):
                a, b = b, a
            parent[a] = b
            seed[a] = np.sqrt(np.float64(heights[a])) - height > np.sqrt(np.float64(heights[p]))
    for k in range(len(order)):
        if parent[order[k]] == order[k]:
            seed[order[k]] = True


@compiled
def _step(y: int, x: int, step: int) -> tuple[int, int]:
    """The neighbours in scikit-image's order: up, left, right, down, then the corners."""
    if step == 0:
        return y - 1, x
    if step == 1:
        return y, x - 1
    if step == 2:
        return y, x + 1
    if step == 3:
        return y + 1, x
    if step == 4:
        return y - 1, x - 1
    if step == 5:
        return y - 1, x + 1
    if step == 6:
        return y + 1, x - 1
    return y + 1, x + 1


@compiled
def _flood(
    flat: Array,
    heights: Array,
    seeds: Array,
    starts: Array,
    cols: int,
    connectivity: int,
    top: int,
    out: Array,
) -> None:
    """Fill out (pixel,) with the number of the seed whose basin each is in.

    Highest first, and of one height first come, first served; seeds stand first, in raster order.
    `starts[i]`: the first seed of component i; `top`: the greatest height of a seed.
    """
    steps = 4 if connectivity == 1 else 8
    single = np.zeros(len(starts), np.int32)
    several = False
    for number in range(1, len(starts) - 1):
        if starts[number + 1] - starts[number] == 1:
            single[number] = starts[number] + 1
        elif starts[number + 1] > starts[number]:
            several = True
    for p in range(len(flat)):
        out[p] = single[flat[p]]
    if not several:
        return
    # a queue a height, linked through its pixels
    head = np.full(top + 1, -1, np.int32)
    tail = np.full(top + 1, -1, np.int32)
    after = np.empty(len(flat), np.int32)
    for number in range(1, len(starts) - 1):
        if starts[number + 1] - starts[number] < 2:
            continue
        waiting, level = 0, 0
        for k in range(starts[number], starts[number + 1]):
            p = seeds[k]
            out[p] = k + 1
            here = heights[p]
            after[p] = -1
            if head[here] < 0:
                head[here] = p
            else:
                after[tail[here]] = p
            tail[here] = p
            waiting += 1
            level = max(level, here)
        while waiting > 0:
            if head[level] < 0:
                level -= 1
                continue
            p = head[level]
            head[level] = after[p]
            waiting -= 1
            y, x = p // cols, p % cols
            for step in range(steps):
                v, u = _step(y, x, step)
                if v < 0 or u < 0 or u >= cols or v * cols + u >= len(flat):
                    continue
                q = v * cols + u
                if flat[q] != number or out[q] != 0:
                    continue
                out[q] = out[p]
                here = min(heights[q], level)  # water that came down stays down
                after[q] = -1
                if head[here] < 0:
                    head[here] = q
                else:
                    after[tail[here]] = q
                tail[here] = q
                waiting += 1


@compiled
def _nearest(ids: Array, seeds: Array, starts: Array, out: Array) -> None:
    """Fill out (y, x) with the number of the nearest seed of each pixel's component.

    Seeds are in raster order: from the pixel's own row on upwards and downwards, while one can be nearer.
    """
    rows, cols = ids.shape
    for y in range(rows):
        for x in range(cols):
            number = ids[y, x]
            if number == 0:
                continue
            first, last = starts[number], starts[number + 1]
            low, high = first, last
            while low < high:  # the first seed that is not above this row
                middle = (low + high) // 2
                if seeds[middle] // cols < y:
                    low = middle + 1
                else:
                    high = middle
            best, chosen = 1 << 62, 0
            for k in range(low, last):
                down = seeds[k] // cols - y
                if down * down > best:
                    break
                along = seeds[k] % cols - x
                if down * down + along * along < best:
                    best, chosen = down * down + along * along, k
            for k in range(low - 1, first - 1, -1):
                down = seeds[k] // cols - y
                if down * down > best:
                    break
                along = seeds[k] % cols - x
                if down * down + along * along <= best:  # the earlier of equals
                    best, chosen = down * down + along * along, k
            out[y, x] = chosen + 1
