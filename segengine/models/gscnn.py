"""Gated-SCNN: a stream of its own for shapes, gated by the network's deeper features.

Takikawa et al. 2019, "Gated-SCNN: Gated shape CNNs for semantic segmentation".

    image -- backbone (output stride 8) -- m1 ... m3 .... m4 .... m7 ------------ ASPP -- logits
       |                                   |      |gate   |gate   |gate            |
       |                    shape stream: 64 -- 32 --- 16 ---- 8 ---- 1 = edge     |
       +-- Canny ---------------------------------------------------- + ------ edge branch

Every resizing is bilinear with aligned corners. `dual_task` holds the loss of both outputs.
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
from segengine.models._wideresnet import wide_resnet38
from segengine.models.dual_task import DualTask
from segengine.models.layers.aligned_resize import AlignedResize
from segengine.models.layers.canny import Canny
from segengine.models.layers.idle import IdleConvolution

Backbone = Literal["resnet14", "resnet50", "resnet101", "wideresnet38"]
_DEPTHS = {"resnet14": 14, "resnet50": 50, "resnet101": 101}
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""ImageNet's, of red, green and blue from 0 to 1."""


def build(
    bands: int = 3,
    classes: int = 1,
    size: Size = (None, None),
    weights: str | None = None,
    *,
    backbone: Backbone = "resnet50",
    white: float = 1.0,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    canny: tuple[int, int] = (10, 100),
    activation: str | None = "auto",
) -> keras.Model:
    """Gated-SCNN for inputs (n, h, w, bands) of any size, as read: 0 to `white`, not normalised.

    Outputs: the segmentation (n, h, w, classes) and the edges (n, h, w, 1), a probability, both
    float32. `mean` and `std`: one a band, of inputs divided by `white`; the network normalises by
    them after Canny has seen the image (default: ImageNet's, for other than 3 bands .45 and .225).
    `canny`: its lower and upper threshold, in 0 to 255. `backbone`: wideresnet38 is the paper's.
    `activation`: of the segmentation; "auto" is sigmoid for one class and softmax for more; None:
    logits. Raises ValueError for a value it does not know.
    """
    check(bands, classes, size)
    image = keras.Input((*size, bands), name="image")
    mean = _per_band("mean", mean, bands, _MEAN)
    std = _per_band("std", std, bands, _STD)
    normalised = layers.Rescaling(
        [1 / (white * s) for s in std],
        [-m / s for m, s in zip(mean, std, strict=True)],
        name="normalise",
    )(image)
    maps = _features(normalised, backbone)
    edge = _shape_stream(image, maps)
    edge = layers.Activation("sigmoid", dtype="float32", name="edge")(edge)

    edges = Canny(*canny, white=white, name="canny")(image)
    edges = layers.Concatenate(name="edges")([edge, edges])
    act = layers.Activation("sigmoid", name="cw.sigmoid")(conv(edges, 1, 1, "cw"))

    deep, low = maps["deep"], maps["low"]
    act = AlignedResize(name="cw.resize")([act, deep])
    branches = [*_heads.aspp(deep, (12, 24, 36), "aspp")]
    branches.append(_heads.conv_bn_relu(act, 256, 1, "aspp.edge"))
    x = layers.Concatenate(name="aspp.branches")(branches)
    x = AlignedResize(name="bot_aspp.resize")([conv(x, 256, 1, "bot_aspp"), low])
    x = layers.Concatenate(name="decoder")([conv(low, 48, 1, "bot_fine"), x])
    x = _heads.conv_bn_relu(x, 256, 3, "final.0")
    x = _heads.conv_bn_relu(x, 256, 3, "final.1")
    x = AlignedResize(name="final.resize")([conv(x, classes, 1, "final.out"), image])
    model = keras.Model(image, [final(x, classes, activation), edge], name="gscnn")
    load_weights(model, weights)
    return model


