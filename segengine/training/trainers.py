"""A training from its job to its bundle; goes on where it ended.

    out/checkpoint.npz   after each epoch: weights, optimizer, history   (best.npz: early stopping)
    out/pictures/        a validation sample before the first and after each epoch
    out/tensorboard/     the figures, for TensorBoard
    out/history.png, out/model.png
    out/bundle/          what `segmenter: {kind: model, path: ...}` takes

A step draws nothing from a global state that a checkpoint does not hold, and TensorFlow's kernels
are told to be deterministic: the same job on the same machine, with as many threads, gives the same
weights, bit for bit, also when it is killed and run again.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

import keras
import tensorflow as tf

from segengine.errors import JobError
from segengine.networks.bundles import is_bundle
from segengine.training.data import Data, open_data
from segengine.training.epochs import Epochs, Note, Outline, Update
from segengine.training.job import TrainJob
from segengine.training.modelcard import summary_lines

_MODULES = {"mask-rcnn": "maskrcnn", "deepmask": "proposals", "sharpmask": "proposals"}
"""Of architectures that learn from objects; all others label pixels."""


class Trainer(Protocol):
    """A module that trains some architectures."""

    Training: type[Epochs]

    def outline(self, job: TrainJob, data: Data) -> Outline:
        """What it would do. Raises JobError for whatever cannot be trained."""
        ...


def trainer(architecture: str) -> Trainer:
    """The module that trains an architecture."""
    name = _MODULES.get(architecture, "fit")
    return cast(Trainer, importlib.import_module(f"segengine.training.{name}"))


@dataclass(frozen=True, slots=True)
class Trained:
    """What a training gave."""

    name: str
    out: str
    bundle: str
    epochs: int
    """Epochs done, by all runs together."""
    seconds: float
    """Of this run."""
    metrics: Mapping[str, float]
    """Figures of the epoch whose weights the bundle holds."""

    def lines(self) -> tuple[str, ...]:
        """Text for a terminal."""
        done = f"trained {self.name}: {self.epochs} epochs, {self.seconds:.0f} s in this run"
        return (done, *summary_lines(self.metrics), f"bundle {self.bundle}")


def train(job: TrainJob, update: Update | None = None, note: Note | None = None) -> Trained:
    """Train a network. Raises JobError before the first step, SegengineError after it."""
    began = time.monotonic()
    update, note = update or (lambda _: None), note or (lambda _: None)
    keras.utils.set_random_seed(job.seed)
    tf.config.experimental.enable_op_determinism()
    bundle = Path(job.out, "bundle")
    if bundle.exists() and not is_bundle(bundle):
        raise JobError(
            f"out: {bundle} is there and no bundle; it would be replaced: choose another"
        )
    data = open_data(job)
    try:
        Path(job.out).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise JobError(f"out: {job.out} cannot be made a folder: {error.strerror}") from None
    for left_out in data.notes:
        note(left_out)
    run = trainer(job.architecture.name).Training(job, data, update, note)
    run.train()
    return Trained(
        name=job.name,
        out=job.out,
        bundle=str(bundle),
        epochs=run.state.epochs,
        seconds=time.monotonic() - began,
        metrics=run.finish(),
    )
