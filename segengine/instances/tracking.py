"""Ids of objects through time: which object of a frame is which of the frames before.

    frame t     every track is moved on by its velocity, from where it was seen last
    1. overlap  tracks and objects of one class whose masks have an IoU of `iou` or more are assigned
                so that the sum of the IoU is greatest
    2. motion   tracks and objects left over, where half of the smaller mask lies in the other: an object
                that comes out from behind something shows a part of itself, where it should be by now
                at its velocity, or at a quarter less or more
    the rest    objects begin tracks; a track ends that was not seen for more than `gap` frames

What is moved on is the mask as it was seen last, and as it was when all of it was seen last, the
largest of five looks: a track that loses more than a tenth of its pixels is taken to be hidden in
part. Its velocity is the mean of its last moves: that of its box's centre; where its area changes,
that of the side that moved further, for the other may be the edge of what hides it; where the sides
come towards each other, or it is slow, that of the side that goes on as before. That side is where the
whole mask is put, unless the part that is seen lies in it better where its velocity has it.

One pass, in order, in double precision: the same tracks however a video is cut. The assignment is
SciPy's (Jonker and Volgenant's algorithm as of Crouse, 2016); the order of tracks and objects decides
ties. Memory is that of the tracks that are not over yet.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import product
from operator import attrgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segengine.instances.rle import decode_crop
from segengine.types import Bool

VERSION = 3
"""Raised when other tracks can come of the same objects."""
HIDDEN = 0.9
"""Share of the pixels of its last full look below which a look is a part."""
SHARE = 0.5
"""Of the smaller mask's pixels, to be the same by motion."""
_SLACK = (1.0, 0.75, 1.25)
"""How much slower or faster than it was a hidden object may have moved."""
_MOVES = 5
Corner = tuple[float, float]
"""Row and column."""


@dataclass(frozen=True, slots=True)
class Look:
    """An object as one frame shows it."""

    mask: Bool
    """(y, x) within its box."""
    corner: Corner
    """Of the box."""
    area: int

    @classmethod
    def of(cls, rle: str, height: int) -> Look:
        """From COCO's compressed counts; `height`: of the frame. Raises ValueError."""
        mask, corner = decode_crop(rle, height)
        return cls(mask, corner, int(np.count_nonzero(mask)))

    def moved(self, by: Corner) -> Look:
        """The same elsewhere."""
        return Look(self.mask, (self.corner[0] + by[0], self.corner[1] + by[1]), self.area)

    @property
    def box(self) -> tuple[int, int, int, int]:
        """First row and column, and those behind the last, in whole pixels."""
        y, x = round(self.corner[0]), round(self.corner[1])
        return y, x, y + self.mask.shape[0], x + self.mask.shape[1]


def shared(a: Look, b: Look) -> int:
    """Pixels of both."""
    (ay, ax, aby, abx), (by, bx, bby, bbx) = a.box, b.box
    top, left, bottom, right = max(ay, by), max(ax, bx), min(aby, bby), min(abx, bbx)
    if top >= bottom or left >= right:
        return 0
    ours = a.mask[top - ay : bottom - ay, left - ax : right - ax]
    theirs = b.mask[top - by : bottom - by, left - bx : right - bx]
    return int(np.count_nonzero(ours & theirs))


def iou(a: Look, b: Look) -> float:
    """Intersection over union."""
    both = shared(a, b)
    return both / (a.area + b.area - both) if both else 0.0


@dataclass(slots=True)
class _Track:
    number: int
    kind: int
    frame: int
    """When it was seen last."""
    last: Look
    moves: deque[Corner] = field(default_factory=lambda: deque(maxlen=_MOVES))
    wholes: deque[Look] = field(init=False)
    """The last looks that showed all of it, or nearly, each moved on to `frame`."""

    def __post_init__(self) -> None:
        self.wholes = deque([self.last], maxlen=_MOVES)

    @property
    def full(self) -> Look:
        """All of it at `frame`: of what goes behind something the last looks lack a little."""
        return max(reversed(self.wholes), key=attrgetter("area"))

    def velocity(self) -> Corner:
        """Pixels a frame."""
        if not self.moves:
            return 0.0, 0.0
        y, x = np.array(self.moves).mean(axis=0).tolist()
        return y, x

    def path(self, frame: int, times: float = 1.0) -> Corner:
        """How far it should be by then, `times` as fast."""
        (y, x), time = self.velocity(), (frame - self.frame) * times
        return y * time, x * time

    def see(self, frame: int, look: Look) -> None:
        """It was found again."""
        whole, before = look.area >= HIDDEN * self.full.area, self.velocity()
        by = self.path(frame)
        beside = frame == self.frame + 1 and (whole or shared(self.last.moved(by), look) > 0)
        # From one part before it was hidden to another part after, no move can be told.
        if whole or beside or self.last.area >= HIDDEN * self.full.area:
            known = before if self.moves else None
            self.moves.append(_move(self.last, look, frame - self.frame, known, whole=whole))
            by = self.path(frame)
        if not whole and beside:
            by = _anchored(self.full, self.last, look, by, before)
        self.wholes = deque([one.moved(by) for one in self.wholes], maxlen=_MOVES)
        if whole:
            self.wholes.append(look)
        self.last, self.frame = look, frame


