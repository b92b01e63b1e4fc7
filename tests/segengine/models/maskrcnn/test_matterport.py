"""The matterport preset, weights from a file of the Mask_RCNN project's format, stage by stage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segengine.models.mask_rcnn import build
from segengine.models.maskrcnn.config import preset
from segengine.models.maskrcnn.postprocess import instances
from segengine.models.maskrcnn.preprocess import prepare

from . import h5
from .drawn import draw_matterport, matterport_tensors, photos
from .parity import check_detections, check_stages, detect

SIDES = {"min_side": 192, "max_side": 256}
WANTED = dict(np.load(Path(__file__).parent / "fixtures" / "matterport.npz"))
CONFIG = preset("matterport", **SIDES)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = tmp_path_factory.mktemp("weights") / "mask_rcnn_coco.h5"
    shapes = matterport_tensors()
    h5.write(path, {name: draw_matterport(name, shape) for name, shape in shapes.items()})
    return build(preset="matterport", weights=str(path), **SIDES)


def test_each_tensor_of_the_file_is_one_variable(model: Any) -> None:
    assert len(model.weights) == len(matterport_tensors()) == 690
    assert model.count_params() == 64_158_584
    moving = sum(int(np.prod(w.shape)) for w in model.weights if "moving" in w.path)
    assert moving == 111_488


@pytest.mark.parametrize("name", photos())
def test_stages_and_detections(model: Any, name: str) -> None:
    photo = photos()[name]
    check_stages(model, CONFIG, photo, WANTED, name)
    wanted = len(WANTED[f"{name}/boxes"])
    # A region that ends at the input's border has its last samples on the last row or, one rounding
    # error further, outside, where crop_and_resize gives 0: a few detections turn on that.
    assert check_detections(detect(model, CONFIG, photo), photo, WANTED, name) >= 0.9 * wanted
    assert check_detections(_from_regions(model, photo, name), photo, WANTED, name) == wanted


def _from_regions(model: Any, photo: np.ndarray, name: str) -> Any:
    """Detections from the regions that the other implementation proposed, to the last bit."""
    prepared = prepare(CONFIG, photo)
    image, window = prepared.image[None], np.array([prepared.window], np.float32)
    layer = model.get_layer
    maps = layer("backbone")(image)[:4]
    regions, detected = WANTED[f"{name}/regions"][None], WANTED[f"{name}/detected"][None]
    valid = np.ones((1, 1000), bool)
    logits, deltas = layer("box_head")(layer("box_align")([image, regions, valid, *maps]))
    found = layer("detections")([image, window, regions, valid, logits, deltas])
    count = detected.shape[1]
    np.testing.assert_allclose(found["boxes"][:, :count], detected, atol=1e-5)
    assert not found["valid"][:, count:].numpy().any()
    boxes = np.zeros_like(found["boxes"])
    boxes[:, :count] = detected
    squares = layer("mask_align")([image, boxes, found["valid"], *maps])
    masks = layer("masks")([layer("mask_head")(squares), found["classes"], found["valid"]])
    return instances(CONFIG, prepared, {**found, "boxes": boxes, "masks": masks})
