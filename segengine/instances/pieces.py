"""Connected pieces of a window, and which of them are one piece across window borders.

A window's pieces are numbered by OpenCV's component labelling, which depends only on the window, so
a later task finds the same numbers again. Only pieces at a border can join others:

        +--------+--------+
        | 1   2==|==1     |     piece 2 of the left and 1 of the right window touch: one piece
        |      3\\|        |     8-connected: also across a corner
        +--------+\\-------+
        |        | 4      |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segengine.types import Cell


@dataclass(frozen=True, slots=True)
class Pieces:
    """The pieces of a window and where they meet its border. Piece 0 is nothing."""

    strength: NDArray[np.uint8]
    """(piece,) greatest draft value."""
    top: NDArray[np.int32]
    """(x,) piece at each pixel of the first row."""
    bottom: NDArray[np.int32]
    left: NDArray[np.int32]
    """(y,) piece at each pixel of the first column."""
    right: NDArray[np.int32]


def find_pieces(draft: NDArray[np.uint8]) -> tuple[Pieces, NDArray[np.int32]]:
    """8-connected pieces of the non-zero pixels of a draft (y, x), and each pixel's piece."""
    import cv2

    count, found = cv2.connectedComponents((draft > 0).view(np.uint8), connectivity=8)
    ids = np.asarray(found, np.int32)
    strength = np.zeros(count, np.uint8)
    for value in np.unique(draft):  # few values, ascending: the last one written is the greatest
        strength[ids[draft == value]] = value
    strength[0] = 0
    pieces = Pieces(strength, ids[0].copy(), ids[-1].copy(), ids[:, 0].copy(), ids[:, -1].copy())
    return pieces, ids


def kept_pieces(windows: Mapping[Cell, Pieces], keep: int) -> dict[Cell, NDArray[np.int32]]:
    """For each window the border pieces that belong, across all windows, to one that reaches `keep`.

    `windows` maps (row, column) of the grid to the pieces of every window of one frame; a window
    that is missing (unreadable) joins nothing.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    if not windows:
        return {}
    places = sorted(windows)
    sizes = [len(windows[p].strength) for p in places]
    offset = dict(zip(places, np.concatenate([[0], np.cumsum(sizes)[:-1]]).tolist(), strict=True))
    total = int(sum(sizes))
    pairs = [np.zeros((0, 2), np.int64)]
    for (row, column), here in windows.items():
        base = offset[row, column]
        right = windows.get((row, column + 1))
        if right is not None:
            pairs.append(_touching(here.right, right.left, base, offset[row, column + 1]))
        below = windows.get((row + 1, column))
        if below is not None:
            pairs.append(_touching(here.bottom, below.top, base, offset[row + 1, column]))
        for side, mine, theirs in ((1, -1, 0), (-1, 0, -1)):
            corner = windows.get((row + 1, column + side))
            if corner is not None and here.bottom[mine] and corner.top[theirs]:
                other = offset[row + 1, column + side] + int(corner.top[theirs])
                pairs.append(np.array([[base + int(here.bottom[mine]), other]], np.int64))
    edges = np.unique(np.concatenate(pairs), axis=0)
    graph = coo_array((np.ones(len(edges), np.bool_), (edges[:, 0], edges[:, 1])), (total, total))
    count, group = connected_components(graph, directed=False)
    strength = np.concatenate([windows[p].strength for p in places])
    strong = np.zeros(count, np.bool_)
    strong[group[strength >= keep]] = True
    return {
        p: _chosen(windows[p], strong[group[offset[p] : offset[p] + n]])
        for p, n in zip(places, sizes, strict=True)
    }


def _touching(
    a: NDArray[np.int32], b: NDArray[np.int32], base_a: int, base_b: int
) -> NDArray[np.int64]:
    """Pairs of pieces that meet across a border, straight or diagonally."""
    n = min(len(a), len(b))
    found: list[Any] = []
    for shift in (-1, 0, 1):
        left = a[max(0, -shift) : n - max(0, shift)]
        right = b[max(0, shift) : n - max(0, -shift)]
        both = (left > 0) & (right > 0)
        found.append(np.stack([left[both] + base_a, right[both] + base_b], axis=1))
    return np.unique(np.concatenate(found).astype(np.int64), axis=0)


def _chosen(pieces: Pieces, strong: NDArray[np.bool_]) -> NDArray[np.int32]:
    border = np.unique(np.concatenate([pieces.top, pieces.bottom, pieces.left, pieces.right]))
    border = border[border > 0]
    chosen: NDArray[np.int32] = border[strong[border]].astype(np.int32)
    return chosen
