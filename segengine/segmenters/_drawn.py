"""Prompts of a GeoJSON file: points, and polygons for their boxes, in pixels of each frame or on the map.

RFC 7946 has longitudes and latitudes, and files from before it name another CRS in a member `crs`; pixels
are in no standard. A file with that member lies on the map, as does one that `coordinates: map` says so
of; all else is pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from segengine.errors import CorruptInputError
from segengine.ground import Ground
from segengine.segmenters import _files
from segengine.segmenters._prompts import MOST, Ask, Floats, Prompting, Prompts
from segengine.store.seals import scenes_called
from segengine.types import Cell, Frames, Site

Coordinates = Literal["auto", "pixels", "map"]
MOST_BYTES = 1 << 24
_FURTHEST = 1 << 31
"""Pixels of a side: more than any frame has."""
_POINTS, _POLYGONS = ("Point", "MultiPoint"), ("Polygon", "MultiPolygon")


@dataclass(frozen=True, slots=True, eq=False)
class Drawn:
    """Points and polygons of a file: the same for each frame, or wherever on the map it lies."""

    path: str
    vertices: Floats
    """(vertex, 2) x and y."""
    firsts: NDArray[np.int64]
    """(n,) where those of each prompt begin."""
    boxed: NDArray[np.bool_]
    crs: str
    """Of the vertices; empty: they are pixels."""
    digest: str
    guessed: bool = False
    """Nothing says that they are pixels: the job does not, and the file names no CRS."""

    by_name: ClassVar[bool] = False

    def of(self, frames: Frames | None, frame: int, size: Cell) -> Prompts:
        """Those on a frame. Raises ValueError where it lies nowhere, and they lie on the map."""
        ground = None if frames is None else frames.ground
        if self.crs and ground is None:
            raise ValueError(
                f"prompts: {self.path}: lies in {self.crs}, and this frame is not georeferenced; "
                "give pixels, with coordinates: pixels"
            )
        return self._on(ground, {}).within(size)

    def remarks(self, sites: Iterable[Site]) -> Iterator[str]:
        """That they are guessed to be pixels where there is a map, and which scenes have none of them."""
        placed: list[str] = []
        lacking: list[str] = []
        seen = 0
        brought: dict[str, Floats] = {}
        everywhere = None if self.crs else self._on(None, brought)
        for site in sites:
            seen += 1
            if site.ground is not None:
                placed.append(site.scene)
            elif self.crs:
                continue  # its frames fail, by name
            found = self._on(site.ground, brought) if everywhere is None else everywhere
            if not any(found.meet(size) for size in site.sizes):
                lacking.append(site.scene)
        if self.guessed and placed:
            are = "is" if len(placed) == 1 else "are"
            yield (
                f"prompts: {self.path}: names no CRS, so its numbers are pixels of each frame, and "
                f"{scenes_called(placed)} {are} georeferenced; if they are degrees, set coordinates: map"
            )
        if lacking:
            where = "any frame" if len(lacking) == seen else scenes_called(lacking)
            count = len(self.boxed)
            none = "its prompt is not" if count == 1 else f"none of its {count:,} prompts is"
            yield f"prompts: {self.path}: {none} in {where}, and no object will be found there"

    def _on(self, ground: Ground | None, brought: dict[str, Floats]) -> Prompts:
        """Those of a scene in its pixels; `brought`: the vertices by CRS, as far as they are known."""
        if not self.crs or ground is None:
            return self._boxes(self.vertices)
        if ground.wkt not in brought:
            brought[ground.wkt] = _brought(self.crs, ground.wkt, self.vertices)
        x, y = brought[ground.wkt].T
        a, b, c, d, e, f = ground.transform
        turn = _turn(ground.wkt)
        with np.errstate(invalid="ignore", over="ignore"):  # what has no place there
            if (
                turn
            ):  # the one that brings a prompt to the scene, which may go on beyond 180 degrees
                middle = a * ground.width / 2 + b * ground.height / 2 + c
                lengths = np.diff(np.append(self.firsts, len(x)))
                x = x + turn * np.repeat(np.round((middle - x[self.firsts]) / turn), lengths)
            x, y = x - c, y - f
            pixels = np.stack([e * x - b * y, a * y - d * x], axis=1) / (a * e - b * d)
        return self._boxes(pixels)

    def _boxes(self, pixels: Floats) -> Prompts:
        """(n, 2, 2) around the vertices of each; what the CRS of a scene has no place for is left out."""
        ends = [f.reduceat(pixels, self.firsts, axis=0) for f in (np.minimum, np.maximum)]
        corners = np.stack(ends, axis=1)
        here = np.isfinite(corners).all(axis=(1, 2))
        return Prompts(corners[here], self.boxed[here])


def drawn(path: str, coordinates: Coordinates, ask: Ask) -> Drawn:
    """Those of a file. Raises ValueError naming the option."""
    from segengine.sources import _geojson

    file = Path(path)
    try:
        with file.open("rb") as opened:
            data = opened.read(MOST_BYTES + 1)
        if len(data) > MOST_BYTES:
            raise ValueError(f"is larger than {MOST_BYTES >> 20} MiB and is refused")
        document = _geojson.parsed(data)
        mapped = coordinates == "map" or (coordinates == "auto" and document.get("crs") is not None)
        crs = _known(_geojson.crs_named(document)) if mapped else ""
        shapes = list(_shapes(_geojson.features_of(document), ask))
        _check(shapes, crs)
    except OSError as error:
        raise ValueError(
            f"prompts: {path}: {error.strerror or error}; give grid, a GeoJSON file, or a store"
        ) from error
    except (CorruptInputError, ValueError) as error:
        raise ValueError(f"prompts: {path}: {error}") from error
    lengths = [len(vertices) for vertices, _ in shapes]
    return Drawn(
        path=path,
        vertices=np.concatenate([vertices for vertices, _ in shapes]),
        firsts=np.cumsum([0, *lengths[:-1]]),
        boxed=np.array([boxed for _, boxed in shapes]),
        crs=crs,
        digest=_files.digest_of_texts(data.hex()),
        guessed=coordinates == "auto" and not mapped,
    )


def _shapes(features: Sequence[Mapping[str, Any]], ask: Ask) -> Iterator[tuple[Floats, bool]]:
    """Vertices (n, 2) of each point and polygon, and whether its box counts. Raises ValueError."""
    import shapely

    from segengine.sources import _geojson

    nothing: dict[str, Any] = {"geometry": None}
    kinds = [(feature.get("geometry") or {}) for feature in features]
    if not all(isinstance(geometry, dict) for geometry in kinds):
        raise ValueError("a geometry is no object")
    names = [geometry.get("type") for geometry in kinds]
    polygons = _geojson.shapes_of(
        [f if name in _POLYGONS else nothing for f, name in zip(features, names, strict=True)]
    )
    for number, (geometry, shape) in enumerate(zip(kinds, polygons, strict=True), 1):
        kind = geometry.get("type")
        if shape is not None:
            if not shape.area > 0:
                raise ValueError(f"feature {number} is a polygon of no area")
            counted = shape.centroid if ask == "centroids" else shape
            yield shapely.get_coordinates(counted), ask == "boxes"
        elif kind in _POINTS:
            places = geometry.get("coordinates")
            for place in [places] if kind == "Point" else _listed(number, places):
                yield _place(number, place), False
        elif geometry and kind not in _POLYGONS:
            raise ValueError(
                f"feature {number} is a {str(kind)[:40]}; points and polygons are needed"
            )


def _listed(number: int, places: Any) -> list[Any]:
    if not isinstance(places, list):
        raise ValueError(f"feature {number} is no MultiPoint of GeoJSON")
    return places


def _place(number: int, place: Any) -> Floats:
    """(1, 2) x and y."""
    two = place[:2] if isinstance(place, list) else []
    if len(two) != 2 or any(isinstance(v, bool) or not isinstance(v, int | float) for v in two):
        raise ValueError(f"feature {number} is no point of GeoJSON: two numbers are needed")
    try:
        return np.array([two], np.float64)
    except OverflowError as error:
        raise ValueError(f"feature {number} is a point of numbers that are too large") from error


def _check(shapes: list[tuple[Floats, bool]], crs: str) -> None:
    """Raise ValueError for what can be no prompts of any frame."""
    if not 0 < len(shapes) <= MOST:
        raise ValueError(f"has {len(shapes)} points and boxes; give 1 to {MOST:,}")
    ends = np.array([[vertices.min(axis=0), vertices.max(axis=0)] for vertices, _ in shapes])
    if not np.isfinite(ends).all():
        raise ValueError("has coordinates that are no finite numbers")
    if not crs:
        if (ends[:, 1] < 0).any() or (ends[:, 0] >= _FURTHEST).any():
            raise ValueError(
                "has a point or box beyond all frames: pixels count from 0 to 2^31; where these are places "
                "on a map, say coordinates: map"
            )
        return
    turn = _turn(crs)
    if turn and (np.abs(ends) > [turn * 1.001, turn * 0.2501]).any():
        raise ValueError(
            f"has coordinates that are no longitudes and latitudes, which {crs} has; name the CRS in its "
            "member `crs`, or say coordinates: pixels"
        )


def _known(crs: str) -> str:
    """A CRS that places can lie in. Raises ValueError."""
    from pyproj import CRS
    from pyproj.exceptions import CRSError

    try:
        found = CRS.from_user_input(crs)
    except CRSError as error:
        raise ValueError(f"names no CRS that is known: {crs[:100]}") from error
    if not (found.is_geographic or found.is_projected):
        raise ValueError(f"says {crs}, which is no CRS of a map: it is a {found.type_name}")
    return crs


@lru_cache(maxsize=64)
def _turn(crs: str) -> float:
    """What a turn around the earth is in units of a CRS; 0: it has no longitudes."""
    from segengine.sources._grid import turn_of

    return turn_of(crs)


@lru_cache(maxsize=64)
def _between(crs: str, wkt: str) -> Any:
    from pyproj import CRS, Transformer

    own = CRS.from_wkt(wkt)
    own = own if not own.sub_crs_list else own.sub_crs_list[0]  # without its heights
    return Transformer.from_crs(crs, own, always_xy=True)


def _brought(crs: str, wkt: str, places: Floats) -> Floats:
    """(vertex, 2) x and y in a scene's CRS; infinite where it has no such place."""
    return np.stack(_between(crs, wkt).transform(*places.T), axis=1)


_: type[Prompting] = Drawn
