"""ResNet-14, -50, -101 and -152, whose last stages can be dilated instead of strided.

He et al. 2016, "Deep residual learning for image recognition", in the form called v1.5 (a stage's
stride sits in the 3 x 3 convolution of its first block), as torchvision's and with its names.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

from keras import layers

from segengine.models._build import check_count
from segengine.models._torch import batch_norm, conv, load_torch_state, max_pool, relu

__all__ = ["BLOCKS", "Stem", "load_torch_state", "resnet"]

Norm = Callable[[Any, str], Any]
"""(tensor, layer name) -> normalised tensor."""
Stem = Literal["plain", "deep"]

BLOCKS = {14: (1, 1, 1, 1), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
"""Bottleneck blocks of each stage, by depth; 14 is none of the paper's, and learns in minutes."""
_STRIDES = {32: (1, 2, 2, 2), 16: (1, 2, 2, 1), 8: (1, 2, 1, 1)}


def resnet(
    inputs: Any,
    depth: int = 50,
    output_stride: int = 32,
    multigrid: Sequence[int] = (1, 1, 1),
    stem: Stem = "plain",
    norm: Norm = batch_norm,
    *,
    dilate_first: bool = False,
    prefix: str = "",
) -> dict[str, Any]:
    """Features of inputs (n, h, w, band) by stage.

    - `stem` (n, h/2, w/2, 64 or 128), before the max pooling
    - `c2` (n, h/4, w/4, 256), `c3` (n, h/8, w/8, 512)
    - `c4` (..., 1024), `c5` (..., 2048): h/16 and h/32, or h/`output_stride` where that is less

    Sizes are rounded up. Where a stage gives up its stride, the convolutions after it are dilated by
    it, those of c5 also by `multigrid`. A stage's first block keeps the dilation of the stage before,
    as in torchvision; with `dilate_first` it has its own stage's, as in the DeepLab papers.
    `stem` "deep" is three 3 x 3 convolutions of 64, 64, 128 in place of the 7 x 7 of 64. `prefix` is
    put before all layer names. Raises ValueError for a depth, stride or stem it does not know.
    """
    if depth not in BLOCKS:
        raise ValueError(f"depth: must be one of {', '.join(map(str, BLOCKS))}, not {depth!r}")
    if len(multigrid) != 3:
        raise ValueError(f"multigrid: must be 3 rates, not {len(multigrid)}")
    for rate in multigrid:
        check_count("multigrid", rate)
    if output_stride not in _STRIDES:
        raise ValueError(f"output_stride: must be 8, 16 or 32, not {output_stride!r}")
    x = _stem(inputs, stem, norm, prefix)
    features = {"stem": x}
    x = max_pool(x, f"{prefix}maxpool")
    rate = 1
    for stage, (blocks, stride) in enumerate(
        zip(BLOCKS[depth], _STRIDES[output_stride], strict=True)
    ):
        before, rate = rate, rate * (2 if stage > 1 and stride == 1 else 1)
        grid = tuple(multigrid) if stage == 3 else (1,) * blocks
        for block in range(blocks):
            first = block == 0
            x = _bottleneck(
                x,
                64 << stage,
                stride if first else 1,
                (before if first and not dilate_first else rate) * grid[block],
                first,
                norm,
                f"{prefix}layer{stage + 1}.{block}.",
            )
        features[f"c{stage + 2}"] = x
    return features


def _stem(x: Any, stem: Stem, norm: Norm, prefix: str) -> Any:
    if stem == "plain":
        x = conv(x, 64, 7, f"{prefix}conv1", stride=2)
    elif stem == "deep":
        # conv1 is a torch Sequential of convolution, normalisation, ReLU, ...: places 0 to 6
        for place, filters in ((0, 64), (3, 64)):
            x = conv(x, filters, 3, f"{prefix}conv1.{place}", stride=1 if place else 2)
            x = relu(norm(x, f"{prefix}conv1.{place + 1}"), f"{prefix}conv1.{place + 2}")
        x = conv(x, 128, 3, f"{prefix}conv1.6")
    else:
        raise ValueError(f"stem: must be plain or deep, not {stem!r}")
    return relu(norm(x, f"{prefix}bn1"), f"{prefix}relu")


def _bottleneck(
    x: Any, filters: int, stride: int, dilation: int, project: bool, norm: Norm, name: str
) -> Any:
    """1 x 1 to `filters`, 3 x 3, 1 x 1 to 4 times as many, added to the input or its projection."""
    y = relu(norm(conv(x, filters, 1, f"{name}conv1"), f"{name}bn1"), f"{name}relu1")
    y = conv(y, filters, 3, f"{name}conv2", stride=stride, dilation=dilation)
    y = relu(norm(y, f"{name}bn2"), f"{name}relu2")
    y = norm(conv(y, 4 * filters, 1, f"{name}conv3"), f"{name}bn3")
    if project:
        x = conv(x, 4 * filters, 1, f"{name}downsample.0", stride=stride)
        x = norm(x, f"{name}downsample.1")
    return relu(layers.Add(name=f"{name}add")([x, y]), f"{name}out")
