"""Cellpose: at each pixel where its object's middle lies, and whether there is an object.

    (1, 3, y, x)   flow along y, flow along x (five times a unit vector), logit of being inside

Each pixel follows the flow for 200 steps; where many end, an object begins, and takes what ends around it.
Objects whose flows differ from those that their shape would have are none. Source: Stringer et al. 2021,
and version 4 of the package's dynamics.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from segengine.compiled import compiled
from segengine.engines import Engine
from segengine.networks.scale import Scale
from segengine.segmenters._cellflows import LENGTH, consistent
from segengine.segmenters._found import Found
from segengine.segmenters._network import cast
from segengine.segmenters._percentiles import scaled
from segengine.segmenters._stardist import padded
from segengine.types import Pixels

Floats = NDArray[np.float32]
Ids = NDArray[np.int32]
MIN_SCORE = 0.5
FLOW_THRESHOLD = 0.4
"""Mean squared difference of flows above which there is no object; 0: all stay."""
PERCENTILES = (1.0, 99.0)
"""Of each band of a frame: the values that become 0 and 1, where the job does not say."""
MULTIPLE = 16
"""Sides that a network of any size takes are multiples of it, in pixels."""
STEPS = 200
_PAD, _REACH = 20, 5
"""Pixels around the histogram of ends; steps that an object grows in it."""
_SEED, _GROWN = 10, 2
"""Ends in a pixel above which an object begins, and above which it grows there."""
_LARGEST, _SMALLEST = 0.4, 15
"""Share of the window above which, and pixels below which, there is no object."""


@dataclass(frozen=True, slots=True, eq=False)
class Cellpose:
    """The head of one such network."""

    engine: Engine
    name: str
    """Of the output that counts."""
    scale: Scale | None
    """None: by the percentiles of what is fed."""
    min_score: float = MIN_SCORE
    flow_threshold: float = FLOW_THRESHOLD

    version: ClassVar[int] = 2

    @property
    def provenance(self) -> str:
        """The engine's version and instruction set."""
        return self.engine.provenance

    def find(self, window: Pixels) -> list[Found]:
        """The objects of a window (y, x, band); their score is how likely their pixels are inside."""
        image = scaled(window, self.scale, PERCENTILES, each=True)
        fed = padded(image, self.engine, "nchw", MULTIPLE, "symmetric")
        values = self.engine.run(cast(fed, self.engine.dtype))[self.name][0]
        values = np.nan_to_num(values[:, : window.shape[0], : window.shape[1]])
        probability = 1 / (1 + np.exp(-values[2].astype(np.float64)))
        ids = masks(values[:2], probability > self.min_score)
        if self.flow_threshold > 0:
            ids = consistent(ids, values[:2], self.flow_threshold)
        found = objects(ids, probability)
        return sorted(found, key=lambda one: -one.score)


def masks(flows: Floats, inside: NDArray[np.bool_]) -> Ids:
    """(y, x) ids of the pixels inside, whose flows (2, y, x) along y and x end together; 0 = none."""
    ids = np.zeros(inside.shape, np.int32)
    at = np.stack(np.nonzero(inside), axis=1).astype(np.float32)
    if not len(at):
        return ids
    field = np.where(inside, flows / np.float32(LENGTH), np.float32(0))
    sides = [np.float32(2 / max(n - 1, 1)) for n in inside.shape]
    _follow(at, np.stack([part * side for part, side in zip(field, sides, strict=True)]), STEPS)
    ends = at.astype(np.int64) + _PAD
    grown = _grown(ends, tuple(n + 2 * _PAD for n in inside.shape))
    ids[inside] = grown[ends[:, 0], ends[:, 1]]
    counts = np.bincount(ids.reshape(-1))
    large = np.flatnonzero(counts > _LARGEST * ids.size)
    ids[np.isin(ids, large[large > 0])] = 0
    return ids


