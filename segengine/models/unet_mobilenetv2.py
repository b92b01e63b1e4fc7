"""U-Net on a pretrained encoder: MobileNetV2 and the up-blocks of pix2pix.

Sandler et al. 2018, "MobileNetV2"; Isola et al. 2017, "Image-to-image translation with conditional
adversarial networks": the network of TensorFlow's segmentation tutorial. Each up-block doubles the
size and is concatenated with the encoder's features of that size; a last transposed convolution
gives full size.
"""

from __future__ import annotations

import keras
from keras import layers

from segengine.models._build import Size, check, final, load_weights
from segengine.models._encoder import SKIPS, application

_FILTERS = (512, 256, 128, 64)


def build(
    bands: int = 3,
    classes: int = 1,
    size: Size = (None, None),
    weights: str | None = None,
    *,
    backbone: str = "MobileNetV2",
    freeze_encoder: bool = True,
    activation: str | None = "auto",
) -> keras.Model:
    """U-Net for inputs (n, h, w, bands), h and w multiples of 32; -> (n, h, w, classes).

    backbone: MobileNetV2, ResNet50, EfficientNetB0 or VGG16, with the scaling of inputs that
    `keras.applications` documents for it (MobileNetV2: [-1, 1]). freeze_encoder: train the
    up-blocks only. weights: "imagenet" for the encoder, or a file that `save_weights` wrote.
    activation: sigmoid, softmax or null (logits); by default sigmoid for one class, else softmax.
    """
    check(bands, classes, size, 32)
    if backbone not in SKIPS:
        raise ValueError(f"backbone: must be one of {', '.join(SKIPS)}, not {backbone!r}")
    pretrained = weights if weights == "imagenet" else None

    inputs = keras.Input((*size, bands), name="image")
    # a model of its own, so that it can be frozen and thawed by one attribute
    image = keras.Input((*size, bands))
    network = application(backbone, image, pretrained)
    features = [network.get_layer(name).output for name in SKIPS[backbone]]
    encoder = keras.Model(image, features, name="encoder")
    encoder.trainable = not freeze_encoder

    *skips, x = encoder(inputs)
    for level, (filters, skip) in enumerate(zip(_FILTERS, reversed(skips), strict=True), 1):
        x = layers.Conv2DTranspose(
            filters,
            3,
            2,
            "same",
            use_bias=False,
            kernel_initializer=keras.initializers.RandomNormal(0.0, 0.02),
            name=f"up{level}",
        )(x)
        x = layers.BatchNormalization(name=f"up{level}_norm")(x)
        x = layers.ReLU(name=f"up{level}_relu")(x)
        x = layers.Concatenate(name=f"up{level}_concat")([x, skip])
    logits = layers.Conv2DTranspose(classes, 3, 2, "same", name="logits")(x)
    model = keras.Model(inputs, final(logits, classes, activation), name="unet-mobilenetv2")
    if pretrained is None:
        load_weights(model, weights)
    return model
