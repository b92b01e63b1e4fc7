"""StarDist: at each pixel how likely it is inside an object, and how far the border is along rays.

    prob (1, y, x, 1)      dist (1, y, x, rays) in pixels; on a grid of every g-th pixel
    or one output (1, y, x, 1 + rays)

Of star polygons that overlap by more than a share of the smaller one, the more likely stays. Source:
Schmidt et al. 2018, and the package's nms.py and geometry/geom2d.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from segengine.engines import Engine
from segengine.networks.scale import Scale
from segengine.segmenters._found import Found
from segengine.segmenters._network import Layout, cast
from segengine.segmenters._percentiles import scaled
from segengine.types import Cell, Pixels

Floats = NDArray[np.float32]
OUTPUTS = ("prob", "dist")
MIN_SCORE, OVERLAP = 0.5, 0.4
"""As the published networks' thresholds, about; `duplicates` is of the smaller polygon's area."""
PERCENTILES = (1.0, 99.8)
"""Of a frame: the values that become 0 and 1, where the job does not say."""
MULTIPLE = 32
"""Sides that a network of any size takes are multiples of it, in pixels."""
CANDIDATES = 1 << 17
"""Most polygons that are looked at in a window."""
_BORDER = 2
"""Cells of the grid at the border of what was fed that have no polygon."""
_LEAST = 1e-3
"""Of a distance, in pixels."""


@dataclass(frozen=True, slots=True, eq=False)
class StarDist:
    """The head of one such network."""

    engine: Engine
    names: tuple[str, ...]
    """Of the outputs: prob and dist, or of the one that holds both."""
    scale: Scale | None
    """None: by the percentiles of what is fed."""
    layout: Layout
    min_score: float = MIN_SCORE
    overlap: float = OVERLAP

    @property
    def provenance(self) -> str:
        """The engine's version and instruction set."""
        return self.engine.provenance

    def find(self, window: Pixels) -> list[Found]:
        """The objects of a window (y, x, band), the most likely first."""
        size = window.shape[0], window.shape[1]
        image = scaled(window, self.scale, PERCENTILES)
        fed = padded(image, self.engine, self.layout, MULTIPLE, "reflect")
        raw = self.engine.run(cast(fed, self.engine.dtype))
        maps = [_last(raw[name][0], self.layout) for name in self.names]
        both = np.concatenate(maps, axis=-1)
        prob, dist = both[..., 0], np.maximum(both[..., 1:], _LEAST)
        axis = 1 if self.layout == "nhwc" else 2
        grid = fed.shape[axis] // both.shape[0], fed.shape[axis + 1] // both.shape[1]
        points, scores, rays = candidates(prob, dist, grid, self.min_score, size)
        kept = suppressed(points, rays, self.overlap)
        found = (_object(points[i], scores[i], rays[i], size) for i in kept)
        return [one for one in found if one is not None]


def padded(
    image: Floats,
    engine: Engine,
    layout: Layout,
    multiple: int,
    mode: Literal["reflect", "symmetric"],
) -> Floats:
    """A batch of one image (y, x, band), mirrored at the bottom and right to a size that fits."""
    shape = engine.input_shape
    own = shape[1:3] if layout == "nhwc" else shape[2:4]
    size = [n or length + -length % multiple for n, length in zip(own, image.shape, strict=False)]
    spare = [(0, max(0, n - length)) for n, length in zip(size, image.shape, strict=False)]
    if any(after for _, after in spare):
        image = np.pad(image, (*spare, (0, 0)), mode=mode)
    moved = image if layout == "nhwc" else np.moveaxis(image, -1, 0)
    return np.ascontiguousarray(moved[None])


def _last(values: Floats, layout: Layout) -> Floats:
    """(y, x, channel) of a map, whose channels may come first as the input's do."""
    if values.ndim == 2:
        return values[..., None]
    return values if layout == "nhwc" else np.moveaxis(values, 0, -1)


