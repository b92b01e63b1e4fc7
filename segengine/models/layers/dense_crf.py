"""A fully connected CRF at the end of a network, in NumPy: it refines and learns nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from segengine.networks.crf import Crf, refine
from segengine.networks.scale import Scale


@keras.saving.register_keras_serializable(package="segengine")
class DenseCrf(keras.layers.Layer):
    """[probabilities (n, h, w, class), the network's input (n, h, w, 3)] to probabilities.

    What a segmenter's option `crf` computes: `segengine.networks.crf.refine`. One class is the second of
    two. Each frame is refined whole. No gradient passes.
    """

    def __init__(
        self,
        parameters: Mapping[str, Any] | None = None,
        scale: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """parameters: of `Crf`. scale: what made the network's input of pixels of 0 to 255."""
        super().__init__(**{"trainable": False, "dtype": "float32", **kwargs})
        found = Crf.of(parameters or True)
        assert found is not None
        self.crf, self.scale = found, Scale.of(scale)
        self._said = dict(scale or {})
        self.supports_jit = False  # NumPy computes it

    def call(self, inputs: Sequence[Any]) -> Any:
        """Probabilities (n, h, w, class), float32."""
        import tensorflow as tf

        values, image = inputs
        found = tf.numpy_function(self._refined, [values, image], tf.float32, stateful=False)
        return tf.stop_gradient(tf.ensure_shape(found, values.shape))

    def _refined(self, values: NDArray[Any], image: NDArray[Any]) -> NDArray[np.float32]:
        both = np.concatenate([1 - values, values], -1) if values.shape[-1] == 1 else values
        found = refine(both, self.scale.levels(image), self.crf)
        return np.ascontiguousarray(found[..., -values.shape[-1] :])

    def compute_output_shape(self, shapes: Sequence[tuple[int | None, ...]]) -> Any:
        """That of the probabilities."""
        return shapes[0]

    def get_config(self) -> dict[str, Any]:
        """Parameters and scale, for a saved model."""
        return {**super().get_config(), "parameters": asdict(self.crf), "scale": self._said}
