"""A small COCO set drawn at random, and a segmenter that reads its answers off the pixels.

Of a pixel, red is the number of its object (0: none), green its class, blue how sure of it the
segmenter is. What it answers for a window is what it answers for the whole frame, to the bit.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
from faulty import count

from segengine.types import Pixels, Prediction

CLASSES = ("background", "cat", "dog")


@dataclass(frozen=True, slots=True)
class Painted:
    """Classes, probabilities and instances as painted."""

    log: str = ""
    classes: ClassVar = CLASSES
    halo: ClassVar = 4
    stride: ClassVar = 1
    outputs: ClassVar = ("labels", "probabilities", "instances")

    def segment(self, pixels: Pixels) -> Prediction:
        count(self.log, "segment")
        number, labels, sure = np.moveaxis(pixels, -1, 0)
        first = 0.5 + sure.astype(np.float32) / 512
        rest = 1 - first
        # all of these are exact in float32
        probabilities = np.stack([rest * 0.25] * len(CLASSES), axis=-1)
        following = (labels + 1) % len(CLASSES)
        np.put_along_axis(probabilities, following[..., None], rest[..., None] * 0.75, axis=-1)
        np.put_along_axis(probabilities, labels[..., None], first[..., None], axis=-1)
        return Prediction(labels, probabilities, number.astype(np.uint32))


def paint(root: Path, sizes: list[tuple[int, int]]) -> Path:
    """A picture of each size, (height, width), with what is seen; annotations with what is true."""
    folder = root / "val"
    folder.mkdir(parents=True)
    images, annotations = [], []
    for index, size in enumerate(sizes, 1):
        rng = np.random.default_rng(index)
        seen = np.zeros((*size, 3), np.uint8)
        for number in range(1, 5):
            side = rng.integers(8, 45, 2)
            corner = np.array([int(rng.integers(0, s)) for s in np.array(size) - side])
            category = int(rng.integers(1, len(CLASSES)))
            if rng.random() < 0.9:  # found, a little off and not always as what it is
                (y, x), (h, w) = np.maximum(0, corner + rng.integers(-3, 4, 2)), side
                taken = category if rng.random() < 0.9 else 3 - category
                seen[y : y + h, x : x + w, :2] = number, taken
            if rng.random() < 0.9:
                annotations.append(_annotation(len(annotations) + 1, index, category, corner, side))
        seen[..., 2] = rng.integers(0, 256, size)
        assert cv2.imwrite(str(folder / f"{index:04}.png"), seen[..., ::-1])
        images.append(
            {"id": index, "file_name": f"{index:04}.png", "height": size[0], "width": size[1]}
        )
    document = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": i, "name": name} for i, name in enumerate(CLASSES) if i],
    }
    (root / "annotations").mkdir()
    (root / "annotations" / "instances_val.json").write_text(json.dumps(document))
    return root


def _annotation(number: int, image: int, category: int, corner: Any, side: Any) -> dict[str, Any]:
    """A box without its lower right quarter, as a polygon."""
    (y, x), (h, w) = corner.tolist(), side.tolist()
    half_h, half_w = h // 2, w // 2
    ring = [(0, 0), (w, 0), (w, half_h), (half_w, half_h), (half_w, h), (0, h)]
    return {
        "id": number,
        "image_id": image,
        "category_id": category,
        "segmentation": [[float(v) for a, b in ring for v in (x + a, y + b)]],
        "bbox": [x, y, w, h],
        "area": float(h * w - (h - half_h) * (w - half_w)),
        "iscrowd": 0,
    }
