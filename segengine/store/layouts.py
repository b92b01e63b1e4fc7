"""Which frame lies where, as a store holds it: the layout of each scene, and the inputs without a place.

A layout is committed before its scene's first shard; after that a frame never moves.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segengine import tiling
from segengine.ahead import is_far, several
from segengine.mosaics import Mosaic
from segengine.placing import Placing
from segengine.store.blobs import Objects
from segengine.store.keys import LAYOUTS, UNPLACED, layout_key
from segengine.store.values import decode, encode
from segengine.types import FrameRef, Part, Place, Steps, Window
from segengine.urls import public, without_query

NOTHING = "-"
"""Fingerprint of an input that a mask is not of."""
Reads = tuple[slice, slice]
"""Rows and columns of a frame that are read."""


@dataclass(frozen=True, slots=True)
class Layout:
    """A scene: its frames, its shape and its shards."""

    scene: str
    kind: str
    """The source kind that reads it."""
    shape: tuple[int, int, int]
    """(frame, y, x)"""
    bands: int
    dtype: str
    shard: tuple[int, int, int]
    chunk: tuple[int, int, int]
    names: tuple[str, ...]
    """One a frame (photos), or one for all (a scene of its own)."""
    uris: tuple[str, ...] = field(repr=False)
    fingerprints: tuple[str, ...]
    heights: NDArray[np.int32]
    """(name,) real height of each; the rest of the scene's height is void."""
    widths: NDArray[np.int32]
    gone: NDArray[np.bool_]
    """(name,) the input has vanished."""
    stacked: bool
    windowed: bool
    positions: NDArray[np.int64] | None = None
    times: NDArray[np.float64] | None = None
    seeks: NDArray[np.int64] | None = None
    attributes: dict[str, Any] = field(default_factory=dict)
    parts: tuple[Part, ...] = ()
    """One a band, of a scene of several files."""
    mosaic: Mosaic | None = None
    """The scenes that a map is made of, which is one frame."""

    @property
    def public(self) -> Layout:
        """The same as it is committed: without credentials that a URL may carry."""
        shown = tuple(map(public, self.uris))
        parts = _shown(self.parts, self.kind)
        mosaic = None if self.mosaic is None else _public(self.mosaic, self.kind)
        if (shown, parts) == (self.uris, self.parts) and mosaic is self.mosaic:
            return self
        return replace(self, uris=shown, parts=parts, mosaic=mosaic)

    @property
    def files(self) -> tuple[str, ...]:
        """uris of all that its frames are read from, each once."""
        if self.mosaic is not None:
            return self.mosaic.files
        found = dict.fromkeys((*self.uris, *(part.uri for part in self.parts)))
        return tuple(uri for uri in found if uri)

    @property
    def pruned(self) -> NDArray[np.bool_]:
        """(name,) of which all is deleted: the place is void, and nothing tells of what it was."""
        return np.fromiter((not name for name in self.names), np.bool_, len(self.names))

    def without(self, places: Collection[int]) -> Layout:
        """The same scene of photos with some of them deleted: their places stay, and say nothing."""
        heights, widths, gone = self.heights.copy(), self.widths.copy(), self.gone.copy()
        at = sorted(places)
        heights[at], widths[at], gone[at] = 0, 0, True
        return replace(
            self,
            names=tuple("" if i in places else name for i, name in enumerate(self.names)),
            uris=tuple("" if i in places else uri for i, uri in enumerate(self.uris)),
            fingerprints=tuple(
                NOTHING if i in places else mark for i, mark in enumerate(self.fingerprints)
            ),
            heights=heights,
            widths=widths,
            gone=gone,
        )

    @property
    def grid(self) -> tuple[int, int, int]:
        """Shards along (frame, y, x)."""
        return tiling.shard_grid(self.shape, self.shard)

    @property
    def shards(self) -> int:
        """Number of shards."""
        f, y, x = self.grid
        return f * y * x

    @property
    def cut(self) -> bool:
        """True where a frame lies in more than one shard."""
        return self.grid[1] * self.grid[2] > 1

    @property
    def placing(self) -> Placing:
        """Where it lies."""
        return Placing.of(self.attributes, *self.shape[1:])

    @property
    def spacing(self) -> tuple[float, float] | None:
        """Of a volume's pixels (y, x), in millimetres; None: not known."""
        sides = self.attributes.get("volume", {}).get("spacing")
        return None if sides is None else (float(sides[1]), float(sides[2]))

    @property
    def steps(self) -> Steps | None:
        """From a volume's voxel to the next along each axis, in millimetres; None: not known."""
        about = self.attributes.get("volume", {})
        if about.get("affine") is None or about.get("spacing") is None:
            return None
        columns = np.array(about["affine"], np.float64)[:3, :3].T
        # the affine's unit, as the lengths of its columns tell
        unit = float(about["spacing"][2]) / float(np.linalg.norm(columns[0]))
        x, y, frame = (tuple(float(v) * unit for v in column) for column in columns)
        return Steps(frame, y, x)  # type: ignore[arg-type] # three numbers each

    @property
    def slices(self) -> int | None:
        """Of a volume, frames of one time; None: it is none."""
        about = self.attributes.get("volume")
        return None if about is None else int(about.get("slices") or self.shape[0])

    def window(self, place: Place) -> Window:
        """The box of a shard."""
        return tiling.shard_window(place, self.shape, self.shard)

    def frame_name(self, index: int) -> str:
        """The frame's name: its file's, for video `#` and the frame's index."""
        if self.stacked:
            return self.names[index]
        if self.positions is None:
            return self.names[0]
        return f"{self.names[0]}#{int(self.positions[index])}"

    def frame(self, index: int, reads: Reads | None = None) -> FrameRef:
        """What a worker needs to read a frame; `reads`: only rows and columns of it."""
        i = index if self.stacked else 0
        mosaic = self._under(reads)
        return FrameRef(
            index=index,
            name=self.frame_name(index),
            uri=self.uris[i],
            fingerprint=self.fingerprints[i]
            if mosaic is None or mosaic is self.mosaic
            else mosaic.fingerprint,
            height=int(self.heights[i]),
            width=int(self.widths[i]),
            position=0 if self.positions is None or self.stacked else int(self.positions[index]),
            seek=None
            if self.seeks is None
            else (int(self.seeks[index, 0]), int(self.seeks[index, 1])),
            gone=bool(self.gone[i]),
            parts=self.parts,
            mosaic=mosaic,
        )

    def frames(
        self, start: int = 0, stop: int | None = None, reads: Reads | None = None
    ) -> tuple[FrameRef, ...]:
        """Frames [start, stop); `reads`: what of them is read, where not all is."""
        last = self.shape[0] if stop is None else stop
        return tuple(self.frame(i, reads) for i in range(start, last))

    def _under(self, reads: Reads | None) -> Mosaic | None:
        """The scenes of a map, or those of them that a part of it needs."""
        if self.mosaic is None or reads is None:
            return self.mosaic
        return self.mosaic.touching(*reads)

    def inputs(self, first: int, last: int, reads: Reads | None = None) -> str:
        """What frames [first, last) are read from: fingerprints, joined by blanks; of one file, once.
        Of a map that of the scenes which `reads`, rows and columns, needs.

        Release 0.1 labelled one frame of a file in the place of another: where frames that are decoded
        whole are cut, and where GDAL lists ten pages or more. What it stored of those is made again.
        """
        mosaic = self._under(reads)
        if mosaic is not None and mosaic is not self.mosaic:
            return mosaic.fingerprint
        if self.stacked:
            return " ".join(self.fingerprints[first:last])
        swapped = self.kind == "raster" or (self.cut and not self.windowed)
        return (
            f"{self.fingerprints[0]} each"
            if swapped and self.shape[0] > 1
            else self.fingerprints[0]
        )

    def frame_shards(self, place_f: int) -> list[Place]:
        """The shards that hold the frames of row `place_f` of the grid."""
        _, rows, columns = self.grid
        return [(place_f, y, x) for y in range(rows) for x in range(columns)]


