"""COCO's panoptic format: `panoptic.json`, and one PNG a frame in `panoptic/`.

A pixel's colour is its segment: id = R + 256 G + 65536 B, 0 is void. An instance is a segment, with
the id it has in the store; the pixels of a class that no instance covers are one more (stuff), whose
id is 2^24 - 1 less the class. Classes that are no objects (background) are void. A class is a thing
where the store has an instance of it. A store without instances has stuff only.

Of overlapping objects the map holds the best, so areas and boxes are those of what is seen. Images
and categories are numbered as in the coco export.
Source: https://cocodataset.org/#format-data and cocodataset/panopticapi.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import xxhash
from numpy.typing import NDArray

from segengine.errors import StoreError
from segengine.export._coco import Numbers, categories, image, numbers
from segengine.export._parts import Parts, joined
from segengine.export._targets import Target, targets
from segengine.export.png import PngWriter, bands
from segengine.outputs import Output, claimed
from segengine.reader import Store, open_store
from segengine.store.keys import INSTANCES, MASK
from segengine.types import Labels

VERSION = 1
FOLDER = "panoptic"
_TOP = (1 << 24) - 1
"""Greatest id that a colour holds."""


def export(store_path: str, to: str, *, overwrite: bool = False) -> list[str]:
    """Write `panoptic.json` and `panoptic/<frame>.png` in the folder `to`; the files written.

    `overwrite`: also files that no export wrote. Goes on where it was killed. Raises JobError,
    StoreError.
    """
    store = open_store(store_path)
    found = list(targets(store, str(Path(to, FOLDER)), ".png"))
    known = numbers(store)
    index = Path(to, "panoptic.json")
    paths = [index, *(target.path for target in found)]
    output = claimed(store, to, paths, overwrite=overwrite)
    parts = Parts(output, "panoptic", _stamp(store, known))
    encode = partial(_frame, store, known, output)
    assemble = partial(_assembled, store, known, found)
    parts.write(index, found, encode, assemble, lambda target: output.is_own(target.path))
    parts.close()
    return [str(path) for path in paths]


def _stamp(store: Store, known: Numbers) -> str:
    """Digest of all masks and ids, from their records, and of how they are numbered."""
    digest = xxhash.xxh3_64(f"{VERSION} {store.classes} {known}".encode("utf-8", "surrogateescape"))
    marks = sorted(
        f"{record.scene} {record.shard} {[o.checksum for o in record.objects]}"
        for record in store.records()
    )
    digest.update("\n".join(marks).encode())
    return digest.hexdigest()


def _frame(store: Store, known: Numbers, output: Output, target: Target) -> bytes:
    """Write a frame's PNG; its annotation."""
    scene, ref = target.scene, target.scene.layout.frame(target.frame)
    found: dict[int, _Segment] = {}
    with (
        output.replacing(target.path) as path,
        path.open("wb") as file,
        PngWriter(file, ref.height, ref.width, None, text={}, level=4, rgb=True) as writer,
    ):
        for rows in bands(ref.height, ref.width, scene.layout.chunk[1]):
            at = (target.frame, rows, slice(0, ref.width))
            labels = scene.read(MASK, *at)
            ids = np.zeros(labels.shape, np.uint32)
            if scene.instances is not None:
                ids = scene.read(INSTANCES, *at)
            if int(ids.max(initial=0)) > _TOP - len(store.classes):
                raise StoreError(f"{ref.name}: has more objects than colours; export to coco")
            segments = _segments(labels, ids, len(store.classes), known.categories)
            _add(found, segments, labels, rows.start)
            writer.write(segments.astype("<u4")[..., None].view(np.uint8)[..., :3])
    annotation = {
        "image_id": known.images[scene.name, target.frame],
        "file_name": target.path.relative_to(output.folder / FOLDER).as_posix(),
        "segments_info": [
            {
                "id": number,
                "category_id": known.categories[each.label],
                "area": each.area,
                "bbox": [each.x0, each.y0, each.x1 - each.x0, each.y1 - each.y0],
                "iscrowd": 0,
            }
            for number, each in sorted(found.items())
        ],
    }
    return json.dumps(annotation, ensure_ascii=False).encode()


def _segments(
    labels: Labels, ids: NDArray[np.uint32], classes: int, shown: Collection[int]
) -> NDArray[np.uint32]:
    """The segment of each pixel (y, x); 0 where its class is void or none of those `shown`."""
    stuff = np.zeros(classes + 1, np.uint32)  # the last: void
    for label in shown:
        stuff[label] = _TOP - label
    found = stuff[np.minimum(labels, classes)]
    np.copyto(found, ids, where=(ids > 0) & (found > 0))
    return found


class _Segment(NamedTuple):
    """What was seen of a segment: its class, pixels and box, the latter half-open."""

    label: int
    area: int
    x0: int
    y0: int
    x1: int
    y1: int


def _both(a: _Segment, b: _Segment) -> _Segment:
    """Two parts of one segment."""
    box = (min(a.x0, b.x0), min(a.y0, b.y0), max(a.x1, b.x1), max(a.y1, b.y1))
    return _Segment(a.label, a.area + b.area, *box)


def _add(
    found: dict[int, _Segment], segments: NDArray[np.uint32], labels: Labels, top: int
) -> None:
    """Add what a band of rows holds; its first row is `top`."""
    width = segments.shape[1]
    flat = segments.reshape(-1)
    begins = np.concatenate([[True], flat[1:] != flat[:-1]])
    begins[::width] = True  # a run ends with its row
    starts = np.flatnonzero(begins)
    lengths = np.diff(starts, append=flat.size)
    starts, lengths = starts[flat[starts] > 0], lengths[flat[starts] > 0]
    numbers, first, owner = np.unique(flat[starts], return_index=True, return_inverse=True)
    y, x = np.divmod(starts, width)
    area = np.zeros(len(numbers), np.int64)
    near, far = np.full(len(numbers), width), np.zeros(len(numbers), np.int64)
    last = np.zeros(len(numbers), np.int64)
    np.add.at(area, owner, lengths)
    np.minimum.at(near, owner, x)
    np.maximum.at(far, owner, x + lengths)
    np.maximum.at(last, owner, y)
    columns = (
        labels.reshape(-1)[starts[first]],
        area,
        near,
        y[first] + top,
        far,
        last + top + 1,
    )
    rows = zip(*(column.tolist() for column in columns), strict=True)
    for number, row in zip(numbers.tolist(), rows, strict=True):
        here = _Segment(*row)
        found[number] = _both(found[number], here) if number in found else here


def _assembled(
    store: Store,
    known: Numbers,
    found: list[Target],
    out: Path,
    parts: list[Path],
) -> None:
    things = set()
    for part in parts:
        segments = json.loads(part.read_bytes())["segments_info"]
        things |= {s["category_id"] for s in segments if s["id"] <= _TOP - len(store.classes)}
    named = [{**each, "isthing": int(each["id"] in things)} for each in categories(store, known)]
    listed = [
        json.dumps(image(known.images[t.scene.name, t.frame], t.scene.layout.frame(t.frame)))
        for t in found
    ]
    head = (
        f'{{"categories": {json.dumps(named)},\n"images": [\n'
        + ",\n".join(listed)
        + '\n],\n"annotations": ['
    )
    joined(out, head.encode(), parts, b"\n]}\n")
