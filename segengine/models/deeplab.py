"""DeepLab v1, v2, v3 and v3+: dilated convolutions, and pyramids of them.

| version | published | backbone | pyramid | decoder |
| --- | --- | --- | --- | --- |
| 1 | Chen et al. 2015 | VGG16 | one large field of view | |
| 2 | Chen et al. 2017, "DeepLab" | ResNet-101 | four rates straight to classes, summed | |
| 3 | Chen et al. 2017, "Rethinking atrous convolution" | ResNet | 1 x 1, three rates, image mean | |
| 3+ | Chen et al. 2018, "Encoder-decoder with atrous separable convolution" | ResNet | as 3 | yes |

Version 3 is the network of torchvision, which has one 3 x 3 convolution more than the paper and by
default its rates, output stride 8 and no multigrid; layers have torchvision's names, so that
`load_torch_state` takes its weights. The others are as published; the decoder of 3+ has plain
convolutions, as published for ResNets. The fully connected CRF of versions 1 and 2 is the option
`crf` of `segengine.models.build` and of the segmenter, for any network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
from keras import layers

from segengine.models._aspp import aspp_pool, aspp_sum, unit
from segengine.models._build import Size, check, check_count, final, load_weights
from segengine.models._mobilenetv2 import mobilenetv2
from segengine.models._resnet import resnet
from segengine.models._torch import batch_norm, conv, relu
from segengine.models._vgg16 import load_imagenet, vgg16
from segengine.models.layers import ResizeBy, ResizeLike


@dataclass(frozen=True, slots=True)
class _Design:
    """What a version's publication uses."""

    backbone: str
    output_stride: int
    rates: tuple[int, ...]
    """Dilations of the pyramid at output stride 8; halved at 16."""
    multigrid: tuple[int, int, int] = (1, 1, 1)


_RESNETS = {"resnet50": 50, "resnet101": 101}
_DESIGNS = {
    "1": _Design("vgg16", 8, (12,)),
    "2": _Design("resnet101", 8, (6, 12, 18, 24)),
    "3": _Design("resnet101", 8, (12, 24, 36)),
    "3+": _Design("resnet101", 16, (12, 24, 36), (1, 2, 4)),
}


