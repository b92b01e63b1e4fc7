"""Outlines of masks as polygons along the pixels' edges, valid as OGC's simple features want them.

A polygon is a list of closed rings (point, 2) of x, y: the exterior, then the holes. Pixels that
meet in a corner only are polygons of their own, and no ring visits a point twice:

    ##.      one polygon with a hole that touches the exterior in a corner,
    #.#      not one whose outline runs in and out through that corner
    ###

Vertices are corners only, in pixels from the frame's upper left corner; the pixel (y, x) = (0, 0) is
the square from (0, 0) to (1, 1).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ring = NDArray[np.float64]
"""(point, 2) x, y; the first point is the last."""
Polygon = list[Ring]
"""Exterior (positive area by the shoelace formula), then holes (negative)."""


def polygons(mask: NDArray[np.bool_], corner: tuple[int, int] = (0, 0)) -> list[Polygon]:
    """The polygons of a mask (y, x) whose first pixel is `corner` (row, column) of its frame.

    Each 4-connected part is one. In raster order of their first pixels.
    """
    rings = list(_rings(mask))
    exteriors = [(ring, pixel) for ring, pixel in rings if _area(ring) > 0]
    holes = [(ring, pixel) for ring, pixel in rings if _area(ring) < 0]
    origin = np.array([corner[1], corner[0]], np.float64)
    found: list[Polygon] = [[ring + origin] for ring, _ in exteriors]
    if len(found) == 1:
        found[0] += [ring + origin for ring, _ in holes]
    elif holes:
        import cv2

        _, parts = cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)
        owner = {
            int(parts[pixel]): polygon for (_, pixel), polygon in zip(exteriors, found, strict=True)
        }
        for ring, pixel in holes:
            owner[int(parts[pixel])].append(ring + origin)
    return found


def _area(ring: NDArray[Any]) -> float:
    """Signed area; positive where x to y turns the way of the ring."""
    x, y = (ring - ring[0]).T
    return float(x[:-1] @ y[1:] - x[1:] @ y[:-1]) / 2


def _rings(mask: NDArray[np.bool_]) -> Iterator[tuple[NDArray[np.int64], tuple[int, int]]]:
    """Simple closed rings with the mask to their right hand on the screen, each with a pixel of it.

    Every corner of the outline joins a horizontal edge to a vertical one. Along a row of the grid
    corners come in pairs, the ends of an edge, and so they do along a column: the ring is found by
    going from a corner to its partner in the row, in the column, in the row ...
    """
    padded = np.pad(mask, 1)
    northwest, northeast = padded[:-1, :-1], padded[:-1, 1:]
    southwest, southeast = padded[1:, :-1], padded[1:, 1:]
    odd = northwest ^ northeast ^ southwest ^ southeast
    saddle = ~odd & (northwest == southeast) & (northwest != northeast)
    # one visit of a plain corner, two of a saddle: left of it first, right of it second
    y, x = np.nonzero(odd | saddle)
    twice = saddle[y, x]
    visits = np.repeat(np.arange(len(y)), 1 + twice)
    y, x, twice = y[visits], x[visits], twice[visits]
    right = np.concatenate([[False], visits[1:] == visits[:-1]]) & twice
    falling = northwest[y, x] & twice  # mask in the upper left and lower right
    below = right == falling  # whether a saddle's visit goes on downwards; pixels stay apart
    by_column = np.lexsort((below & twice, y, x))
    partner = np.empty(len(y), np.int64)
    partner[by_column[0::2]], partner[by_column[1::2]] = by_column[1::2], by_column[0::2]

    across = partner.tolist()
    points = np.stack([x, y], axis=1)
    fresh = [True] * (len(y) // 2)  # horizontal edges, by half the number of either end
    for start in range(0, len(y), 2):
        if not fresh[start // 2]:
            continue
        # towards the right where the mask is below the edge
        top, left = int(y[start]), int(x[start])
        mask_below = bool(padded[top + 1, left + 1])
        pixel = (top if mask_below else top - 1, left)
        visit = start if mask_below else start + 1
        first = visit
        order: list[int] = []
        while not order or visit != first:
            fresh[visit // 2] = False
            order += [visit, visit ^ 1]
            visit = across[visit ^ 1]
        if twice[order].any():
            yield from ((loop, pixel) for loop in simple(points[order]))
        else:
            yield points[[*order, first]], pixel


def simple(ring: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """A ring, open, that visits points twice, as rings that do not."""
    path: list[tuple[int, int]] = []
    at: dict[tuple[int, int], int] = {}
    for x, y in [*ring.tolist(), ring[0].tolist()]:
        place = at.get((x, y))
        if place is not None:
            yield np.array([*path[place:], (x, y)])
            for point in path[place:]:
                del at[point]
            del path[place:]
        at[x, y] = len(path)
        path.append((x, y))


def oriented(polygon: Polygon) -> Polygon:
    """The same with the exterior counterclockwise and the holes clockwise, x to the right, y up."""
    return [ring[::-1] if (_area(ring) < 0) == (i == 0) else ring for i, ring in enumerate(polygon)]
