"""A network with its weights as a function of one frame."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from segengine.models.maskrcnn.config import Config
from segengine.models.maskrcnn.postprocess import Instance, instances
from segengine.models.maskrcnn.preprocess import prepare

Detect = Callable[[NDArray[np.uint8], bool], list[Instance]]
"""A frame (y, x, band) of bytes, and whether it is seen at its own size -> objects, best first."""


def detector(model: keras.Model, config: Config) -> Detect:
    """The network as one graph for images of any size; it follows the model's weights."""
    image = tf.TensorSpec((1, None, None, config.bands), tf.float32)
    window = tf.TensorSpec((1, 4), tf.float32)

    @tf.function(input_signature=(image, window), autograph=False)  # type: ignore[untyped-decorator]
    def graph(image: Any, window: Any) -> Any:
        return model({"image": image, "window": window}, training=False)

    def detect(frame: NDArray[np.uint8], native: bool) -> list[Instance]:
        prepared = prepare(config, frame, native)
        found = graph(prepared.image[None], np.array([prepared.window], np.float32))
        return instances(config, prepared, {name: v.numpy() for name, v in found.items()})

    return detect
