"""The dry run of a training: the resolved job, what it would learn from, and the network."""

from __future__ import annotations

import math
from dataclasses import dataclass

import yaml

from segengine.training.data import Data, open_data
from segengine.training.job import TrainJob
from segengine.training.trainers import trainer


@dataclass(frozen=True, slots=True)
class TrainPlan:
    """What `plan` found."""

    job: TrainJob
    data: Data
    steps: int
    """An epoch"""
    looked: int
    """Samples of the validation part"""
    parameters: int
    trainable: int
    weights: tuple[float, ...] | None
    """One a class; None: all equal."""
    decided: tuple[str, ...]
    """What the architecture decides where the job does not say, a line each."""

    def lines(self) -> tuple[str, ...]:
        """Text for a terminal: the whole job with its defaults as YAML, then what follows from it."""
        data = self.data
        text = yaml.safe_dump(self.job.as_json(), sort_keys=False, default_flow_style=None)
        found = text.splitlines()
        found.append(
            f"# {len(data.train.frames):,} frames for training, {len(data.validation.frames):,} for "
            f"validation ({self.looked:,} samples), {data.bands} bands"
        )
        found += [f"# {line}" for line in (*data.notes, *self.decided)]
        classes = [f"{i} {name}" for i, name in enumerate(data.classes)]
        if self.weights is not None:
            classes = [f"{c} (x {w:.3g})" for c, w in zip(classes, self.weights, strict=True)]
        found.append(f"# classes: {', '.join(classes)}")
        found.append(
            f"# {self.parameters:,} parameters, {self.trainable:,} of them trained, in "
            f"{self.job.epochs} epochs of {self.steps:,} steps"
        )
        return tuple(found)


def plan(job: TrainJob) -> TrainPlan:
    """Resolve a training job without a step. Raises JobError."""
    data = open_data(job)
    found = trainer(job.architecture.name).outline(job, data)
    trainable = sum(math.prod(v.shape) for v in found.network.trainable_variables)
    return TrainPlan(
        job=job,
        data=data,
        steps=found.steps,
        looked=found.looked,
        parameters=found.network.count_params(),
        trainable=trainable,
        weights=found.class_weights,
        decided=found.decided,
    )
