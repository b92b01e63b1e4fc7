"""The torchvision preset against torchvision itself, weights from a file, stage by stage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segengine.models.mask_rcnn import build
from segengine.models.maskrcnn.config import preset

from .drawn import draw, photos
from .parity import check_detections, check_stages, detect

HERE = Path(__file__).parent / "fixtures"
SIDES = {"min_side": 192, "max_side": 256}
WANTED = dict(np.load(HERE / "torchvision.npz"))
CONFIG = preset("torchvision", **SIDES)


def write_safetensors(path: Path, tensors: dict[str, np.ndarray]) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, value in tensors.items():
        ends = [offset, offset + value.nbytes]
        header[name] = {"dtype": "F32", "shape": list(value.shape), "data_offsets": ends}
        offset += value.nbytes
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for value in tensors.values():
            file.write(value.tobytes())


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    shapes = json.loads((HERE / "torchvision_tensors.json").read_text())
    path = tmp_path_factory.mktemp("weights") / "maskrcnn.safetensors"
    write_safetensors(
        path,
        {
            name: draw(name, tuple(shape), 1 if "conv5_mask" in name else 0)
            for name, shape in shapes.items()
        },
    )
    return build(preset="torchvision", weights=str(path), **SIDES)


def test_counts(model: Any) -> None:
    moving = sum(int(np.prod(w.shape)) for w in model.weights if "moving" in w.path)
    assert model.count_params() - moving == 44_454_513
    assert moving == 53_120


@pytest.mark.parametrize("name", photos())
def test_stages_and_detections(model: Any, name: str) -> None:
    photo = photos()[name]
    check_stages(model, CONFIG, photo, WANTED, name)
    hits = check_detections(detect(model, CONFIG, photo), photo, WANTED, name)
    assert hits == len(WANTED[f"{name}/boxes"])