def _shown(parts: Sequence[Part], kind: str) -> tuple[Part, ...]:
    """Parts as they are committed: that an asset's URL had a query, its source has to know."""
    show = without_query if kind == "stac" else public
    return tuple(replace(part, uri=show(part.uri)) for part in parts)


def _public(mosaic: Mosaic, kind: str) -> Mosaic:
    """A map as it is committed; itself where no URL of its scenes carries anything."""
    members = tuple(
        replace(member, uri=public(member.uri), parts=_shown(member.parts, kind))
        for member in mosaic.members
    )
    return mosaic if members == mosaic.members else replace(mosaic, members=members)


WAITING = "waiting"
"""Kind of an input that is still being written."""
OUTSIDE = "outside"
"""Kind of an input that lies outside the job's area: nothing is wrong with it."""


@dataclass(frozen=True, slots=True)
class Unplaced:
    """An input that takes no place: its header cannot be read, it waits for the next run, or it lies
    outside the job's area."""

    name: str
    uri: str
    fingerprint: str
    kind: str
    reason: str
    """Of one outside, by what it was found so: the area and the grid."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "uri", public(self.uri))
        object.__setattr__(self, "reason", public(self.reason))

    @property
    def waits(self) -> bool:
        """It is still being written: no failure."""
        return self.kind == WAITING


def load_layouts(objects: Objects) -> dict[str, Layout]:
    """The committed layouts of a store, by scene; one that is damaged for good counts as none."""
    _, files = objects.children(LAYOUTS)
    found = several(files, partial(load_layout, objects), far=is_far(objects.root))
    return {layout.scene: layout for layout in found if layout is not None}


def load_layout(objects: Objects, scene: str) -> Layout | None:
    """The committed layout of a scene; None where it is damaged for good."""
    found = _committed(objects, layout_key(scene))
    return found if isinstance(found, Layout) and found.scene == scene else None


def load_unplaced(objects: Objects) -> tuple[Unplaced, ...]:
    """Inputs that took no place in the last run, those that wait among them; they are read again
    where that is damaged."""
    return tuple(each for each in _left_out(objects) if each.kind != OUTSIDE)


def load_outside(objects: Objects) -> tuple[Unplaced, ...]:
    """Inputs outside the job's area in the last run, which took no place; the area is their reason."""
    return tuple(each for each in _left_out(objects) if each.kind == OUTSIDE)


def _left_out(objects: Objects) -> tuple[Unplaced, ...]:
    found = _committed(objects, UNPLACED)
    return found if isinstance(found, tuple) else ()


def _committed(objects: Objects, key: str) -> Any:
    data = objects.get(key)
    try:
        return None if data is None else decode(data)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def commit_layout(objects: Objects, layout: Layout) -> None:
    """Write a scene's layout, atomically; a rerun lists its inputs again, and has their full URLs."""
    objects.put(layout_key(layout.scene), encode(layout.public))


def commit_unplaced(objects: Objects, unplaced: Sequence[Unplaced]) -> None:
    """Write the list of inputs without a place, those outside the job's area among them."""
    objects.put(UNPLACED, encode(tuple(unplaced)))
