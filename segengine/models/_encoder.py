"""Networks of `keras.applications` as encoders: their features by size, their ImageNet weights."""

from __future__ import annotations

import os
import re
import warnings
from typing import Any

import keras

SKIPS = {
    "MobileNetV2": (
        "block_1_expand_relu",
        "block_3_expand_relu",
        "block_6_expand_relu",
        "block_13_expand_relu",
        "block_16_project",
    ),
    "ResNet50": (
        "conv1_relu",
        "conv2_block3_out",
        "conv3_block4_out",
        "conv4_block6_out",
        "conv5_block3_out",
    ),
    "EfficientNetB0": (
        "block2a_expand_activation",
        "block3a_expand_activation",
        "block4a_expand_activation",
        "block6a_expand_activation",
        "top_activation",
    ),
    "VGG16": ("block2_conv2", "block3_conv3", "block4_conv3", "block5_conv3", "block5_pool"),
}
"""Layers with features at 1/2, 1/4, 1/8, 1/16 and 1/32 of the size."""


def application(name: str, inputs: Any, weights: str | None) -> keras.Model:
    """The network `keras.applications.<name>` on `inputs` (n, h, w, band), without its classifier.

    weights: None (random) or "imagenet", which Keras downloads once and keeps. Raises ValueError
    with the file and the address where it cannot.
    """
    shape = tuple(inputs.shape[1:])
    if weights == "imagenet" and shape[-1] != 3:
        raise ValueError(f"bands: the imagenet weights are for 3 bands, not {shape[-1]}")
    create = getattr(keras.applications, name)
    try:
        with warnings.catch_warnings():
            # MobileNetV2 tells that it takes the weights of 224 x 224 where the size is open
            warnings.simplefilter("ignore", UserWarning)
            return create(
                input_tensor=inputs, input_shape=shape, include_top=False, weights=weights
            )
    except Exception as error:  # what Keras raises where a download fails
        url = re.search(r"https?://\S+?\.h5", str(error))
        if url is None:
            raise
        file = url[0].rpartition("/")[2]
        raise ValueError(
            f"weights: {file} cannot be downloaded here; fetch {url[0]} elsewhere and put it "
            f"in {os.environ.get('KERAS_HOME', '~/.keras')}/models"
        ) from error
