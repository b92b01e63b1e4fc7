"""What lies on the desk: the frames to look at, each with its picture, its mask and its correction.

A frame of more than `SIDE` pixels a side is edited in windows of at most that, by rows and columns.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segengine import corrections
from segengine.ahead import is_far
from segengine.corrections import ConflictError, Files
from segengine.errors import CorruptInputError, MissingTruthError, TransientInputError
from segengine.pictures import draw
from segengine.review.superpixels import TILE, superpixels
from segengine.store.blobs import Objects
from segengine.types import Color, Labels, Tile

SIDE = 4096
"""Most pixels of a window along rows and columns."""
_EXACT = 1 << 20
"""Pixels up to which a picture is sent without loss."""
_QUALITY = 92


class MissingError(Exception):
    """There is no such frame, window or map."""


@dataclass(frozen=True, slots=True)
class Item:
    """A frame to look at."""

    name: str
    scene: str
    frame: int
    height: int
    width: int
    note: str = ""
    """Why it stands where it does in the list: its figure."""

    @property
    def windows(self) -> list[tuple[slice, slice]]:
        """Rows and columns of what is edited at once; one for most frames."""
        return [(y, x) for y in _parts(self.height) for x in _parts(self.width)]


def _parts(length: int) -> list[slice]:
    count = -(-length // SIDE)
    edges = [length * i // count for i in range(count + 1)]
    return [slice(a, b) for a, b in itertools.pairwise(edges)]


@dataclass(frozen=True)
class Desk:
    """What is edited, and where corrections go."""

    title: str
    classes: tuple[str, ...]
    colors: tuple[Color, ...]
    background: tuple[int, ...]
    """Labels of what is no object."""
    void: int
    items: Sequence[Item]
    objects: Objects
    """Where corrections are stored."""
    who: str
    place: Callable[[Item], Files]
    pixels: Callable[[Item, slice, slice], Tile]
    """The picture of a window. Raises CorruptInputError, TransientInputError."""
    labels: Callable[[Item, slice, slice], Labels | None]
    """The mask of a window; None: there is none."""
    instances: Callable[[Item, slice, slice], NDArray[np.uint32] | None]
    """Ids of a window; None: there are none."""
    facts: Callable[[Item], Mapping[str, Any]]
    """What the JSON of a correction says of its frame."""
    _saving: threading.Lock = field(default_factory=threading.Lock)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of labels."""
        return np.dtype(np.uint8 if self.void == 0xFF else np.uint16)

    @cached_property
    def _lower(self) -> list[str]:
        return [item.name.casefold() for item in self.items]

    def about(self) -> dict[str, Any]:
        """What the page needs to know before its first frame."""
        return {
            "title": self.title,
            "classes": list(self.classes),
            "colors": [list(color) for color in self.colors],
            "background": list(self.background),
            "void": self.void,
            "frames": len(self.items),
            "tile": TILE,
        }

    def listed(self, start: int, count: int, words: str) -> dict[str, Any]:
        """A page of the list, of the frames whose names hold `words`."""
        lower = words.casefold()
        found: Sequence[int] = range(len(self.items))
        if lower:
            found = [i for i, name in enumerate(self._lower) if lower in name]
        page = found[start : start + count]
        there = self._there([self.place(self.items[i]).labels for i in page])
        rows = [self._row(i, done) for i, done in zip(page, there, strict=True)]
        return {"total": len(found), "start": start, "frames": rows}

    def _there(self, keys: Sequence[str]) -> list[bool]:
        """Which of some corrections there are; of a store behind a network, one listing tells it."""
        if not keys or not is_far(self.objects.root):
            return [self.objects.exists(key) for key in keys]
        folder = os.path.commonpath([key.rpartition("/")[0] for key in keys])
        found = set(self.objects.keys(folder))
        return [key in found for key in keys]

    def _row(self, number: int, done: bool) -> dict[str, Any]:
        item = self.items[number]
        shown = item.name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        return {"number": number, "name": shown, "note": item.note, "corrected": done}

    def item(self, number: int) -> Item:
        """A frame by its place in the list. Raises MissingError."""
        if not 0 <= number < len(self.items):
            raise MissingError(f"frame {number}")
        return self.items[number]

    def opened(self, number: int, window: int) -> dict[str, Any]:
        """What the page needs to know of a frame, and of a window of it."""
        item = self.item(number)
        place = self.place(item)
        if item.height * item.width > corrections.LARGEST:
            return {
                **self._row(number, self.objects.exists(place.labels)),
                "refused": f"{item.height:,} x {item.width:,} pixels are more than can be corrected "
                f"({corrections.LARGEST:,}); cut the scene into smaller ones",
            }
        rows, cols = self._window(item, window)
        tag = self._tag(place.labels)
        objects = place.objects is not None and len(item.windows) == 1
        return {
            **self._row(number, tag != corrections.NONE),
            "damaged": self._damage(item, place),
            "height": rows.stop - rows.start,
            "width": cols.stop - cols.start,
            "top": rows.start,
            "left": cols.start,
            "windows": len(item.windows),
            "tag": tag,
            "save": corrections.last_save(corrections.about(self.objects, place), tag),
            "objects": objects and self.instances(item, slice(0, 1), slice(0, 1)) is not None,
        }

    def _damage(self, item: Item, place: Files) -> str:
        """What of a frame's correction cannot be shown, and why; empty: all of it can."""
        found = []
        for key in (place.labels, place.objects):
            try:
                if key is not None:
                    size, classes = (item.height, item.width), len(self.classes)
                    corrections.read(self.objects, place, key, size, classes)
            except MissingTruthError as error:
                found.append(str(error).removesuffix(f"; {corrections.MEND}"))
        return "; ".join(found)

    def _window(self, item: Item, window: int) -> tuple[slice, slice]:
        windows = item.windows
        if not 0 <= window < len(windows) or item.height * item.width > corrections.LARGEST:
            raise MissingError(f"window {window}")
        return windows[window]

    def picture(self, number: int, window: int) -> tuple[str, bytes]:
        """A window's picture, with its type. Raises MissingError where it cannot be read."""
        item = self.item(number)
        rows, cols = self._window(item, window)
        tile = self._tile(item, rows, cols)
        image = draw.to_rgb(tile.pixels, tile.valid)
        if image.shape[0] * image.shape[1] <= _EXACT:
            return "image/png", draw.encode_png(image)
        return "image/jpeg", draw.encode_jpeg(image, _QUALITY)

    def _tile(self, item: Item, rows: slice, cols: slice) -> Tile:
        try:
            return self.pixels(item, rows, cols)
        except (CorruptInputError, TransientInputError, OSError) as error:
            raise MissingError(f"the picture cannot be read now: {error}") from error

    def mask(self, number: int, window: int) -> Labels:
        """(y, x) labels of a window as they were segmented; void where there are none."""
        item = self.item(number)
        rows, cols = self._window(item, window)
        found = self.labels(item, rows, cols)
        if found is None:
            return np.full((rows.stop - rows.start, cols.stop - cols.start), self.void, self.dtype)
        return found.astype(self.dtype, copy=False)

    def correction(self, number: int, window: int) -> tuple[Labels, str]:
        """(y, x) corrected labels of a window, void where nobody touched it, and their tag."""
        item = self.item(number)
        rows, cols = self._window(item, window)
        place = self.place(item)
        tag = self._tag(place.labels)  # before: who is given pixels saved meanwhile, is told so
        return self._drawn(item, place)[rows, cols], tag

    def _tag(self, key: str) -> str:
        return corrections.tag_of(self.objects.get(key))

    def _drawn(self, item: Item, place: Files) -> Labels:
        """(y, x) what was corrected; where that is damaged or no class, nobody has touched it."""
        found = self._whole(item, place, place.labels)
        if found is None:
            return np.full((item.height, item.width), self.void, self.dtype)
        # Of a job that had more classes, or fewer.
        drawn = (found != np.iinfo(found.dtype).max) & (found < len(self.classes))
        return np.where(drawn, found, self.void).astype(self.dtype)

    def _whole(self, item: Item, place: Files, key: str) -> NDArray[Any] | None:
        """An image of a correction; None: there is none, or it is damaged and to be drawn again."""
        try:
            return corrections.read(self.objects, place, key, (item.height, item.width))[0]
        except MissingTruthError:
            return None

    def save(self, number: int, window: int, labels: Labels, seen: str) -> dict[str, Any]:
        """Store a window of a correction over what its maker has seen. Raises ConflictError."""
        item = self.item(number)
        rows, cols = self._window(item, window)
        strange = (labels >= len(self.classes)) & (labels != self.void)
        if strange.any():
            raise ValueError(f"label {int(labels[strange][0])} is no class")
        place = self.place(item)
        with self._saving:
            tag = self._tag(place.labels)
            if tag != seen:
                known = corrections.about(self.objects, place)
                raise ConflictError(place.labels, tag, corrections.last_save(known, tag))
            whole = self._drawn(item, place)
            whole[rows, cols] = labels
            return self._written(item, place, place.labels, whole, seen, {})

    def objects_of(self, number: int) -> tuple[NDArray[np.uint32], str]:
        """(y, x) ids of a frame's objects as corrected, else as segmented, and the tag of the former."""
        item = self.item(number)
        (rows, cols), key = self._window(item, 0), self.place(item).objects
        found = self.instances(item, rows, cols)
        if key is None or found is None or len(item.windows) > 1:
            raise MissingError("no objects")
        tag, whole = self._tag(key), self._whole(item, self.place(item), key)
        return (found if whole is None else whole).astype(np.uint32), tag

    def save_objects(
        self, number: int, ids: NDArray[np.uint32], labels: Labels, seen: str
    ) -> dict[str, Any]:
        """Store a frame's objects: `ids` (y, x), and `labels` (y, x), of which each has its class."""
        from segengine.instances.join import renumbered

        item = self.item(number)
        place = self.place(item)
        if place.objects is None:
            raise MissingError("no objects")
        numbered, _ = renumbered(np.ascontiguousarray(ids, np.uint32))
        if int(numbered.max(initial=0)) >= corrections.NO_OBJECTS:
            raise ValueError(f"more than {corrections.NO_OBJECTS - 1:,} objects")
        kinds = _kinds(numbered, labels, len(self.classes))
        whole = numbered.astype(np.uint16)
        with self._saving:
            return self._written(item, place, place.objects, whole, seen, {"objects": kinds})

    def _written(
        self,
        item: Item,
        place: Files,
        key: str,
        whole: NDArray[Any],
        seen: str,
        more: Mapping[str, Any],
    ) -> dict[str, Any]:
        when = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        save = {"who": self.who, "when": when}
        facts = {**self.facts(item), "classes": list(self.classes), "void": self.void, **more}
        tag = corrections.write(self.objects, place, key, whole, seen, facts, save)
        return {"tag": tag, **save}

    def superpixels(self, number: int, window: int, y: int, x: int) -> tuple[int, int, Labels]:
        """Where the tile at (y, x) of a window begins, and the superpixels in it (y, x)."""
        item = self.item(number)
        rows, cols = self._window(item, window)
        top, left = y // TILE * TILE, x // TILE * TILE
        part = slice(rows.start + top, min(rows.start + top + TILE, rows.stop))
        side = slice(cols.start + left, min(cols.start + left + TILE, cols.stop))
        if y < 0 or x < 0 or part.stop <= part.start or side.stop <= side.start:
            raise MissingError(f"({y}, {x}) lies outside")
        tile = self._tile(item, part, side)
        return top, left, superpixels(draw.to_rgb(tile.pixels, tile.valid))


def _kinds(ids: NDArray[Any], labels: Labels, classes: int) -> dict[str, int]:
    """The class that most pixels of each id have, the lowest of several; by id."""
    inside = (ids > 0) & (labels < classes)
    both = ids[inside].astype(np.int64) * classes + labels[inside]
    codes, counts = np.unique(both, return_counts=True)
    found: dict[str, int] = {}
    for code in codes[np.lexsort((codes, -counts))].tolist():
        found.setdefault(str(code // classes), code % classes)
    return dict(sorted(found.items(), key=lambda kind: int(kind[0])))