def _anchored(full: Look, last: Look, look: Look, by: Corner, before: Corner) -> Corner:
    """How far all of it has moved of which a part is seen: `by`; where the part has become larger or
    smaller, so far that the side is in its place which moved as it did `before`: the other is hidden."""
    ways: list[list[float]] = []
    for axis in (0, 1):
        ways.append([by[axis]])
        first = look.corner[axis] - last.corner[axis]
        end = first + look.mask.shape[axis] - last.mask.shape[axis]
        if abs(first - end) > 1:
            at = look.corner[axis]
            if abs(end - before[axis]) < abs(first - before[axis]):
                at += look.mask.shape[axis] - full.mask.shape[axis]
            ways[axis].insert(0, at - full.corner[axis])
    # A round thing becomes narrower on both sides: neither is in its place, and the part sticks out.
    return max(product(ways[0], ways[1]), key=lambda way: shared(full.moved(way), look))


def _move(a: Look, b: Look, time: int, before: Corner | None, *, whole: bool) -> Corner:
    """Pixels a frame from one look to the next; `before`: what is known of its moves."""
    found = []
    for axis in (0, 1):
        first = b.corner[axis] - a.corner[axis]
        last = first + b.mask.shape[axis] - a.mask.shape[axis]
        middle = (first + last) / 2
        same = abs(first - last) <= 1
        if before is not None and (not whole if same else first * last < 0):
            # It goes on slowly, or what comes towards it hides it.
            sides = (middle / time, first / time, last / time)
            found.append(min(sides, key=lambda side: abs(side - before[axis])))
        elif same or first * last < 0:
            found.append(middle / time)
        else:
            found.append(max(first, last, key=abs) / time)
    return found[0], found[1]


class Tracker:
    """Takes the frames of one video in order."""

    def __init__(self, iou: float, gap: int) -> None:
        self.iou, self.gap = iou, gap
        self._tracks: list[_Track] = []
        self._count = 0

    def step(self, frame: int, objects: Sequence[tuple[int, Look]]) -> list[int]:
        """The tracks of a frame's objects, each (class, look), numbered from 1 on.

        Frames ascend; those without objects may be left out.
        """
        self._tracks = [t for t in self._tracks if frame - t.frame - 1 <= self.gap]
        numbers = [0] * len(objects)
        for kind in sorted({kind for kind, _ in objects}):
            here = [i for i, (k, _) in enumerate(objects) if k == kind]
            tracks = [track for track in self._tracks if track.kind == kind]
            for like, times, least in ((iou, (1.0,), self.iou), (_part, _SLACK, SHARE)):
                looks = [objects[i][1] for i in here]
                pairs = _assigned(_likeness(tracks, looks, frame, like, times), least)
                for t, j in pairs:
                    tracks[t].see(frame, looks[j])
                    numbers[here[j]] = tracks[t].number
                taken = {t for t, _ in pairs}
                tracks = [track for t, track in enumerate(tracks) if t not in taken]
                here = [i for i in here if not numbers[i]]
        for i, (kind, look) in enumerate(objects):
            if not numbers[i]:
                self._count += 1
                numbers[i] = self._count
                self._tracks.append(_Track(self._count, kind, frame, look))
        return numbers


def _part(a: Look, b: Look) -> float:
    """Share of the smaller one's pixels that both have."""
    return shared(a, b) / max(1, min(a.area, b.area))


def _likeness(
    tracks: Sequence[_Track],
    looks: Sequence[Look],
    frame: int,
    like: Callable[[Look, Look], float],
    times: Sequence[float],
) -> NDArray[np.float64]:
    """(track, object) the greatest likeness of either look of a track, moved on by so many times its
    path; 0 where no boxes meet."""
    found = np.zeros((len(tracks), len(looks)))
    if not found.size:
        return found
    theirs = _boxes(looks)
    for time in times:
        for which in (attrgetter("last"), attrgetter("full")):
            moved = [which(track).moved(track.path(frame, time)) for track in tracks]
            ours = _boxes(moved)[:, None]
            meet = ((ours[..., :2] < theirs[:, 2:]) & (theirs[:, :2] < ours[..., 2:])).all(axis=-1)
            for t, j in np.argwhere(meet).tolist():
                found[t, j] = max(found[t, j], like(moved[t], looks[j]))
    return found


def _boxes(looks: Iterable[Look]) -> NDArray[Any]:
    return np.array([look.box for look in looks])


def _assigned(likeness: NDArray[np.float64], least: float) -> list[tuple[int, int]]:
    """Pairs of the greatest sum, of those that are alike enough."""
    likeness = np.where(likeness >= least, likeness, 0.0)
    if not likeness.any():
        return []
    from scipy.optimize import linear_sum_assignment

    rows, cols = linear_sum_assignment(likeness, maximize=True)
    return [(t, j) for t, j in zip(rows.tolist(), cols.tolist(), strict=True) if likeness[t, j] > 0]
