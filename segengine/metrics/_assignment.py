"""Pairs of rows and columns with the greatest total, each at most once (Kuhn 1955).

By shortest augmenting paths (Jonker and Volgenant 1987; Crouse 2016), in integers: exact. SciPy has
the same, but its import takes longer than most tables need.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_FAR = np.iinfo(np.int64).max


def best_pairs(gains: NDArray[np.int64]) -> dict[int, int]:
    """Column of each row of `gains` (rows, columns), non-negative; as many pairs as the lesser side.

    >>> best_pairs(np.array([[5, 4], [5, 1], [0, 0]]))
    {0: 1, 1: 0}
    """
    if gains.shape[0] > gains.shape[1]:
        return {row: column for column, row in sorted(best_pairs(gains.T).items(), key=_second)}
    costs = gains.max(initial=0) - gains.astype(np.int64)
    rows, columns = costs.shape
    row_price, column_price = np.zeros(rows, np.int64), np.zeros(columns, np.int64)
    column_of, row_of = np.full(rows, -1), np.full(columns, -1)
    for start in range(rows):
        distance, before = np.full(columns, _FAR), np.full(columns, -1)
        reached = np.zeros(columns, np.bool_)
        seen: list[int] = []
        row, least, end = start, 0, -1
        while end < 0:
            seen.append(row)
            length = least + costs[row] - row_price[row] - column_price
            nearer = ~reached & (length < distance)
            distance[nearer], before[nearer] = length[nearer], row
            nearest = int(np.where(reached, _FAR, distance).argmin())
            least = int(distance[nearest])
            reached[nearest] = True
            row = int(row_of[nearest])
            end = nearest if row < 0 else -1
        row_price[start] += least
        others = seen[1:]
        row_price[others] += least - distance[column_of[others]]
        column_price[reached] -= least - distance[reached]
        while True:  # every row on the way takes the column that led to it
            row = int(before[end])
            row_of[end] = row
            column_of[row], end = end, int(column_of[row])
            if row == start:
                break
    return dict(enumerate(column_of.tolist()))


def _second(pair: tuple[int, int]) -> int:
    return pair[1]
