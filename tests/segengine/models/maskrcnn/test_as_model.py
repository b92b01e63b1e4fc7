"""A bundle of Mask R-CNN as `kind: model`: the segmenter that `kind: mask-rcnn` makes of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import segengine
from segengine import asked
from segengine.errors import JobError
from segengine.models.maskrcnn import weights
from segengine.models.maskrcnn.config import preset
from segengine.models.maskrcnn.names import class_names
from segengine.models.maskrcnn.network import network
from segengine.networks.bundles import Bundle
from segengine.segmenters.maskrcnn import MaskRcnn
from segengine.training.bundle import save_bundle

from . import h5
from .drawn import draw_matterport, photos

NAMES = ("BG", "round", "square", "long")
COLORS = ((1, 2, 3), (4, 5, 6), (7, 8, 9), (10, 11, 12))
OPTIONS: dict[str, Any] = {
    "backbone": "resnet14",
    "max_side": 128,
    "min_side": 128,
    "max_detections": 12,
    "min_score": 0.5,
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A weight file of the preset's format, and a bundle with the same weights."""
    folder = tmp_path_factory.mktemp("as_model")
    config = preset("matterport", len(NAMES), **OPTIONS)
    model = network(config)
    slots = weights.slots(model, config)
    h5.write(folder / "small.h5", {s.key: draw_matterport(s.key, s.shape) for s in slots})
    weights.load(model, config, folder / "small.h5")
    options = {"preset": "matterport", **OPTIONS}
    size = (None, None)
    made = Bundle("mask-rcnn", options, 3, NAMES, COLORS, {}, "softmax", size, False, {}, {})
    save_bundle(folder / "bundle", made, model, "")
    return folder / "small.h5", folder / "bundle"


def test_it_is_the_segmenter_of_its_weights(files: tuple[Path, Path], tmp_path: Path) -> None:
    file, bundle = files
    found = segengine.create_segmenter({"kind": "model", "path": str(bundle)})
    assert isinstance(found, MaskRcnn)
    assert found == segengine.create_segmenter({"kind": "mask-rcnn", "weights": str(bundle)})
    assert asked.colors(found) == COLORS
    assert asked.background(found.classes) == (0,)
    sure = {"kind": "model", "path": str(bundle), "threshold": 0.9, "engine": "tensorflow"}
    assert segengine.create_segmenter(sure).config.min_score == 0.9
    plain = segengine.create_segmenter(
        {"kind": "mask-rcnn", "weights": str(file), "classes": list(NAMES), **OPTIONS}
    )
    photo = photos()["astronaut"][:150, :140]
    ours, theirs = segengine.predict(photo, found), segengine.predict(photo, plain)
    assert ours.objects.num_rows > 0
    assert ours.objects.equals(theirs.objects)
    np.testing.assert_array_equal(ours.instances, theirs.instances)

    packed = shutil.make_archive(str(tmp_path / "packed"), "zip", bundle.parent, "bundle")
    zipped = segengine.create_segmenter({"kind": "model", "path": packed})
    assert zipped.weights == found.weights
    assert segengine.predict(photo, zipped).objects.equals(ours.objects)
    with pytest.raises(JobError, match=r"path: .* is of a mask-rcnn, not of a unet"):
        segengine.create_segmenter({"kind": "model", "path": packed, "architecture": "unet"})


def test_what_its_file_says_is_part_of_its_digest(files: tuple[Path, Path], tmp_path: Path) -> None:
    copy = shutil.copytree(files[1], tmp_path / "copy")
    digest = segengine.create_segmenter({"kind": "model", "path": str(copy)}).weights
    data = json.loads((copy / "bundle.json").read_text())
    data["options"]["min_score"] = 0.25
    (copy / "bundle.json").write_text(json.dumps(data))
    changed = segengine.create_segmenter({"kind": "model", "path": str(copy)})
    assert changed.config.min_score == 0.25
    assert changed.weights != digest
    (copy / "model.weights.h5").unlink()
    with pytest.raises(JobError, match=r"path: .*copy: the bundle has no model\.weights\.h5"):
        segengine.create_segmenter({"kind": "model", "path": str(copy)})


@pytest.mark.parametrize("name", ["matterport", "torchvision"])
def test_the_background_is_no_object_by_any_name(name: str) -> None:
    assert asked.background(class_names(preset(name))) == (0,)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("bands", 3),
        ("scale", {"divide": 255}),
        ("classes", ["a", "b"]),
        ("activation", "softmax"),
        ("layout", "nhwc"),
        ("window", 512),
        ("overlap", 0.25),
        ("batch", 2),
        ("engine", "openvino"),
        ("precision", "bfloat16"),
        ("resize", [64, 64]),
        ("crf", True),
        ("options", {"backbone": "resnet50"}),
    ],
)
def test_options_without_a_use_are_refused(
    option: str, value: Any, files: tuple[Path, Path]
) -> None:
    with pytest.raises(JobError, match=rf"{option}: .* is a bundle of mask-rcnn") as error:
        segengine.create_segmenter({"kind": "model", "path": str(files[1]), option: value})
    assert "\n" not in str(error.value)