def objective(loss: Callable[[Any, Any], Any]) -> Callable[[Any, Sequence[Any]], Any]:
    """For training: a loss of the segmentation, in place of `DualTask`'s own, and its other terms.

    Gives a function of labels (n, h, w) and the outputs, of which the first must be logits.
    """
    dual = DualTask(segmentation=0)

    def total(labels: Any, outputs: Sequence[Any]) -> Any:
        return loss(labels, outputs[0]) + dual(labels, ops.concatenate(list(outputs), axis=-1))

    return total


def gate(x: Any, shape: Any, name: str) -> Any:
    """Gated convolution of x (n, h, w, c) by a map `shape` (n, h, w, 1).

    alpha = sigmoid(BN(1x1(ReLU(1x1(BN([x, shape])))))), y = 1x1(x (1 + alpha)): where the deeper
    features see no shape, the shape stream need not look.
    """
    channels = x.shape[-1]
    both = layers.Concatenate(name=f"{name}.both")([x, shape])
    both = batch_norm(both, f"{name}.bn0")
    both = relu(conv(both, channels + 1, 1, f"{name}.conv0", bias=True), f"{name}.relu")
    alpha = batch_norm(conv(both, 1, 1, f"{name}.conv1", bias=True), f"{name}.bn1")
    alpha = layers.Activation("sigmoid", name=f"{name}.alpha")(alpha)
    gated = layers.Multiply(name=f"{name}.multiply")([x, alpha])
    gated = layers.Add(name=f"{name}.gated")([x, gated])
    return conv(gated, channels, 1, f"{name}.out")


def _features(x: Any, backbone: Backbone) -> dict[str, Any]:
    """The backbone's maps: `first`, the three `gates`, `deep` (stride 8) and `low` (the decoder's)."""
    if backbone == "wideresnet38":
        m = wide_resnet38(x)
        return {
            # the published network also maps m1 to one channel, and does not use it
            "first": IdleConvolution(name="dsn1")(m["m1"]),
            "gates": (m["m3"], m["m4"], m["m7"]),
            "deep": m["m7"],
            "low": m["m2"],
        }
    if backbone not in _DEPTHS:
        known = ", ".join(("wideresnet38", *_DEPTHS))
        raise ValueError(f"backbone: must be one of {known}, not {backbone!r}")
    c = resnet(x, _DEPTHS[backbone], output_stride=8)
    gates = (c["c2"], c["c3"], c["c5"])
    return {"first": c["stem"], "gates": gates, "deep": c["c5"], "low": c["c2"]}


def _shape_stream(image: Any, maps: dict[str, Any]) -> Any:
    """Edge logits (n, h, w, 1) at the image's size."""
    x = AlignedResize(name="m1.resize")([maps["first"], image])
    widths, sides = (32, 16, 8), ("dsn3", "dsn4", "dsn7")
    for i, (deeper, width, side) in enumerate(zip(maps["gates"], widths, sides, strict=True), 1):
        x = conv(_basic_block(x, f"res{i}"), width, 1, f"d{i}", bias=True)
        shape = conv(deeper, 1, 1, side, bias=True)
        x = gate(x, AlignedResize(name=f"{side}.resize")([shape, image]), f"gate{i}")
    return conv(x, 1, 1, "fuse")


def _basic_block(x: Any, name: str) -> Any:
    """Two 3 x 3 convolutions added to the input (He et al. 2016)."""
    channels = x.shape[-1]
    y = _heads.conv_bn_relu(x, channels, 3, f"{name}.0")
    y = batch_norm(conv(y, channels, 3, f"{name}.1.conv"), f"{name}.1.bn")
    return relu(layers.Add(name=f"{name}.add")([x, y]), f"{name}.relu")


def _per_band(
    option: str, values: Sequence[float] | None, bands: int, rgb: tuple[float, ...]
) -> Sequence[float]:
    if values is None:
        values = rgb if bands == 3 else (0.45 if option == "mean" else 0.225,) * bands
    if len(values) != bands:
        raise ValueError(f"{option}: needs one value a band, {bands}, not {len(values)}")
    if option == "std" and min(values) <= 0:
        raise ValueError(f"std: must be above 0, not {tuple(values)}")
    return values
