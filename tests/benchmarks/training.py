"""What training is worth: small U-Nets by loss, and the demo's, against classifiers of colours alone.

All learn from the same procedural scenes and are measured on others: mean IoU over classes of all
their pixels. The colours of the classes overlap, so what a classifier of colours can reach is bounded.

    k-means        clusters of all training pixels, each named after its most frequent true class
    colour table   the most frequent true class of each of 32^3 colours, or the most frequent relative
                   to the class's size, whichever is better on the training scenes
"""

import tempfile
from collections.abc import Callable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import segengine
from segengine.demo import BUNDLE
from segengine.training import synthetic
from segengine.training.job import parse_train_job
from tests.benchmarks.overfit import mean_iou
from tests.benchmarks.table import Row, show

LEARNED, UNSEEN = range(200, 260), range(5000, 5012)
CLUSTERS = 16
LOSSES: Mapping[str, Any] = {
    "cross-entropy": "sparse_categorical_ce",
    "cross-entropy + dice": [{"loss": "sparse_categorical_ce"}, {"loss": "dice", "weight": 0.5}],
    "focal": "focal",
}
Scenes = tuple[NDArray[np.uint8], NDArray[np.uint8]]
"""Pixels (n, y, x, 3) and labels (n, y, x)."""


def rows() -> list[Row]:
    """Mean IoU of each on scenes that nothing here has learned from."""
    learned, unseen = scenes(LEARNED), scenes(UNSEEN)
    means = mean_iou(unseen[1], kmeans(learned)(unseen[0]))
    table = mean_iou(unseen[1], color_table(learned)(unseen[0]))
    what = f"mIoU on {len(UNSEEN)} unseen scenes"
    found = [
        Row(f"colour table: {what}, against k-means", table, means, "mIoU", table / means, "-")
    ]
    with tempfile.TemporaryDirectory(prefix="segengine-bench-") as name:
        folder = synthetic.write_scenes(Path(name), LEARNED)
        bundles = {f"U-Net, {loss}": trained(folder, LOSSES[loss]) for loss in LOSSES}
        bundles["U-Net of the demo"] = str(files("segengine") / BUNDLE)
        for network, bundle in bundles.items():
            segmenter = segengine.create_segmenter({"kind": "model", "path": bundle})
            iou = mean_iou(unseen[1], np.asarray(segengine.segment(unseen[0], segmenter)))
            said = f"{network}: {what}, against a colour table"
            found.append(Row(said, iou, table, "mIoU", iou / table, "> 1.25"))
    return found


def scenes(seeds: range) -> Scenes:
    """Generated scenes and their truth."""
    found = [synthetic.scene(seed) for seed in seeds]
    return np.stack([pixels for pixels, _ in found]), np.stack([labels for _, labels in found])


def trained(folder: Path, loss: Any) -> str:
    """The bundle of a U-Net trained for about two minutes."""
    from segengine.training.fit import train

    job = {
        "source": {"paths": [str(folder / "images/*.png")]},
        "truth": {
            "paths": [str(folder / "labels/{stem}.png")],
            "classes": list(synthetic.CLASSES),
        },
        "split": {"train": 0.9, "validation": 0.1},
        "architecture": {
            "name": "unet", "start_neurons": 12, "depth": 3, "dropout": False, "batch_norm": True,
        },
        "input": {"size": [96, 96], "resize": "patches", "patches": 288},
        "augment": {"flip": "both", "color": 0.1},
        "loss": loss,
        "optimizer": {"learning_rate": 0.003, "schedule": "cosine"},
        "batch": 12,
        "epochs": 8,
        "out": tempfile.mkdtemp(dir=folder),
    }  # fmt: skip
    return train(parse_train_job(job)).bundle


def kmeans(learned: Scenes) -> Callable[[NDArray[np.uint8]], NDArray[Any]]:
    """A classifier of colours by clusters."""
    pixels, labels = learned
    surveyor = segengine.create_segmenter({"kind": "kmeans", "clusters": CLUSTERS, "scope": "run"})
    state = surveyor.survey(pixels, np.ones(labels.shape, np.bool_))
    segmenter = surveyor.fit(state)
    clusters = segmenter.segment(pixels).labels
    names = counts(clusters, labels, CLUSTERS).argmax(axis=1)
    return lambda others: names[segmenter.segment(others).labels]


def color_table(learned: Scenes) -> Callable[[NDArray[np.uint8]], NDArray[Any]]:
    """A classifier of colours by a look-up."""
    pixels, labels = learned
    found = counts(cells(pixels), labels, 32**3)
    tables = [found.argmax(axis=1), (found / found.sum(axis=0)).argmax(axis=1)]
    best = max(tables, key=lambda table: mean_iou(labels, table[cells(pixels)]))
    return lambda others: best[cells(others)]


def cells(pixels: NDArray[np.uint8]) -> NDArray[np.int64]:
    """The colour of each pixel as one of 32^3."""
    red, green, blue = np.moveaxis(pixels.astype(np.int64) >> 3, -1, 0)
    return (red << 10) | (green << 5) | blue


def counts(kinds: NDArray[Any], labels: NDArray[Any], most: int) -> NDArray[np.int64]:
    """(kind, class) pixels."""
    classes = len(synthetic.CLASSES)
    both = kinds.astype(np.int64) * classes + labels
    return np.bincount(both.ravel(), minlength=most * classes).reshape(most, classes)


if __name__ == "__main__":
    show(rows())
