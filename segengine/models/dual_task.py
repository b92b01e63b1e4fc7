"""The loss of Gated-SCNN: segmentation and edges, each also holding the other to account.

Takikawa et al. 2019, section 3.3, with the edge's truth and class weights of their experiments. Of
an image, with class probabilities p, edge probability s, true classes t and true edges b:

    segmentation   cross-entropy of p, each pixel weighted by 2 - (share of its class in the image)
    edge           cross-entropy of s, edges weighted by the share of other pixels and vice versa
    selected       cross-entropy of p where s > 0.8
    consistency    mean |z - z'| over z > 0, and over z' > 0, halved

where z = |grad(G * m)| / sqrt(2), of every class, for m a relaxed argmax of p, and z' the same of t.
The argmax is relaxed by Gumbel-softmax (Jang et al. 2017), softmax((log p + g) / tau), in the loss
as in its gradient, so that the one belongs to the other. True edges are the pixels within 2 pixels
of one of another class; borders of the image and of void are none. Void counts nowhere.

G is a Gaussian of deviation 1 pixel, grad the central difference.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

RADIUS = 2
"""Of true edges, in pixels."""
SELECTED = 0.8
"""Edge probability from which the segmentation is looked at twice."""
TEMPERATURE = 0.5
_TINY = 1e-8  # of a gradient: less is none
_CLIP = 1e-7  # of a probability
_GAUSS = np.exp(-0.5 * np.arange(-3, 4) ** 2.0)
_GAUSS /= _GAUSS.sum()


@keras.saving.register_keras_serializable(package="segengine")
class DualTask(keras.losses.Loss):
    """The weighted sum of the four terms, one value an image; for `stacked(gscnn)`.

    y_true (n, h, w) or (n, h, w, 1) class indices; others than those of the model are void. y_pred
    (n, h, w, classes + 1): logits, then the edge's probability. For one class a logit is that of
    class 1 against class 0. Without `noise` the relaxed argmax is softmax(log p / tau); with it the
    noise depends on `seed` and the logits alone, so a training that is resumed draws the same.
    """

    def __init__(
        self,
        segmentation: float = 1.0,
        edge: float = 20.0,
        selected: float = 1.0,
        consistency: float = 1.0,
        noise: bool = True,
        seed: int = 0,
        name: str = "dual_task",
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, **kwargs)
        self.weights = {
            "segmentation": segmentation,
            "edge": edge,
            "selected": selected,
            "consistency": consistency,
        }
        for term, weight in self.weights.items():
            if not weight >= 0:
                raise ValueError(f"{term}: its weight must not be negative, not {weight!r}")
        self.noise, self.seed = noise, seed

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """(n,) losses."""
        logits, edge = y_pred[..., :-1], y_pred[..., -1:]
        if y_pred.shape[-1] == 2:
            logits = ops.concatenate([ops.zeros_like(logits), logits], axis=-1)
        if len(y_true.shape) == 4:
            y_true = y_true[..., 0]
        noise = _gumbel(logits, self.seed) if self.noise else ops.zeros_like(logits)
        found = terms(ops.cast(y_true, "int32"), logits, edge, noise)
        return sum(self.weights[term] * value for term, value in found.items())

    def get_config(self) -> dict[str, Any]:
        """Weights and noise, for a saved model."""
        own = {**self.weights, "noise": self.noise, "seed": self.seed}
        return {**super().get_config(), **own}


def stacked(model: keras.Model) -> keras.Model:
    """A gscnn built with `activation=None`, its outputs side by side for `DualTask`; same weights."""
    segmentation, edge = model.outputs
    both = keras.layers.Concatenate(dtype="float32", name="stacked")([segmentation, edge])
    return keras.Model(model.inputs, both, name=model.name)


def terms(labels: Any, logits: Any, edge: Any, noise: Any) -> dict[str, Any]:
    """The four terms, (n,) each, unweighted.

    labels (n, h, w) int32, logits (n, h, w, class), edge (n, h, w, 1), noise as logits.
    """
    classes = logits.shape[-1]
    valid = (labels >= 0) & (labels < classes)
    truth = ops.one_hot(ops.where(valid, labels, -1), classes, dtype=logits.dtype)
    real = ops.cast(valid, logits.dtype)
    log_p = ops.log_softmax(logits, axis=-1)
    entropy = -ops.sum(truth * log_p, axis=-1)
    share = _ratio(ops.sum(truth, axis=(1, 2)), ops.sum(real, axis=(1, 2))[:, None])
    weight = ops.sum(truth * (2.0 - share)[:, None, None], axis=-1)
    looked_at = ops.stop_gradient(ops.cast(edge[..., 0] > SELECTED, logits.dtype)) * real
    relaxed = ops.softmax((log_p + noise) / TEMPERATURE, axis=-1) * real[..., None]
    return {
        "segmentation": _mean(entropy, weight),
        "edge": _edge_entropy(ops.cast(true_edges(labels, classes), edge.dtype), edge, real),
        "selected": _mean(entropy, looked_at),
        "consistency": _consistency(relaxed, truth, real[..., None]),
    }


def true_edges(labels: Any, classes: int) -> Any:
    """(n, h, w) bool: within `RADIUS` of a pixel of another class; labels (n, h, w) integers."""
    r = RADIUS
    padded = ops.pad(labels, ((0, 0), (r, r), (r, r)), constant_values=-1)
    height, width = ops.shape(labels)[1:3]
    found = ops.zeros_like(labels, dtype="bool")
    for dy in range(-r, r + 1):
        for dx in range(-r, r + 1):
            if 0 < dy * dy + dx * dx <= r * r:
                other = padded[:, r + dy : r + dy + height, r + dx : r + dx + width]
                found = found | ((other != labels) & (other >= 0) & (other < classes))
    return found & (labels >= 0) & (labels < classes)


def _edge_entropy(truth: Any, edge: Any, real: Any) -> Any:
    p = ops.clip(edge[..., 0], _CLIP, 1.0 - _CLIP)
    share = _ratio(ops.sum(truth, axis=(1, 2)), ops.sum(real, axis=(1, 2)))[:, None, None]
    on, off = (1.0 - share) * truth * ops.log(p), share * (1.0 - truth) * ops.log(1.0 - p)
    return _mean(-(on + off), real)


def _consistency(relaxed: Any, truth: Any, real: Any) -> Any:
    ours, theirs = _steepness(relaxed), _steepness(truth)
    apart = ops.abs(ours - theirs)
    over = [ops.cast(z > _TINY, apart.dtype) * real for z in (ours, theirs)]
    return 0.5 * (_mean(apart, over[0]) + _mean(apart, over[1]))


def _steepness(maps: Any) -> Any:
    """|grad(G * maps)| / sqrt(2) of (n, h, w, class), along y and x; its gradient is 0 where it is 0."""
    for axis in (1, 2):
        maps = sum(float(g) * _shifted(maps, i - 3, axis) for i, g in enumerate(_GAUSS))
    down, across = ((_shifted(maps, 1, axis) - _shifted(maps, -1, axis)) / 2 for axis in (1, 2))
    squared = (down * down + across * across) / 2
    rising = squared > 0
    return ops.where(rising, ops.sqrt(ops.where(rising, squared, 1.0)), 0.0)


def _shifted(maps: Any, by: int, axis: int) -> Any:
    """maps[i + by] along an axis, the border repeated."""
    size = ops.shape(maps)[axis]
    at = ops.clip(ops.arange(size, dtype="int32") + by, 0, size - 1)
    return ops.take(maps, at, axis=axis)


def _mean(values: Any, weights: Any) -> Any:
    """Weighted mean an image; 0 where no weight is."""
    axes = tuple(range(1, len(values.shape)))
    return _ratio(ops.sum(values * weights, axis=axes), ops.sum(weights, axis=axes))


def _ratio(a: Any, b: Any) -> Any:
    return ops.where(b > 0, a / ops.where(b > 0, b, 1.0), 0.0)


def _gumbel(logits: Any, seed: int) -> Any:
    import tensorflow as tf

    of_these = tf.bitcast(tf.cast(tf.reduce_sum(logits), tf.float32), tf.int32)
    shape, tiny = tf.shape(logits), np.finfo(np.float32).tiny
    uniform = tf.random.stateless_uniform(shape, [seed, of_these], tiny, 1.0)
    return tf.cast(-tf.math.log(-tf.math.log(uniform)), logits.dtype)
