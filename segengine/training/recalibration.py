"""Statistics of batch normalisation, over data instead of a running average.

While a network learns, the average of a batch normalisation is of earlier weights: where they change
fast, or in few steps, a deep network is a good one in training and a useless one in inference. So
after an epoch its statistics are computed anew, with the weights as they are (Wu & Johnson 2021,
"Rethinking 'batch' in BatchNorm", precise BN):

    mean = E[mean of a batch],  variance = E[variance of a batch + (mean of a batch)^2] - mean^2

Each batch is normalised by its own statistics, as in training; dropout is off, as in inference.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
from keras import layers
from numpy.typing import NDArray


class Recalibration:
    """The pass over data for one model. Nothing happens where no batch normalisation learns."""

    def __init__(self, model: keras.Model) -> None:
        found = model._flatten_layers(include_self=False, recursive=True)
        parts = list({id(layer): layer for layer in found}.values())
        self._norms = [
            # a frozen one has statistics of its own
            part
            for part in parts
            if isinstance(part, layers.BatchNormalization) and part.trainable
        ]
        if not self._norms:
            return
        dropouts = [part for part in parts if isinstance(part, layers.Dropout)]
        still = [(norm, "momentum") for norm in self._norms] + [(d, "rate") for d in dropouts]
        before = [getattr(part, name) for part, name in still]
        try:
            for part, name in still:  # attributes that are constants of the traced graph
                setattr(part, name, 0.0)
            self._step = _step(model)
        finally:
            for (part, name), value in zip(still, before, strict=True):
                setattr(part, name, value)

    def __call__(self, batches: Iterable[NDArray[np.float32]]) -> None:
        """Set the statistics to those of batches of pixels (n, y, x, band), at least one."""
        if not self._norms:
            return
        count = 0
        means = [np.zeros(norm.moving_mean.shape) for norm in self._norms]
        squares = [np.zeros(norm.moving_mean.shape) for norm in self._norms]
        for pixels in batches:
            self._step(pixels)
            count += len(pixels)
            for norm, mean, square in zip(self._norms, means, squares, strict=True):
                of_batch = np.asarray(norm.moving_mean, np.float64)
                mean += len(pixels) * of_batch
                square += len(pixels) * (np.asarray(norm.moving_variance) + of_batch**2)
        for norm, mean, square in zip(self._norms, means, squares, strict=True):
            norm.moving_mean.assign(mean / count)
            norm.moving_variance.assign(np.maximum(square / count - (mean / count) ** 2, 0.0))


def _step(model: keras.Model) -> Any:
    """A pass that leaves a batch's own statistics in the normalisations, and changes nothing else."""
    import tensorflow as tf

    def step(pixels: Any) -> None:
        model(pixels, training=True)

    (image,) = model.inputs
    signature = tf.TensorSpec(image.shape, tf.float32)
    traced = tf.function(step, input_signature=[signature]).get_concrete_function()
    return lambda pixels: traced(tf.convert_to_tensor(pixels, tf.float32))
