"""Objects counted as they cross lines and stand in zones, by time.

A track is where the middle of its object's box is. It crosses a line of two points where it goes from
one side to the other between them, whether it was seen in between or not: `forward` from the line's
left to its right hand, looking from the first point to the second, else `backward`. It is in a zone, a
polygon, by the even-odd rule; who is there when first seen has `entered`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

Point = tuple[float, float]
"""x, y in pixels of the frame."""


class Seen(NamedTuple):
    """An object in a frame."""

    track: int
    kind: int
    """Its class."""
    at: Point


@dataclass(slots=True)
class Crossed:
    """Objects of a class at a line, in a period."""

    forward: int = 0
    backward: int = 0


@dataclass(slots=True)
class Stood:
    """Objects of a class in a zone, in a period."""

    entered: int = 0
    left: int = 0
    sum: int = 0
    """Over the period's frames."""
    most: int = 0
    """In a frame."""


@dataclass(slots=True)
class Counts:
    """What the frames of one video add up to, taken in order."""

    lines: Mapping[str, Sequence[Point]]
    zones: Mapping[str, Sequence[Point]]
    crossed: dict[tuple[int, str, int], Crossed] = field(default_factory=dict)
    """By period, line and class."""
    stood: dict[tuple[int, str, int], Stood] = field(default_factory=dict)
    _last: dict[int, tuple[int, Point]] = field(default_factory=dict)
    """When and where each track was seen last."""
    _inside: dict[str, set[int]] = field(default_factory=dict)
    """Tracks that were in each zone when they were seen last."""

    def step(self, frame: int, period: int, objects: Sequence[Seen], gap: int) -> None:
        """Take a frame; a track that was not seen for more than `gap` frames is over."""
        for track in [t for t, (last, _) in self._last.items() if frame - last - 1 > gap]:
            del self._last[track]
            for inside in self._inside.values():
                inside.discard(track)
        for one in objects:
            if one.track in self._last:
                self._cross(period, one, self._last[one.track][1])
            self._last[one.track] = frame, one.at
        for zone, corners in self.zones.items():
            self._stand(period, zone, corners, objects)

    def _cross(self, period: int, one: Seen, before: Point) -> None:
        for line, (a, b) in self.lines.items():
            was, now = _is_right(a, b, before), _is_right(a, b, one.at)
            if was != now and _is_right(before, one.at, a) != _is_right(before, one.at, b):
                found = self.crossed.setdefault((period, line, one.kind), Crossed())
                if now:
                    found.forward += 1
                else:
                    found.backward += 1

    def _stand(
        self, period: int, zone: str, corners: Sequence[Point], objects: Iterable[Seen]
    ) -> None:
        here: dict[int, int] = {}
        before = self._inside.setdefault(zone, set())
        for one in objects:
            inside = is_inside(one.at, corners)
            if inside or one.track in before:
                found = self.stood.setdefault((period, zone, one.kind), Stood())
                found.entered += inside and one.track not in before
                found.left += not inside
                (before.add if inside else before.discard)(one.track)
            if inside:
                here[one.kind] = here.get(one.kind, 0) + 1
        for kind, count in here.items():
            found = self.stood[period, zone, kind]
            found.sum += count
            found.most = max(found.most, count)


def _is_right(a: Point, b: Point, p: Point) -> bool:
    """Whether a point lies on a line through two, or to its right hand on the screen."""
    return (b[0] - a[0]) * (p[1] - a[1]) - (b[1] - a[1]) * (p[0] - a[0]) >= 0


def is_inside(p: Point, corners: Sequence[Point]) -> bool:
    """Whether a point is in a polygon, open or closed, by the even-odd rule.

    >>> square = [(0, 0), (4, 0), (4, 4), (0, 4)]
    >>> is_inside((2, 3), square), is_inside((5, 3), square)
    (True, False)
    """
    inside = False
    for (ax, ay), (bx, by) in _sides(corners):
        if (ay > p[1]) != (by > p[1]) and p[0] < ax + (p[1] - ay) * (bx - ax) / (by - ay):
            inside = not inside
    return inside


def _sides(corners: Sequence[Point]) -> Iterator[tuple[Point, Point]]:
    return zip(corners, [*corners[1:], corners[0]], strict=True)
