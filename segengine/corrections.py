"""Corrections: masks put right by hand, label images that lie beside a store's masks.

    review/<scene>/<frame>.png             (y, x) label values, void where nobody touched it
    review/<scene>/<frame>.json            whose they are: name, size, classes, and each save's who and when
    review/<scene>/instances/<frame>.png   (y, x) ids of objects, 0 = none; all void: not touched

`<frame>` is the frame's number in its scene, the image has the frame's real size. The JSON is written
first and lists the digest of every save, so that a kill between the two leaves the old image with a
JSON that still knows it. An image is replaced only by who has seen what is there.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from segengine.errors import CorruptInputError, MissingTruthError, SegengineError
from segengine.sources import _png
from segengine.store.blobs import Objects
from segengine.store.keys import correction_key, corrections_folder, object_correction_key
from segengine.types import Labels

NONE = "none"
"""The tag of what is not there."""
SAVES = 100
"""Saves that a JSON lists, the latest last."""
LARGEST = 1 << 28
"""Pixels of a frame that can be corrected."""
MEND = "correct it again in `segengine review`, or delete the file"
"""What brings a damaged correction back: no run can, for nobody else has drawn it."""
NO_OBJECTS = 0xFFFF
"""What a map of ids holds where nobody touched it: as many objects a frame may have, less one."""


class ConflictError(SegengineError):
    """A correction was saved by somebody else meanwhile."""

    def __init__(self, key: str, tag: str, save: Mapping[str, Any]) -> None:
        who, when = save.get("who") or "somebody", save.get("when") or "just now"
        super().__init__(f"{key}: was saved by {who}, {when}; load that first, or save over it")
        self.tag = tag
        """Of what is there."""
        self.save = dict(save)
        """Its who and when; empty: not known."""


@dataclass(frozen=True, slots=True)
class Files:
    """Where a correction lies: keys of its images and of its JSON."""

    labels: str
    about: str
    objects: str | None = None


def files_of(scene: str, frame: int) -> Files:
    """Where that of a store's frame lies."""
    return Files(
        correction_key(scene, frame, "png"),
        correction_key(scene, frame, "json"),
        object_correction_key(scene, frame),
    )


def tag_of(data: bytes | None) -> str:
    """What tells one save from another; `NONE` where there is nothing."""
    return NONE if data is None else xxhash.xxh3_128_hexdigest(data)


def mark(objects: Objects, place: Files) -> str:
    """What tells a correction's files from what they were before."""
    keys = (place.labels, place.objects, place.about)
    tags = (tag_of(None if key is None else objects.get(key)) for key in keys)
    return xxhash.xxh3_64_hexdigest(" ".join(tags).encode())


def corrected(objects: Objects, scene: str) -> dict[int, bool]:
    """The frames of a scene that have a correction, and whether objects were corrected too."""
    folder = corrections_folder(scene)
    _, files = objects.children(folder)
    _, maps = objects.children(f"{folder}/instances")
    own = {name[:-4] for name in maps if name.endswith(".png")}
    stems = {name[:-4] for name in files if name.endswith(".png")} | own
    return {int(stem): stem in own for stem in sorted(stems) if stem.isdecimal()}


def scenes_corrected(objects: Objects) -> list[str]:
    """Names of the scenes with corrections, sorted."""
    return objects.children(corrections_folder())[0]


def read(
    objects: Objects, place: Files, key: str, size: tuple[int, int], classes: int | None = None
) -> tuple[Labels | None, str]:
    """An image of a correction (y, x), the place's labels or objects, and its tag; None: there is none.

    Raises MissingTruthError where it or its JSON is damaged, where it is not of `size`, and where it
    holds a label of none of so many classes.
    """
    data = objects.get(key)
    if data is None:
        return None, NONE
    where = f"{objects.root}/{key}"
    known = _document(objects, place)
    if known is None:
        raise MissingTruthError(
            f"{where}: {place.about.rpartition('/')[2]} beside it is damaged; {MEND}"
        )
    if key == place.objects and not isinstance(known.get("objects"), dict):
        raise MissingTruthError(
            f"{where}: {place.about.rpartition('/')[2]} has no classes of its objects; {MEND}"
        )
    found = decoded(data, size, where)
    if classes is not None and key == place.labels:
        strange = found[(found >= classes) & (found != np.iinfo(found.dtype).max)]
        if strange.size:
            raise MissingTruthError(
                f"{where}: pixels were corrected to label {strange[0]}, and there are {classes} "
                f"classes; {MEND}"
            )
    return found, tag_of(data)


def decoded(data: bytes, size: tuple[int, int], where: str) -> Labels:
    """A gray PNG of 8 or 16 bit (y, x). Raises MissingTruthError."""
    try:
        if data[:8] != _png.SIGNATURE or data[12:16] != b"IHDR":
            raise CorruptInputError("is no PNG")
        width, height, depth, kind = struct.unpack(">IIBB", data[16:26])
        if (height, width) != size:  # before its pixels ask for memory
            raise CorruptInputError(
                f"is {width} x {height} pixels, its frame {size[1]} x {size[0]}"
            )
        if kind != 0 or depth not in (8, 16):
            raise CorruptInputError("is no gray image of 8 or 16 bits, which label values are")
        return _png.decoded(data)
    except (CorruptInputError, struct.error) as error:
        raise MissingTruthError(f"{where}: {error}; {MEND}") from None


def encoded(labels: NDArray[Any]) -> bytes:
    """Labels (y, x) of uint8 or uint16 as a gray PNG."""
    import cv2

    done, data = cv2.imencode(".png", labels, [cv2.IMWRITE_PNG_COMPRESSION, 3])
    if not done:
        raise ValueError(f"labels: {labels.dtype} {labels.shape} is no PNG")
    return bytes(data)


def about(objects: Objects, place: Files) -> dict[str, Any]:
    """What is known of a correction; empty where that is lost."""
    return _document(objects, place) or {}


def _document(objects: Objects, place: Files) -> dict[str, Any] | None:
    """The JSON of a correction; empty: there is none. None: it is damaged."""
    data = objects.get(place.about)
    try:
        found = {} if data is None else json.loads(data)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def last_save(known: Mapping[str, Any], tag: str) -> dict[str, Any]:
    """The save of a tag; empty: not known."""
    saves = known.get("saves")
    for save in reversed(saves if isinstance(saves, list) else []):
        if isinstance(save, dict) and save.get("tag") == tag:
            return save
    return {}


def write(
    objects: Objects,
    place: Files,
    key: str,
    pixels: NDArray[Any],
    seen: str,
    facts: Mapping[str, Any],
    save: Mapping[str, str],
) -> str:
    """Save an image of a correction, atomically; its tag.

    `key`: the place's labels or objects. `seen`: the tag of what its maker has seen there. `facts`:
    what its JSON says of the frame; `save`: who and when. Raises ConflictError where something else
    is there, and StoreError.
    """
    old, known = objects.get(key), about(objects, place)
    if tag_of(old) != seen:
        raise ConflictError(key, tag_of(old), last_save(known, tag_of(old)))
    data = encoded(pixels)
    tag = tag_of(data)
    before = known.get("saves")
    saves = before if isinstance(before, list) else []
    document = {**known, **facts, "version": 1, "saves": [*saves, {**save, "tag": tag}][-SAVES:]}
    objects.put(place.about, json.dumps(document, ensure_ascii=True, indent=1).encode())
    done = objects.create(key, data) if old is None else objects.swap(key, old, data)
    if not done:
        raise ConflictError(key, tag_of(objects.get(key)), {})
    objects.flush()
    return tag
