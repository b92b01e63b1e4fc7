"""Canny's edges: thin ridges of the gradient, kept where a connected piece is strong somewhere.

Canny (1986), doi:10.1109/TPAMI.1986.4767851: non-maximum suppression along the gradient, two
thresholds, hysteresis. The direction is one of four sectors, bounded at 22.5 and 67.5 degrees, and
ties fall as in OpenCV, so that equal gradients give OpenCV's edges:

    gradient across a row       m > left   and m >= right
    gradient across a column    m > upper  and m >= lower
    gradient along a diagonal   m > both neighbours on it
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from segengine.segmenters import _gray, _kernels, _nearly, _rows
from segengine.segmenters._gradient import Gradient, slack
from segengine.types import Pixels

_TAN = 2**0.5 - 1
"""Tangent of 22.5 degrees; its inverse is that of 67.5 degrees."""
_STRIP = 1 << 18
"""Pixels drafted at a time, so that the intermediates stay in the cache."""


class _Strip(NamedTuple):
    """Gray of some rows of an image, with as much around them as `draft` needs."""

    gray: NDArray[Any]
    first: bool
    """The image begins with it."""
    last: bool
    """The image ends with it."""


class _Bounds(NamedTuple):
    """Squared magnitudes above which a ridge is weak, and strong."""

    low: float
    high: float


class _Field(NamedTuple):
    """Squared magnitude and its parts (y, x), with what is compared with it around."""

    power: NDArray[Any]
    gy: NDArray[Any]
    gx: NDArray[Any]

    def above(self, low: float) -> NDArray[np.intp]:
        """Flattened places, without the first and last row, whose power is above."""
        across = self.power.shape[1]
        return np.asarray(np.flatnonzero(self.power.reshape(-1)[across:-across] > low) + across)


class _Compared(NamedTuple):
    """Of places of a field what decides whether they lie on a ridge; all (m,) float64."""

    power: NDArray[Any]
    before: NDArray[Any]
    """Power of the neighbour along the gradient, on the left or above."""
    after: NDArray[Any]
    """Power of the other one."""
    diagonal: NDArray[np.bool_]
    """The gradient points along a diagonal."""
    turn: NDArray[Any]
    """How far the gradient is from where it would point to other neighbours."""

    @classmethod
    def of(cls, field: _Field, places: NDArray[np.intp]) -> _Compared:
        flat, across = field.power.reshape(-1), field.power.shape[1]
        dy, dx = (part.reshape(-1).take(places).astype(np.float64) for part in field[1:])
        steep_y, steep_x = np.abs(dy), np.abs(dx)
        # From a pixel to its neighbour along the gradient, rightwards or downwards.
        step = np.where((dy < 0) == (dx < 0), across + 1, across - 1)
        down, right = steep_y * _TAN - steep_x, _TAN * steep_x - steep_y
        diagonal = np.ones(len(places), np.bool_)
        for side, to in ((down > 0, across), (right > 0, 1)):
            step[side] = to
            diagonal[side] = False
        power, before, after = (
            flat.take(place).astype(np.float64) for place in (places, places - step, places + step)
        )
        turn = np.minimum(np.abs(down), np.abs(right))
        return cls(power, before, after, diagonal, turn)

    def labels(self, bounds: _Bounds) -> NDArray[np.uint8]:
        """0, 1 or 2, as `draft` has them."""
        ridge = (self.power > bounds.low) & (self.power > self.before)
        ridge &= (self.power > self.after) | ~self.diagonal & (self.power == self.after)
        return ridge.astype(np.uint8) << (self.power > bounds.high).view(np.uint8)

    def doubtful(self, bounds: _Bounds, error: float) -> NDArray[np.bool_]:
        """Where the labels may be others: the parts of the gradient may be wrong by so much."""
        margin = slack(self.power, error)
        # The neighbours' margin is at most three times as great where they are about as steep.
        rise = self.power - np.maximum(self.before, self.after)
        doubt: NDArray[np.bool_] = np.abs(rise) <= 4 * margin
        for bound in bounds:
            doubt |= (np.abs(self.power - bound) <= 2 * margin) & (rise > 0)
        return doubt | (self.turn <= 2 * error)


def draft(gradient: Gradient, frame: Pixels, low: float, high: float) -> NDArray[np.uint8]:
    """Thin edges of a frame (y, x, band): 0 none, 1 weak (m > low), 2 strong (m > high).

    m is the squared magnitude, `low` and `high` are bounds of it. Outside of the image m is 0. Each
    pixel depends on its 3 x 3 neighbours.
    """
    margin, bounds = gradient.radius + 1, _Bounds(low, high)
    out: NDArray[np.uint8] = np.empty(frame.shape[:2], np.uint8)
    if _rows.taken(frame):
        weights = np.array(_kernels.gaussian(gradient.sigma) if gradient.sigma else (), np.float64)
        _rows.canny(*_rows.Given.of(frame), weights, gradient.sides, gradient.asked, low, high, out)
        return out
    gray = _kernels.pad(_gray.comparable(frame), margin)
    for rows in _kernels.strips(out.shape[0], out.shape[1], margin, _STRIP):
        part = gray[rows.start : rows.stop + 2 * margin]
        strip = _Strip(part, rows.start == 0, rows.stop == len(out))
        found = _nearly_drafted(gradient, strip, bounds)
        out[rows] = _drafted(gradient, strip, bounds) if found is None else found
    return out


def _drafted(gradient: Gradient, strip: _Strip, bounds: _Bounds) -> NDArray[np.uint8]:
    """`draft` of the rows of a strip."""
    if _nearly.is_flat(strip.gray):
        return np.zeros([length - 2 * gradient.radius - 2 for length in strip.gray.shape], np.uint8)
    field = _field(*gradient.responses(strip.gray), strip)
    places = field.above(bounds.low)
    return _put(_Compared.of(field, places).labels(bounds), places, field)


def _nearly_drafted(gradient: Gradient, strip: _Strip, bounds: _Bounds) -> NDArray[np.uint8] | None:
    """The same, worked out exactly only where that is in doubt. None: in too many places it is."""
    gy, gx, error = gradient.near(strip.gray)
    if not 100 * error * error < bounds.low:
        return None
    field = _field(gy, gx, strip)
    places = field.above(bounds.low - 2 * float(slack(bounds.low, error)))
    compared = _Compared.of(field, places)
    labels, doubt = compared.labels(bounds), compared.doubtful(bounds, error)
    if np.count_nonzero(doubt) * 2 * gradient.radius > gy.size:  # as much work as all of them
        return None
    exact = np.empty(np.count_nonzero(doubt), np.uint8)
    done = 0
    for part in _nearly.blocks(places[doubt], 2 * gradient.radius + 3):
        exact[done : done + len(part)] = _label_at(gradient, strip, part, field.power.shape, bounds)
        done += len(part)
    labels[doubt] = exact
    return _put(labels, places, field)


def _label_at(
    gradient: Gradient,
    strip: _Strip,
    places: NDArray[np.intp],
    shape: tuple[int, ...],
    bounds: _Bounds,
) -> NDArray[np.uint8]:
    """(m,) exact labels at places of the strip's field of a shape."""
    y, x = np.divmod(places, shape[1])
    gy, gx = gradient.at(strip.gray, y - 1, x - 1, 3)
    power = gy * gy + gx * gx  # (3, m, 3)
    power[:, x == 1, 0] = 0
    power[:, x == shape[1] - 2, 2] = 0
    power[0, (y == 1) & strip.first] = 0
    power[2, (y == shape[0] - 2) & strip.last] = 0
    field = _Field(*(part.reshape(3, -1) for part in (power, gy, gx)))
    centres = 3 * (len(places) + np.arange(len(places))) + 1
    return _Compared.of(field, centres).labels(bounds)


