"""The presets' constants, names and checks."""

from __future__ import annotations

from typing import Any

import pytest

from segengine.models.maskrcnn.config import Config, preset
from segengine.models.maskrcnn.names import class_names


def test_coco_names_are_in_the_published_order() -> None:
    names = class_names(preset("matterport"))
    assert len(names) == len(set(names)) == 81
    assert (names[0], names[1], names[21], names[80]) == ("BG", "person", "elephant", "toothbrush")
    names = class_names(preset("torchvision"))
    assert len(names) == len(set(names)) == 91
    assert (names[1], names[12], names[22], names[90]) == (
        "person",
        "unused 12",
        "elephant",
        "toothbrush",
    )
    assert class_names(preset(classes=3)) == ("background", "class 1", "class 2")


@pytest.mark.parametrize("name", ["matterport", "torchvision"])
def test_a_config_survives_json(name: str) -> None:
    config = preset(name, bands=4, classes=7, backbone="resnet14", min_score=0.25)
    assert Config.from_dict(config.to_dict()) == config


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "detectron"}, "preset: must be one of"),
        ({"backbone": "vgg"}, "backbone: must be one of"),
        ({"classes": 1}, "classes: must be 2"),
        ({"max_side": 1000}, "max_side: must be a multiple of 64"),
        ({"min_score": 1.5}, "min_score: must be from 0 to 1"),
        ({"pre_nms": 0}, "pre_nms: must be a positive integer"),
        ({"anchor_sizes": (32, 64)}, "anchor_sizes: must have 5 numbers"),
        ({"colour": 1}, "colour: mask-rcnn has no such option"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        preset(**options)
