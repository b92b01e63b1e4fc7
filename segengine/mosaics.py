"""Many scenes that are one map: who is in it, in which order, and which of them lie under a window.

    Mosaic     members, the first on top      boxes: rows and columns of the map that each may reach
    touching   those that a window of the map needs: what a worker gets, and what its shard's record is of

A layout holds all of them, 10,000 with ease: boxes are one array, and texts that many share are kept once.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import xxhash
from numpy.typing import NDArray

from segengine.types import FrameRef, Part

Six = tuple[float, float, float, float, float, float]
Cells = tuple[int, int, int, int]
"""First row and column, and those after the last."""


@dataclass(frozen=True, slots=True)
class Member:
    """A scene of a mosaic, and what its header said when it was planned."""

    name: str
    uri: str = field(repr=False)
    fingerprint: str
    height: int
    width: int
    transform: Six
    """Of its own grid."""
    crs: int
    """Of its own grid, among those that the mosaic knows."""
    parts: tuple[Part, ...] = ()
    time: float | None = None
    """When it was taken, in seconds since 1970 (UTC): what its item, or its file, says."""
    clouds: float | None = None
    """Per cent."""

    @property
    def ref(self) -> FrameRef:
        """The same as a frame of its own."""
        return FrameRef(
            index=0,
            name=self.name,
            uri=self.uri,
            fingerprint=self.fingerprint,
            height=self.height,
            width=self.width,
            parts=self.parts,
        )

    @property
    def files(self) -> tuple[str, ...]:
        """uris of all that it is read from."""
        return tuple(part.uri for part in self.parts) or (self.uri,)


@dataclass(frozen=True, slots=True, eq=False)
class Mosaic:
    """A map of many scenes: per pixel the first that is valid there counts."""

    transform: Six
    """Of the map: x = a column + b row + c, y = d column + e row + f, from its upper left corner."""
    wkt: str
    bands: int
    dtype: str
    members: tuple[Member, ...]
    """In order: the first is on top."""
    boxes: NDArray[np.int64]
    """(member, 4): first row and column of the map that it may reach, and those after the last."""
    crs: tuple[str, ...]
    """As WKT, those that members lie in."""
    origin: tuple[int, int] = (0, 0)
    """Row and column of the map's corner, counted from that of the first map on the same lattice."""
    taken: tuple[Cells, ...] = ()
    """What of the map an earlier one has: void here."""
    window: Cells | None = None
    """The part of the map that the members are all of; None: all of it."""

    def touching(self, rows: slice, cols: slice) -> Mosaic:
        """The same with those members alone that may reach into a window."""
        near = self.near(rows, cols)
        return replace(
            self,
            members=tuple(self.members[i] for i in near.tolist()),
            boxes=self.boxes[near],
            window=(rows.start, cols.start, rows.stop, cols.stop),
        )

    def near(self, rows: slice, cols: slice) -> NDArray[np.intp]:
        """Which members may reach into a window."""
        top, left, bottom, right = self.boxes.T
        return np.flatnonzero(
            (top < rows.stop) & (bottom > rows.start) & (left < cols.stop) & (right > cols.start)
        )

    @property
    def fingerprint(self) -> str:
        """Of what its pixels are made of: members, their order and their places."""
        made_of = [
            (member.fingerprint, box)
            for member, box in zip(self.members, self.boxes.tolist(), strict=True)
        ]
        return xxhash.xxh3_64_hexdigest(repr((made_of, self.taken)).encode("utf-8", "replace"))

    @property
    def files(self) -> tuple[str, ...]:
        """uris of all that its members are read from, each once."""
        return tuple(dict.fromkeys(uri for member in self.members for uri in member.files))

    def untaken(self, rows: slice, cols: slice) -> NDArray[np.bool_]:
        """(y, x) pixels of a window that are this map's, and no earlier one's."""
        found = np.ones((rows.stop - rows.start, cols.stop - cols.start), np.bool_)
        for top, left, bottom, right in self.taken:
            found[
                max(top - rows.start, 0) : max(bottom - rows.start, 0),
                max(left - cols.start, 0) : max(right - cols.start, 0),
            ] = False
        return found
