"""Small data sets in the public formats, drawn at random, and what is in them.

Each writer makes the files as the set's own documentation describes them and returns the arrays
that it drew, so that a reader is checked against what was written and not against itself.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segengine.datasets._dataset import DataSet
from segengine.types import FrameRef, Truth

SIZE = (48, 64)
"""Height and width of the pictures."""
WHOLE = slice(None)
Map = NDArray[Any]


def refs_of(source: DataSet, root: Path | str) -> list[FrameRef]:
    """The frames that a source lists."""
    entries = source.list([str(root)]).entries
    found = []
    for index, entry in enumerate(entries):
        probe = source.probe(entry)
        found.append(
            FrameRef(index, entry.name, entry.uri, entry.fingerprint, probe.height, probe.width)
        )
    return found


def truths_of(source: DataSet, root: Path | str) -> dict[str, Truth]:
    """The truth of every frame, by the stem of its name."""
    refs = refs_of(source, root)
    return {
        Path(ref.name).stem: source.load_truth(ref, truth, WHOLE, WHOLE)
        for ref, truth in zip(refs, source.find_truth(refs), strict=True)
    }


def rows_of(truth: Truth) -> list[dict[str, Any]]:
    """The objects of a truth."""
    assert truth.objects is not None
    rows: list[dict[str, Any]] = truth.objects.to_pylist()
    return rows


def picture(path: Path, seed: int, size: tuple[int, int] = SIZE) -> None:
    """A colour picture of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    Image.fromarray(pixels).save(path)


def png(path: Path, values: Map, palette: Sequence[int] | None = None) -> None:
    """A label image: 8 or 16 bit, with a palette, or of colours (y, x, 3)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values)
    if palette is not None:
        image = image.convert("P") if image.mode != "L" else image
        image.putpalette(palette)
    image.save(path)


def boxes(
    seed: int, codes: Sequence[int], size: tuple[int, int] = SIZE, count: int = 4
) -> list[tuple[int, slice, slice]]:
    """Boxes that do not touch each other, each with a code."""
    rng = np.random.default_rng(seed)
    found = []
    width = size[1] // count
    for i in range(count):
        top = int(rng.integers(1, size[0] // 2))
        bottom = int(rng.integers(top + 4, size[0] - 1))
        found.append(
            (int(rng.choice(codes)), slice(top, bottom), slice(i * width + 1, (i + 1) * width - 2))
        )
    return found


def draw(found: Sequence[tuple[int, slice, slice]], fill: int, dtype: type = np.uint8) -> Map:
    """Boxes on a ground."""
    canvas = np.full(SIZE, fill, dtype)
    for code, ys, xs in found:
        canvas[ys, xs] = code
    return canvas


def coco(root: Path, document: Mapping[str, Any], split: str = "val2017", **style: Any) -> Path:
    """A COCO set of one JSON: its pictures, and the file as `json.dumps` styles it."""
    for image in document["images"]:
        picture(root / split / image["file_name"], image["id"], (image["height"], image["width"]))
    path = root / "annotations" / f"instances_{split}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, **style), encoding="utf-8")
    return path


def coco_document(seed: int = 0, images: int = 3) -> dict[str, Any]:
    """Polygons (of one and of two parts), run lengths of both kinds, and crowds, over 3 categories."""
    from pycocotools import mask

    rng = np.random.default_rng(seed)
    height, width = SIZE
    annotations = []
    for number in range(1, 7 * images):
        x, y = rng.uniform(0, width - 12), rng.uniform(0, height - 12)
        w, h = rng.uniform(5, 30), rng.uniform(5, 25)
        angles = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(3, 9))))
        ring = np.stack([x + w / 2 * (1 + np.cos(angles)), y + h / 2 * (1 + np.sin(angles))], 1)
        polygon = [round(float(v), 2) for v in ring.reshape(-1)]
        crowd = number % 5 == 0
        outline: Any = [polygon]
        if number % 3 == 0:
            outline.append([round(v / 2, 2) for v in polygon])
        rle = mask.merge(mask.frPyObjects(outline, height, width))
        if crowd:
            flat = mask.decode(rle).T.reshape(-1)
            edges = np.flatnonzero(np.diff(np.r_[0, flat])).tolist()
            runs = np.diff([0, *edges, flat.size]).tolist()
            outline = {"counts": runs, "size": [height, width]}
        elif number % 7 == 0:
            outline = {"counts": rle["counts"].decode(), "size": [height, width]}
        annotations.append(
            {
                "segmentation": outline,
                "area": float(mask.area(rle)) + round(float(rng.random()), 3),
                "iscrowd": int(crowd),
                "image_id": int(rng.integers(1, images)) * 100,
                "bbox": [round(float(v), 2) for v in mask.toBbox(rle)],
                "category_id": int(rng.choice([1, 18, 90])),
                "id": 900100000000 + number,
            }
        )
    return {
        "info": {"description": 'a "{stand}-in" \\ set', "version": "1.0"},
        "licenses": [{"url": "http://example.org/}", "id": 1}],
        "images": [
            {"license": 1, "file_name": f"{i * 100:012d}.png", "height": height, "width": width}
            | {"id": i * 100}
            for i in range(1, images + 1)
        ],
        "annotations": annotations,
        "categories": [
            {"supercategory": "person", "id": 1, "name": "person"},
            {"supercategory": "animal", "id": 18, "name": "dog"},
            {"supercategory": "indoor", "id": 90, "name": "toothbrush"},
        ],
    }


def rows(path: Path, header: Sequence[str], lines: Sequence[Sequence[object]]) -> None:
    """A CSV file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(lines)


def truncate(path: Path) -> None:
    """Cut a file in half."""
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def reasons(source: DataSet, root: Path | str) -> dict[str, str]:
    """Why frames have no truth, by the stem of their name; those that have one are left out."""
    from segengine.errors import MissingTruthError

    refs = refs_of(source, root)
    found = {}
    for ref, truth in zip(refs, source.find_truth(refs), strict=True):
        try:
            source.load_truth(ref, truth, WHOLE, WHOLE)
        except MissingTruthError as error:
            found[Path(ref.name).stem] = str(error)
    return found
