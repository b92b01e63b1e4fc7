"""What training is worth: every architecture of ours, by loss, against classifiers of colours alone.

All learn from the same procedural scenes, from random weights and in a few minutes on one core, and
are measured on others: mean IoU over classes of all their pixels. The colours of the classes overlap,
so what a classifier of colours can reach is bounded.

    k-means        clusters of all training pixels, each named after its most frequent true class
    colour table   the most frequent true class of each of 32^3 colours, or the most frequent relative
                   to the class's size, whichever is better on the training scenes

`python -m tests.benchmarks.training FOLDER` keeps what was trained, and trains only what is not there.
"""

import re
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import segengine
from segengine.commands.demo import BUNDLE
from segengine.training import synthetic
from segengine.training.bundle import load_bundle
from segengine.training.job import parse_train_job
from segengine.training.trainers import Trained, train
from tests.benchmarks.overfit import mean_iou
from tests.benchmarks.table import Row, show

LEARNED, UNSEEN = range(200, 260), range(5000, 5012)
CLUSTERS = 16
CE = "sparse_categorical_ce"
LOSSES: Mapping[str, Any] = {
    "cross-entropy": CE,
    "cross-entropy + Dice": [{"loss": CE}, {"loss": "dice", "weight": 0.5}],
    "focal": "focal",
    "Dice": "dice",
    "Tversky": "tversky",
    "IoU-balanced": "iou_balanced",
    "cross-entropy + Lovasz": [{"loss": CE}, {"loss": "lovasz", "weight": 0.5}],
}
Scenes = tuple[NDArray[np.uint8], NDArray[np.uint8]]
"""Pixels (n, y, x, 3) and labels (n, y, x)."""


@dataclass(frozen=True, slots=True)
class Trial:
    """An architecture, what it makes small, and how it learns in a few minutes."""

    name: str
    options: Mapping[str, Any]
    loss: str = "cross-entropy"
    side: int = 96
    """Of a patch, in pixels."""
    patches: int = 288
    """An epoch."""
    epochs: int = 8
    batch: int = 12
    rate: float = 3e-3

    @property
    def title(self) -> str:
        """For the table."""
        return f"{self.name}, {self.loss}"

    @property
    def slug(self) -> str:
        """For a folder's name."""
        return re.sub("[^a-z0-9]+", "-", self.title.lower())


UNET = Trial("unet", {"start_neurons": 12, "depth": 3, "dropout": False, "batch_norm": True})
SMALL = {"backbone": "resnet14"}
ARCHITECTURES = (
    UNET,
    Trial("unet-mobilenetv2", {"freeze_encoder": False}, epochs=6),
    Trial("deeplab", {"backbone": "mobilenetv2"}, patches=3200, epochs=1, batch=6, rate=2e-3),
    Trial("fastfcn", SMALL, side=64, patches=1600, epochs=1, batch=4, rate=1e-3),
    Trial("gscnn", SMALL, side=64, patches=900, epochs=1, batch=6, rate=1e-3),
)
"""The deep ones learn in small batches: in so few minutes it is steps that they lack."""
TRIALS = (
    *(replace(trial, loss=loss) for trial in ARCHITECTURES for loss in list(LOSSES)[:2]),
    *(replace(UNET, loss=loss) for loss in list(LOSSES)[2:]),
)


def rows(folder: Path | None = None) -> list[Row]:
    """Mean IoU of each on scenes that nothing here has learned from; `folder` keeps the bundles."""
    if folder is None:
        with tempfile.TemporaryDirectory(prefix="segengine-bench-") as name:
            return rows(Path(name))
    learned, unseen = scenes(LEARNED), scenes(UNSEEN)
    means = mean_iou(unseen[1], kmeans(learned)(unseen[0]))
    table = mean_iou(unseen[1], color_table(learned)(unseen[0]))
    what = f"mIoU on {len(UNSEEN)} unseen scenes"
    found = [
        Row(f"colour table: {what}, against k-means", table, means, "mIoU", table / means, "-")
    ]
    for trial in TRIALS:
        began = time.process_time()
        bundle = trained(trial, folder).bundle
        minutes = (time.process_time() - began) / 60
        parameters = load_bundle(bundle)[1].count_params() / 1e6
        said = f"{trial.title}, {parameters:.1f} M parameters, {minutes:.1f} CPU minutes"
        found.append(row_of(said, bundle, windows(bundle), unseen, table))
    said = "U-Net of the demo, trained longer"
    found.append(row_of(said, str(files("segengine") / BUNDLE), {}, unseen, table))
    return found


def row_of(said: str, bundle: str, options: Mapping[str, Any], unseen: Scenes, table: float) -> Row:
    """A bundle's figure, beside that of the colour table."""
    segmenter = segengine.create_segmenter({"kind": "model", "path": bundle, **options})
    iou = mean_iou(unseen[1], np.asarray(segengine.segment(unseen[0], segmenter)))
    what = f"{said}: mIoU, against a colour table"
    return Row(what, iou, table, "mIoU", iou / table, "> 1.15")


def trained(trial: Trial, folder: Path) -> Trained:
    """The training of a trial in `folder`: what is there of it is not done again."""
    if not (folder / "images").exists():
        synthetic.write_scenes(folder, LEARNED)
    job = {
        "source": {"paths": [str(folder / "images/*.png")]},
        "truth": {
            "paths": [str(folder / "labels/{stem}.png")],
            "classes": list(synthetic.CLASSES),
        },
        "split": {"train": 0.9, "validation": 0.1},
        "architecture": {"name": trial.name, **trial.options},
        "input": {"size": [trial.side] * 2, "resize": "patches", "patches": trial.patches},
        "augment": {"flip": "both", "color": 0.1},
        "loss": LOSSES[trial.loss],
        "optimizer": {"learning_rate": trial.rate, "schedule": "cosine"},
        "batch": trial.batch,
        "epochs": trial.epochs,
        "out": str(folder / trial.slug),
    }
    return train(parse_train_job(job))


def windows(bundle: str) -> dict[str, Any]:
    """Windows of the size that a network learned from, where it looks at all of one."""
    side = load_bundle(bundle)[0].size[0]
    return {} if side is None else {"window": side}


def scenes(seeds: range) -> Scenes:
    """Generated scenes and their truth."""
    found = [synthetic.scene(seed) for seed in seeds]
    return np.stack([pixels for pixels, _ in found]), np.stack([labels for _, labels in found])


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
    show(rows(Path(sys.argv[1]) if len(sys.argv) > 1 else None))
