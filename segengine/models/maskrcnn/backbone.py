"""Residual network and feature pyramid: an image to the maps P2 ... P6.

    image -> C2 (1/4) -> C3 (1/8) -> C4 (1/16) -> C5 (1/32)
              |1x1        |1x1        |1x1         |1x1
              + <- x2 --- + <- x2 --- + <- x2 ---- o
              |3x3        |3x3        |3x3         |3x3
              P2          P3          P4           P5 -- every second cell --> P6 (1/64)

Residual blocks are bottlenecks of He et al. 2016. matterport's have the stride in the first 1 x 1
convolution (v1) and biases; torchvision's have it in the 3 x 3 one ("v1.5") and none.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import layers

from segengine.models.maskrcnn.config import Config
from segengine.models.maskrcnn.names import layer_names


def backbone(config: Config, size: tuple[int | None, int | None]) -> keras.Model:
    """(n, height, width, bands) -> [P2, P3, P4, P5, P6], each (n, ceil(h / s), ceil(w / s), c)."""
    names = layer_names(config)
    blocks, width = config.stages
    image = keras.Input((*size, config.bands), name="image")

    x = layers.ZeroPadding2D(3)(image)
    x = _conv_norm(config, x, width, 7, names.stem, stride=2, padding="valid")
    x = layers.ReLU()(x)
    if config.matterport:
        x = layers.MaxPooling2D(3, 2, padding="same")(x)
    else:
        # After a ReLU a border of zeros is as good as torchvision's of -infinity.
        x = layers.MaxPooling2D(3, 2)(layers.ZeroPadding2D(1)(x))
    stages = []
    for stage, count in enumerate(blocks, start=2):
        for index in range(count):
            stride = 2 if index == 0 and stage > 2 else 1
            x = _bottleneck(config, x, width << (stage - 2), stage, index, stride)
        stages.append(x)

    channels = config.pyramid_channels
    top: Any = None
    maps = []
    for level in (5, 4, 3, 2):
        lateral = layers.Conv2D(channels, 1, name=names.lateral(level))(stages[level - 2])
        if top is not None:
            top = layers.UpSampling2D(2)(top)
            lateral = layers.Add()([CropLike()([top, lateral]), lateral])
        top = lateral
        maps.append(layers.Conv2D(channels, 3, padding="same", name=names.smooth(level))(top))
    maps.reverse()
    maps.append(layers.MaxPooling2D(1, 2)(maps[-1]))
    return keras.Model(image, maps, name="backbone")


def _bottleneck(config: Config, x: Any, width: int, stage: int, index: int, stride: int) -> Any:
    names = layer_names(config)
    first, second = (stride, 1) if config.matterport else (1, stride)
    shortcut = x
    if index == 0:
        shortcut = _conv_norm(
            config, x, 4 * width, 1, names.block(stage, index, "shortcut"), stride
        )
    x = _conv_norm(config, x, width, 1, names.block(stage, index, "a"), first)
    x = layers.ReLU()(x)
    if second == 2:  # torch pads both sides alike, "same" only the end
        x = layers.ZeroPadding2D(1)(x)
    x = _conv_norm(
        config,
        x,
        width,
        3,
        names.block(stage, index, "b"),
        second,
        "valid" if second == 2 else "same",
    )
    x = layers.ReLU()(x)
    x = _conv_norm(config, x, 4 * width, 1, names.block(stage, index, "c"))
    return layers.ReLU()(layers.Add()([x, shortcut]))


def _conv_norm(
    config: Config,
    x: Any,
    filters: int,
    kernel: int,
    names: tuple[str, str],
    stride: int = 1,
    padding: str = "same",
) -> Any:
    x = layers.Conv2D(
        filters,
        kernel,
        stride,
        padding=padding,
        use_bias=config.matterport,
        kernel_initializer="glorot_uniform" if config.matterport else "he_normal",
        name=names[0],
    )(x)
    return norm(config, names[1])(x, training=None if config.train_norm else False)


def norm(config: Config, name: str) -> Any:
    """Batch normalisation of the config."""
    momentum = 0.9 if config.train_norm else 0.99
    return layers.BatchNormalization(epsilon=config.norm_epsilon, momentum=momentum, name=name)


@keras.saving.register_keras_serializable(package="segengine")
class CropLike(layers.Layer):
    """(n, h, w, c) cut at the bottom and right to the height and width of a second map."""

    def call(self, inputs: Any) -> Any:
        """[map, like] -> map[:, :height of like, :width of like]."""
        x, like = inputs
        shape = keras.ops.shape(like)
        return x[:, : shape[1], : shape[2]]

    def compute_output_shape(self, shapes: Any) -> Any:
        """Shape of the second map, channels of the first."""
        x, like = shapes
        return (x[0], like[1], like[2], x[3])
