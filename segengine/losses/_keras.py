"""The Keras side of a loss: tensors in, the formula over `keras.ops`, Keras's reductions.

Truth maps that need SciPy (distances, connected components) are made on the host by a
`tf.numpy_function`, which XLA cannot compile. Keras uses XLA of itself on a GPU only:
`model.compile(..., jit_compile="auto" if loss.supports_jit else False)`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from segengine import registry
from segengine.guards.trust import named_by_store
from segengine.losses._formulas import Formula, Sum
from segengine.losses.scored import Array, Scored, smoothed

_MEANS = ("sum_over_batch_size", "mean", "mean_with_sample_weight")


@keras.saving.register_keras_serializable(package="segengine")
class FormulaLoss(keras.losses.Loss):
    """A loss of this package as a Keras loss. Computes in float32 at least, whatever the inputs."""

    def __init__(self, loss: Formula) -> None:
        super().__init__(name=loss.name, reduction=loss.reduction, dtype=_dtype())
        self.loss = loss

    def call(self, y_true: Array, y_pred: Array) -> Array:
        """Values before reduction: (n, y, x), or (n,) for losses of whole images."""
        values, scored = self.loss.values(score(self.loss, y_true, y_pred))
        if self.loss.ignore is None or self.reduction not in _MEANS:
            return values
        # Keras divides by all values; the mean is that of the scored ones
        share = ops.mean(scored)
        return ops.where(share > 0, values / ops.where(share > 0, share, 1.0), 0.0)

    @property
    def supports_jit(self) -> bool:
        """XLA can compile it (as Keras says of layers)."""
        return self.loss.jit

    def get_config(self) -> dict[str, Any]:
        """The loss's name and its options."""
        return {"loss": self.loss.name, "options": self.loss.options()}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> FormulaLoss:
        """The loss of a config; a file may not name code."""
        with named_by_store(False):
            return cls(registry.create("losses", config["loss"], config["options"]))


@keras.saving.register_keras_serializable(package="segengine")
class WeightedSum(keras.losses.Loss):
    """A compound loss: each part is reduced by itself, then they are added."""

    def __init__(self, loss: Sum) -> None:
        super().__init__(name=loss.name, reduction=loss.reduction, dtype=_dtype())
        self.loss = loss
        self.parts = [(part.weight, part.loss.keras()) for part in loss.parts]

    def __call__(self, y_true: Array, y_pred: Array, sample_weight: Any = None) -> Array:
        """The sum; with reduction "none" the values of an image are added to each of its pixels'."""
        found = [weight * part(y_true, y_pred, sample_weight) for weight, part in self.parts]
        if any(len(value.shape) == 3 for value in found):
            found = [v if len(v.shape) != 1 else v[:, None, None] for v in found]
        return sum(found)

    @property
    def supports_jit(self) -> bool:
        """XLA can compile all of them."""
        return all(part.supports_jit for _, part in self.parts)

    def get_config(self) -> dict[str, Any]:
        """The options."""
        return self.loss.options()

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> WeightedSum:
        """The loss of a config; a file may not name code."""
        with named_by_store(False):
            return cls(registry.create("losses", "compound", config))


def _dtype() -> str:
    """What to compute in: Keras itself would take float16 where that is its default."""
    return "float64" if keras.config.floatx() == "float64" else "float32"


def score(loss: Formula, y_true: Array, y_pred: Array) -> Scored:
    """Tensors as the formula sees them.

    `y_pred` (n, y, x, class); `y_true` the same, or class indices (n, y, x) or (n, y, x, 1), all of
    the float type to compute in. Raises ValueError for shapes that do not fit.
    """
    if len(y_true.shape) == 3:
        y_true = y_true[..., None]
    classes = int(y_pred.shape[-1])
    if len(y_pred.shape) != 4 or len(y_true.shape) != 4 or y_true.shape[-1] not in (1, classes):
        raise ValueError(
            f"y_true: its shape {tuple(y_true.shape)} does not fit that of y_pred, "
            f"{tuple(y_pred.shape)}; {loss.name} needs (n, y, x, class), or integer truth (n, y, x)"
        )
    loss.check_channels(classes)
    valid = ops.ones_like(y_true[..., :1])
    if loss.ignore is not None:
        if y_true.shape[-1] != 1:
            raise ValueError("ignore: needs integer truth (n, y, x), got a class axis")
        valid = ops.where(ops.equal(y_true, float(loss.ignore)), 0.0, valid)
    if y_true.shape[-1] == classes:
        hard = ops.where(valid > 0, y_true, 0.0)
    else:
        indices = ops.arange(classes, dtype=y_true.dtype)
        hard = ops.where(ops.equal(y_true, indices), valid, 0.0)
    yes_or_no = loss.elementwise or classes == 1
    log_p = log_q = None
    probability = y_pred
    if loss.from_logits and yes_or_no:
        probability = ops.sigmoid(y_pred)
        log_p, log_q = ops.log_sigmoid(y_pred), ops.log_sigmoid(-y_pred)
    elif loss.from_logits:
        probability, log_p = ops.softmax(y_pred, axis=-1), ops.log_softmax(y_pred, axis=-1)
    truth = smoothed(hard, loss.label_smoothing, yes_or_no)
    return Scored(
        xp=ops,
        hard=hard,
        truth=truth,
        probability=probability,
        valid=valid,
        on_host=_on_host,
        log_p=log_p,
        log_q=log_q,
    )


def _on_host(function: Callable[..., Any], *maps: Array) -> Array:
    import tensorflow as tf

    def run(*arrays: Any) -> Any:
        return function(*arrays).astype(arrays[0].dtype)

    found = tf.numpy_function(run, maps, maps[0].dtype)
    found.set_shape(maps[0].shape)
    return ops.stop_gradient(found)
