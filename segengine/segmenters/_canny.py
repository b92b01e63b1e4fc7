"""Canny's edges: thin ridges of the gradient, kept where a connected piece is strong somewhere.

Canny (1986), doi:10.1109/TPAMI.1986.4767851: non-maximum suppression along the gradient, two
thresholds, hysteresis. The direction is one of four sectors, bounded at 22.5 and 67.5 degrees, and
ties fall as in OpenCV, so that equal gradients give OpenCV's edges:

    gradient across a row       m > left   and m >= right
    gradient across a column    m > upper  and m >= lower
    gradient along a diagonal   m > both neighbours on it
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from segengine.segmenters import _kernels

_TAN = 2**0.5 - 1
"""Tangent of 22.5 degrees; its inverse is that of 67.5 degrees."""


def draft(gy: NDArray[Any], gx: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    """Thin edges of a gradient (y, x): 0 none, 1 weak (m > low), 2 strong (m > high).

    m is the squared magnitude, `low` and `high` are bounds of it. Outside of the image m is 0. Each
    pixel depends on its 3 x 3 neighbours.
    """
    power = np.pad(gy * gy + gx * gx, 1)
    out = np.zeros(gy.shape, np.uint8)
    for rows in _kernels.strips(gy.shape[0], gy.shape[1], 1):
        around = power[rows.start : rows.stop + 2]
        out[rows] = _thin(around, gy[rows], gx[rows], low, high)
    return out


def _thin(
    power: NDArray[Any], gy: NDArray[Any], gx: NDArray[Any], low: float, high: float
) -> NDArray[np.uint8]:
    """`draft` of a strip (y, x), its power with one pixel around it (y + 2, x + 2)."""
    out = np.zeros(gy.shape, np.uint8)
    across = power.shape[1]
    weak = power[1:-1, 1:-1] > low
    here = np.flatnonzero(weak)  # few of the pixels of most pictures
    place = here + (here // gy.shape[1] * 2 + across + 1)
    flat = power.reshape(-1)
    m, dy, dx = flat.take(place), gy[weak], gx[weak]
    steep_y, steep_x = np.abs(dy), np.abs(dx)
    # From a pixel to its neighbour along the gradient, rightwards or downwards.
    step = np.where((dy < 0) == (dx < 0), across + 1, across - 1)
    diagonal = np.ones(len(m), np.bool_)
    for side, to in (
        (steep_y * _TAN > steep_x, across),
        (steep_y < _TAN * steep_x, 1),
    ):
        step[side] = to
        diagonal[side] = False
    before, after = flat.take(place - step), flat.take(place + step)
    ridge = (m > before) & np.where(diagonal, m > after, m >= after)
    out.reshape(-1)[here[ridge]] = 1 + (m[ridge] > high)
    return out


def keep(drafted: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Hysteresis: 1 on each 8-connected piece of a draft (y, x) that holds a 2, else 0."""
    import cv2

    count, pieces = cv2.connectedComponents(np.minimum(drafted, 1), connectivity=8)
    strong = np.zeros(count, np.uint8)
    strong[pieces[drafted == 2]] = 1
    strong[0] = 0
    return np.asarray(strong[pieces])
