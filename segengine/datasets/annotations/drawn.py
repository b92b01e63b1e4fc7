"""One object as somebody drew it, and the truth that all objects of a frame make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segengine.asked import background
from segengine.datasets._coco import whole_area
from segengine.datasets._dataset import objects_of_rows
from segengine.datasets._labels import void_type
from segengine.instances.rle import decode_crop, decompress_runs, runs_box
from segengine.types import Bool, Truth

UNNAMED = "(none)"
"""What an object without a class is called where that is a mistake."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """An object of a frame."""

    kind: str | None
    """Its class; None: the file says none."""
    rle: str
    """COCO's compressed counts, of the frame's size."""
    crowd: bool = False
    level: int = 0
    """Where objects overlap the higher one is on top, of equals the smaller."""
    area: float | None = None
    box: Sequence[float] | None = None
    """x, y, width, height. Area and box as annotated; None: those of the pixels."""


@dataclass(frozen=True, slots=True)
class Painted:
    """The objects of a frame, one on top of the other."""

    numbers: NDArray[np.uint32]
    """(y, x) which object is on top, from 1; 0: none."""
    labels: NDArray[Any]
    """(object,) label of each number; that of 0 is the background."""
    ids: NDArray[np.uint32]
    """(object,) instance of each number, 0 for what is no object of a class."""
    objects: Any
    """A table, one row an object of a class: a truth's `objects`."""
    strange: Mapping[int, str] = field(default_factory=dict)
    """The class of each number whose class is none of those asked for."""

    def window(self, rows: slice, cols: slice, inside: Bool | None = None) -> Truth:
        """The truth of a window; what is counted as unknown lies `inside` (y, x), None: anywhere."""
        part = self.numbers[rows, cols]
        unknown: dict[int | float | str, int] = {}
        if self.strange:
            seen = np.bincount((part if inside is None else part[inside]).reshape(-1))
            for number, kind in self.strange.items():
                if number < len(seen) and seen[number]:
                    unknown[kind] = unknown.get(kind, 0) + int(seen[number])
        return Truth(self.labels[part][None], self.ids[part][None], self.objects, unknown)


def painted(drawn: Sequence[Drawn], classes: Sequence[str], size: tuple[int, int]) -> Painted:
    """Objects of a frame of `size` (y, x) as its truth of these classes.

    What no object covers is the background where that is one of the classes, else void; so are an
    object of another class, and a crowd where nothing else lies on it. An object that says no class
    is of the one that there is besides the background.
    """
    dtype = void_type(len(classes))
    void = int(np.iinfo(dtype).max)
    ground = background(classes)
    things = [i for i in range(len(classes)) if i not in ground]
    place: dict[str | None, int] = {name: i for i, name in enumerate(classes)}
    if len(things) == 1:
        place[None] = things[0]
    labels = np.full(len(drawn) + 1, ground[0] if ground else void, dtype)
    ids = np.arange(len(drawn) + 1, dtype=np.uint32)
    rows, shapes, strange = [], [], {}
    for number, one in enumerate(drawn, 1):
        runs = decompress_runs(one.rle)
        area = float(runs[1::2].sum()) if one.area is None else one.area
        if not area:  # it lies beyond the frame
            continue
        shapes.append((not one.crowd, one.level, -area, number))
        label = place.get(one.kind, void)
        labels[number] = void if one.crowd else label
        if label == void or label in ground:
            ids[number] = 0
            if label == void:
                strange[number] = UNNAMED if one.kind is None else one.kind
            continue
        box = runs_box(runs, size[0]) if one.box is None else one.box
        rows.append((number, label, box, whole_area(area), one.rle, one.crowd))
    numbers = np.zeros(size, np.uint32)
    for *_, number in sorted(shapes):
        mask, (y, x) = decode_crop(drawn[number - 1].rle, size[0])
        numbers[y : y + mask.shape[0], x : x + mask.shape[1]][mask] = number
    return Painted(numbers, labels, ids, objects_of_rows(rows), strange)
