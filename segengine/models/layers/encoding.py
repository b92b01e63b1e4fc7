"""How features differ from learned codewords: the encoding layer of EncNet.

Zhang et al. 2018, "Context encoding for semantic segmentation", equation 1.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="segengine")
class Encoding(keras.layers.Layer):
    """(n, h, w, c) to (n, codeword, c).

    e_k = sum over pixels i of a_ik (x_i - d_k), where a_i is the softmax over k of
    s_k |x_i - d_k|^2; codewords d and scales s are learned.
    """

    def __init__(self, codewords: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.codewords = codewords

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Uniform in +-1/sqrt(codewords c); scales in -1 to 0, so that the nearest weighs most."""
        channels = int(input_shape[-1] or 0)
        spread = (self.codewords * channels) ** -0.5
        uniform = keras.initializers.RandomUniform
        self.words = self.add_weight(
            shape=(self.codewords, channels), initializer=uniform(-spread, spread), name="words"
        )
        self.scales = self.add_weight(
            shape=(self.codewords,), initializer=uniform(-1.0, 0.0), name="scales"
        )

    def call(self, inputs: Any) -> Any:
        """The residuals' sums; no (pixel, codeword, channel) array is made."""
        x = ops.reshape(inputs, (ops.shape(inputs)[0], -1, inputs.shape[-1]))
        words = ops.cast(self.words, x.dtype)
        squared = (
            ops.sum(x * x, axis=-1, keepdims=True)
            - 2.0 * ops.einsum("nic,kc->nik", x, words)
            + ops.sum(words * words, axis=-1)
        )
        share = ops.softmax(ops.cast(self.scales, x.dtype) * squared, axis=-1)
        sums = ops.einsum("nik,nic->nkc", share, x)
        return sums - ops.sum(share, axis=1)[..., None] * words

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """(n, codeword, c)."""
        return (input_shape[0], self.codewords, input_shape[-1])

    def get_config(self) -> dict[str, Any]:
        """The number of codewords, for a saved model."""
        return {**super().get_config(), "codewords": self.codewords}
