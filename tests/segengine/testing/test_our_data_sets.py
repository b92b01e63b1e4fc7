"""The sources of public data sets pass the suite of sources, with their truth."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from PIL import Image

import segengine
from segengine import corrections
from segengine.store.blobs import open_objects
from segengine.testing import SourceTests
from tests.segengine.datasets import standins
from tests.segengine.datasets.test_camvid import camvid
from tests.segengine.datasets.test_cityscapes import cityscapes
from tests.segengine.datasets.test_openimages import openimages
from tests.segengine.datasets.test_pets import pets
from tests.segengine.datasets.test_voc import voc

SETS: dict[str, tuple[Callable[[Path], Any], str, str]] = {
    "coco": (lambda root: standins.coco(root, standins.coco_document()), "", "val2017"),
    "voc": (voc, "VOCdevkit/VOC2012", "JPEGImages"),
    "cityscapes": (cityscapes, "", "leftImg8bit"),
    "camvid": (camvid, "", "701_StillsRaw_full"),
    "pets": (pets, "", "images"),
    "openimages": (openimages, "", "validation"),
}
"""What writes a set, its root, and the folder of its pictures."""


@pytest.mark.parametrize("name", SETS)
class TestDataSets(SourceTests):
    @pytest.fixture(autouse=True)
    def _set(self, name: str) -> None:
        self.name = name

    def make(self, folder: Path) -> Any:
        write, root, pictures = SETS[self.name]
        write(folder)
        frames = {}
        for path in sorted((folder / root / pictures).rglob("*.*")):
            with Image.open(path) as image:
                frames[path.relative_to(folder / root).as_posix()] = np.array(image)
        return {"kind": self.name, "paths": [str(folder)]}, frames


class TestReview(SourceTests):
    """Photos of a store that were put right by hand: the file of a frame is its correction."""

    damage: ClassVar[bool] = False

    def make(self, folder: Path) -> Any:
        frames = {}
        for i, name in enumerate(("a.png", "b.png")):
            pixels = np.random.default_rng(i).integers(0, 255, (40, 52 + i, 3)).astype(np.uint8)
            (folder / "in").mkdir(exist_ok=True)
            Image.fromarray(pixels).save(folder / "in" / name)
            frames[name] = pixels
        store = str(folder / "masks.zarr")
        segmenter = {"kind": "threshold", "method": "fixed", "levels": 100}
        source = {"paths": [str(folder / "in")]}
        segengine.run({"source": source, "segmenter": segmenter, "store": {"path": store}})
        for row in segengine.open_store(store).frames.to_pylist():
            files = corrections.files_of(row["scene"], row["frame"])
            labels = np.ones((row["height"], row["width"]), np.uint8)
            corrections.write(open_objects(store), files, files.labels, labels, "none", {}, {})
        return {"kind": "review", "paths": [store]}, frames
