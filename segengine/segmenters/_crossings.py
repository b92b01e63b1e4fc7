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

from segengine.segmenters import _gray, _kernels
from segengine.segmenters._gradient import Direction, height
from segengine.types import Pixels


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
        padded = _kernels.pad(_gray.comparable(frame).astype(np.float64), self.radius)
        laplacian = np.empty((frame.shape[0] + 2, frame.shape[1] + 2))
        _kernels.by_rows(padded, self.radius - 1, lambda s: np.add(*self._both(s)), laplacian)
        out = np.empty(frame.shape[:2], np.bool_)
        _kernels.by_strips(laplacian, 1, lambda s: self._crossed(s, bound), out)
        return out

    def _both(self, padded: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        mean, second = _kernels.gaussian(self.sigma), _kernels.curvature(self.sigma)
        along_y = _kernels.smooth(_kernels.bend(padded, second, 0), mean, 1)
        along_x = _kernels.bend(_kernels.smooth(padded, mean, 0), second, 1)
        return along_y, along_x

    def _crossed(self, laplacian: NDArray[Any], bound: float) -> NDArray[np.bool_]:
        """(y, x) of a Laplacian with one pixel around it."""
        found = np.zeros(laplacian.shape, np.bool_)
        if self.direction != "vertical":
            _mark(laplacian[:-1], laplacian[1:], found[:-1], found[1:], bound)
        if self.direction != "horizontal":
            _mark(laplacian[:, :-1], laplacian[:, 1:], found[:, :-1], found[:, 1:], bound)
        return found[1:-1, 1:-1]


def _mark(
    a: NDArray[Any],
    b: NDArray[Any],
    found_a: NDArray[np.bool_],
    found_b: NDArray[np.bool_],
    bound: float,
) -> None:
    """Mark, for each pair of neighbours of unlike sign, the one nearer to zero."""
    crossed = ((a >= 0) != (b >= 0)) & (np.abs(a - b) > bound)
    nearer = np.abs(a) <= np.abs(b)
    found_a |= crossed & nearer
    found_b |= crossed & ~nearer
