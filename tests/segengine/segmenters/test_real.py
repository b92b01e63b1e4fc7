"""Networks and pictures of others, as packages hold them, against what is known of the pictures.

    pytest -m real

Each figure here stands in a table of segengine/networks/README.md.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

import segengine
from segengine.job import load_job
from tests.benchmarks import craters
from tests.real import checked, sdist, wheel

pytestmark = pytest.mark.real
JOBS = Path(__file__).parents[3] / "deployments/jobs"
TEXT = "d2a7720d45a54257208b1e13e36a8479894cb74155a5efe29462512d42f49da9"


@pytest.fixture(scope="session")
def cache(request: pytest.FixtureRequest) -> Path:
    """Kept from one run of the tests to the next."""
    found: Path = request.config.cache.mkdir("real")
    return found


def test_nuclei_of_stardist_s_picture(tmp_path: Path) -> None:
    """nuclei.yaml on a picture of the Data Science Bowl that the package brings, by its `matching`."""
    from stardist.data import test_image_nuclei_2d as nuclei
    from stardist.matching import matching

    picture, truth = nuclei(return_mask=True)
    (tmp_path / "in").mkdir()
    cv2.imwrite(str(tmp_path / "in" / "a.png"), picture)
    settings = [f"source.paths=['{tmp_path}/in/']", f"store.path={tmp_path}/m.zarr"]
    assert segengine.run(load_job(JOBS / "nuclei.yaml", settings)).exit_code == 0
    (scene,) = segengine.open_store(tmp_path / "m.zarr").scenes.values()
    found = np.asarray(scene.instances[0])[: truth.shape[0], : truth.shape[1]].astype(int)
    told = matching(truth.astype(int), found, thresh=0.5)
    assert told.panoptic_quality == pytest.approx(0.766, abs=0.01)
    assert told.f1 == pytest.approx(0.922, abs=0.01)


def test_craters_of_pycda_s_tile(cache: Path) -> None:
    """The U-Net of Keras 2 that the package brings, on a corner of the tile that was kept from it; the
    whole takes minutes (`python -m tests.benchmarks.craters`)."""
    package = sdist(cache, "pycda", "0.1.16")
    found, cuts = craters.rows(package, side=600, shards=(256, 1024))
    assert found.ours == pytest.approx(0.619, abs=0.005)
    assert cuts.ours == 2


def lines(seed: int) -> tuple[np.ndarray[Any, Any], list[tuple[int, int, int, int]]]:
    """A page with lines of text of several sizes on noise, and where each lies: x0, y0, x1, y1."""
    rng = np.random.default_rng(seed)
    page = Image.fromarray(rng.integers(150, 255, (480, 640, 3)).astype(np.uint8))
    pen, boxes = ImageDraw.Draw(page), []
    for k in range(8):
        font = ImageFont.load_default(size=int(rng.integers(20, 36)))
        at = int(rng.integers(10, 200)), 20 + 56 * k
        pen.text(at, f"segment at scale {k}", fill=(20, 30, 60), font=font)
        x0, y0, x1, y1 = pen.textbbox(at, f"segment at scale {k}", font=font)
        boxes.append((int(x0), int(y0), int(x1), int(y1)))
    return np.asarray(page), boxes


def test_text_of_rapidocr_s_detector(tmp_path: Path, cache: Path) -> None:
    """PP-OCRv4's detector marks the core of each line: every line is hit, and nothing beside them."""
    folder = wheel(cache, "rapidocr-onnxruntime", "1.4.4")
    model = checked(folder / "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx", TEXT)
    hit = right = shown = total = 0
    (tmp_path / "in").mkdir()
    pages = [lines(seed) for seed in range(6)]
    for i, (page, _) in enumerate(pages):
        Image.fromarray(page).save(tmp_path / "in" / f"{i}.png")
    job = {
        "source": {"paths": [str(tmp_path / "in")]},
        "segmenter": {
            "kind": "model",
            "path": str(model),
            "scale": {"mean": [0.5] * 3, "std": [0.5] * 3, "divide": 255},
            "threshold": 0.3,
            "classes": ["background", "text"],
            "window": 480,
        },
        "store": {"path": str(tmp_path / "m.zarr")},
    }
    assert segengine.run(job).exit_code == 0
    store = segengine.open_store(tmp_path / "m.zarr")
    (scene,) = store.scenes.values()
    for i, (page, boxes) in enumerate(pages):
        mask = scene.mask_of(f"{i}.png")[: page.shape[0], : page.shape[1]] == 1
        inside = np.zeros_like(mask)
        for x0, y0, x1, y1 in boxes:
            inside[y0:y1, x0:x1] = True
            hit += bool(mask[y0:y1, x0:x1].mean() > 0.2)
        total += len(boxes)
        right += int((mask & inside).sum())
        shown += int(mask.sum())
    assert hit == total == 48
    assert right / shown >= 0.999
