"""VGG16 with a large field of view, as DeepLab v1 and v2 use it.

Simonyan and Zisserman 2015; Chen et al. 2015, "Semantic image segmentation with deep convolutional
nets and fully connected CRFs" (DeepLab-LargeFOV): pooling is 3 x 3, the last two poolings do not
stride, the last convolutions are dilated, and the two dense layers are convolutions of 1,024.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import layers

from segengine.models._encoder import application
from segengine.models._torch import conv, max_pool, relu

_BLOCKS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
"""Filters and convolutions of each block."""


def vgg16(inputs: Any, output_stride: int, rate: int) -> Any:
    """Features (n, h/s, w/s, 1024) of inputs (n, h, w, band); s is `output_stride`, 8 or 16.

    `rate` is the dilation of the first convolution of 1,024. The convolutions of the blocks have the
    names of `keras.applications`.
    """
    if output_stride not in (8, 16):
        raise ValueError(f"output_stride: must be 8 or 16, not {output_stride!r}")
    strides = (2, 2, 2, output_stride // 8, 1)
    x = inputs
    for block, ((filters, convolutions), stride) in enumerate(
        zip(_BLOCKS, strides, strict=True), 1
    ):
        dilation = 16 // output_stride if block == 5 else 1
        for place in range(1, convolutions + 1):
            name = f"block{block}_conv{place}"
            x = relu(conv(x, filters, 3, name, dilation=dilation, bias=True), f"{name}_relu")
        x = max_pool(x, f"block{block}_pool", stride=stride)
    # as in Caffe, the padding counts in the average
    x = layers.ZeroPadding2D(1, name="pool5a_pad")(x)
    x = layers.AveragePooling2D(3, 1, name="pool5a")(x)
    x = relu(conv(x, 1024, 3, "fc6", dilation=rate, bias=True), "fc6_relu")
    x = layers.Dropout(0.5, name="fc6_dropout")(x)
    x = relu(conv(x, 1024, 1, "fc7", bias=True), "fc7_relu")
    return layers.Dropout(0.5, name="fc7_dropout")(x)


def load_imagenet(model: keras.Model) -> None:
    """Give the blocks of a model built with `vgg16` the ImageNet weights of `keras.applications`."""
    for layer in application("VGG16", keras.Input((224, 224, 3)), "imagenet").layers:
        if layer.weights:
            model.get_layer(layer.name).set_weights(layer.get_weights())
