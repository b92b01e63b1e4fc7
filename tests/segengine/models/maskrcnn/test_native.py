"""A scene cut in shards: every object that is smaller than the overlap is found once, whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from pycocotools import mask as coco

import segengine
from segengine.models.maskrcnn.config import Config, preset
from segengine.models.maskrcnn.network import network
from segengine.models.maskrcnn.preprocess import prepare
from segengine.models.maskrcnn.step import Batch, make_batch, signature, training_losses
from segengine.models.maskrcnn.targets import Truths, mini_masks
from segengine.networks.bundles import Bundle
from segengine.training.bundle import save_bundle

OPTIONS: dict[str, Any] = {
    "backbone": "resnet14",
    "max_side": 128,
    "pyramid_channels": 24,
    "rpn_channels": 24,
    "box_channels": 48,
    "mask_channels": 24,
    "anchor_sizes": (12, 24, 32, 48, 64),
    "train_norm": True,
    "pre_nms": 2000,
    "post_nms": 200,
    "min_score": 0.95,
    "detection_iou": 0.3,
}
NAMES = ("background", "tank")
STEPS = 90


def scene(seed: int, height: int, width: int, step: int) -> tuple[np.ndarray, np.ndarray]:
    """Bright discs of 20 to 28 pixels on dark noise, one a cell of `step`, and their ids."""
    rng = np.random.default_rng(seed)
    image = rng.normal(60, 8, (height, width, 3))
    ids = np.zeros((height, width), np.uint32)
    y, x = np.mgrid[:height, :width]
    for top in range(0, height - step + 1, step):
        for left in range(0, width - step + 1, step):
            radius = rng.uniform(10, 14)
            a, b = rng.uniform(radius + 1, step - radius - 1, 2)
            disc = (y - top - a) ** 2 + (x - left - b) ** 2 < radius**2
            image[disc] += (120, 90, 60)
            ids[disc] = ids.max() + 1
    return np.clip(image, 0, 255).astype(np.uint8), ids


def example(config: Config, seed: int) -> tuple[np.ndarray, Truths]:
    """A picture as the network takes it, and its objects."""
    image, ids = scene(seed, 128, 128, 42)
    masks = ids == np.arange(1, ids.max() + 1)[:, None, None]
    spans = [(np.flatnonzero(m.any(1)), np.flatnonzero(m.any(0))) for m in masks]
    boxes = np.array([[r[0], c[0], r[-1] + 1, c[-1] + 1] for r, c in spans], np.float32)
    truth = Truths(
        ((boxes - [0, 0, 1, 1]) / 127).astype(np.float32),
        np.ones(len(boxes), np.int32),
        mini_masks(masks, boxes),
        np.zeros(len(boxes), bool),
    )
    return prepare(config, image).image, truth


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network that has learned discs."""
    keras.utils.set_random_seed(0)
    tf.config.experimental.enable_op_determinism()  # what it learns must not depend on the day
    config = preset("matterport", len(NAMES), **OPTIONS)
    model = network(config)
    variables = model.trainable_variables
    optimizer = keras.optimizers.Adam(0.004, global_clipnorm=5.0)
    optimizer.build(variables)

    @tf.function(input_signature=signature(config), autograph=False)
    def step(*parts: Any) -> Any:
        with tf.GradientTape() as tape:
            total = tf.add_n(list(training_losses(model, config, Batch(*parts)).values()))
        slopes = tape.gradient(total, [v.value for v in variables])
        assert all(slope is not None for slope in slopes)
        optimizer.apply(slopes, variables)
        return total

    rng = np.random.default_rng(0)
    windows = np.array([[0, 0, 128, 128]] * 2, np.float32)
    for at in range(STEPS):
        images, truths = zip(*(example(config, 2 * at + i) for i in (0, 1)), strict=True)
        step(*make_batch(config, np.stack(images), windows, truths, rng))
    folder = tmp_path_factory.mktemp("tanks") / "bundle"
    job: dict[str, Any] = {}
    options = {"preset": "matterport", **OPTIONS}
    colors = ((0, 0, 0), (255, 0, 0))
    size = (None, None)
    made = Bundle("mask-rcnn", options, 3, NAMES, colors, {}, "softmax", size, False, job, {})
    save_bundle(folder, made, model, "")
    return folder


def write_raster(path: Path, image: np.ndarray) -> None:
    import rasterio

    height, width, bands = image.shape
    place = rasterio.Affine(2, 0, 480000, 0, -2, 4450000)
    profile = {"driver": "GTiff", "height": height, "width": width, "count": bands}
    with rasterio.open(
        path, "w", dtype="uint8", crs="EPSG:32613", transform=place, **profile
    ) as file:
        file.write(np.moveaxis(image, -1, 0))


@pytest.mark.filterwarnings("ignore:__array__ implementation")
def test_a_scene_in_shards_has_the_objects_of_the_whole(bundle: Path, tmp_path: Path) -> None:
    image, ids = scene(9999, 300, 340, 60)
    write_raster(tmp_path / "tanks.tif", image)
    found = {}
    for shard in (512, 128):
        store = tmp_path / f"{shard}.zarr"
        spec = {"kind": "mask-rcnn", "weights": str(bundle), "scale": "native", "overlap": 48}
        segengine.run(
            {
                "source": {"paths": [str(tmp_path / "tanks.tif")]},
                "segmenter": spec,
                "store": {"path": str(store), "shard": shard, "chunk": 64},
            }
        )
        found[shard] = pq.read_table(store / "tables/instances.parquet").to_pylist()
        assert segengine.open_store(store).metrics["cut_instances"]["count"] == 0
    assert len(found[512]) == len(found[128]) == ids.max()
    true = [coco.encode(np.asfortranarray(ids == i, np.uint8)) for i in range(1, ids.max() + 1)]
    for rows in found.values():
        seen = [{"size": list(ids.shape), "counts": row["rle"]} for row in rows]
        overlap = coco.iou(seen, true, [0] * len(true))
        assert (np.sort(overlap.argmax(axis=1)) == np.arange(len(true))).all()
        assert overlap.max(axis=1).min() > 0.6
        for row, one in zip(rows, seen, strict=True):
            y, x = np.nonzero(coco.decode(one))
            assert row["x"] == pytest.approx(480000 + 2 * (x + 0.5).mean(), abs=1e-6)
            assert row["y"] == pytest.approx(4450000 - 2 * (y + 0.5).mean(), abs=1e-6)