def candidates(
    prob: Floats, dist: Floats, grid: Cell, least: float, size: Cell
) -> tuple[NDArray[np.int64], Floats, Floats]:
    """Middles (n, 2) in pixels, scores (n,) and distances (n, rays), the most likely first.

    Maps may go on behind the frame of `size`, where it was mirrored.
    """
    good = (prob > least) & np.isfinite(dist).all(axis=-1)
    inner = np.zeros_like(good)
    inner[_BORDER:-_BORDER, _BORDER:-_BORDER] = True
    inner[-(-size[0] // grid[0]) :] = inner[:, -(-size[1] // grid[1]) :] = False
    points = np.stack(np.nonzero(good & inner), axis=1)
    scores = prob[points[:, 0], points[:, 1]]
    order = np.argsort(-scores, kind="stable")[:CANDIDATES]
    points = points[order]
    rays = np.minimum(dist[points[:, 0], points[:, 1]], np.float32(max(prob.shape) * max(grid)))
    return points * np.array(grid), scores[order], rays


def corners(points: NDArray[Any], rays: Floats) -> Floats:
    """(n, rays, 2) y and x of star polygons."""
    angles = np.linspace(0, 2 * np.pi, rays.shape[1], endpoint=False)
    directions = np.stack([np.sin(angles), np.cos(angles)], axis=1)
    away = (rays[..., None] * directions).astype(np.float32)
    found: Floats = (away + points[:, None, :]).astype(np.float32)
    return found


def paths(points: NDArray[Any], rays: Floats) -> Floats:
    """(n, rays, 2) the whole numbers that star polygons are compared by.

    They are cut towards 0, which tells 9 from 9 less what a sine is rounded by: in 32 bits, as the
    package reckons.
    """
    step = np.float32(2 * np.pi / rays.shape[1])
    angles = (step * np.arange(rays.shape[1], dtype=np.float32)).astype(np.float64)
    directions = np.stack([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)
    found: Floats = np.trunc(points[:, None, :].astype(np.float32) + rays[..., None] * directions)
    return found


def suppressed(points: NDArray[np.int64], rays: Floats, overlap: float) -> list[int]:
    """Which polygons stay, of those in the order of their worth.

    One goes of which, or of a better one that stays, more than a share of the area lies in both.
    """
    import shapely

    corner = paths(points, rays)
    polygons = shapely.polygons(corner)
    bad = ~shapely.is_valid(polygons)
    polygons[bad] = shapely.make_valid(polygons[bad])
    areas, reach = _areas(corner), rays.max(axis=1, initial=0)
    kept: list[int] = []
    left = np.arange(len(points))
    while len(left):
        i, left = left[0], left[1:]
        kept.append(int(i))
        away = np.abs(points[left] - points[i]).max(axis=1)
        near = np.flatnonzero(away <= reach[left] + reach[i])
        others = left[near]
        # corners of what lies in both are whole numbers too
        common = shapely.transform(shapely.intersection(polygons[i], polygons[others]), _rounded)
        both = shapely.area(common)
        gone = both > overlap * np.minimum(areas[i], areas[others])
        left = np.delete(left, near[gone])
    return kept


def _areas(corner: Floats) -> NDArray[np.float64]:
    """(n,) what closed paths (n, corners, 2) enclose, once more where they run around it twice."""
    y, x = np.moveaxis(corner.astype(np.float64), -1, 0)
    twice = (x * np.roll(y, -1, axis=1) - y * np.roll(x, -1, axis=1)).sum(axis=1)
    found: NDArray[np.float64] = np.abs(twice) / 2
    return found


def _rounded(corner: NDArray[np.float64]) -> NDArray[np.float64]:
    """Halves go away from 0."""
    found: NDArray[np.float64] = np.copysign(np.floor(np.abs(corner) + 0.5), corner)
    return found


def _object(point: NDArray[np.int64], score: float, rays: Floats, size: Cell) -> Found | None:
    """A polygon as an object; None where it has no pixel."""
    from skimage.draw import polygon

    ys, xs = corners(point[None], rays[None])[0].T
    rows, cols = polygon(ys, xs, size)  # type: ignore[no-untyped-call]
    if not len(rows):
        return None
    top, left = int(rows.min()), int(cols.min())
    mask = np.zeros((int(rows.max()) - top + 1, int(cols.max()) - left + 1), np.bool_)
    mask[rows - top, cols - left] = True
    box = (float(left), float(top), float(mask.shape[1]), float(mask.shape[0]))
    return Found(1, float(score), box, (top, left), mask)
