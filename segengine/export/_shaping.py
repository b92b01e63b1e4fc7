"""What is done to outlines before they are written: small ones left out, holes filled, then simplified.

Edges that neighbours share stay shared: all polygons of a frame are simplified together, by
Visvalingam and Whyatt's algorithm over a polygonal coverage (GEOS). Where objects overlap there is no
coverage, and each is simplified by itself.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segengine.errors import JobError
from segengine.export._holes import Holes, Kept, polygons_of
from segengine.export._instances import ROWS, Piece, pieces
from segengine.export._probability import Probability
from segengine.ground import Ground
from segengine.instances.polygons import Polygon, Ring
from segengine.instances.rle import decode_crop
from segengine.reader import SceneStore, Store

MOST = 1 << 24
"""Pixels' edges of a frame's outlines that are simplified together: what fits in memory."""


@dataclass(frozen=True, slots=True)
class Shaping:
    """What a user asks for; 0 is nothing."""

    simplify: float = 0
    """Side of the triangles that go, in units of the coordinates."""
    min_area: float = 0
    """Square metres of the smallest object; pixels where a scene has no georeference."""
    holes: float = 0
    """The same of the largest hole that is filled."""

    def __post_init__(self) -> None:
        for name in ("simplify", "min_area", "holes"):
            value = getattr(self, name)
            if not (isinstance(value, int | float) and 0 <= value < math.inf):
                raise JobError(f"--{name.replace('_', '-')} {value}: is no number from 0 on")


@dataclass(frozen=True, slots=True)
class Shape:
    """An object's outline in pixels of its frame, and what its pixels say."""

    row: dict[str, Any]
    outline: list[Polygon]
    metres: float | None
    """Ground area; None: unknown."""
    probability: float | None
    """Mean probability of its class; None: not stored."""

    @property
    def area(self) -> float:
        """What `min_area` is compared with."""
        return float(self.row["area"]) if self.metres is None else self.metres


def shapes(
    scene: SceneStore,
    rows: Iterable[dict[str, Any]],
    shaping: Shaping,
    kept: Kept | None = None,
) -> Iterator[Shape]:
    """Those of rows that have an outline and are large enough, with their holes filled.

    `kept`: which instances are large enough; None: rows are regions.
    """
    from segengine.instances.polygons import polygons

    ground, probability = scene.layout.placing.ground, Probability(scene)
    holes = Holes(scene, shaping.holes, shaping.min_area, kept)
    for row in rows:
        if "outline" in row:
            shape = Shape(row, row["outline"], row["metres"], row["probability"])
        else:
            mask, corner = decode_crop(row["rle"], scene.layout.frame(row["frame"]).height)
            outline = polygons(mask, corner)
            if not outline:
                continue
            metres = None if ground is None else _metres(ground, mask, corner)
            likely = probability.mean(row["frame"], row["class"], mask, corner)
            shape = Shape(row, outline, metres, likely)
        if row.get("shaped"):
            yield shape
        elif shape.area >= shaping.min_area:
            yield replace(shape, outline=holes.filled(row, shape.outline))


def kept_of(store: Store, shaping: Shaping) -> Kept:
    """Which instances of a store are large enough."""
    return Kept(_large(store, shaping.min_area) if shaping.min_area else None)


def _large(store: Store, least: float) -> Iterator[tuple[str, int, int]]:
    """Scene, frame and id of each that is."""
    for piece in pieces(store):
        scene = store[piece.scene]
        ground = scene.layout.placing.ground
        for row in piece.rows:
            metres = None
            if ground is not None:
                mask, corner = decode_crop(row["rle"], scene.layout.frame(row["frame"]).height)
                metres = _metres(ground, mask, corner) if mask.size else None
            if (row["area"] if metres is None else metres) >= least:
                yield piece.scene, row["frame"], row["id"]


def _metres(ground: Ground, mask: NDArray[np.bool_], corner: tuple[int, int]) -> float | None:
    """Square metres of an object's pixels."""
    totals = ground.totals(mask[None].view(np.uint8), 2, corner)
    unit = ground.exponent
    return None if totals is None or unit is None else math.ldexp(totals[1], unit)


