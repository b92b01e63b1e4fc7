"""The sources of public data sets pass the suite of sources, with their truth."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

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
