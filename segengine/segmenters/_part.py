"""A window of a frame, labelled as the whole frame would be, whatever grid the segmenter is on.

    frame    0 .......................................... size, padded to the stride as by the engine
    window          corner |---------------------| end
    called              |--lead--|===============|        what begins on the segmenter's own grid

Who turns frames, or asks several segmenters, cannot have all of their grids in one halo and stride: it
reads some pixels more (`halo`), and what does not begin or end on the grid is left away here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from segengine import asked
from segengine.types import Pixels, Prediction, Segmenter

Cell = tuple[int, int]
Floats = NDArray[np.float32]


def halo(segmenter: Segmenter) -> int | None:
    """Context that holds the segmenter's own, and its grid wherever that begins; None: whole frames."""
    if segmenter.halo is None:
        return None
    stride = segmenter.stride
    return max(segmenter.halo + stride - 1, 2 * stride - 2)


def within(pixels: Pixels, corner: Cell, size: Cell) -> Pixels:
    """Pixels (n, y, x, band) without what was padded beyond a frame of (height, width)."""
    return pixels[:, : size[0] - corner[0], : size[1] - corner[1]]


def predicted(
    segmenter: Segmenter, pixels: Pixels, corner: Cell, size: Cell
) -> tuple[Prediction, tuple[slice, slice]]:
    """What it predicts of a window's pixels (n, y, x, band) that lie on its grid, and where these are.

    corner: first pixel of the window in the frame; size: (height, width) of the frame, which the
    window must not leave.
    """
    kept, pads = [], []
    for start, length, whole in zip(corner, pixels.shape[1:3], size, strict=True):
        stride, end = segmenter.stride, start + length
        ends = end == whole
        kept.append(slice(-start % stride, length if ends else length - end % stride))
        pads.append((0, -whole % stride if ends else 0))
    window = pixels[:, kept[0], kept[1]]
    height, width = window.shape[1:3]
    if any(map(any, pads)):
        window = np.pad(window, ((0, 0), *pads, (0, 0)), mode="reflect")
    there = corner[0] + kept[0].start, corner[1] + kept[1].start
    own = asked.placed(segmenter, there, size)
    found = asked.as_prediction(own.segment(window), segmenter, window.shape[:3])
    return found.crop((slice(None), slice(0, height), slice(0, width))), (kept[0], kept[1])


def shares(found: Prediction, classes: int) -> Floats:
    """(n, y, x, class) its probabilities; where it has none, 1 for each label."""
    if found.probabilities is not None:
        return found.probabilities
    return np.eye(classes, dtype=np.float32)[found.labels.astype(np.intp)]


class Mean:
    """The mean of maps of values from 0 to 1, whatever the order they come in.

    Each is rounded to a multiple of 2^-b, the more maps the coarser (of 8: b = 28), and added up in
    32 bits.
    """

    def __init__(self, shape: tuple[int, ...], count: int) -> None:
        self.count, self.bits = count, 32 - count.bit_length()
        self.total: NDArray[Any] = np.zeros(shape, np.uint32)

    def add(self, values: Floats, total: NDArray[Any]) -> None:
        """Add a map (n, y, x, class) to a part of `total`, which may be a turned view of it."""
        for mine, out in zip(values, total, strict=True):
            scaled = np.clip(mine, 0, 1).astype(np.float64) * (1 << self.bits)
            out += np.rint(scaled, out=scaled).astype(np.uint32)

    def get(self) -> Floats:
        """The mean, as float32."""
        found = np.empty(self.total.shape, np.float32)
        for mine, out in zip(self.total, found, strict=True):
            out[...] = mine / np.float64(self.count << self.bits)
        return found
