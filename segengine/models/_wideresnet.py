"""WideResNet-38, in the dilated form A2 of output stride 8.

Wu et al. 2016, "Wider or deeper: revisiting the ResNet model for visual recognition": blocks of
pre-activated convolutions, few and wide; its last three groups are dilated instead of strided.
"""

from __future__ import annotations

from typing import Any

from keras import layers

from segengine.models._torch import batch_norm, conv, relu
from segengine.models.layers.symmetric_padding import SymmetricPadding

_GROUPS = (
    # blocks, widths of a block's convolutions, stride of the first, dilation, dropout
    (3, (128, 128), 1, 1, 0.0),
    (3, (256, 256), 1, 1, 0.0),
    (6, (512, 512), 2, 1, 0.0),
    (3, (512, 1024), 1, 2, 0.0),
    (1, (512, 1024, 2048), 1, 4, 0.3),
    (1, (1024, 2048, 4096), 1, 4, 0.5),
)
"""mod2 to mod7; the first two start with a max pooling."""


def wide_resnet38(inputs: Any) -> dict[str, Any]:
    """Features of inputs (n, h, w, band), `m1` to `m7`.

    m1 has the inputs' size and 64 channels, m2 h/2 and 128, m3 h/4 and 256, m4 to m7 h/8 and 512,
    1024, 2048 and 4096; sizes are rounded up.
    """
    x = conv(inputs, 64, 3, "mod1.conv1")
    features = {"m1": x}
    for group, (blocks, widths, stride, dilation, dropout) in enumerate(_GROUPS, 2):
        if group < 4:
            # not zeros: these features are not rectified, and a mirrored one changes no maximum
            x = SymmetricPadding(1, name=f"pool{group}_pad")(x)
            x = layers.MaxPooling2D(3, 2, name=f"pool{group}")(x)
        for block in range(blocks):
            name = f"mod{group}.block{block + 1}"
            x = _block(x, widths, stride if block == 0 else 1, dilation, dropout, name)
        features[f"m{group}"] = x
    return features


def _block(
    x: Any, widths: tuple[int, ...], stride: int, dilation: int, dropout: float, name: str
) -> Any:
    """Two 3 x 3 convolutions, or 1 x 1, 3 x 3, 1 x 1, added to the input or its projection.

    The projection starts from the normalised input, the identity from the input itself.
    """
    y = relu(batch_norm(x, f"{name}.bn1"), f"{name}.relu1")
    if stride > 1 or x.shape[-1] != widths[-1]:
        x = conv(y, widths[-1], 1, f"{name}.proj_conv", stride=stride)
    kernels = (3, 3) if len(widths) == 2 else (1, 3, 1)
    for i, (width, kernel) in enumerate(zip(widths, kernels, strict=True), 1):
        if i > 1:
            y = relu(batch_norm(y, f"{name}.bn{i}"), f"{name}.relu{i}")
        if i == len(widths) and dropout:
            y = layers.SpatialDropout2D(dropout, name=f"{name}.dropout")(y)
        y = conv(
            y,
            width,
            kernel,
            f"{name}.conv{i}",
            stride=stride if i == 1 else 1,
            dilation=dilation if kernel == 3 else 1,
        )
    return layers.Add(name=f"{name}.add")([x, y])
