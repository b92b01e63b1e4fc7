"""QuPath's GeoJSON: one file a picture, outlines in its pixels with holes and several parts.

    {"type": "FeatureCollection", "features": [{"type": "Feature", "id": "<UUID>",
      "geometry": {"type": "Polygon", "coordinates": [[[x, y], ...], ...]},
      "properties": {"objectType": "annotation", "classification": {"name": "Tumor"}}}]}

The list of features alone is read too. A pixel is of an object if its centre lies inside. Points and
lines have no area, and are no objects.
Source: QuPath's manual, "Exporting annotations"; RFC 7946.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from segengine.datasets.annotations.drawn import Drawn
from segengine.datasets.annotations.pictures import Picture, items, listed, object_of, worded
from segengine.datasets.annotations.shapes import MOST_POINTS, Patch, filled, points_of, together

_NO_AREA = ("Point", "MultiPoint", "LineString", "MultiLineString")
_OURS = uuid.UUID("4f7c1a52-2d5c-5c0e-9d5b-1d9a4e0f3b6a")
"""Names objects: an export gives the same ids again."""


def pictures(uri: str) -> Iterator[Picture]:
    """The one picture of a file."""
    yield Picture("")


def objects(uri: str, picture: Picture, size: tuple[int, int]) -> Iterator[Drawn]:
    """The objects of a picture of `size` (y, x). Raises ValueError with what is wrong."""
    alone = _begins(uri) == b"["
    seen: set[str] = set()
    for i, found in enumerate(items(uri, () if alone else ("features",), seen), 1):
        try:
            feature = object_of(found.text)
            patch = _patch(feature.get("geometry"), size)
            kind = _kind(feature.get("properties"))
        except (ValueError, TypeError) as error:
            raise ValueError(f"feature {i} {error}") from error
        if patch is not None:
            yield Drawn(kind, patch.rle(size))
    if not alone and not seen:
        raise ValueError("has no list of features")


def _begins(uri: str) -> bytes:
    from segengine.sources._files import open_input

    with open_input(uri) as file:
        return file.read(1 << 10).lstrip(b"\xef\xbb\xbf \t\r\n")[:1]


def _kind(properties: Any) -> str | None:
    found = properties if isinstance(properties, dict) else {}
    said = found.get("classification")
    return worded(said.get("name") if isinstance(said, dict) else said or found.get("class"))


def _patch(geometry: Any, size: tuple[int, int]) -> Patch | None:
    """The pixels of a geometry; None: it has no area."""
    if geometry is None:
        return None
    if not isinstance(geometry, dict) or not isinstance(geometry.get("type"), str):
        raise ValueError("has no geometry")
    kind, places = geometry["type"], geometry.get("coordinates")
    if kind in _NO_AREA:
        return None
    if kind not in ("Polygon", "MultiPolygon"):
        raise ValueError(f"is a {kind:.40}; outlines are Polygon and MultiPolygon")
    polygons = [places] if kind == "Polygon" else listed(places, "polygons")
    total, patches = 0, []
    for polygon in polygons:
        rings = [points_of(ring) for ring in listed(polygon, "rings")]
        total += sum(map(len, rings))
        if total > MOST_POINTS:
            raise ValueError(f"has an outline of more than {MOST_POINTS:,} points")
        patches.append(filled(rings, size))
    return together(patches)


def document(
    found: Iterable[tuple[str, Patch]], colors: Mapping[str, Sequence[int]], name: str
) -> bytes:
    """A file of a picture, with objects as (class, pixels); `name` tells the picture from others."""
    features = [
        json.dumps(_feature(kind, patch, colors[kind], uuid.uuid5(_OURS, f"{name}\n{i}")))
        for i, (kind, patch) in enumerate(found)
    ]
    body = ",\n".join(features)
    return f'{{"type": "FeatureCollection", "features": [\n{body}\n]}}\n'.encode()


def _feature(kind: str, patch: Patch, color: Sequence[int], own: uuid.UUID) -> dict[str, Any]:
    from segengine.instances.polygons import oriented, polygons

    shapes = [
        [ring.astype(int).tolist() for ring in oriented(polygon)]
        for polygon in polygons(patch.mask, patch.corner)
    ]
    single = len(shapes) == 1
    geometry = {
        "type": "Polygon" if single else "MultiPolygon",
        "coordinates": shapes[0] if single else shapes,
    }
    about = {"objectType": "annotation", "classification": {"name": kind, "color": list(color)}}
    return {"type": "Feature", "id": str(own), "geometry": geometry, "properties": about}
