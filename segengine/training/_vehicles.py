"""Procedural vehicles on disk, in COCO's format: objects that overlap, each with its visible part."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from segengine.instances.rows import row_of
from segengine.training.synthetic import VEHICLES, vehicles

SEEN = 0.3
"""Least share of an object that must be visible; one that is more hidden is marked as a crowd,
which is neither learned nor scored."""


def write_vehicles(
    folder: str | Path,
    seeds: Sequence[int],
    size: int = 128,
    count: int = 6,
    split: str = "vehicles",
) -> Path:
    """<split>/vehicles-<seed>.png and annotations/instances_<split>.json; the folder."""
    from PIL import Image

    folder = Path(folder)
    (folder / split).mkdir(parents=True, exist_ok=True)
    (folder / "annotations").mkdir(exist_ok=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, seed in enumerate(seeds, 1):
        drawn = vehicles(seed, size, count)
        name = f"vehicles-{seed:05d}.png"
        Image.fromarray(drawn.pixels).save(folder / split / name)
        images.append({"id": number, "file_name": name, "height": size, "width": size})
        visible = drawn.visible
        for index, (mask, kind) in enumerate(zip(drawn.masks, drawn.classes, strict=True), 1):
            part = visible == index
            if not part.any():
                continue
            row = row_of(index, int(kind), 1.0, part, (0, 0), (size, size))
            hidden = np.count_nonzero(part) < SEEN * np.count_nonzero(mask)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": int(kind) + 1,
                    "segmentation": {"size": [size, size], "counts": row["rle"]},
                    "bbox": row["bbox"],
                    "area": row["area"],
                    "iscrowd": int(hidden),
                }
            )
    categories = [{"id": i, "name": name} for i, name in enumerate(VEHICLES, 1)]
    text = json.dumps({"images": images, "annotations": annotations, "categories": categories})
    file = folder / "annotations" / f"instances_{split}.json"
    file.write_text(text, encoding="utf-8")
    return folder
