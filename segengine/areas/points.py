"""Reference points as people have labelled them: each place once, however often it stands in the file.

A sample is drawn without replacement, so that a pixel is one observation: a line that was pasted twice,
or a file joined with itself, tells nothing more of the map, and would only narrow the intervals.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from segengine.errors import JobError

_PIXEL = ("scene", "frame", "row", "column")
"""What `sample` says of where a point lies."""
_DIGITS = 9
"""Decimals of a degree in which two places are one: those that `sample` writes."""


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


def points_of(
    path: str, features: Sequence[Mapping[str, Any]], classes: Sequence[str]
) -> Iterator[Point]:
    """Each feature as a point. Raises JobError for one that names no class of the store."""
    number_of = {name: i for i, name in enumerate(classes)}
    for number, feature in enumerate(features, 1):
        properties = feature.get("properties") or {}
        values = []
        for key in ("stratum", "label"):
            value = properties.get(key)
            value = None if is_blank(value) else value
            if key not in properties or (value is None and key == "stratum"):
                raise JobError(
                    f"{path}: point {number} has no property `{key}`; `segengine sample` writes them"
                )
            if value is not None and (not isinstance(value, str) or value not in number_of):
                near = difflib.get_close_matches(str(value), classes, n=1)
                hint = f"; {near[0]!r} is one" if near else f"; there are {', '.join(classes[:20])}"
                raise JobError(
                    f"{path}: point {number}: {key} {value!r} is no class of the store{hint}"
                )
            values.append(None if value is None else number_of[value])
        yield Point(number, int(values[0] or 0), values[1], properties, _place(feature, properties))


def is_blank(label: object) -> bool:
    """Whether a label says nothing yet: null, or what a table makes of it."""
    return label is None or (isinstance(label, str) and not label.strip())


def distinct(path: str, points: Sequence[Point], classes: Sequence[str]) -> list[Point]:
    """Each place once, with its label where one of its points has one.

    Raises JobError where points of one place contradict each other.
    """
    found: dict[Hashable, Point] = {}
    unlike: list[tuple[Point, Point]] = []
    for point in points:
        key = ("alone", point.number) if point.place is None else point.place
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


def _place(feature: Mapping[str, Any], properties: Mapping[str, Any]) -> Hashable:
    """By the pixel, else by the coordinates, else by the id."""
    pixel = tuple(properties.get(key) for key in _PIXEL)
    if all(isinstance(each, str | int | float) for each in pixel):
        return ("pixel", *pixel)
    at = _coordinates(feature.get("geometry"))
    if at is not None:
        # two scenes, or frames of one, may look at the same ground
        scene, frame = (_plain(properties.get(key)) for key in ("scene", "frame"))
        return ("at", scene, frame, *at)
    named = _plain(feature.get("id"))
    return None if named is None else ("id", named)


def _plain(value: object) -> Hashable:
    return value if isinstance(value, str | int | float) else None


def _coordinates(geometry: Any) -> tuple[float, float] | None:
    """Of a point; None also at 0, 0, where tables put what has no place."""
    kind = geometry.get("type") if isinstance(geometry, dict) else None
    at = geometry.get("coordinates") if kind in ("Point", "MultiPoint") else None
    if kind == "MultiPoint":  # as some programs write points
        at = at[0] if isinstance(at, list) and len(at) == 1 else None
    if not isinstance(at, list) or len(at) < 2:
        return None
    if not all(isinstance(v, int | float) and math.isfinite(v) for v in at[:2]):
        return None
    x, y = (round(float(v), _DIGITS) for v in at[:2])
    return (x, y) if (x, y) != (0, 0) else None
