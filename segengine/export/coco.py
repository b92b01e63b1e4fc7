"""COCO's JSON files: `instances.json`, which is whole by itself, and `results.json`, to be scored.

`instances.json` has images, categories and annotations with `score`; `results.json` is the list that
`COCO.loadRes` takes. Masks are compressed run lengths, boxes x, y, width, height. Overlapping objects
are whole in both.

A store made from a data set in COCO's format keeps that set's ids, so that its truth can score the
results. Else an image's id is the number in its file's name where all files are named so, or its
place from 1; a category's is the place of its class from 1. Background is no category.
Source: https://cocodataset.org/#format-data and #format-results.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from segengine.export._coco import Numbers, categories, frames, image, numbers
from segengine.export._corrected import corrected_frames, corrected_objects
from segengine.export._instances import Piece, open_parts, pieces
from segengine.export._parts import joined
from segengine.outputs import claimed
from segengine.reader import Store, open_store

VERSION = 1


def export(
    store_path: str,
    to: str,
    *,
    corrected: bool = False,
    overwrite: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> list[str]:
    """Write `instances.json` and `results.json` in the folder `to`; the files written.

    `corrected`: only `instances.json`, as truth, of the frames that were put right by hand.
    `overwrite`: also files that no export wrote. `say`: told what is left out. Goes on where it was
    killed. Raises JobError, StoreError.
    """
    store = open_store(store_path)
    known = numbers(store)
    if corrected:
        return _corrected(store, known, to, overwrite, corrected_frames(store, say))
    whole, results = Path(to, "instances.json"), Path(to, "results.json")
    output = claimed(store, to, [whole, results], overwrite=overwrite)
    parts = open_parts(store, output, "coco", VERSION, known)
    full = partial(_encoded, store, known, True)
    short = partial(_encoded, store, known, False)
    written = [
        parts.write(whole, pieces(store), full, partial(_whole, store, known)),
        parts.write(results, pieces(store), short, _results),
    ]
    parts.close()
    return written


def _corrected(
    store: Store, known: Numbers, to: str, overwrite: bool, chosen: Sequence[tuple[str, int]]
) -> list[str]:
    """The objects of corrected frames, without scores: a person saw them."""
    path = Path(to, "instances.json")
    output = claimed(store, to, [path], overwrite=overwrite)
    annotations: list[dict[str, Any]] = []
    for scene, frame in chosen:
        for row in corrected_objects(store[scene], frame).to_pylist():
            if row["class"] not in known.categories:
                continue
            one = _annotation(store, known, scene, {**row, "frame": frame})
            annotations.append({"id": len(annotations) + 1, **one})
    refs = [(scene, store[scene].layout.frame(frame)) for scene, frame in chosen]
    document = {
        "info": {"description": store.job.get("name", "")},
        "licenses": [],
        "categories": categories(store, known),
        "images": [image(known.images[scene, ref.index], ref) for scene, ref in refs],
        "annotations": annotations,
    }
    with output.replacing(path) as partial_:
        partial_.write_text(json.dumps(document), encoding="utf-8")
    output.close()
    return [str(path)]


def _annotation(store: Store, known: Numbers, scene: str, row: Mapping[str, Any]) -> dict[str, Any]:
    ref = store[scene].layout.frame(row["frame"])
    return {
        "image_id": known.images[scene, ref.index],
        "category_id": known.categories[row["class"]],
        "segmentation": {"size": [ref.height, ref.width], "counts": row["rle"]},
        "bbox": row["bbox"],
        "area": row["area"],
        "iscrowd": 0,
    }


def _encoded(store: Store, known: Numbers, full: bool, piece: Piece) -> bytes:
    layout = store[piece.scene].layout
    lines = []
    for i, row in enumerate(piece.rows, piece.first + 1):
        if row["class"] not in known.categories:  # background is no object
            continue
        ref = layout.frame(row["frame"])
        one: dict[str, Any] = {
            "image_id": known.images[piece.scene, ref.index],
            "category_id": known.categories[row["class"]],
            "segmentation": {"size": [ref.height, ref.width], "counts": row["rle"]},
            "bbox": row["bbox"],
            "score": row["score"],
        }
        if full:
            one = {"id": i, **one, "area": row["area"], "iscrowd": 0}
        lines.append(json.dumps(one))
    return ",\n".join(lines).encode()


def _whole(store: Store, known: Numbers, out: Path, parts: list[Path]) -> None:
    listed = [
        json.dumps(image(known.images[scene, ref.index], ref)) for scene, ref in frames(store)
    ]
    head = (
        f'{{"info": {json.dumps({"description": store.job.get("name", "")})},\n'
        f'"licenses": [],\n"categories": {json.dumps(categories(store, known))},\n"images": [\n'
        + ",\n".join(listed)
        + '\n],\n"annotations": ['
    )
    joined(out, head.encode(), parts, b"\n]}\n")


def _results(out: Path, parts: list[Path]) -> None:
    joined(out, b"[", parts, b"\n]\n")