def simplified(scene: SceneStore, some: Iterable[Piece], shaping: Shaping) -> Iterator[Piece]:
    """The pieces of a scene with simpler outlines; as they are where nothing of the kind is asked for.

    Raises JobError where a frame has more edges than fit in memory.
    """
    if not shaping.simplify:
        yield from some
        return
    own = ((row, piece.kept) for piece in some for row in piece.rows)
    first = 0
    for (_, kept), frame in itertools.groupby(own, lambda each: (each[0]["frame"], each[1])):
        found = shapes(scene, (row for row, _ in frame), shaping, kept)
        simple = iter(_simpler(scene, found, shaping.simplify))
        while rows := list(itertools.islice(simple, ROWS)):
            yield Piece(scene.name, first, rows)
            first += len(rows)


def _simpler(scene: SceneStore, found: Iterable[Shape], tolerance: float) -> list[dict[str, Any]]:
    """A frame's rows with outlines that are simpler."""
    import shapely

    placing = scene.layout.placing
    size = np.ones(2)
    if placing.transform:
        a, b, _, d, e, _ = placing.transform
        size = np.array([math.hypot(a, d), math.hypot(b, e)])
    kept, parts, count = [], [], 0
    for shape in found:
        rings = [[_stepped(ring) * size for ring in polygon] for polygon in shape.outline]
        count += sum(len(ring) for polygon in rings for ring in polygon)
        if count > MOST:
            raise JobError(
                f"--simplify: {scene.name}: has more than {MOST:,} edges of pixels, which do not fit in "
                "memory; leave out what is small with --min-area"
            )
        kept.append(shape)
        made = [shapely.Polygon(polygon[0], polygon[1:]) for polygon in rings]
        parts.append(made[0] if len(made) == 1 else shapely.MultiPolygon(made))
    if not kept:
        return []
    coverage = np.array(parts, object)
    if shapely.coverage_is_valid(coverage):
        ref = scene.layout.frame(kept[0].row["frame"])
        around = [shapely.Polygon(ring * size) for ring in _around(ref.height, ref.width)]
        simple = shapely.coverage_simplify([*parts, *around], tolerance)[: len(parts)]
    else:
        simple = shapely.simplify(coverage, tolerance, preserve_topology=True)
    rows = []
    for shape, geometry in zip(kept, simple, strict=True):
        outline = [[np.rint(ring / size) for ring in polygon] for polygon in polygons_of(geometry)]
        # nothing is lost: what has collapsed stays as it is
        more = {"metres": shape.metres, "probability": shape.probability, "shaped": True}
        rows.append({**shape.row, "outline": outline or shape.outline, **more})
    return rows


def _around(height: int, width: int) -> list[Ring]:
    """Neighbours of a frame along its four sides: where three polygons meet, a corner stays.

    So the frame's corners stay, and so do the places where borders come to its sides.
    """
    corners = np.array([(0, 0), (width, 0), (width, height), (0, height), (0, 0)], np.float64)
    sides = _stepped(corners)
    far = corners + (2 * corners > (width, height)) * 2.0 - 1
    ends = np.cumsum([0, width, height, width, height])
    return [
        np.concatenate([sides[ends[i] : ends[i + 1] + 1], far[[i + 1, i]], sides[ends[i]][None]])
        for i in range(4)
    ]


def _stepped(ring: Ring) -> Ring:
    """A ring along pixels' edges with a point at every corner of a pixel, as neighbours have them."""
    steps = np.abs(np.diff(ring, axis=0)).sum(axis=1).astype(np.int64)
    start = np.repeat(ring[:-1], steps, axis=0)
    way = np.repeat(np.sign(np.diff(ring, axis=0)), steps, axis=0)
    place = np.arange(steps.sum()) - np.repeat(np.cumsum(steps) - steps, steps)
    return np.concatenate([start + way * place[:, None], ring[:1]])
