"""Labels that depend on the frames before: a video in segments, and what is known at a frame of each.

    frame      0 ........ 199 | 200 ........ 399 | 400 ........ 599
    segment 0  labelled
    segment 1        100..199 | labelled
    segment 2                   300 ........ 399 | labelled
               the warm-up: looked at, and not labelled

Segments are cut from the first frame of a video on, wherever its shards are. A segment knows of the
frames of its warm-up and of its own, and of no other: its labels are the same whoever begins it, a
worker that has one of its frames in a shard or one that labels the whole video.
"""

from __future__ import annotations

from dataclasses import dataclass

from segengine.types import Follower, Follows, Labels, Pixels


def begins(segment: int, warmup: int, span: int) -> int:
    """The first frame that a segment knows of.

    >>> [begins(segment, 100, 200) for segment in range(3)]
    [0, 100, 300]
    """
    return max(0, segment * span - warmup)


def first_needed(frame: int, follows: Follows) -> int:
    """The first frame that a shard that begins at `frame` has to look at."""
    return begins(frame // follows.span, follows.warmup, follows.span)


@dataclass(slots=True)
class _Segment:
    """One that is under way."""

    knows: Follower
    next: int
    """Frame that it has to see next."""
    blind: bool = False
    """It has missed a frame that it may see another time."""


class Chain:
    """The segments that are under way at a frame of a video, which is told frame by frame."""

    def __init__(self, follows: Follows) -> None:
        self.follows = follows
        self._under_way: dict[int, _Segment] = {}
        self._wanted = range(0)

    def aim(self, start: int, stop: int) -> int:
        """Go for the labels of frames [start, stop): the frame from which on it is to be told all.

        What it knows of segments that have gone too far, or that are none of these, it forgets.
        """
        warmup, span = self.follows.warmup, self.follows.span
        self._wanted = range(start // span, (stop - 1) // span + 1)
        self._under_way = {
            i: segment
            for i, segment in self._under_way.items()
            if i in self._wanted and segment.next <= max(start, i * span)
        }
        return min(
            self._under_way[i].next if i in self._under_way else begins(i, warmup, span)
            for i in self._wanted
        )

    def see(self, frame: int, pixels: Pixels) -> Labels | None:
        """Labels (y, x) of the next frame, (y, x, band), by its own segment.

        None: its segment is none of those aimed at, or has missed a frame that it may see another time.
        """
        own = None
        for i, segment in self._seeing(frame):
            labels = segment.knows.label(pixels)
            if i == frame // self.follows.span and not segment.blind:
                own = labels
        self._end(frame)
        return own

    def miss(self, frame: int, *, for_good: bool) -> None:
        """The next frame cannot be read. `for_good`: by nobody, so that it is as if it were not there."""
        for _, segment in self._seeing(frame):
            segment.blind |= not for_good
        self._end(frame)

    @property
    def blind(self) -> bool:
        """Whether a segment that is under way does not know what it would another time."""
        return any(segment.blind for segment in self._under_way.values())

    @property
    def nbytes(self) -> int:
        """Of what it knows."""
        return sum(segment.knows.nbytes for segment in self._under_way.values())

    def _seeing(self, frame: int) -> list[tuple[int, _Segment]]:
        """The segments aimed at that know of a frame, and have not seen it."""
        warmup, span = self.follows.warmup, self.follows.span
        found = []
        for i in self._wanted:
            first = begins(i, warmup, span)
            if not first <= frame < (i + 1) * span:
                continue
            if i not in self._under_way:
                self._under_way[i] = _Segment(self.follows.begin(), first)
            segment = self._under_way[i]
            if segment.next > frame:
                continue
            if segment.next != frame:
                raise ValueError(f"frame {frame} comes where {segment.next} is next")
            segment.next += 1
            found.append((i, segment))
        return found

    def _end(self, frame: int) -> None:
        """Forget the segment whose last frame it was."""
        last, left = divmod(frame + 1, self.follows.span)
        if not left:
            self._under_way.pop(last - 1, None)
