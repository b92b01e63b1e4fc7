"""FastFCN: a ResNet without dilation, joint pyramid upsampling, and a head of your choice.

Wu et al. 2019, "FastFCN: Rethinking dilated convolution in the backbone for semantic segmentation".

    image -- ResNet, deep stem -- c3 (1/8) -- 3x3 512 --------------+
                               +- c4 (1/16) - 3x3 512 - resize -----+- 4 separable convolutions
                               +- c5 (1/32) - 3x3 512 - resize -----+  of rates 1, 2, 4, 8 -- head
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import keras
from keras import layers, ops

from segengine.models import _heads
from segengine.models._build import Size, check, final, load_weights
from segengine.models._resnet import resnet
from segengine.models._torch import batch_norm, conv, relu
from segengine.models.layers.aligned_resize import AlignedResize

Backbone = Literal["resnet14", "resnet50", "resnet101"]
Head = Literal["fcn", "psp", "deeplab", "encnet"]

AUXILIARY_WEIGHT = 0.4
"""Of the auxiliary output's loss in the paper."""
PRESENCE_WEIGHT = 0.2
"""Of the loss of the classes' presence (encnet's last output)."""
_DEPTHS = {"resnet14": 14, "resnet50": 50, "resnet101": 101}
_HEADS = {
    "fcn": _heads.fcn,
    "psp": _heads.psp,
    "deeplab": _heads.deeplab,
    "encnet": _heads.encnet,
}


def build(
    bands: int = 3,
    classes: int = 1,
    size: Size = (None, None),
    weights: str | None = None,
    *,
    backbone: Backbone = "resnet50",
    head: Head = "fcn",
    aux: bool = False,
    activation: str | None = "auto",
) -> keras.Model:
    """FastFCN for inputs (n, h, w, bands) of any size: (n, h, w, classes) float32.

    The input is normalised by the caller (mean and deviation of ImageNet for its weights). `aux`
    adds an output of the same shape made of c4. Head "encnet" adds one (n, classes) in the end:
    which classes are in the image. `activation`: of all outputs; "auto" is sigmoid for one class
    and softmax for more, the presence always sigmoid; None: logits. Raises ValueError for a value
    it does not know.
    """
    check(bands, classes, size)
    for option, value, known in (("backbone", backbone, _DEPTHS), ("head", head, _HEADS)):
        if value not in known:
            raise ValueError(f"{option}: must be one of {', '.join(known)}, not {value!r}")
    image = keras.Input((*size, bands), name="image")
    features = resnet(image, _DEPTHS[backbone], stem="deep")
    joint = jpu(features["c3"], features["c4"], features["c5"], "jpu")
    logits, *present = _HEADS[head](joint, classes, "head")
    outputs = [final(AlignedResize(name="resize")([logits, image]), classes, activation)]
    if aux:
        (logits,) = _heads.fcn(features["c4"], classes, "aux")
        logits = AlignedResize(name="aux.resize")([logits, image])
        kind = outputs[0]._keras_history.operation.activation
        outputs.append(layers.Activation(kind, dtype="float32", name="auxiliary")(logits))
    kind = "sigmoid" if activation else "linear"
    outputs += [layers.Activation(kind, dtype="float32", name="presence")(x) for x in present]
    model = keras.Model(image, outputs, name="fastfcn")
    load_weights(model, weights)
    return model


def objective(loss: Callable[[Any, Any], Any]) -> Callable[[Any, Sequence[Any]], Any]:
    """For training: a loss of the logits, of the auxiliary ones too, and of the classes' presence.

    Gives a function of labels (n, h, w) and the outputs, all logits.
    """

    def total(labels: Any, outputs: Sequence[Any]) -> Any:
        found = loss(labels, outputs[0])
        for more in outputs[1:]:
            if len(more.shape) == 2:
                found += PRESENCE_WEIGHT * presence_loss(labels, more)
            else:
                found += AUXILIARY_WEIGHT * loss(labels, more)
        return found

    return total


def presence_loss(labels: Any, logits: Any) -> Any:
    """Mean binary cross-entropy of logits (n, class) against which classes labels (n, h, w) have.

    Of one channel, whether class 1 is there. Images that are all void do not count.
    """
    channels = logits.shape[-1]
    classes = ops.arange(max(channels, 2), dtype=labels.dtype)
    there = ops.any(ops.equal(labels[..., None], classes), axis=(1, 2))
    known = ops.cast(ops.any(there, axis=-1), logits.dtype)
    there = ops.cast(there[:, -channels:], logits.dtype)
    entropy = ops.mean(ops.softplus(logits) - there * logits, axis=-1)
    return ops.sum(entropy * known) / ops.maximum(ops.sum(known), 1.0)


def jpu(c3: Any, c4: Any, c5: Any, name: str) -> Any:
    """Joint pyramid upsampling: maps at strides 8, 16 and 32 to one of 2048 channels at stride 8."""
    maps = [
        _heads.conv_bn_relu(x, 512, 3, f"{name}.{level}")
        for level, x in (("c3", c3), ("c4", c4), ("c5", c5))
    ]
    resized = [maps[0]]
    resized += [
        AlignedResize(name=f"{name}.resize{i}")([x, maps[0]]) for i, x in enumerate(maps[1:], 4)
    ]
    joint = layers.Concatenate(name=f"{name}.joint")(resized)
    branches = [_separable(joint, 512, rate, f"{name}.rate{rate}") for rate in (1, 2, 4, 8)]
    return layers.Concatenate(name=f"{name}.branches")(branches)


def _separable(x: Any, filters: int, rate: int, name: str) -> Any:
    """Depthwise 3 x 3, normalised but not rectified, then pointwise."""
    x = layers.DepthwiseConv2D(
        3, padding="same", dilation_rate=rate, use_bias=False, name=f"{name}.depthwise"
    )(x)
    x = batch_norm(x, f"{name}.depthwise.bn")
    x = conv(x, filters, 1, f"{name}.pointwise")
    return relu(batch_norm(x, f"{name}.bn"), f"{name}.relu")
