"""Layers of ours that a saved model may hold; importing this package registers them with Keras."""

from segengine.models.layers.adaptive_pool import AdaptiveAveragePooling
from segengine.models.layers.aligned_resize import AlignedResize
from segengine.models.layers.canny import Canny
from segengine.models.layers.dense_crf import DenseCrf
from segengine.models.layers.dilated import DilatedConvolution
from segengine.models.layers.encoding import Encoding
from segengine.models.layers.idle import IdleConvolution
from segengine.models.layers.resize import ResizeBy, ResizeLike
from segengine.models.layers.symmetric_padding import SymmetricPadding

__all__ = [
    "AdaptiveAveragePooling",
    "AlignedResize",
    "Canny",
    "DenseCrf",
    "DilatedConvolution",
    "Encoding",
    "IdleConvolution",
    "ResizeBy",
    "ResizeLike",
    "SymmetricPadding",
]
