"""Fully connected conditional random field: mean field over every pair of a frame's pixels.

Krähenbühl and Koltun 2011, "Efficient inference in fully connected CRFs with Gaussian edge
potentials", as DeepLab uses it: Potts compatibility, and the kernels

    k(i, j) = w1 exp(-|p_i - p_j|^2 / 2 sa^2 - |I_i - I_j|^2 / 2 sb^2)    bilateral
            + w2 exp(-|p_i - p_j|^2 / 2 sg^2)                             smoothness

of positions p and colours I, each kernel normalised symmetrically, K / sqrt(d_i d_j) with d its row
sums (Krähenbühl and Koltun 2013), a pixel's own term included. One step of the mean field is
`Q <- softmax(log p + sum of w K Q)`.

It is computed on whole frames: with sa = 67 every pixel has a say for hundreds of pixels around. The
smoothness kernel is a separable filter, the bilateral one is approximated on the permutohedral
lattice (`segengine.networks.permutohedral`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from segengine.networks.permutohedral import Lattice
from segengine.types import Pixels

Floats = NDArray[np.float32]
Filter = Callable[[Floats], Floats]

_LEAST = np.float32(1e-7)
"""What a probability of zero counts as."""
_LIKELY = 1e-4
"""Greatest probability in a frame below which a class sends no messages."""


@dataclass(frozen=True, slots=True)
class Crf:
    """Parameters; the defaults are those released with DeepLab for PASCAL VOC."""

    steps: int = 10
    bilateral_weight: float = 4.0
    """w1."""
    bilateral_position: float = 67.0
    """sa, in pixels."""
    bilateral_color: float = 3.0
    """sb, in levels of 0 to 255."""
    smoothness_weight: float = 3.0
    """w2."""
    smoothness_position: float = 1.0
    """sg, in pixels."""

    def __post_init__(self) -> None:
        steps: object = self.steps
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
            raise ValueError(f"crf.steps: must be an integer of at least 1, not {steps!r}")
        for field in fields(self)[1:]:
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
                raise ValueError(f"crf.{field.name}: must be a number above 0, not {value!r}")

    @classmethod
    def of(cls, option: bool | Mapping[str, Any]) -> Self | None:
        """The parameters of a segmenter's option `crf`: true, false, or a mapping of some of them.

        Raises ValueError that starts with the option's name.
        """
        if isinstance(option, bool):
            return cls() if option else None
        if not isinstance(option, Mapping):
            raise ValueError(f"crf: must be true, false or parameters by name, not {option!r}")
        known = [field.name for field in fields(cls)]
        for name in option:
            if name not in known:
                raise ValueError(f"crf.{name}: is unknown; known are {', '.join(known)}")
        return cls(**option)


def refine(probabilities: Floats, pixels: Pixels, parameters: Crf) -> Floats:
    """Probabilities (n, y, x, class) float32 made to follow the colours of whole frames.

    pixels (n, y, x, 3) uint8. Every frame is on its own: the halo is the whole frame. A megapixel
    of 21 classes of which 4 are likely takes about 19 s of one core and 2 GB (42 s where all are
    likely). Raises ValueError for pixels of another kind and for less than two classes.
    """
    if pixels.shape[-1] != 3 or pixels.dtype != np.uint8:
        raise ValueError(
            f"crf: needs 3 bands of uint8, not {pixels.shape[-1]} of {pixels.dtype}; set crf: false"
        )
    if probabilities.shape[-1] < 2:
        raise ValueError("crf: needs probabilities of at least 2 classes; set crf: false")
    pairs = zip(probabilities, pixels, strict=True)
    return np.stack([_frame(p, image, parameters) for p, image in pairs])


def _frame(probabilities: Floats, image: Pixels, parameters: Crf) -> Floats:
    p = np.maximum(probabilities, _LEAST).reshape(-1, probabilities.shape[-1])
    # A message to a class is at most w1 + w2 times its greatest probability, and no message is
    # negative: a class that is nowhere likely stays so, and its messages can be left out.
    likely = p.max(axis=0) > _LIKELY
    kernels = _kernels(image, parameters)
    unary = np.log(p)
    q = _softmax(unary)
    for _ in range(parameters.steps):
        sent = np.ascontiguousarray(q[:, likely])
        logits = unary.copy()
        logits[:, likely] += sum(kernel(sent) for kernel in kernels)
        q = _softmax(logits)
    return q.reshape(probabilities.shape)


def _kernels(image: Pixels, parameters: Crf) -> tuple[Filter, Filter]:
    """The two terms of a message, on values (y * x, channel)."""
    height, width, _ = image.shape
    y, x = np.indices((height, width)) / parameters.bilateral_position
    color = image / parameters.bilateral_color
    lattice = Lattice.of(np.dstack([y, x, color]).reshape(-1, 5))

    def smooth(values: Floats) -> Floats:
        maps = values.reshape(height, width, -1)
        return _gaussian(maps, parameters.smoothness_position).reshape(values.shape)

    count = height * width
    return (
        _normalised(lattice.filter, parameters.bilateral_weight, count),
        _normalised(smooth, parameters.smoothness_weight, count),
    )


def _normalised(kernel: Filter, weight: float, count: int) -> Filter:
    norm = (1 / np.sqrt(kernel(np.ones((count, 1), np.float32)))).astype(np.float32)
    scaled = np.multiply(weight, norm, dtype=np.float32)
    return lambda values: scaled * kernel(values * norm)


def _gaussian(maps: Floats, sigma: float) -> Floats:
    """Maps (y, x, channel) summed with weights exp(-d^2 / 2 sigma^2); zero outside."""
    import cv2

    radius = math.ceil(5 * sigma)
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    return cv2.sepFilter2D(  # type: ignore[return-value]
        maps, cv2.CV_32F, kernel, kernel, borderType=cv2.BORDER_CONSTANT
    )


def _softmax(logits: Floats) -> Floats:
    """Along the last axis."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    result: Floats = shifted / shifted.sum(axis=-1, keepdims=True)
    return result
