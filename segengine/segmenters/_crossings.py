"""Zero crossings of the Laplacian of a Gaussian.

Marr and Hildreth (1980), doi:10.1098/rspb.1980.0020. Across a step of height h the Laplacian falls
through zero with the slope h / (sigma**3 sqrt(2 pi)); so a slope tells the height of the step, and
one threshold means the same for all operators. float64, fixed for each pixel; flat ground answers
exactly 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segengine.segmenters import _gray, _kernels, _nearly, _rows
from segengine.segmenters._gradient import Direction, height
from segengine.types import Pixels

_STRIP = 1 << 18
"""Pixels whose neighbours are compared at a time."""


@dataclass(frozen=True, slots=True)
class Crossings:
    """Where the second derivative changes its sign, steeply enough."""

    direction: Direction
    """`horizontal`: crossings between a pixel and the one below; `vertical`: to the right."""
    sigma: float
    """Of the Gaussian, in pixels; above 0."""
    contrast: float | None
    """Gray range that thresholds are a fraction of; None: the full range of the dtype."""

    @property
    def radius(self) -> int:
        """Pixels on each side that an answer needs."""
        return _kernels.gaussian_radius(self.sigma) + 1

    def field(self, frame: Pixels) -> NDArray[Any]:
        """(y, 2, x) second derivatives along y and along x of a frame (y, x, band).

        In units of `_gray.comparable`; their sum is the Laplacian.
        """
        radius = self.radius - 1
        padded = _kernels.pad(_gray.comparable(frame).astype(np.float64), radius)
        out = np.empty((frame.shape[0], 2, frame.shape[1]))
        _kernels.by_rows(padded, radius, lambda s: np.stack(self._both(s), axis=1), out)
        return out

    def exceeds(self, frame: Pixels, fraction: float) -> NDArray[np.bool_]:
        """(y, x) where a frame (y, x, band) crosses zero at a step above a part of the contrast.

        Of the two pixels beside a crossing, the one nearer to zero; if equal, the upper or left.
        """
        step = height(fraction, self.contrast, frame)
        bound = float(step) / (self.sigma**3 * math.sqrt(2 * math.pi))
        out = np.empty(frame.shape[:2], np.bool_)
        if _rows.taken(frame):
            mean, second = (
                np.array(f(self.sigma)) for f in (_kernels.gaussian, _kernels.curvature)
            )
            asked = np.array([self.direction != "vertical", self.direction != "horizontal"])
            _rows.crossings(*_rows.Given.of(frame), mean, second, asked, bound, out.view(np.uint8))
            return out
        padded = _kernels.pad(_gray.comparable(frame), self.radius)
        _kernels.by_strips(padded, self.radius, lambda s: self._crossed(s, bound), out, _STRIP)
        return out

    def _both(self, padded: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        mean, second = _kernels.gaussian(self.sigma), _kernels.curvature(self.sigma)
        along_y = _kernels.smooth(_kernels.bend(padded, second, 0), mean, 1)
        along_x = _kernels.bend(_kernels.smooth(padded, mean, 0), second, 1)
        return along_y, along_x

    def _laplacian(self, padded: NDArray[Any]) -> NDArray[Any]:
        """(y + 2, x + 2) float64 of gray with `radius` around it."""
        out = np.empty([length - 2 * self.radius + 2 for length in padded.shape])
        gray = padded.astype(np.float64)
        _kernels.by_rows(gray, self.radius - 1, lambda s: np.add(*self._both(s)), out)
        return out

    def _laplacian_at(self, padded: NDArray[Any], places: NDArray[np.intp]) -> NDArray[Any]:
        """(m,) of `_laplacian`, bit for bit, at places of it, flattened."""
        mean, second = _kernels.gaussian(self.sigma), _kernels.curvature(self.sigma)
        size = 2 * self.radius - 1
        found = []
        for part in _nearly.blocks(places, size):
            around = _nearly.windows(padded, *np.divmod(part, padded.shape[1] - size + 1), size)
            bent, smoothed = _kernels.bend(around, second, 0), _kernels.smooth(around, mean, 0)
            along_y = _kernels.smooth(_nearly.across(bent, size), mean, 1)
            found.append(along_y + _kernels.bend(_nearly.across(smoothed, size), second, 1))
        return np.concatenate(found)[:, 0] if found else np.empty(0)

    def _near(self, padded: NDArray[Any]) -> tuple[NDArray[Any], float]:
        """`_laplacian` nearly, and by how much it may be wrong; infinity where that is not known."""
        near = _nearly.Near.of(padded)
        if near is None:
            return np.empty(0), math.inf
        mean = _nearly.taps(_kernels.gaussian(self.sigma), 1)
        second = _nearly.taps(_kernels.curvature(self.sigma), 0)
        along_y, error_y = near.filtered(second, mean)
        along_x, error_x = near.filtered(mean, second)
        return along_y + along_x, 1.1 * (error_y + error_x)  # the sum is rounded too

    def _crossed(self, padded: NDArray[Any], bound: float) -> NDArray[np.bool_]:
        """(y, x) of gray with `radius` around it: nearly, and exactly where that is in doubt."""
        laplacian, error = self._near(padded)
        if 2 * error < bound:
            a, b = self._steep(laplacian, (bound - 2 * error) * (1 - 1e-6))  # float32 differences
            values = laplacian.take((a, b)).astype(np.float64)
            below, above = np.minimum(*values), np.maximum(*values)
            possible = (below <= error) & (above >= -error)
            a, b, values = a[possible], b[possible], values[:, possible]
            first, second = np.abs(values)
            doubt = np.minimum(first, second) <= error
            doubt |= np.abs(first + second - bound) <= 2 * error
            doubt |= np.abs(first - second) <= 2 * error
            places = np.unique((a[doubt], b[doubt]))
            if len(places) * 2 * self.radius < laplacian.size:  # less work than all of them
                exact = self._laplacian_at(padded, places)
                for side, value in zip((a, b), values, strict=True):
                    value[doubt] = exact[np.searchsorted(places, side[doubt])]
                return _marked(laplacian.shape, a, b, values, bound)
        if _nearly.is_flat(padded):
            return np.zeros([length - 2 * self.radius for length in padded.shape], np.bool_)
        laplacian = self._laplacian(padded)
        a, b = self._steep(laplacian, bound)
        return _marked(laplacian.shape, a, b, laplacian.take((a, b)), bound)

    def _steep(
        self, laplacian: NDArray[Any], bound: float
    ) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """(m,) each: flattened places of the neighbours, upper or left and other, that differ by more."""
        width, flat = laplacian.shape[1], laplacian.reshape(-1)
        steps = {"horizontal": (width,), "vertical": (1,), "both": (width, 1)}[self.direction]
        found, beside = [], []
        for step in steps:
            places = np.flatnonzero(np.abs(flat[:-step] - flat[step:]) > bound)
            if step == 1:
                places = places[places % width < width - 1]  # not across the end of a row
            found.append(places)
            beside.append(places + step)
        return np.concatenate(found), np.concatenate(beside)


def _marked(
    shape: tuple[int, ...],
    a: NDArray[np.intp],
    b: NDArray[np.intp],
    values: NDArray[Any],
    bound: float,
) -> NDArray[np.bool_]:
    """(y, x) of places of (y + 2, x + 2): of each pair of unlike sign, the one nearer to zero."""
    first, second = values
    crossed = ((first >= 0) != (second >= 0)) & (np.abs(first - second) > bound)
    nearer = np.where(np.abs(first) <= np.abs(second), a, b)
    found = np.zeros(shape, np.bool_)
    found.reshape(-1)[nearer[crossed]] = True
    return found[1:-1, 1:-1]
