"""What a network is trained to make small: the job's loss, and what its architecture adds to it.

An architecture's module may define `objective(loss)`, which gives a function of true labels
(n, y, x) and all outputs of the network, built with `activation=None`, to a scalar. Without one the
loss of the first output is all, and other outputs are not trained.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from segengine import registry
from segengine.errors import JobError
from segengine.training.job import TrainJob

Objective = Callable[[Any, Sequence[Any]], Any]
"""(labels, outputs) -> scalar"""


def objective_of(architecture: str, loss: Callable[[Any, Any], Any]) -> Objective:
    """The objective of an architecture, by its name or as `package.module:function`."""
    named, _, function = architecture.partition(":")
    place = named if function else registry.module("models", architecture)
    own: Callable[..., Objective] | None = getattr(
        importlib.import_module(place), "objective", None
    )
    return own(loss) if own else lambda labels, outputs: loss(labels, outputs[0])


def loss_of(job: TrainJob, ours: Mapping[str, Any], channels: int) -> Any:
    """The job's loss, or compound of losses, as Keras takes it, tried on so many channels.

    ours: options that it gets where it takes them and the job does not name them. Raises JobError.
    """
    given = job.loss
    if isinstance(given, list):
        name, extra = "compound", {"losses": given}
    elif isinstance(given, dict):
        name, extra = given["loss"], {k: v for k, v in given.items() if k != "loss"}
    else:
        name, extra = given, {}
    takes = inspect.signature(registry.load("losses", name)).parameters
    if "class_weights" in ours and "class_weights" not in takes:
        raise JobError(f"class_weights: the loss {name} takes none")
    try:
        made = registry.create(
            "losses", name, {k: v for k, v in ours.items() if k in takes} | extra
        )
    except JobError as error:
        raise JobError(f"loss.{error}") from None
    loss = made.keras()
    try:
        loss(np.zeros((1, 2, 2), np.int32), np.zeros((1, 2, 2, channels), np.float32))
    except (ValueError, TypeError) as error:
        raise JobError(f"loss: {str(error).partition(chr(10))[0]}") from None
    return loss


class Trainee(keras.Model):
    """A network with its objective; metrics are of its first output. Shares the network's variables."""

    def __init__(self, network: keras.Model, objective: Objective) -> None:
        super().__init__(network.input, list(network.outputs))
        self._objective = objective

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        """The objective, and what layers add (regularisers)."""
        total = self._objective(y, listed(y_pred))
        return sum((ops.sum(added) for added in self.losses), start=total)

    def compute_metrics(
        self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None
    ) -> Mapping[str, Any]:
        """Figures of the first output."""
        return super().compute_metrics(x, y, listed(y_pred)[0], sample_weight)


def listed(outputs: Any) -> list[Any]:
    """What a model gives, as a list; Keras gives a single output bare."""
    return list(outputs) if isinstance(outputs, list | tuple) else [outputs]
