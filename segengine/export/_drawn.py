"""The objects of a store picture by picture, as annotation programs take them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, groupby
from typing import Any

from segengine import asked
from segengine.datasets.annotations.shapes import Patch
from segengine.export._instances import pieces, stamp
from segengine.export._targets import Target, targets
from segengine.instances.rle import decode_crop
from segengine.outputs import claimed
from segengine.reader import Store, open_store
from segengine.stages.metrics_json import text


@dataclass(frozen=True, slots=True)
class Pictured:
    """A picture and what is on it."""

    target: Target
    place: int
    """Its number, from 1."""
    name: str
    """Of its frame."""
    size: tuple[int, int]
    """Height, width."""
    found: Iterator[tuple[str, Patch]]
    """Class and pixels of each object, in order of the ids; background is no object."""


def write_each(
    store_path: str,
    to: str,
    suffix: str,
    version: int,
    document: Callable[[Pictured], bytes],
    *,
    overwrite: bool,
) -> list[str]:
    """A file a frame below the folder `to`, of what `document` makes of it; the files written.

    Raises JobError, StoreError.
    """
    store = open_store(store_path)
    stamp(store, version)
    found = list(targets(store, to, suffix))
    output = claimed(store, to, (target.path for target in found), overwrite=overwrite)
    for one in pictures(store, found):
        with output.replacing(one.target.path) as partial:
            partial.write_bytes(document(one))
    output.close()
    return [str(target.path) for target in found]


def pictures(store: Store, found: Sequence[Target]) -> Iterator[Pictured]:
    """Each of the frames with its objects: those with some first, a frame in memory at a time."""
    left = {(target.scene.name, target.frame): target for target in found}
    rows = chain.from_iterable(piece.rows for piece in pieces(store))
    number = 0
    for key, own in groupby(rows, lambda row: (str(row["scene"]), int(row["frame"]))):
        target = left.pop(key, None)
        if target is not None:
            number += 1
            yield _pictured(store, target, number, own)
    for more, target in enumerate(left.values(), number + 1):
        yield _pictured(store, target, more, iter(()))


def _pictured(store: Store, target: Target, number: int, rows: Iterator[Any]) -> Pictured:
    ref = target.scene.layout.frame(target.frame)
    found = _objects(store.classes, rows, ref.height)
    return Pictured(target, number, text(ref.name), (ref.height, ref.width), found)


def _objects(
    classes: Sequence[str], rows: Iterator[Any], height: int
) -> Iterator[tuple[str, Patch]]:
    without = asked.background(classes)
    for row in rows:
        mask, corner = decode_crop(row["rle"], height)
        if row["class"] not in without and mask.size:
            yield classes[row["class"]], Patch(mask, corner)