@compiled
def _follow(at: Floats, flows: Floats, steps: int) -> None:
    """Move points (n, 2) along flows (2, y, x), sampled between pixels, inside the window.

    Flows are shares of half the window, whose middle is 0 and whose outermost pixels are -1 and 1, and
    each step is reckoned in 32 bits and in the order of PyTorch's `grid_sample`: sums of 200 steps lie
    in the package's pixels. It samples as if the outermost pixels' outer edges were their middles.
    """
    height, width = flows.shape[1], flows.shape[2]
    one, half, two = np.float32(1), np.float32(0.5), np.float32(2)
    down, across = np.float32(height) / two, np.float32(width) / two
    bottom, right = np.float32(max(height - 1, 1)), np.float32(max(width - 1, 1))
    for i in range(at.shape[0]):
        y, x = at[i, 0] / bottom * two - one, at[i, 1] / right * two - one
        for _ in range(steps):
            py, px = (y + one) * down - half, (x + one) * across - half
            row, col = int(np.floor(py)), int(np.floor(px))
            fy, fx = py - np.float32(row), px - np.float32(col)
            dy, dx = np.float32(0), np.float32(0)
            for a in range(2):
                for b in range(2):
                    r, c = row + a, col + b
                    if 0 <= r < height and 0 <= c < width:
                        wy = fy if a else one - fy
                        wx = fx if b else one - fx
                        dy += flows[0, r, c] * (wx * wy)
                        dx += flows[1, r, c] * (wx * wy)
            y = min(max(y + dy, -one), one)
            x = min(max(x + dx, -one), one)
        at[i, 0], at[i, 1] = (y + one) * half * bottom, (x + one) * half * right


def _grown(ends: NDArray[np.int64], shape: tuple[int, ...]) -> Ids:
    """(y, x) ids around the peaks of the histogram of ends; the higher peak's where they meet."""
    from scipy.ndimage import maximum_filter

    counts = np.bincount(ends[:, 0] * shape[1] + ends[:, 1], minlength=shape[0] * shape[1])
    counts = counts.reshape(shape)
    peaks = (counts == maximum_filter(counts, 5)) & (counts > _SEED)
    seeds = np.stack(np.nonzero(peaks), axis=1)
    seeds = seeds[np.argsort(counts[peaks], kind="stable")]
    ids = np.zeros(shape, np.int32)
    for number, (y, x) in enumerate(seeds.tolist(), 1):
        around = np.s_[y - _REACH : y + _REACH + 1, x - _REACH : x + _REACH + 1]
        allowed = counts[around] > _GROWN
        part = np.zeros(allowed.shape, np.uint8)
        part[_REACH, _REACH] = 1
        for _ in range(_REACH):
            part = maximum_filter(part, 3, mode="constant") * allowed
        ids[around][part > 0] = number
    return ids


def objects(ids: Ids, probability: NDArray[np.float64]) -> list[Found]:
    """The objects of a map, their holes filled; those of fewer pixels than 15 are none.

    They are filled in the order of their first pixels, and what lies in a hole goes to the object
    around it, as in the package.
    """
    from scipy.ndimage import binary_fill_holes, find_objects

    filled = _in_order(ids)
    for number, place in enumerate(find_objects(filled), 1):
        filled[place][binary_fill_holes(filled[place] == number)] = number
    found = []
    for number, place in enumerate(find_objects(filled), 1):
        if place is None:
            continue
        mask = np.asarray(filled[place] == number, np.bool_)
        if np.count_nonzero(mask) < _SMALLEST:
            continue
        y, x = place[0].start, place[1].start
        box = (float(x), float(y), float(mask.shape[1]), float(mask.shape[0]))
        score = float(probability[place][mask].mean())
        found.append(Found(1, score, box, (y, x), mask))
    return found


def _in_order(ids: Ids) -> Ids:
    """Numbers from 1 on in the order of first pixels, of objects that are large enough."""
    known, first, counts = np.unique(ids, return_index=True, return_counts=True)
    good = (known > 0) & (counts >= _SMALLEST)
    known = known[good][np.argsort(first[good])]
    numbers = np.zeros(int(ids.max(initial=0)) + 1, np.int32)
    numbers[known] = np.arange(1, len(known) + 1)
    found: Ids = numbers[ids]
    return found
