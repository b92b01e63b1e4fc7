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