def _field(gy: NDArray[Any], gx: NDArray[Any], strip: _Strip) -> _Field:
    """The field (y + 2, x + 2) of a strip: what lies outside of the image has no power."""
    power = gy * gy
    power += gx * gx
    power[:, [0, -1]] = 0
    power[: int(strip.first)] = 0
    power[len(power) - int(strip.last) :] = 0
    return _Field(power, gy, gx)


def _put(labels: NDArray[np.uint8], places: NDArray[np.intp], field: _Field) -> NDArray[np.uint8]:
    """(y, x) of the labels at places of a field (y + 2, x + 2); 0 elsewhere."""
    out = np.zeros(field.power.shape, np.uint8)
    out.reshape(-1)[places] = labels
    return out[1:-1, 1:-1]


def keep(drafted: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Hysteresis: 1 on each 8-connected piece of a draft (y, x) that holds a 2, else 0."""
    if _rows.taken(drafted):
        around = np.pad(drafted, 1)
        _rows.link(around)
        linked: NDArray[np.uint8] = (around[1:-1, 1:-1] == 3).view(np.uint8)
        return linked
    import cv2

    count, pieces = cv2.connectedComponents(np.minimum(drafted, 1), connectivity=8)
    drawn, flat = np.flatnonzero(drafted > 0), drafted.reshape(-1)  # few
    piece = np.asarray(pieces, np.int32).reshape(-1).take(drawn)
    strong = np.zeros(count, np.uint8)
    strong[piece[flat.take(drawn) == 2]] = 1
    out = np.zeros(drafted.shape, np.uint8)
    out.reshape(-1)[drawn] = strong.take(piece)
    return out
