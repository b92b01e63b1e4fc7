"""Prompts that are the objects of another store: those of a frame, by its name, as boxes or centroids.

A frame without objects there has none here. One that the store does not have, or has not labelled, fails:
nothing is known of it, and void is no background.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import xxhash
from numpy.typing import NDArray

from segengine.errors import DamagedStoreError, JobError, StoreError
from segengine.segmenters._prompts import MOST, Ask, Floats, Prompting, Prompts
from segengine.types import Cell, Frames, Site
from segengine.urls import public

if TYPE_CHECKING:
    import pyarrow as pa

MOST_ROWS = 1 << 23
"""Objects, or frames, of a store."""
LABELLED = ("done", "gone")
"""What becomes of a frame whose objects are known."""


@dataclass(frozen=True, slots=True, eq=False)
class Stored:
    """The objects of a store's frames."""

    path: str
    rows: dict[str, int]
    """The row of each frame in what follows."""
    sizes: NDArray[np.int64]
    """(frame, 2) height and width."""
    status: list[str]
    spans: NDArray[np.int64]
    """(frame, 2) first of its objects, and after the last."""
    boxes: Floats
    """(object, 4) x, y, width, height."""
    masks: pa.Array | None
    """Run lengths of each object, where centroids are asked for."""
    digest: str

    by_name: ClassVar[bool] = True

    def of(self, frames: Frames | None, frame: int, size: Cell) -> Prompts:
        """Those of a frame by its name. Raises ValueError where the store does not know them."""
        if frames is None:
            raise ValueError(
                f"prompts: {self.path}: has them by the names of frames, and a picture alone has none; "
                "run a job"
            )
        row = self.rows.get(_text(frames.names[frame]))
        if row is None:
            raise ValueError(f"prompts: {self.path}: has no frame of this name")
        if self.status[row] not in LABELLED:
            raise ValueError(
                f"prompts: {self.path}: this frame is {self.status[row]} there; run its job first"
            )
        height, width = self.sizes[row].tolist()
        if (height, width) != size:
            raise ValueError(
                f"prompts: {self.path}: this frame has {height} x {width} pixels there, and here "
                f"{size[0]} x {size[1]}"
            )
        first, last = self.spans[row].tolist()
        if self.masks is None:
            low = self.boxes[first:last, :2]
            corners = np.stack([low, low + self.boxes[first:last, 2:]], axis=1)
        else:
            corners = np.repeat(self._centroids(first, last, height)[:, None], 2, axis=1)
        boxed = np.full(len(corners), self.masks is None)
        return Prompts(corners, boxed).within(size)

    def remarks(self, sites: Iterable[Site]) -> Iterator[str]:
        """That it has no objects at all; what it does not know of a frame, that frame fails by."""
        if not len(self.boxes):
            yield f"prompts: {self.path}: has no objects, and none will be found"

    def _centroids(self, first: int, last: int, height: int) -> Floats:
        from segengine.instances.rle import centroids

        assert self.masks is not None
        texts = self.masks.slice(first, last - first).to_pylist()
        try:
            found = centroids(texts, height)
        except (ValueError, IndexError, TypeError, OverflowError) as error:
            raise ValueError(f"prompts: {self.path}: an object has no run lengths") from error
        shown = np.isfinite(found).all(axis=1)
        return found[shown]


def _text(name: str) -> str:
    """A name as tables hold it."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def stored(path: str, ask: Ask) -> Stored:
    """Those of a store. Raises ValueError naming the option."""
    from segengine.reader import open_store

    name = public(path)
    try:
        store = open_store(path, trust=False)
        frames = store.frames
        try:
            objects = store.table("instances")
        except DamagedStoreError:
            raise
        except StoreError as error:
            raise ValueError(
                f"prompts: {name}: its job finds no objects; give its segmenter `instances: components`"
            ) from error
    except JobError as error:
        raise ValueError(f"prompts: {error}; give grid, a GeoJSON file, or a store") from error
    except (StoreError, OSError) as error:
        raise ValueError(f"prompts: {public(str(error))}") from error
    try:
        return _of_tables(name, frames, objects, ask)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"prompts: {name}: {error}") from error


def _of_tables(name: str, frames: pa.Table, objects: pa.Table, ask: Ask) -> Stored:
    from segengine.store.columns import numbers_of, taken

    for table, what in ((frames, "frames"), (objects, "objects")):
        if table.num_rows > MOST_ROWS:
            raise ValueError(f"has {table.num_rows:,} {what}; {MOST_ROWS:,} can be read")
    scenes: dict[str | None, int] = {}
    places = _places(objects, scenes)
    order = np.argsort(places, kind="stable")
    objects, places = taken(objects, order), places[order]
    boxes = numbers_of(objects.column("bbox").combine_chunks().flatten()).astype(np.float64)
    boxes = boxes.reshape(objects.num_rows, 4)
    if not np.isfinite(boxes).all() or (boxes[:, 2:] <= 0).any():
        raise ValueError("has objects whose boxes are none")
    own = _places(frames, scenes)
    spans = np.stack([np.searchsorted(places, own, side) for side in ("left", "right")], axis=1)
    names = frames.column("name").to_pylist()
    counts = spans[:, 1] - spans[:, 0]
    for i in np.flatnonzero(counts > MOST)[:1].tolist():
        raise ValueError(f"has {counts[i]:,} objects in {names[i]}; {MOST:,} can be asked for")
    status = frames.column("status").to_pylist()
    rows: dict[str, int] = {}
    for i, each in enumerate(names):
        if each not in rows or status[i] != "gone":  # one that has moved to another scene
            rows[each] = i
    sizes = np.array(
        [[n or 0 for n in frames.column(side).to_pylist()] for side in ("height", "width")],
        np.int64,
    ).T
    masks = objects.column("rle").combine_chunks() if ask == "centroids" else None
    digest = xxhash.xxh3_128()
    told = [f"{each} {status[i] in LABELLED}" for each, i in rows.items()]
    digest.update("\0".join(told).encode())
    for values in (sizes, spans, boxes):
        digest.update(np.ascontiguousarray(values).tobytes())
    if masks is not None:
        digest.update("\0".join(map(str, masks.to_pylist())).encode())
    return Stored(
        path=name,
        rows=rows,
        sizes=sizes,
        status=status,
        spans=spans,
        boxes=boxes,
        masks=masks,
        digest=digest.hexdigest(),
    )


def _places(table: pa.Table, scenes: dict[str | None, int]) -> NDArray[np.int64]:
    """(row,) scene and frame as one number each; `scenes`: the numbers of those so far."""
    from segengine.store.columns import numbers_of

    coded = table.column("scene").combine_chunks().dictionary_encode(null_encoding="encode")
    numbers = [scenes.setdefault(each, len(scenes)) for each in coded.dictionary.to_pylist()]
    scene = np.array(numbers, np.int64)[numbers_of(coded.indices)]
    column = table.column("frame").combine_chunks()
    if column.null_count:  # of inputs without a place
        frame = np.array([-1 if f is None else f for f in column.to_pylist()], np.int64)
    else:
        frame = numbers_of(column)
    found: NDArray[np.int64] = (scene << 32) + frame
    return found


_: type[Prompting] = Stored
