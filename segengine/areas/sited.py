"""Where on a map reference points lie, and whether it has their strata there.

By its scene, row and column a point is one pixel. By its coordinates alone it is the pixel that holds
them, in each scene that does: two scenes, or frames of one, may look at the same ground. A point that
no scene holds was drawn from another map, and one whose stratum is not the map's was, too, or its line
has been mixed up with another's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segengine.areas.points import Point
from segengine.areas.strata import Pixel, Strata
from segengine.errors import CorruptInputError
from segengine.reader import SceneStore, Store
from segengine.sources._geojson import crs_named
from segengine.sources._grid import inverse
from segengine.store.keys import MASK

_EDGE = 1e-3
"""Of a pixel: so far beyond the map a place still counts as on its edge."""


@dataclass(frozen=True, slots=True)
class Sites:
    """Where points lie."""

    pixels: tuple[tuple[Pixel, ...], ...]
    """Of each point those that it may be; none: nothing says where it lies, or it is `away`."""
    away: tuple[tuple[Point, str], ...]
    """Points that lie nowhere on the map, each with why."""

    @classmethod
    def of(cls, points: Sequence[Point], strata: Strata, document: Mapping[str, Any]) -> Sites:
        """Of points of a GeoJSON."""
        by_place = _by_place(points, strata, document)
        pixels: list[tuple[Pixel, ...]] = []
        away = []
        for i, point in enumerate(points):
            found: tuple[Pixel, ...] = ()
            why = ""
            if point.scene is not None and point.scene not in strata.exponents:
                why = f"its scene {point.scene!r} is none of the map"
            elif point.is_pixel:
                found = tuple(_named(point, strata.store[str(point.scene)]))
                at = f"frame {point.frame}, " if point.frame is not None else ""
                at += f"row {point.row}, column {point.column}"
                why = "" if found else f"{at} is beyond scene {point.scene!r}"
            elif i in by_place:
                found = by_place[i]
                why = "" if found else f"{_said(point)} is in no scene of the map"
            pixels.append(found)
            if why:
                away.append((point, why))
        return cls(tuple(pixels), tuple(away))


def _said(point: Point) -> str:
    assert point.at is not None
    return f"{point.at[0]:.10g}, {point.at[1]:.10g}"


def _named(point: Point, scene: SceneStore) -> Iterator[Pixel]:
    """Of each frame that a point may be of, where it has such a pixel."""
    row, column = point.row, point.column
    assert row is not None
    assert column is not None
    for frame in _frames(point, scene):
        ref = scene.layout.frame(frame)
        if 0 <= row < ref.height and 0 <= column < ref.width:
            yield Pixel(scene.name, frame, row, column)


def _frames(point: Point, scene: SceneStore) -> range:
    count = scene.layout.shape[0]
    if point.frame is None:
        return range(count)
    return range(point.frame, point.frame + 1) if 0 <= point.frame < count else range(0)


def _by_place(
    points: Sequence[Point], strata: Strata, document: Mapping[str, Any]
) -> dict[int, tuple[Pixel, ...]]:
    """Of points that only their coordinates place, by their numbers in `points`, the pixels there."""
    own = [i for i, point in enumerate(points) if point.at is not None and not point.is_pixel]
    try:
        crs = crs_named(document)
    except CorruptInputError:
        return {}
    if not own:
        return {}
    found: dict[int, list[Pixel]] = {i: [] for i in own}
    xy = np.array([points[i].at for i in own], np.float64)
    brought: dict[str, tuple[NDArray[np.float64], NDArray[np.float64], float | None]] = {}
    for name in strata.exponents:
        scene = strata.store[name]
        placing = scene.layout.placing
        if placing.wkt not in brought:
            brought[placing.wkt] = _brought(crs, placing.wkt, xy)
        x, y, turn = brought[placing.wkt]
        for around in (0.0,) if turn is None else (0.0, -turn, turn):
            rows, columns, inside = _on(placing, x + around, y)
            for k in np.flatnonzero(inside).tolist():
                point = points[own[k]]
                if point.scene not in (None, name):
                    continue
                at = (int(rows[k]), int(columns[k]))
                found[own[k]] += (Pixel(name, frame, *at) for frame in _frames(point, scene))
    return {i: tuple(pixels) for i, pixels in found.items()}


def _brought(
    crs: str, wkt: str, xy: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], float | None]:
    """x and y in a scene's CRS, and a turn in its longitudes, where it has such."""
    from pyproj import CRS, Transformer

    from segengine.areas.features import turn_of

    own = CRS.from_wkt(wkt)
    x, y = Transformer.from_crs(crs, own, always_xy=True).transform(*xy.T)
    return np.asarray(x), np.asarray(y), turn_of(own) if own.is_geographic else None


def _on(
    placing: Any, x: NDArray[np.float64], y: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """Row and column of places in a scene, and which of them are in it."""
    a, b, c, d, e, f = inverse(placing.transform)
    with np.errstate(invalid="ignore"):
        columns, rows = a * x + b * y + c, d * x + e * y + f
        inside = np.isfinite(columns) & np.isfinite(rows)
        inside &= (rows >= -_EDGE) & (rows <= placing.height + _EDGE)
        inside &= (columns >= -_EDGE) & (columns <= placing.width + _EDGE)
        rows = np.clip(np.floor(rows), 0, placing.height - 1)
        columns = np.clip(np.floor(columns), 0, placing.width - 1)
    return rows, columns, inside


def unlike(
    store: Store, points: Sequence[Point], pixels: Mapping[int, Sequence[Pixel]]
) -> list[tuple[Point, int]]:
    """Points with another stratum than the map has where they lie, each with what it has there.

    `pixels`: by a point's number those that it may be. The classes that the map has not are void.
    """
    named = [(point, pixel) for point in points for pixel in pixels.get(point.number, ())]
    shards: dict[tuple[str, Any], list[int]] = {}
    for i, (_, pixel) in enumerate(named):
        at = (pixel.frame, pixel.row, pixel.column)
        sides = store[pixel.scene].layout.shard
        place = tuple(a // side for a, side in zip(at, sides, strict=True))
        shards.setdefault((pixel.scene, place), []).append(i)
    labels = [0] * len(named)
    for (scene, _), own in shards.items():
        at_all = np.array([(p.frame, p.row, p.column) for _, p in (named[i] for i in own)])
        low, high = at_all.min(axis=0), at_all.max(axis=0) + 1
        box = [slice(int(a), int(b)) for a, b in zip(low, high, strict=True)]
        there = store[scene].read(MASK, *box)[tuple((at_all - low).T)]
        for i, label in zip(own, there.tolist(), strict=True):
            labels[i] = label
    agreed = {p.number for (p, _), label in zip(named, labels, strict=True) if label == p.stratum}
    found: dict[int, tuple[Point, int]] = {}
    for (point, _), label in zip(named, labels, strict=True):
        if point.number not in agreed:
            found.setdefault(point.number, (point, label))
    return list(found.values())
