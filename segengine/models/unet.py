"""U-Net: an encoder and a decoder of convolutions, with skip connections at every size.

Ronneberger et al. 2015, "U-Net: Convolutional networks for biomedical image segmentation", in the
small form of the well-known Keras tutorial: padded convolutions, dropout, 16 start neurons.

    size 1      conv conv ------------------------------ concat dropout conv conv - 1 x 1
    size 1/2      pool dropout conv conv ---- concat dropout conv conv - up
    ...                                  ...
    size 1/2^depth             pool dropout conv conv - up
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import layers

from segengine.models._build import Size, check, check_count, final, load_weights


def build(
    bands: int = 3,
    classes: int = 1,
    size: Size = (None, None),
    weights: str | None = None,
    *,
    start_neurons: int = 16,
    depth: int = 4,
    dropout: bool | float | Sequence[float] = True,
    batch_norm: bool = False,
    activation: str | None = "auto",
) -> keras.Model:
    """U-Net for inputs (n, h, w, bands), h and w multiples of 2^depth; -> (n, h, w, classes).

    start_neurons: filters at full size, doubled at each of `depth` halvings. dropout: true is the
    tutorial's (0.25 after the first pooling, 0.5 after the others and after each concatenation),
    false none, a number the rate everywhere, a list the rates of `depth` poolings, then of `depth`
    concatenations, in the order of the data. batch_norm: between each 3 x 3 convolution and its
    ReLU. activation: sigmoid, softmax or null (logits); by default sigmoid for one class, else
    softmax. weights: a file that `save_weights` wrote.
    """
    check_count("start_neurons", start_neurons)
    check_count("depth", depth)
    check(bands, classes, size, 1 << depth)
    rates = _rates(dropout, depth)

    inputs = keras.Input((*size, bands), name="image")
    x = inputs
    skips = []
    for level in range(depth):
        x = _double(x, start_neurons << level, batch_norm, f"down{level + 1}")
        skips.append(x)
        x = layers.MaxPooling2D(2, name=f"pool{level + 1}")(x)
        x = _dropout(x, rates[level], f"pool{level + 1}_dropout")
    x = _double(x, start_neurons << depth, batch_norm, "middle")
    for level in reversed(range(depth)):
        filters, name = start_neurons << level, f"up{level + 1}"
        x = layers.Conv2DTranspose(filters, 3, 2, "same", name=name)(x)
        x = layers.Concatenate(name=f"{name}_concat")([x, skips[level]])
        x = _dropout(x, rates[2 * depth - 1 - level], f"{name}_dropout")
        x = _double(x, filters, batch_norm, name)
    logits = layers.Conv2D(classes, 1, name="logits")(x)
    model = keras.Model(inputs, final(logits, classes, activation), name="unet")
    load_weights(model, weights)
    return model


def _double(x: Any, filters: int, batch_norm: bool, name: str) -> Any:
    for place in (1, 2):
        # a bias before the normalisation would have no effect
        x = layers.Conv2D(
            filters, 3, padding="same", use_bias=not batch_norm, name=f"{name}_conv{place}"
        )(x)
        if batch_norm:
            x = layers.BatchNormalization(name=f"{name}_norm{place}")(x)
        x = layers.ReLU(name=f"{name}_relu{place}")(x)
    return x


def _dropout(x: Any, rate: float, name: str) -> Any:
    return layers.Dropout(rate, name=name)(x) if rate else x


def _rates(dropout: bool | float | Sequence[float], depth: int) -> tuple[float, ...]:
    """Rates of the `depth` poolings, then of the `depth` concatenations."""
    if dropout is True:
        return (0.25, *(0.5,) * (2 * depth - 1))
    if isinstance(dropout, (int, float)):
        rates: tuple[float, ...] = (float(dropout),) * (2 * depth)
    else:
        rates = tuple(dropout)
    if len(rates) != 2 * depth or not all(0 <= rate < 1 for rate in rates):
        raise ValueError(
            f"dropout: must be true, false, a rate in [0, 1) or {2 * depth} of them, not {dropout!r}"
        )
    return rates
