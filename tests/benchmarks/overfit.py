"""Every architecture learns eight pictures by heart: that it can is the least a network must show.

From random weights, in `segengine train`'s own way: the architecture's objective, Adam, statistics of
batch normalisation anew. Beside it what its running averages give, which lag behind.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import keras
import numpy as np
from numpy.typing import NDArray

from segengine import losses, models
from segengine.models import deepmask
from segengine.training.fit import labels_of
from segengine.training.objective import Objective, Trainee, listed, objective_of
from segengine.training.recalibration import Recalibration
from tests.benchmarks.table import Row, show

PICTURES, SIDE, CLASSES = 8, 64, 3
ENOUGH = 0.95
EVERY = 10
"""Steps between two looks."""


@dataclass(frozen=True, slots=True)
class Trial:
    """An architecture, its options, and how it learns."""

    name: str
    rate: float = 1e-3
    most: int = 300
    options: dict[str, Any] = field(default_factory=dict)


PIXELWISE = (
    Trial("unet", 3e-3, 400, {"start_neurons": 8, "depth": 3, "dropout": False}),
    Trial("unet-mobilenetv2", options={"freeze_encoder": False}),
    Trial("deeplab", options={"backbone": "mobilenetv2"}),
    Trial("fastfcn", options={"aux": True}),
    Trial("gscnn", options={"backbone": "resnet14"}),
)
PROPOSERS = (Trial("deepmask", 3e-4), Trial("sharpmask", 3e-4))


@dataclass(frozen=True, slots=True)
class Learned:
    """How well a network knows its pictures."""

    iou: float
    """Mean over classes, in inference."""
    running: float
    """The same with running averages in batch normalisation."""
    steps: int
    seconds: float


def rows() -> list[Row]:
    """IoU of each architecture, with its statistics anew and with running ones."""
    found = [(trial, by_heart(trial)) for trial in PIXELWISE]
    found += [(trial, proposals_by_heart(trial)) for trial in PROPOSERS]
    return [
        Row(f"{trial.name}: IoU on eight pictures, {learned.steps} steps in {learned.seconds:.0f} s; "
            "against running averages", learned.iou, learned.running, "IoU",
            learned.iou / max(learned.running, 1e-3), f"> {ENOUGH}")
        for trial, learned in found
    ]  # fmt: skip


def by_heart(trial: Trial, side: int = SIDE) -> Learned:
    """A network that labels each pixel."""
    keras.utils.set_random_seed(0)
    pixels, labels = pictures(side)
    network = models.build(
        trial.name, bands=3, classes=CLASSES, size=(side, side), activation=None, **trial.options
    )
    loss = losses.create("sparse_categorical_ce", from_logits=True)
    return learn(network, objective_of(trial.name, loss), pixels, labels, trial)


def proposals_by_heart(trial: Trial) -> Learned:
    """A network that gives a mask of the object in a patch's centre.

    Its normalisation is frozen, with statistics that pretrained weights bring along; here they are
    those of the patches, once.
    """
    keras.utils.set_random_seed(0)
    network = models.build(trial.name, bands=3, activation=None)
    pixels, labels = pictures(deepmask.INPUT)
    side = network.outputs[0].shape[1]
    inner = slice(deepmask.BORDER, -deepmask.BORDER)
    masks = [
        cv2.resize((label[inner, inner] == 2).astype(np.uint8), (side, side), None, 0, 0, 0)
        for label in labels
    ]
    norms = [
        part
        for part in network._flatten_layers(include_self=False, recursive=True)
        if isinstance(part, keras.layers.BatchNormalization)
    ]
    for norm in norms:
        norm.trainable = True
    Recalibration(network)([pixels])
    for norm in norms:
        norm.trainable = False
    loss = losses.create("bce", from_logits=True)

    def objective(true: Any, outputs: Sequence[Any]) -> Any:
        return loss(true, outputs[0]) + 0.0 * outputs[1][0, 0]  # of these, the score learns nothing

    return learn(network, objective, pixels, np.stack(masks).astype(np.int32), trial)


def learn(
    network: Any,
    objective: Objective,
    pixels: NDArray[np.float32],
    labels: NDArray[np.int32],
    trial: Trial,
) -> Learned:
    """Steps over all pictures at once, until it knows them or has had its most."""
    began = time.monotonic()
    trainee = Trainee(network, objective)
    trainee.compile(keras.optimizers.Adam(trial.rate), jit_compile=False)
    recalibrate = Recalibration(network)

    def look() -> float:
        logits = listed(trainee.predict_on_batch(pixels))[0]
        return mean_iou(labels, labels_of(np.asarray(logits)))

    found = Learned(0.0, 0.0, 0, 0.0)
    while found.iou <= ENOUGH and found.steps < trial.most:
        for _ in range(EVERY):
            trainee.train_on_batch(pixels, labels)
        running, before = look(), [np.array(v) for v in network.non_trainable_variables]
        recalibrate([pixels])
        steps = found.steps + EVERY
        found = Learned(look(), running, steps, time.monotonic() - began)
        for variable, value in zip(network.non_trainable_variables, before, strict=True):
            variable.assign(value)
    return found


def mean_iou(true: NDArray[Any], found: NDArray[Any]) -> float:
    """Over the classes that are true anywhere."""
    ratios = [
        ((true == k) & (found == k)).sum() / ((true == k) | (found == k)).sum()
        for k in np.unique(true)
    ]
    return float(np.mean(ratios))


def pictures(side: int) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Eight pictures of 0 to 1: ground, a slanted half of another colour, an ellipse in the middle."""
    rng = np.random.default_rng(0)
    colors = np.array([[0.3, 0.5, 0.3], [0.3, 0.35, 0.55], [0.6, 0.45, 0.35]])
    pixels = np.zeros((PICTURES, side, side, 3))
    labels = np.zeros((PICTURES, side, side), np.uint8)
    y, x = np.mgrid[:side, :side] / side - 0.5
    for image, label in zip(pixels, labels, strict=True):
        angle = rng.uniform(0, 2 * np.pi)
        label[x * np.cos(angle) + y * np.sin(angle) > 0.05] = 1
        middle = (side * rng.uniform(0.4, 0.6, 2)).round().astype(int).tolist()
        axes = (side * rng.uniform(0.15, 0.25, 2)).round().astype(int).tolist()
        cv2.ellipse(label, middle, axes, rng.uniform(0, 180), 0, 360, 2, -1)
        image[:] = (colors + rng.normal(0, 0.05, (3, 3)))[label]
    pixels += rng.normal(0, 0.05, pixels.shape)
    return pixels.clip(0, 1).astype(np.float32), labels.astype(np.int32)


if __name__ == "__main__":
    show(rows())
