"""Reference points as people have labelled them: each place once, however often it stands in the file.

A sample is drawn without replacement, so that a pixel is one observation: a line that was pasted twice,
or a file joined with itself, tells nothing more of the map, and would only narrow the intervals.
"""

from __future__ import annotations

import difflib
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from segengine.errors import JobError

_DIGITS = 7
"""Decimals of a degree in which two places are one: those that programs write of GeoJSON (RFC 7946)."""
_FAR = 1e12
"""No coordinate is as large."""


@dataclass(frozen=True, slots=True)
class Point:
    """A reference point."""

    number: int
    """Its place in the file, from 1."""
    stratum: int
    label: int | None
    """None: nobody has labelled it yet."""
    properties: Mapping[str, Any]
    place: Hashable = None
    """What no other point has; None: nothing says where it lies."""
    scene: str | None = None
    frame: int | None = None
    row: int | None = None
    column: int | None = None
    at: tuple[float, float] | None = None
    """x and y, as the file has them."""

    @property
    def is_pixel(self) -> bool:
        """Whether the file says which pixel it is, but for the frame where a scene has one alone."""
        return None not in (self.scene, self.row, self.column)


def points_of(
    path: str, features: Sequence[Mapping[str, Any]], classes: Sequence[str]
) -> Iterator[Point]:
    """Each feature as a point, but for lines of a table that say nothing.

    Raises JobError for one that names no class of the store.
    """
    number_of = {name: i for i, name in enumerate(classes)}
    for number, feature in enumerate(features, 1):
        properties = feature.get("properties") or {}
        if _is_empty(feature, properties):
            continue
        values = []
        for key in ("stratum", "label"):
            value = properties.get(key)
            value = None if is_blank(value) else value
            if key not in properties or (value is None and key == "stratum"):
                raise JobError(
                    f"{path}: point {number} has no property `{key}`; `segengine sample` writes them"
                )
            if isinstance(value, str) and value not in number_of:
                value = value.strip()  # as of cells that were filled in by hand
            if value is not None and (not isinstance(value, str) or value not in number_of):
                near = difflib.get_close_matches(str(value), classes, n=1)
                hint = f"; {near[0]!r} is one" if near else f"; there are {', '.join(classes[:20])}"
                raise JobError(
                    f"{path}: point {number}: {key} {value!r} is no class of the store{hint}"
                )
            values.append(None if value is None else number_of[value])
        yield _placed(
            Point(number, int(values[0] or 0), values[1], properties), feature, properties
        )


def _is_empty(feature: Mapping[str, Any], properties: Mapping[str, Any]) -> bool:
    """Whether a feature is what a table makes of an empty line."""
    if not properties:
        return feature.get("geometry") is None
    return all(is_blank(value) for value in properties.values())


def is_blank(label: object) -> bool:
    """Whether a label says nothing yet: null, or what a table makes of it."""
    return label is None or (isinstance(label, str) and not label.strip())


def distinct(
    path: str,
    points: Sequence[Point],
    classes: Sequence[str],
    pixels: Sequence[Sequence[Hashable]],
) -> list[Point]:
    """Each place once, with its label where one of its points has one.

    `pixels`: of each point those that it may be; one that only its coordinates place is the pixel that
    another point names. Raises JobError where points of one place contradict each other.
    """
    found: dict[Hashable, Point] = {}
    named: dict[Hashable, list[Point]] = {}
    for point, own in zip(points, pixels, strict=True):
        if point.is_pixel and len(own) == 1:
            named.setdefault(own[0], []).append(point)
    keys = [_key(point, own, named) for point, own in zip(points, pixels, strict=True)]
    unlike: list[tuple[Point, Point]] = []
    for point, place in zip(points, keys, strict=True):
        key = ("alone", point.number) if place is None else place
        first = found.setdefault(key, point)
        if first.label is None:
            found[key] = point
        labels = {first.label, point.label} - {None}
        if first.stratum != point.stratum or len(labels) > 1:
            unlike.append((first, point))
    if unlike:
        one, other = unlike[0]
        what, of = (
            ("label", one.label) if one.stratum == other.stratum else ("stratum", one.stratum)
        )
        second = other.label if what == "label" else other.stratum
        more = f" (and {len(unlike) - 1:,} more such points)" if len(unlike) > 1 else ""
        raise JobError(
            f"{path}: points {one.number} and {other.number} are one place, and their {what} is "
            f"{classes[of or 0]!r} and {classes[second or 0]!r}{more}; keep the one that is right"
        )
    return list(found.values())


def _key(
    point: Point, pixels: Sequence[Hashable], named: Mapping[Hashable, Sequence[Point]]
) -> Hashable:
    """What the points of one place have alike: the pixel, where any of them names it, else their own."""
    there = [pixel for pixel in pixels if pixel in named]
    # two scenes, or frames of one, may have a point at the same place
    alike = (
        pixel
        for pixel in there
        for other in named[pixel]
        if other.stratum == point.stratum
        and (None in (point.label, other.label) or point.label == other.label)
    )
    return next(alike, there[0]) if there else point.place


def _placed(point: Point, feature: Mapping[str, Any], properties: Mapping[str, Any]) -> Point:
    """With where it lies: by the pixel, else by the coordinates, else by the id."""
    scene = _text(properties.get("scene"))
    frame, row, column = (_whole(properties.get(key)) for key in ("frame", "row", "column"))
    at = _coordinates(feature.get("geometry"))
    if None not in (scene, frame, row, column):
        place: Hashable = ("pixel", scene, frame, row, column)
    elif at is not None:
        # two scenes, or frames of one, may look at the same ground
        place = ("at", scene, frame, *(round(value, _DIGITS) for value in at))
    else:
        named = feature.get("id")
        place = ("id", named) if isinstance(named, str | int | float) else None
    return replace(point, place=place, scene=scene, frame=frame, row=row, column=column, at=at)


def _text(value: object) -> str | None:
    """A scene's name, also where a program took it for a number."""
    if isinstance(value, str):
        return value.strip() or None
    number = _whole(value)
    return None if number is None else str(number)


def _whole(value: object) -> int | None:
    """A whole number, also as text or with a point, as tables have it; else None."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _coordinates(geometry: Any) -> tuple[float, float] | None:
    """Of a point; None also at 0, 0, where tables put what has no place."""
    kind = geometry.get("type") if isinstance(geometry, dict) else None
    at = geometry.get("coordinates") if kind in ("Point", "MultiPoint") else None
    if kind == "MultiPoint":  # as some programs write points
        at = at[0] if isinstance(at, list) and len(at) == 1 else None
    if not isinstance(at, list) or len(at) < 2:
        return None
    if not all(isinstance(v, int | float) and abs(v) < _FAR for v in at[:2]):
        return None
    x, y = map(float, at[:2])
    return (x, y) if (x, y) != (0, 0) else None
