"""Annotation files as segengine's exports write them, and truth as a job reads it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from segengine.datasets.annotations import cvat, labelme, labelstudio, qupath
from segengine.datasets.annotations.shapes import Patch
from segengine.job import TruthSpec
from segengine.measuring.annotated import AnnotationFiles
from segengine.types import FrameRef, Truth

Object = tuple[str, NDArray[np.bool_]]
"""Class and mask (y, x) of the frame's size."""
CLASSES = ("background", "cell", "müll & <co>")


def patches(objects: Sequence[Object]) -> list[tuple[str, Patch]]:
    found = []
    for kind, mask in objects:
        rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        crop = mask[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1]
        found.append((kind, Patch(crop, (int(rows[0]), int(cols[0])))))
    return found


def write_coco(path: Path, name: str, size: tuple[int, int], objects: Sequence[Object]) -> None:
    annotations = []
    for i, (kind, mask) in enumerate(objects):
        rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
        outline = {"size": list(size), "counts": rle["counts"].decode()}
        about = {"id": i, "image_id": 7, "category_id": CLASSES.index(kind)}
        annotations.append({**about, "segmentation": outline, "iscrowd": 0})
    document = {
        "images": [{"id": 7, "file_name": name, "height": size[0], "width": size[1]}],
        "annotations": annotations,
        "categories": [{"id": i, "name": kind} for i, kind in enumerate(CLASSES)],
    }
    path.write_text(json.dumps(document))


def write_cvat(path: Path, name: str, size: tuple[int, int], objects: Sequence[Object]) -> None:
    path.write_bytes(cvat.HEAD + cvat.image(0, name, size, patches(objects)) + cvat.TAIL)


def write_labelme(path: Path, name: str, size: tuple[int, int], objects: Sequence[Object]) -> None:
    path.write_bytes(labelme.document(name, size, patches(objects)))


def write_studio(path: Path, name: str, size: tuple[int, int], objects: Sequence[Object]) -> None:
    path.write_bytes(b"[" + labelstudio.task(1, name, size, patches(objects)) + b"]")


def write_qupath(path: Path, name: str, size: tuple[int, int], objects: Sequence[Object]) -> None:
    path.write_bytes(qupath.document(patches(objects), dict.fromkeys(CLASSES, (1, 2, 3)), name))


Writer = Callable[[Path, str, tuple[int, int], Sequence[Object]], None]
WRITERS: dict[str, tuple[Writer, str]] = {
    "coco": (write_coco, "all.json"),
    "cvat": (write_cvat, "annotations.xml"),
    "label-studio": (write_studio, "tasks.json"),
    "labelme": (write_labelme, "{stem}.json"),
    "qupath": (write_qupath, "{stem}.geojson"),
}


def read(
    template: Path | str,
    name: str,
    size: tuple[int, int],
    *,
    window: tuple[slice, slice] | None = None,
    classes: Sequence[str] = CLASSES,
) -> Truth:
    """The truth of a frame, or of a window of it. Raises MissingTruthError, SegengineError."""
    provider = AnnotationFiles(TruthSpec(paths=[str(template)], classes=list(classes)))
    ref = FrameRef(0, name, f"/data/{name}", "mark", *size)
    (truth,) = provider.find([("scene", ref)])
    rows, cols = window or (slice(0, size[0]), slice(0, size[1]))
    return provider.load(ref, truth, rows, cols)


def masks_of(truth: Truth, size: tuple[int, int]) -> list[tuple[int, NDArray[np.bool_]]]:
    """Class and mask of each of a truth's objects, through pycocotools."""
    assert truth.objects is not None
    return [
        (row["class"], coco_mask.decode({"size": list(size), "counts": row["rle"]}).astype(bool))
        for row in truth.objects.to_pylist()
    ]