def build(
    bands: int = 3,
    classes: int = 1,
    size: Size = (None, None),
    weights: str | None = None,
    *,
    version: str | int = "3+",
    backbone: str | None = None,
    output_stride: int | None = None,
    rates: Sequence[int] | None = None,
    multigrid: Sequence[int] | None = None,
    scales: Sequence[float] = (1.0,),
    activation: str | None = "auto",
) -> keras.Model:
    """DeepLab for inputs (n, h, w, bands) of any size; -> (n, h, w, classes).

    version: 1, 2, 3 or 3+. backbone: resnet50, resnet101 or mobilenetv2 (version 1: vgg16).
    output_stride: 8 or 16, how much smaller the features are. rates: dilations of the pyramid.
    multigrid: three factors to the dilation of a ResNet's last three blocks. What is left out is as
    published. scales: sizes, as factors, at which the network looks at the image; the greatest
    logit counts (version 2 was published with 0.5, 0.75, 1). activation: sigmoid, softmax or null
    (logits); by default sigmoid for one class, else softmax. weights: a file that `save_weights`
    wrote, or, for vgg16 and mobilenetv2, "imagenet".
    """
    check(bands, classes, size)
    version = str(version)
    if version not in _DESIGNS:
        raise ValueError(f"version: must be one of {', '.join(_DESIGNS)}, not {version!r}")
    design = _DESIGNS[version]
    backbone = backbone or design.backbone
    known = ("vgg16",) if version == "1" else (*_RESNETS, "mobilenetv2")
    if backbone not in known:
        raise ValueError(
            f"backbone: version {version} is built on {', '.join(known)}, not {backbone!r}"
        )
    output_stride = output_stride or design.output_stride
    if output_stride not in (8, 16):
        raise ValueError(f"output_stride: must be 8 or 16, not {output_stride!r}")
    if multigrid is not None and backbone not in _RESNETS:
        raise ValueError(f"multigrid: is for ResNets, not {backbone}")
    grid = tuple(multigrid or design.multigrid)
    rates = tuple(rates or (rate * 8 // output_stride for rate in design.rates))
    for rate in rates:
        check_count("rates", rate)
    if version == "1" and len(rates) != 1:
        raise ValueError(f"rates: version 1 has one, not {len(rates)}")
    if not scales or min(scales) <= 0:
        raise ValueError(f"scales: must be factors above 0, not {scales!r}")
    pretrained = weights if weights == "imagenet" else None
    if pretrained and backbone in _RESNETS:
        raise ValueError(f"weights: there are no imagenet weights for {backbone}; name a file")

    inputs = keras.Input((*size, bands), name="image")

    def logits(x: Any) -> Any:
        if backbone == "vgg16":
            return conv(vgg16(x, output_stride, rates[0]), classes, 1, "classifier", bias=True)
        if backbone == "mobilenetv2":
            features = mobilenetv2(x, output_stride, pretrained)
        else:
            features = resnet(
                x,
                _RESNETS[backbone],
                output_stride,
                grid,
                # torchvision keeps a first block's dilation, DeepLab's own code does not
                dilate_first=version != "3" or grid != (1, 1, 1),
                prefix="backbone.",
            )
        return _HEADS[version](features, classes, rates)

    if tuple(scales) == (1.0,):
        x = logits(inputs)
    else:
        # one network for all scales, so that they share its weights
        single = keras.Input((None, None, bands))
        network = keras.Model(single, logits(single), name="network")
        x = _greatest(inputs, network, scales)
    x = ResizeLike(name="logits")([x, inputs])
    name = f"deeplab-v{version.replace('+', 'plus')}"  # a plus is none of TensorFlow's names
    model = keras.Model(inputs, final(x, classes, activation), name=name)
    if pretrained is None:
        load_weights(model, weights)
    elif backbone == "vgg16":
        load_imagenet(model)
    return model


def _greatest(inputs: Any, network: keras.Model, scales: Sequence[float]) -> Any:
    """The greatest logit over all scales, at the size of the largest scale's logits."""
    found = [
        network(ResizeBy(scale)(inputs)) if scale != 1 else network(inputs) for scale in scales
    ]
    largest = found[max(range(len(scales)), key=scales.__getitem__)]
    return layers.Maximum()([x if x is largest else ResizeLike()([x, largest]) for x in found])


def _head2(features: dict[str, Any], classes: int, rates: Sequence[int]) -> Any:
    return aspp_sum(features["c5"], classes, rates, "aspp")


def _head3(features: dict[str, Any], classes: int, rates: Sequence[int]) -> Any:
    x = aspp_pool(features["c5"], rates, 0.5, "classifier.0")
    x = conv(x, 256, 3, "classifier.1")
    x = relu(batch_norm(x, "classifier.2"), "classifier.3")
    return conv(x, classes, 1, "classifier.4", bias=True)


def _head3plus(features: dict[str, Any], classes: int, rates: Sequence[int]) -> Any:
    """The pyramid upsampled to 1/4, concatenated with 48 reduced features, two 3 x 3 convolutions."""
    low = unit(features["c2"], 48, 1, "decoder.low")
    x = aspp_pool(features["c5"], rates, 0.1, "aspp")
    x = ResizeLike(name="decoder.resize")([x, low])
    x = layers.Concatenate(name="decoder.concat")([x, low])
    x = unit(unit(x, 256, 3, "decoder.conv1"), 256, 3, "decoder.conv2")
    return conv(x, classes, 1, "decoder.classifier", bias=True)


_HEADS = {"2": _head2, "3": _head3, "3+": _head3plus}
