"""An image to what the network sees: resized, padded and normalised as the preset was trained.

matterport (`resize_image`, `mold_image`): the shorter side at least `min_side`, never reduced for
it, the longer at most `max_side`; bilinear without anti-aliasing, in whole gray values; centred in a
black square of `max_side`; then the mean is subtracted, so padding is minus the mean.

torchvision (`GeneralizedRCNNTransform`): normalised first; the shorter side exactly `min_side`
unless the longer would pass `max_side`; padded with 0 at the bottom and right to multiples of 32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segengine.models.maskrcnn.config import DIVISOR, Config


@dataclass(frozen=True, slots=True)
class Prepared:
    """An image as the network takes it, and the way back."""

    image: NDArray[np.float32]
    """(height, width, band), padded."""
    window: tuple[int, int, int, int]
    """The part of it that is image: y1, x1, y2, x2."""
    shape: tuple[int, int]
    """(height, width) of the image as it was."""


def prepare(config: Config, image: NDArray[Any], native: bool = False) -> Prepared:
    """An image (y, x, band) with values 0 to 255 (see `to_bytes`) as the network takes it.

    `native`: at its own size, only padded as the preset pads, to what the pyramid needs.
    """
    height, width = image.shape[:2]
    if config.matterport:
        small = image if native else _resized_matterport(config, image)
        divisor = DIVISOR["matterport"]
        h, w = small.shape[:2]
        full = (-(-h // divisor) * divisor, -(-w // divisor) * divisor)
        full = full if native else (config.max_side, config.max_side)
        top, left = (full[0] - h) // 2, (full[1] - w) // 2
        padded = np.zeros((*full, image.shape[2]), np.float32)
        padded[top : top + h, left : left + w] = small
        normal = (padded - np.array(config.mean)) / np.array(config.deviation)
    else:
        mean, deviation = (np.array(v, np.float32) for v in (config.mean, config.deviation))
        small = (image.astype(np.float32) - mean) / deviation
        small = small if native else _resized_torchvision(config, small)
        h, w = small.shape[:2]
        top = left = 0
        divisor = DIVISOR["torchvision"]
        normal = np.pad(small, ((0, -h % divisor), (0, -w % divisor), (0, 0)))
    window = (top, left, top + h, left + w)
    return Prepared(normal.astype(np.float32), window, (height, width))


def to_bytes(pixels: NDArray[Any], bands: int) -> NDArray[np.uint8]:
    """Pixels (..., band) of any dtype as 8 bits; one band is repeated to the number asked for.

    Other integers are divided by 257 (16 bits) and the like; floats are taken as 0 to 255, NaN as 0.
    Raises ValueError where the number of bands does not fit.
    """
    if pixels.shape[-1] == 1 and bands > 1:
        pixels = np.repeat(pixels, bands, axis=-1)
    if pixels.shape[-1] != bands:
        raise ValueError(f"bands: the network takes {bands}, the image has {pixels.shape[-1]}")
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype.kind in "iu":
        pixels = pixels.astype(np.float64) * (255 / np.iinfo(pixels.dtype).max)
    return np.rint(np.clip(np.nan_to_num(pixels), 0, 255)).astype(np.uint8)


def _resized_matterport(config: Config, image: NDArray[Any]) -> NDArray[Any]:
    from skimage.transform import resize

    height, width = image.shape[:2]
    scale = max(1.0, config.min_side / min(height, width))
    if round(max(height, width) * scale) > config.max_side:
        scale = config.max_side / max(height, width)
    if scale == 1:
        return image
    shape = (max(1, round(height * scale)), max(1, round(width * scale)))
    found = resize(  # type: ignore[no-untyped-call]
        image, shape, order=1, mode="constant", preserve_range=True, anti_aliasing=False
    )
    return np.asarray(found.astype(image.dtype))  # cut to whole gray values, as published


def _resized_torchvision(config: Config, image: NDArray[np.float32]) -> NDArray[np.float32]:
    import cv2

    height, width, bands = image.shape
    scale = min(config.min_side / min(height, width), config.max_side / max(height, width))
    # cv2's pixel centres and held border are torch's `align_corners=False`.
    size = (max(1, int(width * scale)), max(1, int(height * scale)))
    found = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
    return np.asarray(found, np.float32).reshape(size[1], size[0], bands)
