"""Patches of large scenes, drawn so that each class is seen equally often.

Each frame is tiled with cells of the patch's size; one pass over the truth counts the classes of
each cell. To draw: a class at random, a pixel of it at random, its cell, and a patch somewhere
around that cell. In closed form a cell's chance is the mean over classes of its share of the class.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Count = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Cells:
    """The cells of all frames that have truth, with the pixels of each class."""

    size: tuple[int, int]
    """Height and width of a cell and a patch."""
    frames: NDArray[np.int32]
    """(cell,) index of its frame"""
    tops: NDArray[np.int32]
    lefts: NDArray[np.int32]
    """(cell,) first row and column; at the frame's far borders moved inwards"""
    counts: Count
    """(cell, class) pixels"""

    def __len__(self) -> int:
        return len(self.frames)

    def chances(self, balance: bool) -> NDArray[np.float64]:
        """(cell,) chance of each cell to be drawn, 1 in all; in proportion to its truth, or balanced."""
        totals = self.counts.sum(axis=0)
        shares = self.counts[:, totals > 0] / totals[totals > 0]
        weights = shares.sum(axis=1) if balance else self.counts.sum(axis=1).astype(np.float64)
        return np.asarray(weights / weights.sum(), np.float64)

    def draw(
        self,
        count: int,
        shapes: Sequence[tuple[int, int]],
        balance: bool,
        rng: np.random.Generator,
    ) -> list[tuple[int, int, int]]:
        """`count` patches (frame, top, left), up to half a patch away from a cell drawn.

        `shapes`: (height, width) of each frame.
        """
        chosen = rng.choice(len(self), count, p=self.chances(balance))
        moves = rng.uniform(-0.5, 0.5, (count, 2))
        return [
            (
                int(self.frames[cell]),
                _moved(self.tops[cell], dy, self.size[0], shapes[self.frames[cell]][0]),
                _moved(self.lefts[cell], dx, self.size[1], shapes[self.frames[cell]][1]),
            )
            for cell, (dy, dx) in zip(chosen, moves, strict=True)
        ]

    def all(self) -> list[tuple[int, int, int]]:
        """Every cell as a patch (frame, top, left)."""
        return list(zip(self.frames.tolist(), self.tops.tolist(), self.lefts.tolist(), strict=True))


def _moved(start: int, share: float, side: int, length: int) -> int:
    return int(np.clip(round(start + share * side), 0, max(0, length - side)))


def starts(length: int, side: int) -> list[int]:
    """Where cells begin along an axis; the last is moved inwards.

    >>> starts(10, 4)
    [0, 4, 6]
    """
    return [min(at, max(0, length - side)) for at in range(0, length, side)]


def survey(
    shapes: Sequence[tuple[int, int]],
    size: tuple[int, int],
    classes: int,
    read: Callable[[int, slice, slice], NDArray[Any] | None],
) -> Cells:
    """Count the classes of every cell; cells without a pixel of truth are left out.

    `read(frame, rows, cols)` gives labels (y, x), or None where there are none; labels from
    `classes` on are void. One row of cells is held at a time.
    """
    rows_found: list[tuple[int, int, int]] = []
    counts: list[Count] = []
    for frame, (height, width) in enumerate(shapes):
        for top in starts(height, size[0]):
            band = read(frame, slice(top, min(top + size[0], height)), slice(0, width))
            if band is None:
                continue
            for left in starts(width, size[1]):
                found = count_classes(band[:, left : left + size[1]], classes)
                if found.any():
                    rows_found.append((frame, top, left))
                    counts.append(found)
    where = np.array(rows_found, np.int32).reshape(-1, 3)
    table = np.array(counts, np.int64).reshape(-1, classes)
    return Cells(size, where[:, 0], where[:, 1], where[:, 2], table)


def count_classes(labels: NDArray[Any], classes: int) -> Count:
    """(class,) pixels of each class; void is not counted."""
    scored = labels[labels < classes]
    return np.bincount(scored.ravel(), minlength=classes).astype(np.int64)
