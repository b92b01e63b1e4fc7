"""The optimizer that a training job names."""

from __future__ import annotations

from typing import Any

import keras

from segengine.training.job import TrainJob


def optimizer(job: TrainJob, steps: int) -> Any:
    """The Keras optimizer of a job whose epochs have so many steps."""
    spec = job.optimizer
    rate: Any = spec.learning_rate
    schedules = keras.optimizers.schedules
    if spec.schedule == "cosine":
        rate = schedules.CosineDecay(rate, steps * job.epochs)
    elif spec.schedule != "constant":
        rate = schedules.ExponentialDecay(
            rate, steps * spec.every, spec.decay, staircase=spec.schedule == "step"
        )
    if spec.name == "sgd":
        return keras.optimizers.SGD(rate, momentum=spec.momentum)
    if spec.name == "adamw":
        return keras.optimizers.AdamW(rate, weight_decay=spec.weight_decay)
    return keras.optimizers.Adam(rate)


def said(made: Any) -> str:
    """An optimizer and its first rate, for people."""
    rate = float(made.learning_rate.numpy())
    return f"optimizer: {type(made).__name__} with a rate of {rate:g}, as published"
