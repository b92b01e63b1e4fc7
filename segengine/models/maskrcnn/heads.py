"""The three heads: region proposal, boxes and classes, masks. Each a model of its own.

matterport's box head is a 7 x 7 and a 1 x 1 convolution with batch normalisation, torchvision's two
dense layers; both are 1024 wide. matterport normalises in the mask head too.

The box and mask heads take any number of squares, none too: TensorFlow's convolutions on a CPU give
an empty batch a wrong shape, so an empty square goes along and is left out at the end.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf
from keras import layers

from segengine.models.maskrcnn.backbone import norm
from segengine.models.maskrcnn.config import Config
from segengine.models.maskrcnn.names import layer_names


def rpn_head(config: Config) -> keras.Model:
    """A pyramid map (n, h, w, c) -> scores (n, h, w, ratios * logits), deltas (n, h, w, ratios * 4).

    matterport has two logits an anchor (background, object), torchvision one.
    """
    shared, scores, deltas = layer_names(config).rpn
    ratios = len(config.anchor_ratios)
    logits = 2 if config.matterport else 1
    features = keras.Input((None, None, config.pyramid_channels))
    x = layers.Conv2D(config.rpn_channels, 3, padding="same", activation="relu", name=shared)(
        features
    )
    outputs = [
        layers.Conv2D(ratios * logits, 1, name=scores)(x),
        layers.Conv2D(ratios * 4, 1, name=deltas)(x),
    ]
    return keras.Model(features, outputs, name="rpn_model")


def box_head(config: Config) -> keras.Model:
    """Squares (m, 7, 7, c) -> class logits (m, classes), deltas (m, classes * 4) as they come."""
    first, second, classes, deltas = layer_names(config).box
    side = config.box_pool
    squares = keras.Input((side, side, config.pyramid_channels))
    training = None if config.train_norm else False
    x = OneMore()(squares)
    if config.matterport:
        for name, kernel in ((first, side), (second, 1)):
            x = layers.Conv2D(config.box_channels, kernel, name=name)(x)
            x = norm(config, name.replace("conv", "bn"))(x, training=training)
            x = layers.ReLU()(x)
        x = layers.Flatten()(x)
    else:
        x = layers.Flatten()(x)
        for name in (first, second):
            x = layers.Dense(config.box_channels, activation="relu", name=name)(x)
    outputs = [
        OneLess()(layers.Dense(config.classes, name=classes)(x)),
        OneLess()(layers.Dense(config.classes * 4, name=deltas)(x)),
    ]
    return keras.Model(squares, outputs, name="box_head")


def mask_head(config: Config) -> keras.Model:
    """Squares (m, 14, 14, c) -> mask logits (m, 28, 28, classes)."""
    names = layer_names(config)
    deconvolution, classes = names.mask_top
    side = config.mask_pool
    squares = keras.Input((side, side, config.pyramid_channels))
    x = OneMore()(squares)
    for index in (1, 2, 3, 4):
        name = names.mask(index)
        x = layers.Conv2D(config.mask_channels, 3, padding="same", name=name)(x)
        if config.matterport:
            training = None if config.train_norm else False
            x = norm(config, name.replace("conv", "bn"))(x, training=training)
        x = layers.ReLU()(x)
    x = layers.Conv2DTranspose(config.mask_channels, 2, 2, activation="relu", name=deconvolution)(x)
    masks = layers.Conv2D(config.classes, 1, name=classes)(x)
    return keras.Model(squares, OneLess()(masks), name="mask_head")


@keras.saving.register_keras_serializable(package="segengine")
class OneMore(layers.Layer):
    """(m, ...) -> (m + 1, ...), the last of zeros."""

    def call(self, x: Any) -> Any:
        """With one more."""
        # Not tf.pad: oneDNN's graph rewrite takes any padding before a convolution for its own.
        return tf.concat([x, tf.zeros((1, *x.shape[1:]), x.dtype)], axis=0)


@keras.saving.register_keras_serializable(package="segengine")
class OneLess(layers.Layer):
    """(m + 1, ...) -> (m, ...)."""

    def call(self, x: Any) -> Any:
        """Without the last."""
        return x[:-1]
