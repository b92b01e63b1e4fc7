"""What COCO's JSON files share: numbers of images and categories."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from segengine import asked
from segengine.errors import JobError
from segengine.reader import Store
from segengine.registry import reader
from segengine.stages.metrics_json import text
from segengine.types import FrameRef

_DIGITS = 18
"""Of an image's number that a signed 64-bit integer holds whatever they are."""


def frames(store: Store) -> Iterator[tuple[str, FrameRef]]:
    """(scene, frame) of every frame of a store, in order."""
    for name, scene in store.scenes.items():
        yield from ((name, ref) for ref in scene.frames if not ref.pruned)


@dataclass(frozen=True, slots=True)
class Numbers:
    """COCO's ids of a store's images and categories."""

    images: Mapping[tuple[str, int], int | str]
    """By (scene, frame)."""
    categories: Mapping[int, int | str]
    """By label; classes that are no objects have none."""


def numbers(store: Store) -> Numbers:
    """Those of the data set in COCO's format that the store was made from, else by name and place.

    An image's id is then the number in its file's name, where each is named by another number
    (000000000139.jpg is 139), else its place from 1; a category's the place of its class from 1.
    Raises JobError where the data set cannot be read.
    """
    keys = [(scene, ref.index) for scene, ref in frames(store)]
    names = [ref.name for _, ref in frames(store)]
    without = asked.background(store.classes)
    classes = {i: name for i, name in enumerate(store.classes) if i not in without}
    known_images, known_kinds = _data_set(store)
    if known_images:
        images = _completed(names, known_images)
        kinds = _completed(classes.values(), known_kinds)
        return Numbers(dict(zip(keys, images, strict=True)), dict(zip(classes, kinds, strict=True)))
    stems = [PurePosixPath(name).stem for name in names]
    named = all(stem.isdecimal() and len(stem) <= _DIGITS for stem in stems)
    own = [int(stem) for stem in stems] if named else []
    places = own if len(set(own)) == len(keys) else range(1, len(keys) + 1)
    return Numbers(
        dict(zip(keys, places, strict=True)),
        {label: number for number, label in enumerate(classes, 1)},
    )


def _data_set(store: Store) -> tuple[Mapping[str, int | str], Mapping[str, int | str]]:
    """The numbers of the data set's images and categories, by name; empty: it has none."""
    spec = store.job["source"]
    if spec.get("kind") != "coco":
        return {}, {}
    try:
        found: tuple[dict[str, int | str], dict[str, int | str]]
        found = reader("coco", spec).numbers()  # type: ignore[attr-defined]
    except (ValueError, OSError) as error:
        raise JobError(
            f"source: the data set, which numbers images and categories, cannot be read: {error}"
        ) from error
    return found


def _completed(names: Iterable[str], known: Mapping[str, int | str]) -> list[int | str]:
    """The number of each name; one that is not known has one above all that are."""
    numbers = (number for number in known.values() if isinstance(number, int))
    above = itertools.count(max(numbers, default=0) + 1)
    return [known[name] if name in known else next(above) for name in names]


def categories(store: Store, known: Numbers) -> list[dict[str, Any]]:
    """COCO's `categories`."""
    return [
        {"id": number, "name": store.classes[label], "supercategory": ""}
        for label, number in known.categories.items()
    ]


def image(number: int | str, ref: FrameRef) -> dict[str, Any]:
    """An entry of COCO's `images`."""
    size = {"height": ref.height, "width": ref.width}
    return {"id": number, "file_name": text(ref.name), **size}
