"""What COCO's JSON files share: numbers of images and categories."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from segengine import plugins
from segengine.figures import text
from segengine.store import Store
from segengine.types import FrameRef

_DIGITS = 18
"""Of an image's number that a signed 64-bit integer holds whatever they are."""


def frames(store: Store) -> Iterator[tuple[str, FrameRef]]:
    """(scene, frame) of every frame of a store, in order."""
    for name, scene in store.scenes.items():
        for frame in range(scene.layout.shape[0]):
            yield name, scene.layout.frame(frame)


def image_numbers(store: Store) -> dict[tuple[str, int], int]:
    """The number of each (scene, frame): that in its file's name, as in COCO, else 1, 2, ...

    The names count where each is a number, and a different one (000000000139.jpg is 139).
    """
    keys, named = [], []
    for scene, ref in frames(store):
        keys.append((scene, ref.index))
        stem = PurePosixPath(ref.name).stem
        named.append(int(stem) if stem.isdecimal() and len(stem) <= _DIGITS else -1)
    own = min(named, default=-1) >= 0 and len(set(named)) == len(named)
    return dict(zip(keys, named if own else range(1, len(keys) + 1), strict=True))


def category_numbers(store: Store) -> dict[int, int]:
    """The number of each class that is an object or stuff: from 1, in the order of the classes."""
    without = plugins.background(store.classes)
    shown = (i for i in range(len(store.classes)) if i not in without)
    return {label: number for number, label in enumerate(shown, 1)}


def categories(store: Store) -> list[dict[str, Any]]:
    """COCO's `categories`."""
    return [
        {"id": number, "name": store.classes[label], "supercategory": ""}
        for label, number in category_numbers(store).items()
    ]


def image(number: int, ref: FrameRef) -> dict[str, Any]:
    """An entry of COCO's `images`."""
    size = {"height": ref.height, "width": ref.width}
    return {"id": number, "file_name": text(ref.name), **size}
